"""The environment of this process: of which versions and commit, on what machine, started by what command."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ffdist.cores import available_cores

PACKAGES = ("ffdist", "torch", "torchvision", "numpy", "pyarrow", "safetensors")
UNKNOWN = "unknown"
GIT_TIMEOUT = 10.0
"""Seconds that git may take."""
LONGEST = 4000
"""Characters of a command that are kept: a program may stand in it."""
REPOSITORY = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
"""Variables that name another repository than that of a folder; git sets them for its hooks."""


def versions() -> dict[str, str]:
    """Versions of Python, and of the packages that decide what a run computes."""
    return {"python": platform.python_version()} | {name: version_of(name) for name in PACKAGES}


def version_of(package: str) -> str:
    """The version of an installed package, else "unknown"."""
    try:
        return version(package)
    except PackageNotFoundError:  # put on the path, and not installed
        return UNKNOWN


def host() -> dict[str, str | int]:
    """The machine's name, its system and processor, and the cores that this process may use."""
    return {
        "host": platform.node(),
        "system": platform.platform(),
        "processor": processor_name(),
        "cores": available_cores(),
    }


def processor_name() -> str:
    """The processor's name as the system knows it, without trade marks.

    Virtual machines name a maker alone ("AMD EPYC"): there the generation follows, as it makes a difference of some
    times in speed.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, colon, value in (line.partition(":") for line in lines) if colon}
    name = re.sub(r"\((R|TM)\)|CPU|@.*|Processor", "", facts.get("model name", platform.machine())).strip()
    unnamed = not any(letter.isdigit() for letter in name) and "cpu family" in facts and "model" in facts
    return f"{name} family {facts['cpu family']} model {facts['model']}" if unnamed else name


def commit() -> str:
    """The commit of the source that runs, marked by a "+" where it was changed since. Outside a checkout of ffdist what
    FFDIST_COMMIT says, as an image has it, or "unknown"."""
    here = Path(__file__)
    own = git(here.parent, "ls-files", "--error-unmatch", here.name)  # it may lie in somebody else's checkout
    return (own and commit_of(here.parent)) or os.environ.get("FFDIST_COMMIT") or UNKNOWN


def commit_of(folder: Path) -> str | None:
    """The commit of the checkout that a folder is in, marked by a "+" where files in the folder were changed since;
    None where there is none."""
    head = git(folder, "rev-parse", "--short=12", "HEAD")
    return head and head + ("+" if git(folder, "status", "--porcelain", "--untracked-files=no", ".") else "")


def git(folder: Path, *args: str) -> str | None:
    """Git's output there; None where it fails, or is not installed."""
    here = {name: value for name, value in os.environ.items() if name not in REPOSITORY}
    try:
        done = subprocess.run(
            ["git", *args], cwd=folder, env=here, capture_output=True, text=True, timeout=GIT_TIMEOUT, check=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip()


def command_line(argv: Sequence[str] | None = None) -> str:
    """A command as a shell takes it; None: the one that this process was started by. Without what addresses in it say
    of a user and a password."""
    argv = sys.orig_argv if argv is None else argv
    line = shlex.join(re.sub(r"://[^/@\s]+@", "://***@", word) for word in argv)
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."
