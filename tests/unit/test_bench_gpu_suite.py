"""The GPU suite rehearses on a CPU, from a bare tree, and takes up where it was left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

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
def test_every_part_runs_from_a_bare_tree_without_our_packages_and_is_not_run_again(tmp_path: Path) -> None:
    tree, out = tmp_path / "tree", tmp_path / "out"
    for folder in ("ffdist", "benchmarks"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__", "records"))
    (tree / "sitecustomize.py").write_text(ABSENT)
    x, y = np.random.default_rng(0).integers(0, 256, (160, 8, 8, 1), np.uint8), np.arange(160) % 10
    np.savez(tmp_path / "pictures.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    args = ("--out", str(out), "--device", "cpu", "--quick", "--data", str(tmp_path / "pictures.npz"))
    first = suite(tree, *args)
    assert first.returncode == 0, first.stderr
    results = {file.stem: json.loads(file.read_text())["result"] for file in out.glob("*.json")}
    assert set(results) == {"serial", "batch", "depth", "stages", "streams", "devices", "accuracy"}
    assert results["devices"]["cnnb"]["2"]["ratio"] > 0
    assert results["serial"]["cnnb"]["rates"]["bp"]["n"] == 1
    second = suite(tree, *args)
    assert second.stdout.count("there already") == len(results)


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    env = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(ROOT / "benchmarks/gpu_suite.py"), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=100, check=False)
    assert done.returncode == 1
    assert "there is no GPU" in done.stderr
