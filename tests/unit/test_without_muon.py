"""A torch that has no Muon: who asks for it is told before anything begins."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ffdist import Pipeline
from ffdist.cli import main
from ffdist.errors import ConfigError

pytestmark = pytest.mark.skipif(hasattr(torch.optim, "Muon"), reason="this torch has Muon: what lacks it is below 2.9")
TOLD = "this torch has no Muon(.|\n)*torch 2.9 or newer(.|\n)*got: torch " + torch.__version__.replace("+", r"\+")


@pytest.mark.parametrize(
    "args",
    [
        ["train", "digits", "--optimizer", "muon"],
        ["train", "digits", "--optimizer", "muon", "--stages", "2"],
        ["train", "digits", "--optimizer", "muon", "--objective", "backprop"],
        ["train", "digits", "--optimizer", "muon", "--dry-run"],
        ["train", "auglocal-speednet-cifar10", "--data", "digits", "--image-size", "32"],
    ],
    ids=lambda args: " ".join(args[2:]),
)
def test_a_run_is_refused_and_leaves_nothing(args: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ffdist", *args, "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "this torch has no Muon" in done.stderr
    assert "torch 2.9 or newer" in done.stderr
    assert f"torch {torch.__version__}" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_pipeline_in_python_is_refused_alike(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=TOLD):
        Pipeline("cnnb", "sff", optimizer="muon").fit("digits", out=tmp_path / "run", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_another_optimiser_is_the_way_out(tmp_path: Path) -> None:
    main(["train", "digits", "--optimizer", "sgd", "--samples", "200", "--epochs", "1", "--out", str(tmp_path / "run")])
    assert (tmp_path / "run/metrics.jsonl").stat().st_size > 0
