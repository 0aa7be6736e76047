"""A run that is killed again and again, at moments that a seed has drawn, beside one that nobody disturbs.

Its workers, and what has started them, are killed by SIGKILL from outside: as they start, between batches, while one
waits for another's gradients, while a snapshot is written, at its commit, and at the last commit of all. Where what has
started them was killed, the same command goes on with `--resume` at once, by another plan. At the end both runs must be
equal to the bit, and nothing may be left: no process, no shared memory, no temporary file.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ffdist.bench.disturbed import PROGRESS_TIMEOUT, TRAIN_FLAGS, DisturbedRun, Launcher
from ffdist.bench.fault_schedule import Fault, schedule
from ffdist.bench.faults_found import DisturbedRunCosts, KillOutcome, result_of
from ffdist.bench.harness.result import BenchResult, Progress
from ffdist.bench.ray_nodes import RayNodes
from ffdist.bench.start_times import note_imports
from ffdist.bench.victims import command_line_of, kept_in, left_of
from ffdist.errors import StageError
from ffdist.report.log import read_run_log
from ffdist.snapshot import committed, latest

GONE = {"processes": 15.0, "torchrun": 40.0, "ray": 40.0}
"""Seconds within which workers must end after their launcher was killed."""
LEFT = {"processes": 15.0, "torchrun": 40.0, "ray": 120.0}
"""Seconds within which everything must end after the run; Ray's own agents outlive it by a minute."""


def kill_and_finish(run: DisturbedRun, faults: list[Fault]) -> list[KillOutcome]:
    """Kill the run once for each fault, then let it finish. Raises StageError where it does not, or leaves workers."""
    outcomes = list[KillOutcome]()
    run.start()
    for number, fault in enumerate(faults):
        found = kill_at_moment(run, fault, outcomes)
        if found is None:
            break
        begun, step = found
        if fault.moment == "exchange" and not run.shares_blocks:
            fault = replace(fault, moment="learning")
        outcomes.append(KillOutcome(fault, time.time(), begun, step))
        note_kill(run, outcomes[-1])  # at once, as a later error or interrupt ends this process
        who = f"worker {fault.worker}" if fault.victim == "worker" else fault.victim
        run.progress(f"kill {number + 1} of {len(faults)}: {who}, {fault.moment}, after batch {step}")
        if run.nodes and fault.victim == "node":
            run.nodes.replace()
        if fault.victim == "launcher":
            before = set(run.seen_workers)
            run.go_on()
            if left := left_of(before, GONE[run.launcher]):
                raise StageError(
                    "workers have outlived their launcher",
                    got=sorted(" ".join(command_line_of(each.pid))[:80] for each in left),
                )
            latest(run.run)  # raises where a snapshot that counts as one is not whole
        wait_ready(run, outcomes[-1], faults[number + 1 : number + 2])
    deadline, seen = time.monotonic() + PROGRESS_TIMEOUT, (run.begun(), run.newest())
    while run.ended() != 0:
        if run.ended() is not None:
            run.go_on()
        settle(run, outcomes)
        if seen != (seen := (run.begun(), run.newest())):
            deadline = time.monotonic() + PROGRESS_TIMEOUT
        if time.monotonic() > deadline:
            raise StageError(
                "the run does not come to its end", where=run.run, expected=f"within {PROGRESS_TIMEOUT:g} s"
            )
        time.sleep(0.05)  # its snapshots are looked at, too, which tell nobody that they are there
    return outcomes


def kill_at_moment(run: DisturbedRun, fault: Fault, outcomes: list[KillOutcome]) -> tuple[int, int] | None:
    """Kill at the fault's moment, or at the next of its kind where the victim is gone by then.

    Returns how often the stages had been ready, and the last batch reported; None where the run has ended before.
    """
    while run.await_moment(fault):
        settle(run, outcomes)
        begun, step = run.begun(), run.step()
        if run.kill(fault):
            return begun, step
    return None


def note_kill(run: DisturbedRun, kill: KillOutcome) -> None:
    """Append the kill to a file beside the runs, so that a measurement that is stopped leaves something to read."""
    with (run.temporary.parent / "kills.jsonl").open("a") as file:
        file.write(json.dumps({"time": time.time(), "step": kill.step, **asdict(kill.fault)}) + "\n")


def wait_ready(run: DisturbedRun, last: KillOutcome, following: list[Fault]) -> None:
    """Wait until the run learns again, unless the next kill is to come while it starts."""
    if following and following[0].moment == "start":
        return
    deadline = time.monotonic() + PROGRESS_TIMEOUT
    while run.begun() <= last.begun and run.ended() != 0 and time.monotonic() < deadline:
        if run.ended() is not None:
            run.refused += 1
            run.go_on()
        time.sleep(0.01)  # a file says that it is ready; how soon it is, is measured
    settle(run, [last])


def settle(run: DisturbedRun, outcomes: list[KillOutcome]) -> None:
    """Fill in the time and the batches that the last kill has cost, once the stages are ready again."""
    for each in outcomes:
        if each.again is None and each is outcomes[-1] and run.begun() > each.begun:
            each.again = time.monotonic() - each.since
            newest = committed(run.run)
            kept = int(newest[-1].name.split("-")[1]) if newest else 0
            each.lost = max(0, each.step - kept)


def run_in_one_process(run: Path, epochs: int) -> None:
    """The same run in one process. Raises StageError where it fails."""
    alone = ["--plan", "* @ 0", "--launcher", "threads", "--quiet"]
    words = [*TRAIN_FLAGS, *alone, "--epochs", str(epochs), "--out", str(run)]
    done = subprocess.run([sys.executable, "-m", "ffdist", "train", *words], capture_output=True, text=True)
    if done.returncode:
        raise StageError("the undisturbed run failed", got=done.stderr[-2000:])


def learned(run: Path) -> dict[str, Any]:
    """A run's results without its times: blocks' files by their digests, metrics, the test."""
    manifest = latest(run)
    assert manifest
    records, end = read_run_log(run)
    parts = [
        {
            name: {key: value for key, value in part.items() if key != "samples_per_second"}
            for name, part in record.items()
            if name in ("train", "validation")
        }
        for record in records
    ]
    return {
        "step": manifest.step,
        "files": {entry["file"]: entry["sha256"] for entry in manifest.files},
        "records": parts,
        "end": end,
    }


@contextmanager
def nothing_left(run: DisturbedRun) -> Iterator[None]:
    """Raises StageError where processes, shared memory or temporary files of the run are left afterwards."""
    yield
    left = {
        "processes": [str(each.pid) for each in left_of(run.seen, LEFT[run.launcher])],
        "shared memory": sorted(kept_in(Path("/dev/shm")) & run.shared),
        "temporary files": sorted(name for name in kept_in(run.temporary) if "ffdist" in name),
        "parts of files": sorted(str(path) for path in run.run.rglob(".*.partial")),
    }
    if found := {what: names for what, names in left.items() if names}:
        raise StageError("something is left of the run", where=run.run, expected="nothing", got=found)


def faults(kills: int, seed: int, launcher: Launcher, folder: Path, progress: Progress) -> BenchResult:
    """Kill a run `kills` times at moments drawn by `seed`, and compare it with one that nobody disturbs.

    folder: new; both runs are written into it. Raises StageError where the runs differ, something is left, or the run
    has ended before all kills.
    """
    epochs = max(4, kills)
    (folder / "tmp").mkdir(parents=True)
    progress(f"the undisturbed run: {epochs} epochs")
    run_in_one_process(folder / "whole", epochs)
    run = DisturbedRun(launcher, folder / "killed", epochs, folder / "tmp", random.Random(seed + 1), progress)
    begun = time.monotonic()
    try:
        with nothing_left(run), ExitStack() as cluster:
            if launcher == "ray":
                run.nodes = cluster.enter_context(closing(RayNodes(folder / "ray")))
            outcomes = kill_and_finish(
                run, schedule(kills, seed, nodes=launcher == "ray", servers=launcher == "processes")
            )
    finally:
        if run.process and run.process.poll() is None:
            workers = {*run.descendants()}
            run.process.kill()
            run.process.wait()
            left_of(workers, GONE[launcher])  # they write until they are gone
    seconds, load = time.monotonic() - begun, os.getloadavg()[2]
    check_equal(folder / "whole", folder / "killed")
    if len(outcomes) < kills - 1:
        raise StageError("the run ended before all kills", expected=kills, got=len(outcomes), where=folder)
    note_imports(run.run, outcomes)
    return result_of(launcher, outcomes, DisturbedRunCosts(seconds, run.restarts, run.refused, load))


def check_equal(whole: Path, killed: Path) -> None:
    """Raises StageError where two runs have learned different things."""
    expected, found = learned(whole), learned(killed)
    for what, value in expected.items():
        if found[what] != value:
            raise StageError(
                "the run that was killed has learned something else",
                where=killed,
                expected=f"{what} as of {whole}",
                got="others",
            )
