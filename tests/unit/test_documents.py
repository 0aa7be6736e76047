"""Documents: links lead somewhere, and commands are ones that can be read."""

from __future__ import annotations

import re
import shlex
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import yaml

from ffdist import Pipeline
from ffdist.cli import COMMANDS, main
from ffdist.cli.bench import parse as parse_bench
from ffdist.cli.data import COMMANDS as DATA
from ffdist.cli.doctor import Doctor
from ffdist.cli.evaluate import Eval
from ffdist.cli.export import Export
from ffdist.cli.parsing import parsed_values
from ffdist.cli.plan import parse as parse_plan
from ffdist.cli.predict import Predict
from ffdist.cli.report import Report
from ffdist.cli.train import parse as parse_train
from ffdist.cli.watch import WatchCommand
from ffdist.settings.toml import read_toml

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


def test_readme_is_read_in_one_sitting() -> None:
    assert 8_000 < (ROOT / "README.md").stat().st_size < 12_288


STARTS = re.compile(r"^(?:docker run .*?ffdist:\w+ |torchrun .*-m ffdist )", re.MULTILINE)
"""The beginnings of commands that are ours behind them."""


def commands() -> list[tuple[str, list[str]]]:
    """The words of each command of ours in a document, in a line of its own or in its text, without comments, and what
    stands for more."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text().replace("\\\n", " ")
        lines = [STARTS.sub("ffdist ", line) for line in re.findall(r"^ {4}(\S.+)$", text, re.MULTILINE)]
        within = re.findall(r"(?<!`)`(ffdist [a-z][^`]*)`(?!`)", text.replace("\n", " "))
        for line in [*(line for line in lines if line.startswith("ffdist ")), *within]:
            for part in re.split(r"; |&&", line.partition(" # ")[0]):
                words = list(takewhile(lambda word: word not in (">", "|"), shlex.split(part)))
                found.append((document.name, [word for word in words if word not in ("...", "…")]))
    return found


KINDS = {"eval": Eval, "predict": Predict, "report": Report, "watch": WatchCommand, "export": Export, "doctor": Doctor}
SHOWN = ("rules", "models", "transforms", "presets", "datasets", "settings", "completion")


@pytest.mark.parametrize(("document", "words"), commands(), ids=lambda each: each if isinstance(each, str) else None)
def test_a_documented_command_is_one(document: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    program, command, *args = words
    assert program == "ffdist"
    assert command in (*COMMANDS, "COMMAND", "help")
    if any("[" in word or re.fullmatch(r"[A-Z]+", word) for word in args):  # what may be left out; what stands for more
        return
    if "--help" in args:
        with suppress(SystemExit):
            main([command, *args])
        assert capsys.readouterr().out.startswith("usage: ")
        return
    run_or_read(command, args)


def run_or_read(command: str, args: list[str]) -> None:
    """Run what only shows something; read all else. Raises UsageError and ConfigError."""
    if command == "train" and not {"--resume", "--config", "--plan", "--replay"} & set(args):
        parse_train(args)
    elif command == "bench" and args and args[0] not in ("faults", "soak"):
        parse_bench(args)
    elif command == "plan":
        parse_plan(args)
    elif command == "data" and args:
        parsed_values(DATA[args[0]], args[1:], "ffdist data")
    elif command in KINDS and args:
        parsed_values(KINDS[command], args, command)
    elif command in SHOWN and args:
        main([command, *args])


CODE = {
    path.stem if path.parent != ROOT and path.name != "README.md" else str(path.relative_to(ROOT)): re.findall(
        r"^```python\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL
    )
    for path in DOCUMENTS
}


def test_every_block_of_code_is_run_by_one_of_the_tests_below() -> None:
    run = {"README.md": 1, "own_network": 2, "own_data": 1, "own_rule": 1, "watching": 1}
    assert {name: len(blocks) for name, blocks in CODE.items() if blocks} == run


@pytest.mark.parametrize("name", ["own_network", "own_data", "README.md"])
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
    options = {"metric": [f"{tmp_path}/own.py:top3"], "callback": [f"{tmp_path}/own.py:report_epoch"]}
    pipeline.fit("digits", epochs=1, batch_size=32, samples=200, out=run, progress=False, **options)
    assert pipeline.result is not None
    assert any("top3" in name for name in pipeline.result.history().column_names)


def test_the_map_of_tests_names_files_that_are_there_and_all_of_them() -> None:
    text, tests = (ROOT / "tests/README.md").read_text(), ROOT / "tests"
    found = set()
    for name in re.findall(r"`((?:unit|cli|distributed|launch|ray|faults|gpu|accelerator)/[^`]*)`", text):
        places = [*tests.glob(name.rstrip("/"))]
        assert places, name
        found |= {path for place in places for path in ([place] if place.is_file() else place.rglob("test_*.py"))}
    assert {*tests.rglob("test_*.py")} <= found


def test_the_citation_is_of_this_version_and_licence() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = read_toml(ROOT / "pyproject.toml")["project"]
    what = project["description"]
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
    assert cited["title"] == f"ffdist: {what[0].lower()}{what[1:]}"
    assert cited["authors"] == project["authors"]
