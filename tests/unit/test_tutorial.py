"""The tutorial runs from its first cell to its last, and comes to what it shows."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

PLACE = Path(__file__).resolve().parents[2] / "docs/tutorial.ipynb"


def said(cell: nbformat.NotebookNode) -> str:
    return "".join(
        output["text"] if output["output_type"] == "stream" else output.get("data", {}).get("text/plain", "")
        for output in cell.get("outputs", [])
    )


@pytest.mark.distributed
@pytest.mark.filterwarnings("default")  # of Jupyter's own: what the cells do is in a process of its own
def test_the_tutorial_runs_and_comes_to_what_it_shows(tmp_path: Path) -> None:
    shown = nbformat.read(PLACE, as_version=4)
    made = nbformat.from_dict(shown)
    NotebookClient(made, timeout=200, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    texts = [said(cell) for cell in made.cells if cell.cell_type == "code"]
    assert "True" in texts, "the cut changes nothing"
    numbers = r"\d+(\.\d+)?(e-?\d+)?%?"
    for text, cell in zip(texts, (cell for cell in shown.cells if cell.cell_type == "code"), strict=True):
        assert re.sub(numbers, "N", text) == re.sub(numbers, "N", said(cell)), "stored outputs are another's"
    means = re.findall(r"test accuracy \{'mean': ([\d.]+)", "".join(texts))
    assert len(means) == 3
    assert all(float(mean) > 0.9 for mean in means)
