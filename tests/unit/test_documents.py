"""Documents: links lead somewhere, and commands are ones that can be read."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from ffdist import Pipeline
from ffdist.cli import COMMANDS
from ffdist.cli.bench import parse as parse_bench
from ffdist.cli.train import parse as parse_train

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    path
    for path in sorted((*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/README.md")))
    if path.name != "CHANGELOG.md"
]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(document: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", re.sub(r"`|\*", "", heading).lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_documents_links_lead_to_files_and_headings_that_are_there(document: Path) -> None:
    for target in LINK.findall(document.read_text()):
        place, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (document.parent / place).resolve() if place else document
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def commands() -> list[tuple[str, list[str]]]:
    """Each line of a document that is a command of ours, without comments, and what stands for more."""
    found = []
    for document in DOCUMENTS:
        for line in re.findall(r"^ {4}((?:ffdist) .+)$", document.read_text().replace("\\\n", " "), re.MULTILINE):
            for part in re.split(r"; |&&", line.partition(" # ")[0]):
                words = shlex.split(part.partition(" > ")[0].strip())
                found.append((document.name, [word for word in words if word not in ("...", "…")]))
    return found


@pytest.mark.parametrize(("document", "words"), commands(), ids=lambda each: each if isinstance(each, str) else None)
def test_a_documented_command_is_one(document: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    program, command, *args = words
    assert program == "ffdist"
    assert command in COMMANDS
    if any("[" in word for word in args):  # what may be left out stands in brackets
        return
    if command == "train" and "--resume" not in args and "--config" not in args and "--plan" not in args:
        parse_train(args)
    if command == "bench":
        parse_bench(args)


HOWTOS = sorted((ROOT / "docs/howto").glob("*.md"))
CODE = {path.stem: re.findall(r"^```python\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL) for path in HOWTOS}


@pytest.mark.parametrize("name", ["own_network", "own_data"])
def test_the_code_of_a_howto_trains(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made: dict[str, Any] = {}
    exec(re.sub(r"epochs=\d+", "epochs=1", CODE[name][0]), made)
    assert made["pipeline"].result.reason == "finished"


def test_the_files_of_howtos_are_a_network_a_rule_a_metric_and_a_callback(tmp_path: Path) -> None:
    files = {"net.py": CODE["own_network"][1], "my_rule.py": CODE["own_rule"][0], "own.py": CODE["watching"][0]}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    run = tmp_path / "run"
    network, rule = f"{tmp_path}/net.py:small", f"{tmp_path}/my_rule.py:Plain"
    pipeline = Pipeline(network, rule, model_args=["width=8"], objective_args=["temperature=0.5"])
    told = {"metric": [f"{tmp_path}/own.py:top3"], "callback": [f"{tmp_path}/own.py:tell"]}
    pipeline.fit("digits", epochs=1, batch_size=32, samples=200, out=run, progress=False, **told)
    assert pipeline.result is not None
    assert any("top3" in name for name in pipeline.result.history().column_names)


def test_the_map_of_tests_names_files_that_are_there() -> None:
    text = (ROOT / "tests/README.md").read_text()
    for name in re.findall(r"`((?:unit|cli|distributed|launch|ray|faults|gpu|accelerator)/[^`]*)`", text):
        assert [*(ROOT / "tests").glob(name.rstrip("/"))], name
