"""The relative speeds of workers' devices: measured where they are unlike, for a plan that is searched."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist

from ffdist.planner.cached import device_name, profile_of
from ffdist.planner.profile import Profile
from ffdist.runtime.job import Job
from ffdist.runtime.meeting import await_key, set_key
from ffdist.runtime.world import World


def speeds_of(
    store: dist.Store, world: World, kind: str, measure: Callable[[], float], timeout: timedelta
) -> tuple[float, ...]:
    """The speed of each worker's device, 1 for that of rank 0; none where all are alike, which is the rule, and
    measures nothing.

    kind: what is said of this worker's device; of each kind the first worker measures: seconds of the same work. All
    workers call it together; only rank 0 gets the answers. Raises StageError where one does not in time.
    """
    where = str(world)

    def posted(key: str, rank: int) -> str:
        failure = f"worker {rank} did not get ready"
        return await_key(store, f"{key}/{rank}", timeout, failure=failure, where=where).decode()

    set_key(store, f"device/{world.rank}", kind, where=where)
    kinds = [posted("device", rank) for rank in range(world.size)]
    if len(set(kinds)) == 1:
        return ()
    if world.rank == kinds.index(kind):
        set_key(store, f"device seconds/{world.rank}", repr(measure()), where=where)
    if not world.first:
        return ()
    seconds = {each: float(posted("device seconds", kinds.index(each))) for each in sorted(set(kinds))}
    return tuple(seconds[kinds[0]] / seconds[each] for each in kinds)


def kind_of(device: torch.device) -> str:
    """The facts of a device that blocks' times depend on."""
    return f"{device_name(device)}, {torch.get_num_threads()} threads"


def seconds_of(job: Job, device: torch.device) -> float:
    """Seconds of all blocks with a whole batch, on this device."""
    return of_all_blocks(profile_of(job.chain, job.objective, job.settings, job.loaders().train, device=device))


def of_all_blocks(profile: Profile) -> float:
    """Seconds of a message through all blocks: forward, backward and step."""
    samples = profile.message(1)
    return sum(each.forward.at(samples) + each.backward.at(samples) + each.step for each in profile.blocks)
