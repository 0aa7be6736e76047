"""What surrounds the processes of tests: where they find modules, and whether they see GPUs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SITE = str(Path(__file__).parent / "site")
"""What processes that tests start have on their path first."""
ROOT = Path(__file__).parents[1]
GPUS = "CUDA_VISIBLE_DEVICES"
given = os.environ.get(GPUS)


def hide_gpus() -> None:
    """From this process and those it starts: the laws are laws of a CPU, wherever the tests run."""
    os.environ[GPUS] = ""


def python_path(*folders: Path) -> str:
    """For the environment of processes that find these alone; ffdist's own where none is told."""
    return os.pathsep.join(map(str, (SITE, *(folders or (ROOT,)))))


def restore_gpus(patch: pytest.MonkeyPatch) -> None:
    """For the processes that are started while `patch` lasts."""
    if given is None:
        patch.delenv(GPUS, raising=False)
    else:
        patch.setenv(GPUS, given)
