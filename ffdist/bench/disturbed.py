"""The run that is killed: started, watched from outside, killed, and started again."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ffdist.bench.fault_schedule import Fault
from ffdist.bench.harness.result import Progress
from ffdist.bench.ray_nodes import RayNodes
from ffdist.bench.victims import ProcessId, descendants, is_worker, kept_in, name_of, shared_by
from ffdist.errors import StageError
from ffdist.report.log import PULSES
from ffdist.runtime.child import FORK_SERVER
from ffdist.runtime.record import ENVIRONMENT

Launcher = Literal["processes", "torchrun", "ray"]
PLANS = (
    "conv1 conv2 @ 0 | conv3 @ 1",
    "* @ 0:0, 1:1",
    "conv1 @ 0 | conv2 @ 0:0, 1:1 | conv3 @ 1",
    "* @ 0, 1 by batch",
)
"""A pipeline, replicas, and both; all of two workers and two lanes."""
TRAIN_FLAGS = shlex.split(
    "digits --seed 7 --precision fp32 --device cpu --threads 1 --lanes 2 --samples 600 --batch-size 32 "
    "--snapshot-every 4 --log-every 1"
)
TAIL = 1 << 16
"""Bytes that hold the last pulse."""
PROGRESS_TIMEOUT = 240.0
"""Seconds without a new snapshot, at most."""
MAX_FAILED = 8
"""Starts in a row that end with an error before the stages are ready."""
AWAITED = 0.3
"""Seconds for which a worker is stopped, so that the one that shares its blocks waits for its gradients."""


@dataclass
class DisturbedRun:
    """The run that is killed."""

    launcher: Launcher
    run: Path
    epochs: int
    temporary: Path
    draw: random.Random
    progress: Progress
    plan: str = PLANS[0]
    """The plan of the last start."""
    restarts: int = 0
    """How often the command was started again."""
    refused: int = 0
    """How often a start was refused since the run before it was still at work."""
    failed: int = 0
    """How often in a row it ended by itself, before the stages were ready."""
    seen_begun: int = 0
    process: subprocess.Popen[bytes] | None = None
    nodes: RayNodes | None = None
    """The nodes that the workers are on, under Ray."""
    seen: set[ProcessId] = field(default_factory=set)
    """All processes that were ever seen, to be looked for at the end."""
    shared: set[str] = field(default_factory=set)
    """Names of shared memory that they had when one was killed."""
    seen_workers: set[ProcessId] = field(default_factory=set)

    def start(self) -> None:
        """Start the command, or resume the run by another plan where it has begun."""
        self.plan = self.draw.choice(PLANS)
        arguments = [*TRAIN_FLAGS, "--epochs", str(self.epochs), "--plan", self.plan, "--max-restarts", "5"]
        if (self.run / "config.toml").exists():
            arguments = ["--resume", str(self.run), *arguments[1:]]
        else:
            arguments += ["--out", str(self.run)]
        command = ["-m", "ffdist", "train", *arguments, "--launcher", self.launcher]
        if self.nodes:
            command += ["--address", self.nodes.address]
        if self.launcher == "torchrun":
            ranks = ["--standalone", "--nproc-per-node=2", "--max-restarts=5"]
            command = ["-m", "ffdist.runtime.agent", *ranks, "-m", "ffdist", "train", *arguments]
        env = os.environ | {"TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        with (self.temporary.parent / "said.log").open("ab") as output:
            self.process = subprocess.Popen([sys.executable, *command], stdout=output, stderr=output, env=env)
        self.restarts += 1

    def ended(self) -> int | None:
        """The command's exit status; None while it runs."""
        assert self.process
        return self.process.poll()

    def workers(self) -> list[ProcessId]:
        """The workers that are there now; they and all others of the run are added to what was seen."""
        found = self.descendants()
        self.seen |= set(found)
        workers = [each for each in found if is_worker(each, self.launcher)]
        self.seen_workers |= set(workers)
        return workers

    def descendants(self) -> list[ProcessId]:
        """All processes of the run; a cluster's nodes are this process's own children."""
        assert self.process
        return descendants(os.getpid() if self.nodes else self.process.pid)

    def begun(self) -> int:
        """The number of times that the stages were ready."""
        try:
            return (self.run / ENVIRONMENT).read_bytes().count(b"\n")
        except OSError:
            return 0

    def step(self) -> int:
        """The last batch that was reported; 0 for none since the last start."""
        return batches_of(self.run)

    def newest(self) -> tuple[str, bool]:
        """The newest snapshot's folder, and whether it is committed."""
        folders = sorted(kept_in(self.run / "snapshots", "step-"))
        if not folders:
            return "", False
        return folders[-1], (self.run / "snapshots" / folders[-1] / "manifest.json").exists()

    def kill(self, fault: Fault) -> bool:
        """Kill the fault's victim by SIGKILL; False where no such process is there."""
        assert self.process
        workers = sorted(self.workers())
        self.shared |= shared_by(self.descendants())
        if fault.victim == "launcher":
            os.kill(self.process.pid, signal.SIGKILL)
            return True
        if not workers:
            return False
        victim = workers[fault.worker % len(workers)].pid
        if fault.victim == "fork server":  # none any more, where it was killed already: then a worker
            victim = next((each.pid for each in self.descendants() if name_of(each.pid) == FORK_SERVER), victim)
        others = [each.pid for each in workers if each.pid != victim]
        with paused(others if fault.moment == "exchange" and self.shares_blocks else []):
            if fault.victim == "node" and self.nodes:
                self.nodes.kill(self.draw, [victim])
                return True
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                return False
        return True

    @property
    def shares_blocks(self) -> bool:
        """True if workers exchange gradients by the plan with which it was started last."""
        return self.plan != PLANS[0]

    def go_on(self) -> None:
        """Start the command again at once; while workers of the last start still write, it is refused.

        Raises StageError where it ends by itself `MAX_FAILED` times in a row before the stages are ready.
        """
        assert self.process
        ended, begun = self.process.wait(), self.begun()
        self.failed = self.failed + 1 if ended > 0 and begun == self.seen_begun else 0
        self.seen_begun = begun
        if self.failed == MAX_FAILED:
            output = (self.temporary.parent / "said.log").read_text(errors="replace")
            raise StageError("the run does not begin again", where=self.run, got=output[-1000:])
        self.start()

    def await_moment(self, fault: Fault) -> bool:
        """Wait for the fault's moment; False where the run ends before. Raises StageError where nothing new comes."""
        deadline, begun = time.monotonic() + PROGRESS_TIMEOUT, self.begun()
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
            # a snapshot is written within milliseconds; until one may come, spare the core
            time.sleep(0.002 if ready else 0.05)
        raise StageError(
            "the run brought nothing new", where=self.run, expected=f"a snapshot within {PROGRESS_TIMEOUT:g} s"
        )

    def _files(self, name: str) -> int:
        return sum(each.endswith(".safetensors") for each in kept_in(self.run / "snapshots" / name, "block-"))


def batches_of(run: Path) -> int:
    """The batches of the run's last pulse, a moment ago."""
    with suppress(OSError, IndexError, ValueError, KeyError), (run / PULSES).open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
        return int(json.loads(file.read().splitlines()[-1])["step"])
    return 0


@contextmanager
def paused(pids: list[int]) -> Iterator[None]:
    """Stop these processes inside the context, so that those who exchange gradients with them wait."""
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
