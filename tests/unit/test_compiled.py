"""Laws of compiled blocks. They need a C++ compiler."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from jobs import QUIET, DigitsJob, cut_power_at, fingerprint, learned

from ffdist.runtime.threads import run_threads

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
MAKE = DigitsJob(noisy=True, settings={"compile": True, "augment": (), "snapshot_every": 5})


@needs_compiler
def test_compiled_blocks_learn_the_same_in_every_cut_and_when_a_run_goes_on(tmp_path: Path) -> None:
    """And something else than those that are not: the blocks draw dropout, by the compiler's own generator."""
    results = {}
    for stages in (1, 2):
        run = tmp_path / str(stages)
        result = run_threads(replace(MAKE, run=run, settings=MAKE.settings | {"stages": stages})(), QUIET)
        results[stages] = fingerprint(run), learned(result.records), result.test
    assert results[2] == results[1]
    cut = replace(MAKE, run=tmp_path / "cut")
    cut_power_at(12, cut)
    resumed = run_threads(replace(cut, settings=MAKE.settings | {"resume": True, "stages": 3})(), QUIET)
    assert fingerprint(tmp_path / "cut") == results[1][0]
    assert learned(resumed.records) == results[1][1]
    plain = replace(MAKE, run=tmp_path / "plain", settings=MAKE.settings | {"compile": False})
    run_threads(plain(), QUIET)
    assert fingerprint(tmp_path / "plain") != results[1][0]


def test_without_a_compiler_one_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/c++")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    args = ("--compile", "--samples", "64", "--stages", "1", "--device", "cpu", "--out", str(tmp_path / "run"))
    command = [sys.executable, "-m", "ffdist", "train", "--launcher", "threads", *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "torch cannot compile a block" in done.stderr
    assert "install g++" in done.stderr
    assert "Traceback" not in done.stderr
