"""The documents' figures of speed and memory are the records'."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from benchmarks.results import CHOSEN, RECORDS, ROOT, WHOLE, redraw


def test_readme_and_results_show_what_the_newest_records_say(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for place in (Path("README.md"), WHOLE):
        shutil.copy(ROOT / place, tmp_path / place)
    redraw(tmp_path, RECORDS)
    for place in (Path("README.md"), WHOLE):
        assert (tmp_path / place).read_text() == (ROOT / place).read_text(), "run: python benchmarks/results.py"
    readme = (ROOT / "README.md").read_text()
    assert all(f"| {name} |" in readme for *_, name in CHOSEN)


TOLD = {"README.md": (), "docs/FAQ.md": ("## Who else", "## How do I cite"), "PLANNING.md": ()}
"""Documents whose figures are the tables'; and from where to where they tell of others' work."""


def figures(text: str) -> set[str]:
    """Numbers with a point, but for versions and addresses."""
    return set(re.findall(r"(?<![\w.\d-])\d+\.\d+(?![\w.]*\d)", text))


@pytest.mark.parametrize("name", TOLD)
def test_figures_in_the_text_of_a_document_are_in_a_table(name: str) -> None:
    """Ratios as they are drawn, accuracies rounded to a tenth."""
    tables = "\n".join(
        line
        for place in (WHOLE, Path("docs/ACCURACY.md"))
        for line in (ROOT / place).read_text().splitlines()
        if line.startswith("|")
    )
    drawn = {float(figure) for figure in figures(tables)}
    known = {f"{value:.{digits}f}" for value in drawn for digits in (1, 2)}
    text = re.sub(
        r"```.*?```|^    .*?$|^\|.*?$|\]\([^)]*\)|`[^`]*`",
        "",
        (ROOT / name).read_text(),
        flags=re.DOTALL | re.MULTILINE,
    )
    if TOLD[name]:
        begin, end = TOLD[name]
        text = text.partition(begin)[0] + text.partition(end)[2]
    text = re.sub(r"(torch|Python|Apache-) ?\d\S*( or newer \(\d\S*)?", "", text)
    assert sorted(figures(text) - known) == []
