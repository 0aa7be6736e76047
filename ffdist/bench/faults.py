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
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args

from ffdist.bench.finding import Finding, Grid, Progress
from ffdist.bench.victims import Seen, descendants, is_worker, kept_in, left_of, lives, words_of
from ffdist.cores import available_cores
from ffdist.errors import StageError
from ffdist.report.log import PULSES, read_run_log
from ffdist.runtime.record import ENVIRONMENT
from ffdist.snapshot import committed, latest

Launcher = Literal["processes", "torchrun", "ray"]
Moment = Literal["start", "learning", "exchange", "snapshot", "commit", "last commit"]
MOMENTS: tuple[Moment, ...] = get_args(Moment)
PLANS = ("conv1 conv2 @ 0 | conv3 @ 1", "* @ 0:0, 1:1", "conv1 @ 0 | conv2 @ 0:0, 1:1 | conv3 @ 1")
"""A pipeline, replicas, and both; all of two workers and two lanes."""
TOLD = ("digits", "--seed", "7", "--precision", "fp32", "--device", "cpu", "--threads", "1", "--lanes", "2",
        "--samples", "600", "--batch-size", "32", "--snapshot-every", "4", "--log-every", "1")  # fmt: skip
GONE = {"processes": 15.0, "torchrun": 40.0, "ray": 120.0}
"""Seconds in which everything must have ended whose launcher was killed."""
PATIENCE = 240.0
"""Seconds without a new snapshot, at most."""
MOST = 8
"""Starts in a row that end with an error before the stages are ready."""
AWAITED = 0.3
"""Seconds for which a worker is stopped, so that the one that shares its blocks waits for its gradients."""
LAST = 2
"""So many of the kills, or half of them, come at the last commit; the run may have ended before the second."""


@dataclass(frozen=True)
class Fault:
    """One kill that was drawn."""

    moment: Moment
    launcher: bool
    """Whether what has started the workers is killed, and not a worker."""
    worker: int
    wait: float
    """Seconds behind the moment; behind a start more than between batches."""


@dataclass
class Told:
    """What came of one kill."""

    fault: Fault
    at: float
    begun: int
    """Starts of the stages so far."""
    step: int
    """The last batch that was learned."""
    again: float | None = None
    """Seconds until the stages were ready for the next batch; None where they were killed before."""
    lost: int | None = None
    """Batches that were learned again."""


def schedule(kills: int, seed: int) -> list[Fault]:
    """The faults of a run, in order."""
    draw = random.Random(seed)
    faults = list[Fault]()
    for number in range(kills):
        moment = draw.choice(MOMENTS[:-1]) if number < kills - min(LAST, kills // 2) else "last commit"
        most = {"start": 4.0, "learning": 0.6, "exchange": 0.6}.get(moment, 0.0)
        wait = draw.uniform(0, most)
        faults.append(Fault(moment, draw.random() < 0.3, draw.randrange(2), wait))
    return faults


@dataclass
class Disturbed:
    """The run that is killed."""

    launcher: Launcher
    run: Path
    epochs: int
    temporary: Path
    draw: random.Random
    progress: Progress
    plan: str = PLANS[0]
    """By which it was started last."""
    restarts: int = 0
    """How often the command was started again."""
    refused: int = 0
    """How often it was refused, since the one before was still at work."""
    failed: int = 0
    """How often in a row it ended by itself, before the stages were ready."""
    seen_begun: int = 0
    process: subprocess.Popen[bytes] | None = None
    seen: set[Seen] = field(default_factory=set)

    def start(self) -> None:
        self.plan = self.draw.choice(PLANS)
        told = [*TOLD, "--epochs", str(self.epochs), "--plan", self.plan, "--max-restarts", "5"]
        if (self.run / "config.toml").exists():
            told = ["--resume", str(self.run), *told[1:]]
        else:
            told += ["--out", str(self.run)]
        command = ["-m", "ffdist", "train", *told, "--launcher", self.launcher]
        if self.launcher == "torchrun":
            ranks = ["--standalone", "--nproc-per-node=2", "--max-restarts=5"]
            command = ["-m", "ffdist.runtime.agent", *ranks, "-m", "ffdist", "train", *told]
        env = os.environ | {"TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        with (self.temporary.parent / "said.log").open("ab") as said:
            self.process = subprocess.Popen([sys.executable, *command], stdout=said, stderr=said, env=env)
        self.restarts += 1

    def ended(self) -> int | None:
        """Its status; None while it is at work."""
        assert self.process
        return self.process.poll()

    def workers(self) -> list[Seen]:
        assert self.process
        found = descendants(self.process.pid)
        self.seen |= set(found)
        return [each for each in found if is_worker(each, self.launcher)]

    def begun(self) -> int:
        """How often the stages were ready."""
        try:
            return (self.run / ENVIRONMENT).read_bytes().count(b"\n")
        except OSError:
            return 0

    def step(self) -> int:
        """The last batch that was told of; 0 for none since the last start."""
        try:
            lines = (self.run / PULSES).read_bytes().splitlines()
            return int(json.loads(lines[-1])["step"])
        except (OSError, IndexError, ValueError, KeyError):
            return 0

    def newest(self) -> tuple[str, bool]:
        """The newest snapshot's folder, and whether it is committed."""
        folders = sorted(kept_in(self.run / "snapshots", "step-"))
        if not folders:
            return "", False
        return folders[-1], (self.run / "snapshots" / folders[-1] / "manifest.json").exists()

    def kill(self, fault: Fault) -> bool:
        """False where nobody is there to be killed."""
        assert self.process
        workers = sorted(self.workers())
        if fault.launcher:
            os.kill(self.process.pid, signal.SIGKILL)
            return True
        if not workers:
            return False
        victim = workers[fault.worker % len(workers)].pid
        with held_up([each.pid for each in workers if each.pid != victim and fault.moment == "exchange"]):
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                return False
        return True

    def go_on(self) -> None:
        """Whoever started it has ended: again, at once. What an old one still writes, is refused until it has ended.

        Raises StageError where it ends by itself again and again.
        """
        assert self.process
        ended, begun = self.process.wait(), self.begun()
        self.failed = self.failed + 1 if ended > 0 and begun == self.seen_begun else 0
        self.seen_begun = begun
        if self.failed == MOST:
            said = (self.temporary.parent / "said.log").read_text(errors="replace")
            raise StageError("the run does not begin again", where=self.run, got=said[-1000:])
        self.start()

    def await_moment(self, fault: Fault) -> bool:
        """False where the run has come to its end before."""
        deadline, begun = time.monotonic() + PATIENCE, self.begun()
        first = self.newest()
        while time.monotonic() < deadline:
            status = self.ended()
            if status == 0:
                return False
            if status is not None:
                self.refused += 1
                self.go_on()
            name, whole = self.newest()
            ready = self.begun() > begun or first != (name, whole)
            match fault.moment:
                case "start":
                    here = bool(self.workers())
                case "learning" | "exchange":
                    here = ready
                case "snapshot":
                    here = ready and not whole and bool(name)
                case "commit":
                    here = ready and name != first[0] and (whole or self._files(name) >= 3)
                case _:
                    here = name.endswith(f"epoch-{self.epochs:05d}")
            if here:
                time.sleep(fault.wait)
                return self.ended() != 0
            time.sleep(0.002 if ready else 0.05)
        raise StageError("the run brought nothing new", where=self.run, expected=f"a snapshot within {PATIENCE:g} s")

    def _files(self, name: str) -> int:
        return sum(each.endswith(".safetensors") for each in kept_in(self.run / "snapshots" / name, "block-"))


@contextmanager
def held_up(pids: list[int]) -> Iterator[None]:
    """Within, these are stopped, and whoever wants something of theirs waits for it."""
    try:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        time.sleep(AWAITED if pids else 0)
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def disturb(run: Disturbed, faults: list[Fault]) -> list[Told]:
    """Kill it so often, then let it come to its end. Raises StageError where it does not, or something is left."""
    told = list[Told]()
    run.start()
    for number, fault in enumerate(faults):
        if not run.await_moment(fault):
            break
        if fault.moment == "exchange" and run.plan == PLANS[0]:  # nobody shares a block there
            fault = replace(fault, moment="learning")
        settle(run, told)
        step, begun = run.step(), run.begun()
        if not run.kill(fault):
            continue
        told.append(Told(fault, time.monotonic(), begun, step))
        who = run.launcher if fault.launcher else f"worker {fault.worker}"
        run.progress(f"kill {number + 1} of {len(faults)}: {who}, {fault.moment}, behind batch {step}")
        if fault.launcher:
            before = set(run.seen)
            run.go_on()
            if left := left_of(before, GONE[run.launcher]):
                raise StageError(
                    "processes have outlived their launcher",
                    got=sorted(" ".join(words_of(each.pid))[:80] for each in left),
                )
            latest(run.run)  # raises where a snapshot that counts as one is not whole
        wait_ready(run, told[-1], faults[number + 1 : number + 2])
    deadline = time.monotonic() + PATIENCE
    while run.ended() != 0:
        if run.ended() is not None:
            run.go_on()
        settle(run, told)
        if time.monotonic() > deadline:
            raise StageError("the run does not come to its end", where=run.run, expected=f"within {PATIENCE:g} s")
        time.sleep(0.05)
    return told


def wait_ready(run: Disturbed, last: Told, following: list[Fault]) -> None:
    """Until it learns again, unless the next kill comes as it starts."""
    if following and following[0].moment == "start":
        return
    deadline = time.monotonic() + PATIENCE
    while run.begun() <= last.begun and run.ended() != 0 and time.monotonic() < deadline:
        if run.ended() is not None:
            run.refused += 1
            run.go_on()
        time.sleep(0.01)
    settle(run, [last])


def settle(run: Disturbed, told: list[Told]) -> None:
    """What is known of kills behind which it has begun again."""
    for each in told:
        if each.again is None and each is told[-1] and run.begun() > each.begun:
            each.again = time.monotonic() - each.at
            newest = committed(run.run)
            kept = int(newest[-1].name.split("-")[1]) if newest else 0
            each.lost = max(0, each.step - kept)


def undisturbed(run: Path, epochs: int) -> None:
    """The same run in one process. Raises StageError where it fails."""
    words = [*TOLD, "--epochs", str(epochs), "--plan", "* @ 0", "--launcher", "threads", "--out", str(run), "--quiet"]
    done = subprocess.run([sys.executable, "-m", "ffdist", "train", *words], capture_output=True, text=True)
    if done.returncode:
        raise StageError("the undisturbed run failed", got=done.stderr[-2000:])


def learned(run: Path) -> dict[str, Any]:
    """What a run has come to, without times: blocks' files by their digests, metrics, the test."""
    manifest = latest(run)
    assert manifest
    records, end = read_run_log(run)
    parts = [
        {name: {key: value for key, value in part.items() if key != "samples_per_second"}
         for name, part in record.items() if name in ("train", "validation")}
        for record in records
    ]  # fmt: skip
    return {
        "step": manifest.step,
        "files": {entry["file"]: entry["sha256"] for entry in manifest.files},
        "records": parts,
        "end": end,
    }


@contextmanager
def nothing_left(run: Disturbed) -> Iterator[None]:
    """Raises StageError where something is there afterwards that was not before."""
    shared = kept_in(Path("/dev/shm"))
    yield
    left = {
        "processes": [str(each.pid) for each in left_of(run.seen, GONE[run.launcher]) if lives(each)],
        "shared memory": sorted(kept_in(Path("/dev/shm")) - shared),
        "temporary files": sorted(name for name in kept_in(run.temporary) if "ffdist" in name),
        "parts of files": sorted(str(path) for path in run.run.rglob(".*.partial")),
    }
    if found := {what: names for what, names in left.items() if names}:
        raise StageError("something is left of the run", where=run.run, expected="nothing", got=found)


def start_up() -> float:
    """Seconds that a process takes here until it has torch and ffdist."""
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", "import ffdist.runtime.stage_process"], check=True)
    return time.monotonic() - begun


def faults(kills: int, seed: int, launcher: Launcher, folder: Path, progress: Progress) -> Finding:
    """Raises StageError where the runs differ, something is left, or the run has ended before all kills."""
    epochs = max(4, kills)
    (folder / "tmp").mkdir(parents=True)
    progress(f"the undisturbed run: {epochs} epochs")
    undisturbed(folder / "whole", epochs)
    run = Disturbed(launcher, folder / "killed", epochs, folder / "tmp", random.Random(seed + 1), progress)
    begun = time.monotonic()
    try:
        with nothing_left(run):
            told = disturb(run, schedule(kills, seed))
    finally:
        if run.process and run.process.poll() is None:
            run.process.kill()
            run.process.wait()
    seconds, load = time.monotonic() - begun, os.getloadavg()[2]
    expected, found = learned(folder / "whole"), learned(folder / "killed")
    for what, value in expected.items():
        if found[what] != value:
            raise StageError("the run that was killed has learned something else", where=folder / "killed",
                             expected=f"{what} as of {folder / 'whole'}", got="others")  # fmt: skip
    if len(told) < kills - 1:
        raise StageError("the run ended before all kills", expected=kills, got=len(told), where=folder)
    return finding(launcher, told, run, seconds, load, start_up())


def finding(launcher: Launcher, told: list[Told], run: Disturbed, seconds: float, load: float, torch: float) -> Finding:
    """load: processes that wanted a core, on average. torch: seconds of its start-up."""
    rows = list[dict[str, Any]]()
    for moment in MOMENTS:
        mine = [each for each in told if each.fault.moment == moment]
        again = [each.again for each in mine if each.again is not None]
        lost = [each.lost for each in mine if each.lost is not None]
        rows.append({
            "killed": moment, "kills": len(mine), "of the launcher": sum(each.fault.launcher for each in mine),
            "s to learning again": round(median(again), 2) if again else None,
            "at most": round(max(again), 2) if again else None,
            "batches lost": median(lost) if lost else None, "most": max(lost) if lost else None,
        })  # fmt: skip
    again = [each.again for each in told if each.again is not None]
    lost = [each.lost for each in told if each.lost is not None]
    summary = {
        "launcher": launcher,
        "kills": len(told),
        "of_launcher": sum(each.fault.launcher for each in told),
        "seconds": seconds,
        "load": load,
        "started": run.restarts,
        "refused_at_once": run.refused,
        "start_up_seconds": torch,
        "again_seconds": median(again) if again else None,
        "again_without_start_up": max(0.0, median(again) - torch) if again else None,
        "lost_batches": sum(lost),
        "lost_most": max(lost, default=None),
        "equal": True,
        "left": 0,
    }
    notes = [
        f"{len(told)} kills by SIGKILL in {seconds:.0f} s, {summary['of_launcher']} of them of what had started the "
        "workers: weights, optimiser, metrics and test equal the undisturbed run's to the bit.",
        "After it: no process, no shared memory, no temporary file, no part of a file was left; each launcher's death "
        "ended its workers.",
        f"From a kill to the next batch: {summary['again_seconds'] or 0:.1f} s (median), of which a process takes "
        f"{torch:.1f} s here until it has loaded torch.",
        f"Load average (15 minutes) at the end: {load:.1f}, on {available_cores()} cores; where it is more than the "
        "run's own, other work went on beside it, and all seconds are upper bounds.",
        f"Plans, changed at each --resume: {'; '.join(PLANS)}.",
    ]
    return Finding(f"faults-{launcher}", summary, [Grid(f"{launcher}: {len(told)} kills", rows)], notes)
