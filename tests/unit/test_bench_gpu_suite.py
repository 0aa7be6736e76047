"""The GPU suite rehearses on a CPU, from a bare tree, and takes up where it was left."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.gpu.kernels import ViewNorm
from benchmarks.gpu.serial import BEYOND, batch_sweep
from benchmarks.gpu.streams import StreamPipeline
from benchmarks.gpu.suite import SIDES, UNITS, Suite
from benchmarks.gpu_suite import PARTS, main
from ffdist.bench.harness.record import facts_of
from ffdist.bench.harness.record import read as read_record
from ffdist.bench.harness.resumed import Resumed, read
from ffdist.bench.harness.table import ResultTable
from ffdist.errors import NetworkError
from ffdist.models import Chain

ROOT = Path(__file__).resolve().parents[2]
ABSENT = """
import sys
sys.modules |= dict.fromkeys(("pyarrow", "tyro", "rich", "safetensors", "sklearn", "matplotlib"))
"""
FACTS = facts_of("part", ["test"]) | {"settings": {}}


def those(rows: list[dict[str, Any]], **of: str | int) -> list[dict[str, Any]]:
    """The rows of this."""
    return [row for row in rows if of.items() <= row.items()]


def suite(tree: Path, *args: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(tree / "benchmarks/gpu_suite.py"), *args]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=tree, timeout=500, check=False)


@pytest.mark.distributed
@pytest.mark.timeout(600)
def test_from_a_bare_tree_without_our_packages_what_failed_is_reported_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tree, out, pictures = tmp_path / "tree", tmp_path / "out", tmp_path / "pictures.npz"
    for folder in ("ffdist", "benchmarks"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("*.pyc.*", "records"))
    (tree / "sitecustomize.py").write_text(ABSENT)
    pictures.write_bytes(b"no pictures")
    args = ["--out", str(out), "--device", "cpu", "--quick", "--data", str(pictures), "--parts", "accuracy", "serial"]
    done = suite(tree, *args)
    assert done.returncode == 1
    assert "rows failed in accuracy" in done.stderr
    failed = read(out / "accuracy.json")
    assert not failed["done"]
    assert failed["failed"]["ff"].startswith("Traceback")
    (rate,) = those(read_record(out / "serial.json")["rows"], network="cnnb", side="bp", metric="throughput")
    assert (rate["n"], rate["unit"], rate["spread"]) == (1, "samples/s", [rate["value"], rate["value"]])
    x, y = np.zeros((160, 8, 8, 1), np.uint8), np.arange(160) % 10
    np.savez(pictures, x_train=x, y_train=y, x_test=x, y_test=y)
    monkeypatch.setattr(sys, "argv", ["gpu_suite.py", *args])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "serial: there already" in capsys.readouterr().out
    mended = read(out / "accuracy.json")
    assert (mended["done"], mended["failed"]) == (True, {})
    assert {row["side"] for row in mended["rows"]} == {"ff", "bp"}


@pytest.mark.distributed
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", [name for name in PARTS if name not in ("accuracy", "serial")])
def test_every_part_measures_what_it_says(part: str, tmp_path: Path) -> None:
    cpu = Suite(torch.device("cpu"), quick=True, batch=32, rounds=1, seconds=0.05)
    record = Resumed(
        tmp_path / "record.json", ResultTable(part, "", {}, UNITS), FACTS, deadline=math.inf, recover=cpu.recover
    )
    record.fill(partial(PARTS[part], cpu))
    assert read(tmp_path / "record.json")["done"]
    EXPECTED[part](read_record(tmp_path / "record.json")["rows"])


def stages_hold(rows: list[dict[str, Any]]) -> None:
    """32 pictures of 32 x 32, behind 8 channels of 16 x 16."""
    first, second = (
        {row["metric"]: row["value"] for row in those(rows, network="cnnb", stages=2, index=index)} for index in (0, 1)
    )
    assert first["received"] == 32 * 3 * 32 * 32 * 4, "one batch, float32"
    assert first["sent"] == 2 * 32 * 8 * 16 * 16 * 2, "two in the queue, bfloat16"
    assert (second["received"], second["sent"]) == (first["sent"] // 2 * 3, 0), "and one in hand"


def depth_holds(rows: list[dict[str, Any]]) -> None:
    assert those(rows, depth=4, metric="share_batch")[0]["value"] == 32 // 4


def devices_hold(rows: list[dict[str, Any]]) -> None:
    ratios = {row["side"]: row["value"] for row in those(rows, network="cnnb", devices=2, metric="ratio")}
    rates = {row["side"]: row["value"] for row in those(rows, network="cnnb", devices=2, metric="throughput")}
    assert ratios == {side: pytest.approx(rates["ours"] / rate) for side, rate in rates.items()}
    assert set(ratios) == {"ours", "ddp-views"}


def batch_holds(rows: list[dict[str, Any]]) -> None:
    assert {(row["side"], row["batch"]) for row in rows} == {(side, size) for side in SIDES for size in (16, 32)}


def kernels_hold(rows: list[dict[str, Any]]) -> None:
    assert {row["side"] for row in those(rows, network="norms")} == {"as it is", "over the view"}
    of = those(rows, network="mlp", side="ff")
    assert any("mm" in row["kernel"] for row in of)
    (busy,) = [row["value"] for row in of if row["metric"] == "busy"]
    assert busy >= max(row["value"] for row in of if row["metric"] == "time" and row["kernel"])


def streams_hold(rows: list[dict[str, Any]]) -> None:
    rates = {row["side"]: row["value"] for row in those(rows, network="cnnb", metric="throughput")}
    (ratio,) = those(rows, network="cnnb", side="one stream", metric="ratio")
    assert ratio["value"] == pytest.approx(rates["streams"] / rates["one stream"])


EXPECTED = {
    "batch": batch_holds,
    "depth": depth_holds,
    "stages": stages_hold,
    "streams": streams_hold,
    "kernels": kernels_hold,
    "devices": devices_hold,
}


def test_the_norm_over_the_view_is_the_norm_and_keeps_the_layout() -> None:
    maps = torch.randn(4, 6, 5, 5).to(memory_format=torch.channels_last)
    norms = nn.GroupNorm(1, 6), ViewNorm(1, 6)
    for norm in norms:
        norm.weight.data, norm.bias.data = torch.linspace(-1, 2, 6), torch.linspace(0, 1, 6)
    expected, got = (norm(maps) for norm in norms)
    torch.testing.assert_close(got, expected)
    assert got.is_contiguous(memory_format=torch.channels_last)


INDICES = "Expected canUse32BitIndexMath(input) && canUse32BitIndexMath(output) to be true, but got false."


class Limited(nn.Module):
    """A linear layer that takes 16 samples at most, and says so in its own words."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.words, self.linear = words, nn.Linear(8, 8)

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
    table = ResultTable("batch", "", {}, UNITS)
    record = Resumed(tmp_path / "batch.json", table, FACTS, deadline=math.inf, recover=cpu.recover)
    record.fill(lambda record: batch_sweep(cpu, record))
    record = read(tmp_path / "batch.json")
    for side in ("ff", "bp"):
        of = {"network": INDICES, "side": side}
        assert those(record["rows"], **of, batch=16, metric="throughput")[0]["value"] > 0
        assert [row["value"] for row in those(record["rows"], **of, batch=32)] == [INDICES]
    assert list(record["failed"]) == ["another error, ff, 32", "another error, bp, 32"]


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_stages_by_streams_end_with_the_error_of_one_of_them(broken: int) -> None:
    cpu = Suite(torch.device("cpu"), quick=True, batch=32)
    names = [(str(i), partial(Limited, "too many") if i == broken else partial(nn.Linear, 8, 8)) for i in range(3)]
    chain = Chain(names, input_shape=(8,), num_classes=2)
    line = StreamPipeline(cpu, chain, [1, 1, 1], *cpu.batch_of(chain))
    with pytest.raises(NetworkError, match="too many"), line:
        line.measure()
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
    done = suite(ROOT, "--out", str(tmp_path))
    assert done.returncode == 1
    assert "there is no GPU" in done.stderr
