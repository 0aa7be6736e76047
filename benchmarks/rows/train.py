"""One seed of a row: trained, or gone on with; its cost beside its run log."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ffdist.bench.harness.record import versions
from ffdist.report.log import read_run_log
from ffdist.snapshot import latest

COST = "cost.jsonl"


def train(flags: list[str], out: Path) -> None:
    """Run `ffdist train` to its end; a run that was stopped is resumed from its last snapshot, or begun anew.

    Raises CalledProcessError where it fails, after it has printed why.
    """
    if finished(out):
        return
    begun = out.exists() and latest(out) is not None
    if (out / "config.toml").exists() and not begun:
        shutil.rmtree(out)
    args = ["--resume", "--out", str(out)] if begun else [*flags, "--out", str(out)]
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        run_to_its_end([sys.executable, "-m", "ffdist", "train", *args])
    finally:
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        note_cost(out, time.monotonic() - started, cpu, after.ru_maxrss)


def run_to_its_end(command: list[str]) -> None:
    """Run a command, and pass a signal to stop on to it, once; then wait, as a run makes a snapshot before it ends.

    It has a session of its own: Ctrl-C in a terminal reaches a whole group, and would stop it twice.

    Raises CalledProcessError where it fails, or was stopped.
    """
    with subprocess.Popen(command, start_new_session=True) as process:
        kinds = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = {kind: signal.signal(kind, lambda number, _: process.send_signal(number)) for kind in kinds}
        try:
            code = process.wait()
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)
    if code:
        raise subprocess.CalledProcessError(code, command)


def exported(out: Path) -> Path:
    """The weights of a finished run as a file, which is written where there is none."""
    file = out / "weights.safetensors"
    if not file.exists():
        subprocess.run([sys.executable, "-m", "ffdist", "export", str(out), "--to", str(file)], check=True)
    return file


def note_cost(out: Path, seconds: float, cpu_seconds: float, peak: int) -> None:
    """A line for each attempt at the run. peak: as getrusage tells it, of the largest process so far."""
    if not out.exists():
        return
    mib = 2**20 if sys.platform == "darwin" else 2**10
    cost = {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "peak_mib": peak // mib,
        "commit": versions()["commit"],
    }
    with (out / COST).open("a") as file:
        file.write(json.dumps(cost) + "\n")


def cost_of(out: Path) -> dict[str, Any]:
    """The cost of all attempts: seconds and CPU seconds, evaluation and start included, peak MiB, and the commit.

    Empty where it is not known.
    """
    if not (out / COST).exists():
        return {}
    lines = [json.loads(line) for line in (out / COST).read_text().splitlines()]
    total = {key: round(sum(line[key] for line in lines)) for key in ("seconds", "cpu_seconds")}
    return total | {"peak_mib": max(line["peak_mib"] for line in lines), "commit": lines[-1]["commit"]}


def finished(out: Path) -> bool:
    """True if the run log says that the run has come to its end."""
    _, end = read_run_log(out)
    return end is not None and end["reason"] == "finished"
