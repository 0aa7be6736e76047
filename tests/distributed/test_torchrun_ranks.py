"""The same run, started by torchrun."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import forked
import numpy as np
import pytest
from jobs import fingerprint
from PIL import Image

from ffdist.cli import main
from ffdist.runtime.record import read_starts
from ffdist.runtime.run import read_settings

pytestmark = pytest.mark.distributed
SETTINGS = ["--epochs", "1", "--threads", "1", "--model-args", "widths=8,12,16"]


def torchrun(ranks: int, *args: str) -> subprocess.CompletedProcess[str]:
    """Its agent is forked; the ranks are interpreters, as it starts them."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={ranks}",
        "-m",
        "ffdist",
        "train",
        *args,
    ]
    return forked.run(command, timeout=240, env=os.environ | {"GLOO_SOCKET_IFNAME": "lo"})


def test_each_rank_of_torchrun_is_a_stage_and_learns_the_same(tmp_path: Path) -> None:
    done = torchrun(2, *SETTINGS, "--out", str(tmp_path / "torchrun"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Accuracy on 360 test samples") == 1
    main(["train", "--launcher", "threads", "--stages", "1", *SETTINGS, "--out", str(tmp_path / "alone")])
    assert fingerprint(tmp_path / "torchrun") == fingerprint(tmp_path / "alone")
    (start,) = read_starts(tmp_path / "torchrun")
    assert (start["launcher"], start["stages"]) == ("torchrun", 2)
    assert start["command"] == shlex.join(["ffdist", "train", *SETTINGS, "--out", str(tmp_path / "torchrun")])


def test_ranks_of_torchrun_share_blocks_by_slices_and_by_halves(tmp_path: Path) -> None:
    plan = ["--plan", "conv1 @ 3 | conv2 @ 0:0, 1:1-3 | conv3 @ 0-3", "--exchange", "halves"]
    done = torchrun(4, *SETTINGS, *plan, "--out", str(tmp_path / "torchrun"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("but by slices: conv2 @ 0:0, 1:1-3\n") == 1
    main(["train", "--launcher", "threads", "--stages", "1", "--lanes", "4", *SETTINGS, "--out", str(tmp_path / "one")])
    assert fingerprint(tmp_path / "torchrun") == fingerprint(tmp_path / "one")


def test_bad_settings_are_reported_once_and_every_rank_fails(tmp_path: Path) -> None:
    done = torchrun(2, *SETTINGS, "--out", str(tmp_path / "run"), "--stages", "3")
    assert done.returncode != 0
    assert done.stderr.count("--stages and torchrun disagree") == 1
    assert not (tmp_path / "run").exists()


RANK_0_IS_LATE = "import os, time\ntime.sleep(4 * (os.environ.get('RANK') == '0'))"


def test_bad_settings_are_reported_whichever_rank_finds_them_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(RANK_0_IS_LATE)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    done = torchrun(2, *SETTINGS, "--out", str(tmp_path / "run"), "--batch-size", "0")
    assert done.returncode != 0
    assert done.stderr.count("--batch-size is too small") == 1


def test_a_run_goes_on_with_its_own_data_alone_wherever_they_lie(tmp_path: Path) -> None:
    own, other, run = (tmp_path / name for name in ("own", "other", "run"))
    for seed, folder in enumerate((own, other)):
        pictures(tmp_path / f"{seed}", seed)
        main(["data", "prepare", str(tmp_path / f"{seed}"), "--out", str(folder)])
    main(["train", "--data", str(own), "--launcher", "threads", *PICTURES, "--epochs", "1", "--out", str(run)])
    moved = own.rename(tmp_path / "moved")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    go_on = ("--resume", "--out", str(run), "--epochs", "2", "--data")
    done = torchrun(2, *go_on, str(other))
    assert done.returncode != 0
    for rank in (0, 1):
        assert done.stderr.count(f"ffdist: error (rank {rank})") == 1
    assert "error (rank 0): these are not the data that the run has learned" in done.stderr
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    done = torchrun(1, *go_on, str(moved))
    assert done.returncode == 0, done.stderr
    assert read_settings(run).dataset.data == str(moved)


PICTURES = ["--model", "mlp", "--model-args", "widths=8,8", "--batch-size", "16", "--threads", "1"]


def pictures(folder: Path, seed: int) -> None:
    """Of 6x6 in two classes, drawn by `seed`."""
    draw = np.random.default_rng(seed)
    for split, count in (("train", 20), ("test", 4)):
        for name in ("a", "b"):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                drawn = draw.integers(0, 256, (6, 6), np.uint8)
                Image.fromarray(drawn).save(folder / split / name / f"{i}.png")


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
    failed = {rank for rank in (0, 1) if f"(local_rank: {rank})" in failures}
    if failed and "closing signal SIGTERM" in done.stderr:  # torch 2.6 ends the other before it fails by itself
        failed = {0, 1}
    assert failed == {0, 1}, failures
