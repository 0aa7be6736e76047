"""GPUs for the tests of this folder; all others see none."""

from __future__ import annotations

import subprocess
import sys

import pytest
from harness import restore_gpus

COUNT = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"


@pytest.fixture(scope="session")
def num_gpus() -> int:
    """Those that new processes see."""
    with pytest.MonkeyPatch.context() as patch:
        restore_gpus(patch)
        done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.fixture(autouse=True)
def gpus(num_gpus: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """New processes see the GPUs; skips where there are fewer than the test's mark `gpu(n)` says."""
    marker = request.node.get_closest_marker("gpu")
    assert marker, "every test of this folder is marked"
    needed = marker.args[0] if marker.args else 1
    if num_gpus < needed:
        pytest.skip(f"needs {needed} GPU{'s' * (needed > 1)}, and there are {num_gpus}")
    restore_gpus(monkeypatch)
