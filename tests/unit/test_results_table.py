"""The documents' figures of speed and memory are the records'."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.results import CHOSEN, RECORDS, ROOT, WHOLE, redraw


def test_readme_and_results_show_what_the_newest_records_say(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for place in (Path("README.md"), WHOLE):
        shutil.copy(ROOT / place, tmp_path / place)
    redraw(tmp_path, RECORDS)
    for place in (Path("README.md"), WHOLE):
        assert (tmp_path / place).read_text() == (ROOT / place).read_text(), "run: python benchmarks/results.py"
    readme = (ROOT / "README.md").read_text()
    assert all(f"| {name} |" in readme for name in CHOSEN)
