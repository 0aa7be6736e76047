"""Commands as users type them, together, and nothing left of them afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from harness import SITE

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
PATIENCE = 150.0
"""Seconds a group of commands may take."""


class Command(NamedTuple):
    words: Sequence[object]
    env: Mapping[str, object] = {}
    cwd: Path = ROOT


def environment(**changes: object) -> dict[str, str]:
    """This process's, with this interpreter's programs first, one thread a process, and `changes`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    values = {"PATH": path, "PYTHONPATH": f"{SITE}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": 1, **changes}
    return {**os.environ, **{name: str(value) for name, value in values.items()}}


def run(*commands: Command, timeout: float = PATIENCE) -> list[str]:
    """Run commands at once; their output (both streams) when all ended well. Fails with all outputs otherwise."""
    with contextlib.ExitStack() as files:
        outputs = [files.enter_context(tempfile.TemporaryFile("w+")) for _ in commands]
        codes = _wait([_start(command, output) for command, output in zip(commands, outputs, strict=True)], timeout)
        for output in outputs:
            output.seek(0)
        texts = [output.read() for output in outputs]
    assert not any(codes), f"exit statuses {codes}\n" + "\n---\n".join(texts)
    return texts


def _start(command: Command, output: IO[str]) -> subprocess.Popen[bytes]:
    words, env = [str(word) for word in command.words], environment(**command.env)
    return subprocess.Popen(
        words, env=env, stdout=output, stderr=subprocess.STDOUT, cwd=command.cwd, start_new_session=True
    )


def _wait(processes: Sequence[subprocess.Popen[bytes]], timeout: float) -> list[int]:
    try:
        return [process.wait(timeout) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)  # torchrun ends its ranks, which are sessions of their own
                process.wait()
