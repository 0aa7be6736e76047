"""The GPU suite rehearses on a CPU, from a bare tree; nothing measured is lost, and it takes up where it was left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu.rows import Rows, complete, read

ROOT = Path(__file__).resolve().parents[2]
ABSENT = """
import sys
sys.modules |= dict.fromkeys(("pyarrow", "tyro", "rich", "safetensors", "sklearn", "matplotlib"))
"""


def suite(tree: Path, *args: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, str(tree / "benchmarks/gpu_suite.py"), *args]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=tree, timeout=200, check=False)


@pytest.mark.distributed
@pytest.mark.parametrize("parts", [("serial", "batch", "depth", "stages"), ("streams", "devices", "accuracy")])
def test_every_part_runs_from_a_bare_tree_without_our_packages_and_is_not_run_again(
    parts: tuple[str, ...], tmp_path: Path
) -> None:
    tree, out = tmp_path / "tree", tmp_path / "out"
    for folder in ("ffdist", "benchmarks"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__", "records"))
    (tree / "sitecustomize.py").write_text(ABSENT)
    x, y = np.random.default_rng(0).integers(0, 256, (160, 8, 8, 1), np.uint8), np.arange(160) % 10
    np.savez(tmp_path / "pictures.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    args = (
        "--out",
        str(out),
        "--device",
        "cpu",
        "--quick",
        "--data",
        str(tmp_path / "pictures.npz"),
        "--parts",
        *parts,
    )
    first = suite(tree, *args)
    assert first.returncode == 0, first.stderr
    results = {file.stem: json.loads(file.read_text())["result"] for file in out.glob("*.json")}
    assert set(results) == set(parts)
    if "serial" in parts:
        assert results["serial"]["cnnb"]["rates"]["bp"]["n"] == 1
    else:
        assert results["devices"]["cnnb"]["2"]["ratio"] > 0
    second = suite(tree, *args)
    assert second.stdout.count("there already") == len(parts)


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


def four_rows(file: Path, seconds: float) -> None:
    """The second raises, and the third ends the process; each row notes beside the file that it was begun."""

    def part(rows: Rows) -> None:
        for name in "abcd":
            rows.row(lambda name=name: work(name), "group", name)

    def work(name: str) -> str:
        with (file.parent / "begun").open("a") as begun:
            begun.write(name)
        if name == "b":
            raise ValueError("of b")
        if name == "c":
            os._exit(9)
        return name * 2

    Rows(file, {"machine": 1}, {}, seconds, lambda: None).fill(part)


@pytest.mark.distributed
def test_a_row_that_ends_its_process_is_told_and_the_others_are_measured_once(tmp_path: Path) -> None:
    file = tmp_path / "part.json"
    record = complete(file, four_rows, 100.0)
    assert record == read(file)
    assert record["result"] == {"group": {"a": "aa", "d": "dd"}}
    assert "ValueError: of b" in record["failed"]["group, b"]
    assert record["failed"]["group, c"] == "its process ended with status 9"
    assert not record["done"]
    assert (tmp_path / "begun").read_text() == "abcd"
    complete(file, four_rows, 100.0)
    assert (tmp_path / "begun").read_text() == "abcdbc", "what failed is tried again, and nothing else"


def test_what_is_left_out_when_the_time_is_over_is_said_and_measured_next_time(tmp_path: Path) -> None:
    file = tmp_path / "part.json"
    late = Rows(file, {}, {}, 100.0, lambda: None)

    def part(rows: Rows) -> None:
        rows.row(lambda: 1, "a")
        late.deadline = 0.0  # the time is over
        rows.row(lambda: 2, "b")

    late.fill(part)
    record = read(file)
    assert record["left_out"] == "b, and what comes behind it"
    assert record["result"] == {"a": 1}
    assert not record["done"]
    Rows(file, {}, {}, 100.0, lambda: None).fill(part)
    record = read(file)
    assert record["result"] == {"a": 1, "b": 2}
    assert record["left_out"] is None
    assert record["done"]


def test_rows_of_another_machine_are_not_mixed(tmp_path: Path) -> None:
    file = tmp_path / "part.json"
    Rows(file, {"gpu": "one"}, {}, 9.0, lambda: None).fill(lambda rows: rows.row(lambda: 1, "a"))
    with pytest.raises(SystemExit, match="use another --out"):
        Rows(file, {"gpu": "two"}, {}, 9.0, lambda: None)


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    env = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(ROOT / "benchmarks/gpu_suite.py"), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=100, check=False)
    assert done.returncode == 1
    assert "there is no GPU" in done.stderr
