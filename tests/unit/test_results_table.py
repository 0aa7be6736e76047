"""The README's figures of speed and memory are the records'."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.results import RECORDS, ROOT, redraw


def test_the_readme_shows_what_the_newest_records_say(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    shutil.copy(ROOT / "README.md", readme)
    redraw(readme, RECORDS)
    assert readme.read_text() == (ROOT / "README.md").read_text(), "run: python benchmarks/results.py"
