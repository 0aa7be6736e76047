"""The trace of a run: what each stage did when, of all workers on one clock, in one file for Perfetto.

Each stage writes a part of its own into the run's folder before it passes on the first marker after the window; where
that marker has reached the end, all parts are there, and become RUN/trace.json.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch.distributed as dist

from ffdist.errors import StageError
from ffdist.events import EpochEnded, Observer, PulseReported, RunEvent, RunStopped, SnapshotCommitted
from ffdist.pipeline.trace import TraceSpan
from ffdist.report.log import writing
from ffdist.runtime.meeting import set_key, store_lost_error
from ffdist.runtime.world import World

if TYPE_CHECKING:
    from ffdist.runtime.worker import AgreedStart
    from ffdist.settings import Settings

TRACE = "trace.json"
PARTS = "trace.parts"
PROFILES = "profile"
ROUNDS = 5
"""Questions by which a worker compares its clock with the first one's."""
POLL_SECONDS = 0.0002
"""Seconds between two looks for an answer."""
BOOT = Path("/proc/sys/kernel/random/boot_id")


class ClockOffset(NamedTuple):
    """The offset that turns nanoseconds of this process's clock into those of the first worker's."""

    add: int
    within: int
    """The largest error that it may have; 0 where both read one clock."""


def common_clock(store: dist.Store, world: World, timeout: timedelta) -> ClockOffset:
    """This process's offset from the first worker's clock, which is asked over the store in which all meet; all of them
    call it. As by NTP, an answer is taken to be of the middle of the time that it took, and to be wrong by half of that
    at most; the one that came soonest counts. Raises StageError where one stays away."""
    mine = f"{platform.node()} {BOOT.read_text().strip() if BOOT.exists() else ''}"
    if world.first:
        for rank in range(1, world.size):
            for number in range(ROUNDS):
                awaited(store, f"clock {rank} {number} asked", timeout)
                answer = json.dumps([time.perf_counter_ns(), mine])
                set_key(store, f"clock {rank} {number}", answer, where=str(world))
        return ClockOffset(0, 0)
    found = list[ClockOffset]()
    theirs = ""
    for number in range(ROUNDS):
        began = time.perf_counter_ns()
        set_key(store, f"clock {world.rank} {number} asked", "", where=str(world))
        then, theirs = json.loads(awaited(store, f"clock {world.rank} {number}", timeout))
        ended = time.perf_counter_ns()
        found.append(ClockOffset(then - (began + ended) // 2, (ended - began + 1) // 2))
    best = min(found, key=lambda each: each.within)
    # processes of one host read one clock: what was measured there is noise, unless it is more than that can be
    return ClockOffset(0, 0) if theirs == mine and abs(best.add) <= best.within else best


def awaited(store: dist.Store, key: str, timeout: timedelta) -> bytes:
    """The key's value, looked for more often than `await_key` does: the time that an answer takes is its error. Raises
    StageError where none comes in time, StageAwayError where the store is gone."""
    deadline = time.monotonic() + timeout.total_seconds()
    try:
        while not store.check([key]):
            if time.monotonic() > deadline:
                raise StageError(
                    "the workers' clocks were not compared",
                    where=key,
                    got="no answer",
                    expected=f"one within {timeout.total_seconds():g} s",
                )
            time.sleep(POLL_SECONDS)
        return store.get(key)
    except RuntimeError as error:
        raise store_lost_error(error, key) from error


def first_of(settings: Settings, start: AgreedStart) -> int:
    """The number of the first batch that is traced and profiled; the run's first where it ends before that."""
    done = start.manifest.step if start.manifest else 0
    total = start.steps * settings.training.epochs
    first = done + settings.watch.trace_from
    return first if first <= total else done + 1


def window_of(settings: Settings, start: AgreedStart) -> range:
    """The batches that are traced."""
    first = first_of(settings, start)
    return range(first, first + settings.watch.trace_steps) if settings.watch.trace else range(0)


class TraceRow(NamedTuple):
    """One stage on one worker."""

    worker: int
    stage: int
    blocks: Sequence[str]
    device: str


def events_of(
    row: TraceRow, spans: Sequence[TraceSpan], offset: ClockOffset, *, truncated: bool = False
) -> list[dict[str, Any]]:
    """Events as Chrome's trace format has them, in microseconds of the first worker's clock.

    truncated: whether some are left out.

    A process is a worker, a thread a stage; what an accelerator did is a thread beside its stage's.
    """
    said = f"host {platform.node()}, process {os.getpid()}; "
    if offset.within:
        said += f"{offset.add / 1e6:.3f} ms added to its clock, within {offset.within / 1e6:.3f} ms"
    else:
        said += "the clock of the first worker"
    said += "; the first spans alone: there were too many" if truncated else ""
    thread = f"stage {row.stage}: {' '.join(row.blocks)}"
    names = [
        ("process_name", 0, {"name": f"worker {row.worker}"}),
        ("process_labels", 0, {"labels": said}),
        ("process_sort_index", 0, {"sort_index": row.worker}),
        ("thread_name", 2 * row.stage, {"name": thread}),
        ("thread_sort_index", 2 * row.stage, {"sort_index": 2 * row.stage}),
    ]
    if any(span.on_device for span in spans):
        names.append(("thread_name", 2 * row.stage + 1, {"name": f"{thread} on {row.device}"}))
    events = [{"ph": "M", "name": name, "pid": row.worker, "tid": tid, "args": args} for name, tid, args in names]
    return events + [
        {
            "ph": "X",
            "name": span.name,
            "cat": span.category,
            "ts": (span.begin + offset.add) / 1e3,
            "dur": (span.end - span.begin) / 1e3,
            "pid": row.worker,
            "tid": 2 * row.stage + span.on_device,
            "args": {"step": span.step},
        }
        for span in spans
    ]


def part_file(run: Path, row: TraceRow) -> Path:
    return run / PARTS / f"stage-{row.stage}-worker-{row.worker}.json"


def write_part(
    run: Path, row: TraceRow, spans: Sequence[TraceSpan], offset: ClockOffset, *, truncated: bool = False
) -> None:
    """Raises SnapshotError where it cannot be written."""
    path = part_file(run, row)
    with writing(path):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(events_of(row, spans, offset, truncated=truncated)))


def merge_parts(run: Path, parts: Sequence[Path], about: Mapping[str, Any]) -> None:
    """Write RUN/trace.json of the parts, and remove them. Raises SnapshotError where it cannot be written."""
    path = run / TRACE
    with writing(path):
        write_trace(path, [event for part in parts for event in json.loads(part.read_text())], about)
        shutil.rmtree(run / PARTS, ignore_errors=True)


def write_trace(path: Path, events: Sequence[dict[str, Any]], about: Mapping[str, Any]) -> None:
    """The whole file or none, its times counted from its first span's begin."""
    first = min((event["ts"] for event in events if event["ph"] == "X"), default=0.0)
    moved = [event | {"ts": round(event["ts"] - first, 3)} if event["ph"] == "X" else event for event in events]
    partial_path = path.with_name(f".{path.name}.partial")
    partial_path.write_text(json.dumps({"traceEvents": moved, "displayTimeUnit": "ms", "otherData": dict(about)}))
    partial_path.replace(path)


def tracing(run: Path, window: range, parts: Sequence[Path], observer: Observer) -> Callable[[RunEvent], object]:
    """`observer`; and the trace put together after the first marker past the window, or at the run's end."""
    about = {"made by": "ffdist", "batches": f"{window.start} to {window.stop - 1}"}
    done = False

    def observe(event: RunEvent) -> None:
        nonlocal done
        if not done and window and has_passed(event, window.stop - 1):
            done = True
            merge_parts(run, parts, about)
        observer(event)

    return observe


def has_passed(event: RunEvent, step: int) -> bool:
    """True if all that belongs to batch `step` had passed the end before."""
    match event:
        case RunStopped():
            return True
        case PulseReported(step=at) | SnapshotCommitted(step=at):
            return at >= step
        case EpochEnded(record):
            return record["step"] >= step
        case _:
            return False
