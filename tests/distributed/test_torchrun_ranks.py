"""The same run, started by torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from jobs import fingerprint

from ffdist.cli import main

pytestmark = pytest.mark.distributed
SETTINGS = ["--epochs", "1", "--threads", "1", "--model-args", "widths=8,12,16"]


def torchrun(ranks: int, *args: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nproc-per-node={ranks}",
        "-m",
        "ffdist",
        "train",
        *args,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240,
                          env=os.environ | {"GLOO_SOCKET_IFNAME": "lo"})  # fmt: skip


def test_each_rank_of_torchrun_is_a_stage_and_learns_the_same(tmp_path: Path) -> None:
    done = torchrun(3, *SETTINGS, "--out", str(tmp_path / "torchrun"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Accuracy on 360 test samples") == 1
    main(["train", "--launcher", "threads", "--stages", "1", *SETTINGS, "--out", str(tmp_path / "alone")])
    assert fingerprint(tmp_path / "torchrun") == fingerprint(tmp_path / "alone")


def test_bad_settings_are_told_once_and_every_rank_fails(tmp_path: Path) -> None:
    done = torchrun(2, *SETTINGS, "--out", str(tmp_path / "run"), "--stages", "3")
    assert done.returncode != 0
    assert done.stderr.count("--stages and torchrun disagree") == 1
    assert not (tmp_path / "run").exists()


NETWORK = """
from pathlib import Path
from torch import nn

class InTheWay(nn.Linear):
    def forward(self, x):
        if Path({run!r}, "config.toml").exists():  # the run has begun
            Path({run!r}, "snapshots/step-000000001-epoch-00001/manifest.json/held").mkdir(parents=True, exist_ok=True)
        return super().forward(x)

def build(shape, num_classes):
    return nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(64, 8)), InTheWay(8, 8))
"""


def test_no_rank_ends_well_where_the_last_cannot_commit(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NETWORK.format(run=str(tmp_path / "run")))
    own = ["--model", f"{tmp_path}/net.py:build", "--epochs", "1", "--threads", "1"]
    done = torchrun(2, *own, "--batch-size", "1000", "--queue", "8", "--out", str(tmp_path / "run"))
    assert done.returncode != 0
    assert "a snapshot file cannot be written" in done.stderr
    failures = done.stderr[done.stderr.index("Failures:") :]
    assert {rank for rank in (0, 1) if f"(local_rank: {rank})" in failures} == {0, 1}, failures
