"""Profiles and links, measured once: kept in the user's cache, as JSON, under a name of all that they depend on."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from ffdist.data import Loader
from ffdist.data.places import cache_folder
from ffdist.device import CPU, name_of, queues
from ffdist.digests import DIGEST, of_json, with_digest, without_digest
from ffdist.environment import processor_name, versions
from ffdist.errors import StageError, setting
from ffdist.models import Chain
from ffdist.notes import note
from ffdist.objectives import Objective
from ffdist.pipeline.block import BlockConfig
from ffdist.pipeline.optim import is_elementwise
from ffdist.planner.cluster import NetworkLink
from ffdist.planner.measure import measure_chain, measure_source, sizes_of
from ffdist.planner.profile import FORMAT, Profile
from ffdist.settings import Settings
from ffdist.transport.measure import ALL_REDUCE, KIB, MIB, measure_transport
from ffdist.transport.registry import fastest, own_location

SMALL, LARGE = 64 * KIB, 4 * MIB
"""Bytes of the messages that links are measured with."""
LINKS_FORMAT = 5
FOLDER = "profiles"
"""In the cache."""
T = TypeVar("T")


def profile_of(
    chain: Chain,
    objective: Objective,
    settings: Settings,
    train: Loader,
    *,
    device: torch.device = CPU,
    backprop: bool = False,
    fresh: bool = False,
) -> Profile:
    """Measure each block on this device by these settings, with messages of all sizes that lanes may have.

    train: the training loader; of its first batch all is measured. backprop: the same network by backpropagation, too.
    fresh: measured anew, whatever the cache has. It takes some seconds a block; read from the cache, none. The number
    of torch's threads is the caller's: as the run will have them.
    Raises what the network and the rule raise; a cache that cannot be written is noted, and no error.
    """
    facts = profile_facts(chain, objective, settings, train, device) | {"backprop": backprop}

    def measure() -> dict[str, Any]:
        return measure_profile(chain, objective, settings, train, device, backprop=backprop)

    return cached(facts, measure, Profile.from_json, fresh=fresh)


def profile_facts(
    chain: Chain, objective: Objective, settings: Settings, train: Loader, device: torch.device
) -> dict[str, Any]:
    """Facts on which a profile depends, and by which it is found again."""
    return {
        "what": "profile",
        "format": FORMAT,
        "network": described(chain),
        "rule": rule_text(objective),
        "batch": train.largest_batch,
        "settings": {name: repr(getattr(settings, name)) for name in ("optim", "compute")}
        | {name: settings.value(name) for name in ("microbatches", "sync_norms", "on_nan", "fusion")},
        "data": [train.images.name, train.images.shape, train.augment and repr(train.augment), train.size],
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def measure_profile(
    chain: Chain, objective: Objective, settings: Settings, train: Loader, device: torch.device, *, backprop: bool
) -> dict[str, Any]:
    """A new profile, in its JSON form; arguments and errors as of `profile_of`."""
    sizes = sizes_of(train.largest_batch)
    source, x, y = measure_source(train, objective, chain.num_classes, sizes)
    profile = Profile(
        network=settings.network.model,
        rule=settings.rule.objective,
        batch=train.largest_batch,
        microbatches=settings.training.microbatches,
        precision=settings.compute.precision,
        device=device_name(device),
        on_cpu=not queues(device),
        threads=torch.get_num_threads(),
        versions=versions(),
        blocks=tuple(measure_chain(chain, objective, BlockConfig(settings, 10**6, device), sizes, x, y)),
        source=source,
        sliced=is_elementwise(settings),
        backprop=None,
    )
    fields = profile.as_json()
    if backprop:
        from ffdist.baselines.base import BaselineConfig
        from ffdist.planner.backprop import measure_backprop

        fields["backprop"] = asdict(measure_backprop(chain, BaselineConfig(settings, 10**6, device), sizes, x, y))
    return fields


class HostLinks(NamedTuple):
    """The links between processes of this host."""

    memory: NetworkLink
    """As it is: by shared memory, where there is such."""
    network: NetworkLink
    """A network of no limit whose ends are here, by gloo, for what its sending and receiving takes of a CPU."""
    ring: NetworkLink
    """The same for the steps of gloo's all-reduce, adding up included."""


def links_here(*, on_cpu: bool, fresh: bool = False) -> HostLinks:
    """The links of this host, measured. on_cpu: whether their ends' computing suffers."""
    facts = {"what": "links", "format": LINKS_FORMAT, "processor": processor_name(), "versions": versions()}
    rates = cached(facts, measure_links, dict, fresh=fresh)
    memory, network = (link_of(rates, name) for name in (rates["within"], "gloo"))
    # a copy within a host takes what its ends compute, which is all counted as the sender's, and nothing else: by the
    # clock it would take what others on the machine do meanwhile, too
    each = memory.sender + memory.receiver
    memory = NetworkLink(1 / max(1e-12, each), 2 * memory.message, each, wired=False, message=memory.message)
    links = HostLinks(memory, network, ring_of(rates, network))
    return links if on_cpu else HostLinks(*(link.without_cpu() for link in links))


def ring_of(rates: dict[str, Any], network: NetworkLink) -> NetworkLink:
    """The network as a ring's steps take it. Between two processes there are two: in each both send a half, and get and
    add up another."""
    both_ends = link_of(rates, ALL_REDUCE)
    a_byte = both_ends.sender / 2
    return replace(network, sender=a_byte, receiver=a_byte, message=both_ends.message / 4)


def measure_links() -> dict[str, Any]:
    """Messages a second, and seconds of computing a message, by transport and size. By a process of its own, whose own
    ones import no script of a user's.

    Raises StageError where it fails.
    """
    code = "from ffdist.planner.cached import print_links; print_links()"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    if done.returncode or not done.stdout.strip():  # a process that ignores SIGCHLD takes every end for a success
        raise StageError(
            "the link between two processes cannot be measured",
            got=done.stderr.strip()[-2000:],
            remedy=f"give it: {setting('link', '25gbit,50us')}",
        )
    return json.loads(done.stdout.splitlines()[-1])


def print_links() -> None:
    """The main function of `measure_links`' process: its result, as JSON on the last line of stdout."""
    within = fastest(own_location(), own_location()).name
    found = measure_transport(
        [*sorted({within, "gloo"}), ALL_REDUCE], (SMALL, LARGE), rounds=3, volume=6 * LARGE, forked=True
    )
    rates = {f"{rate.transport} {rate.message_bytes}": rate.messages_per_s for rate in found}
    cpu = {f"{rate.transport} {rate.message_bytes} cpu": rate.cpu for rate in found}
    print(json.dumps(rates | cpu | {"within": within}))


def link_of(rates: dict[str, Any], transport: str) -> NetworkLink:
    """The link, by what messages of two sizes take: their time, and the computing of both ends, of which each has
    half."""
    small, large = (1 / rates[f"{transport} {size}"] for size in (SMALL, LARGE))
    rate = (LARGE - SMALL) / max(1e-9, large - small)
    cpu_small, cpu_large = (rates[f"{transport} {size} cpu"] / 2 for size in (SMALL, LARGE))
    a_byte = max(0.0, cpu_large - cpu_small) / (LARGE - SMALL)
    message = max(0.0, cpu_small - SMALL * a_byte)
    return NetworkLink(rate, max(0.0, small - SMALL / rate), a_byte, a_byte, message=message)


def cached(
    facts: dict[str, Any], measure: Callable[[], dict[str, Any]], read: Callable[[dict[str, Any]], T], *, fresh: bool
) -> T:
    """Read a cached file of these facts; measure, and write it, where there is none that is whole."""
    facts = json.loads(json.dumps(facts, default=str))
    key = of_json(facts)[:24]
    path = cache_folder() / FOLDER / f"{facts['what']}-{key}.json"
    if not fresh:
        # what is not there, was cut off or changed, or is of another version is measured anew
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            value = json.loads(path.read_text())
            if without_digest(value)["facts"] == facts and DIGEST in value:
                return read(value["measured"])
    note(f"measuring {'the blocks' if facts['what'] == 'profile' else 'the link between two processes'} ...")
    measured = measure()
    try:
        write(path, with_digest({"facts": facts, "measured": measured}))
    except OSError as error:
        note(f"what was measured is not kept: {path}: {error.strerror or error}")
    return read(json.loads(json.dumps(measured)))


def write(path: Path, value: dict[str, Any]) -> None:
    """Whole or not at all: others may read it, or write the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(value, file)
        os.replace(name, path)
    except BaseException:  # an interrupt, too; raised again
        Path(name).unlink(missing_ok=True)
        raise


def device_name(device: torch.device) -> str:
    """The device as its maker calls it; for a CPU, the processor."""
    return name_of(device) if queues(device) else processor_name()


def described(chain: Chain) -> list[Any]:
    """All about a network but its weights: its blocks' layers and the shapes of their parameters."""
    blocks = [(name, *block_text(build)) for name, build in zip(chain.names, chain.builders, strict=True)]
    return [chain.input_shape, chain.num_classes, blocks]


def block_text(build: Callable[[], nn.Module]) -> tuple[str, list[str]]:
    """A block's layers as they print, and the shapes of its parameters; made without memory, where that can be."""
    try:
        with torch.device("meta"):
            module = build()
    except Exception:  # a user's block may need values as it is made
        module = build()
    return f"{module} {source_of(type(module))}", [f"{tuple(p.shape)} {p.requires_grad}" for p in module.parameters()]


def rule_text(objective: Objective) -> str:
    """A rule with its settings, and a digest of its code where that is a user's."""
    return f"{objective!r} {source_of(type(objective))}"


def source_of(kind: type) -> str:
    """A digest of the code of a user's class; torch's and ours change with their versions alone."""
    if kind.__module__.split(".")[0] in ("torch", "torchvision", "ffdist"):
        return ""
    try:
        return hashlib.sha256(inspect.getsource(kind).encode()).hexdigest()[:16]
    except (OSError, TypeError):
        return kind.__qualname__
