"""The GPU suite rehearses on a CPU, from a bare tree, and takes up where it was left."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.gpu.kernels import ViewNorm
from benchmarks.gpu.rows import Rows, read
from benchmarks.gpu.serial import BEYOND, batch_sweep
from benchmarks.gpu.streams import StreamPipeline
from benchmarks.gpu.suite import Suite
from benchmarks.gpu_suite import PARTS
from ffdist.errors import NetworkError
from ffdist.models import Chain

ROOT = Path(__file__).resolve().parents[2]
ABSENT = """
import sys
sys.modules |= dict.fromkeys(("pyarrow", "tyro", "rich", "safetensors", "sklearn", "matplotlib"))
"""


def suite(tree: Path, *args: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(tree / "benchmarks/gpu_suite.py"), *args]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=tree, timeout=500, check=False)


@pytest.mark.distributed
@pytest.mark.timeout(600)
def test_every_part_runs_from_a_bare_tree_without_our_packages_and_is_not_run_again(tmp_path: Path) -> None:
    tree, out = tmp_path / "tree", tmp_path / "out"
    for folder in ("ffdist", "benchmarks"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__", "records"))
    (tree / "sitecustomize.py").write_text(ABSENT)
    x, y = np.random.default_rng(0).integers(0, 256, (160, 8, 8, 1), np.uint8), np.arange(160) % 10
    np.savez(tmp_path / "pictures.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    args = ("--out", str(out), "--device", "cpu", "--quick", "--data", str(tmp_path / "pictures.npz"))
    done = suite(tree, *args)
    assert done.returncode == 0, done.stderr
    results = {file.stem: json.loads(file.read_text())["result"] for file in out.glob("*.json")}
    assert set(results) == set(PARTS)
    assert results["serial"]["cnnb"]["rates"]["bp"]["n"] == 1
    first, second = results["stages"]["cnnb"]["2"]["stages"]  # 32 pictures of 32 x 32, behind 8 channels of 16 x 16
    assert first["received_bytes"] == 32 * 3 * 32 * 32 * 4, "one batch, float32"
    assert first["sent_bytes"] == 2 * 32 * 8 * 16 * 16 * 2, "two in the queue, bfloat16"
    assert (second["received_bytes"], second["sent_bytes"]) == (first["sent_bytes"] // 2 * 3, 0), "and one in hand"
    assert results["depth"]["4"]["bp_share_batch"] == 32 // 4
    assert results["devices"]["cnnb"]["2"]["ratio"] > 0
    assert all(set(row) == {"as it is", "over the view"} for row in results["kernels"]["norms"].values())
    again = suite(tree, *args)
    assert again.stdout.count("there already") == len(PARTS)


def test_the_norm_over_the_view_is_the_norm_and_keeps_the_layout() -> None:
    maps = torch.randn(4, 6, 5, 5).to(memory_format=torch.channels_last)
    norms = nn.GroupNorm(1, 6), ViewNorm(1, 6)
    for norm in norms:
        norm.weight.data, norm.bias.data = torch.linspace(-1, 2, 6), torch.linspace(0, 1, 6)
    expected, got = (norm(maps) for norm in norms)
    torch.testing.assert_close(got, expected)
    assert got.is_contiguous(memory_format=torch.channels_last)


def test_a_part_that_fails_is_told_and_the_next_ones_run_and_it_is_tried_again(tmp_path: Path) -> None:
    pictures, out = tmp_path / "pictures.npz", tmp_path / "out"
    pictures.write_bytes(b"no pictures")
    args = ("--out", str(out), "--device", "cpu", "--quick", "--data", str(pictures), "--parts", "accuracy", "streams")
    first = suite(ROOT, *args)
    assert first.returncode == 1
    assert "rows failed in accuracy" in first.stderr
    failed = read(out / "accuracy.json")
    assert not failed["done"]
    assert failed["failed"]["ff"].startswith("Traceback")
    assert read(out / "streams.json")["done"]
    x, y = np.zeros((160, 8, 8, 1), np.uint8), np.arange(160) % 10
    np.savez(pictures, x_train=x, y_train=y, x_test=x, y_test=y)
    second = suite(ROOT, *args)
    assert second.returncode == 0, second.stderr
    assert "streams: there already" in second.stdout
    mended = read(out / "accuracy.json")
    assert mended["done"]
    assert not mended["failed"]
    assert set(mended["result"]) == {"ff", "bp"}


INDICES = "Expected canUse32BitIndexMath(input) && canUse32BitIndexMath(output) to be true, but got false."


class Limited(nn.Module):
    """A linear layer that takes 16 samples at most, and says so in its own words."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 16:
            raise RuntimeError(self.words)
        return self.linear(x)


class Sized(Suite):
    def networks(self) -> dict[str, Chain]:
        return {
            words: Chain([("a", lambda words=words: Limited(words))], input_shape=(8,), num_classes=2)
            for words in (INDICES, "another error")
        }


def test_a_sweep_ends_where_the_batch_is_too_large_and_an_error_is_an_error(tmp_path: Path) -> None:
    cpu = Sized(torch.device("cpu"), quick=True, rounds=1, seconds=0.01)
    Rows(tmp_path / "batch.json", {}, {}, math.inf, cpu.recover).fill(lambda rows: batch_sweep(cpu, rows))
    record = read(tmp_path / "batch.json")
    for side in ("ff", "bp"):
        assert record["result"][INDICES][side]["16"]["samples_per_second"] > 0
        assert record["result"][INDICES][side]["32"] == {"ends": INDICES}
    assert list(record["failed"]) == ["another error, ff, 32", "another error, bp, 32"]


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_stages_by_streams_end_with_the_error_of_one_of_them(broken: int) -> None:
    cpu = Suite(torch.device("cpu"), quick=True, batch=32)
    names = [(str(i), partial(Limited, "too many") if i == broken else partial(nn.Linear, 8, 8)) for i in range(3)]
    chain = Chain(names, input_shape=(8,), num_classes=2)
    line = StreamPipeline(cpu, chain, [1, 1, 1], *cpu.batch_of(chain))
    with pytest.raises(NetworkError, match="too many"), line:
        line.rate(50)
    assert not any(thread.is_alive() for thread in line.threads)


@pytest.mark.parametrize(
    "words",
    [
        "CUDA out of memory. Tried to allocate 20.00 GiB.",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "GET was unable to find an engine to execute this computation",
        "integer out of range",
        "CUDA error: invalid configuration argument",
    ],
)
def test_what_says_that_a_batch_is_too_large(words: str) -> None:
    assert BEYOND.search(words)


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    env = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(ROOT / "benchmarks/gpu_suite.py"), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=100, check=False)
    assert done.returncode == 1
    assert "there is no GPU" in done.stderr
