"""A run that is refused before its stages are ready leaves nothing behind, however it was started."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from forked import run

pytestmark = pytest.mark.distributed
PYTHON = [sys.executable, "-m"]
TORCHRUN = [*PYTHON, "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]


@pytest.mark.parametrize("start", [PYTHON, TORCHRUN], ids=["processes", "torchrun"])
def test_a_refused_run_leaves_no_folder(start: list[str], tmp_path: Path) -> None:
    out = tmp_path / "runs" / "refused"
    done = refused(start, out)
    assert "nccl cannot join stages 0 and 1" in done
    assert list(tmp_path.iterdir()) == []


def test_what_a_user_keeps_in_the_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    refused(PYTHON, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def refused(start: list[str], out: Path) -> str:
    """What a run between two processes without GPUs says when it is told to use NCCL."""
    command = [*start, "ffdist", "train", "--transport", "nccl", "--stages", "2", "--device", "cpu", "--out", str(out)]
    done = run(command, timeout=120)
    assert done.returncode != 0
    return done.stderr
