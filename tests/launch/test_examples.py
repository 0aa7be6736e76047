"""Each example runs as its first lines say, and comes to something."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from forked import run

FOLDER = Path(__file__).resolve().parents[2] / "examples"
SAID = {
    "own_network.py": r"'accuracy': \{'mean': 0\.[89]",
    "own_data.py": r"\['disc', 'disc', 'disc'\]",
    "transfer.py": r"from nothing: .*\n(.*\n)*from what was learned: \{'mean': 0\.9",
    "sweep.py": r"lr-\S+: [89]\d\.\d%\n(.*\n)*.*bytes of HTML",
}


def test_every_example_that_is_a_program_is_run_here() -> None:
    programs = {path.name for path in FOLDER.glob("*.py") if "__main__" in path.read_text()}
    assert programs == set(SAID)
    for name in programs:
        assert f"python examples/{name}" in (FOLDER / name).read_text()


@pytest.mark.distributed
@pytest.mark.parametrize("name", SAID)
def test_an_example_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FFDIST_CACHE", str(tmp_path / "cache"))
    done = run([sys.executable, FOLDER / name], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(SAID[name], done.stdout), done.stdout
