"""Another interpreter like this one."""

from __future__ import annotations

import subprocess
import sys


def interpreter_running(code: str, *args: str) -> list[str]:
    """The command of an interpreter with this one's own flags (-O, -W, -X, ...) that runs this code with these
    arguments."""
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined] - as multiprocessing has it
    return [sys.executable, *flags, "-c", code, *args]
