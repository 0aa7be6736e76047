"""A transport is a file: a user's is named by its place, ffdist's own by a line of the registry, here in a copy of it;
nothing else is touched."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness import python_path
from jobs import fingerprint

import ffdist
from ffdist import Pipeline
from ffdist.cli import main
from ffdist.errors import ConfigError
from ffdist.runtime.run import read_settings
from ffdist.transport.contract import EdgeContract, TransportContract

pytestmark = pytest.mark.distributed
PACKAGE, HERE = Path(ffdist.__file__).parent, Path(__file__).parent
OWN = HERE / "own" / "files.py"
LINE = '    "files": "ffdist.transport.files:TRANSPORT",\n'
TRAIN = ["train", "--stages", "2", "--epochs", "1", "--samples", "64", "--model", "mlp", "--device", "cpu"]


SENDS = """
import json
from ffdist.cli.doctor import transport_checks
from ffdist.transport import registry
registry.TRANSPORTS = {name: each for name, each in registry.TRANSPORTS.items() if name == "files"}  # of all, this one
print(json.dumps([[found.what, found.found] for found in transport_checks(2)]))
"""
"""The part of `ffdist doctor` that sends."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of processes that import the copy."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(PACKAGE, folder / "ffdist", ignore=shutil.ignore_patterns("*.pyc.*"))
    shutil.copy(OWN, folder / "ffdist" / "transport")
    registry = folder / "ffdist" / "known.py"
    before, start, after = registry.read_text().partition("TRANSPORT_PLACES = {\n")
    registry.write_text(before + start + LINE + after)
    return os.environ | {"PYTHONPATH": python_path(folder, HERE, HERE.parent)}


def command(environment: dict[str, str], *words: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *words], env=environment, capture_output=True, text=True, timeout=250, cwd="/"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_stages_train_through_a_users_own_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(OWN.parent)
    main([*TRAIN, "--transport", "files.py:TRANSPORT", "--out", str(tmp_path / "own")])
    assert "edges of the run: files.py:TRANSPORT" in (tmp_path / "own/stage-0.log").read_text()
    main([*TRAIN, "--launcher", "threads", "--out", str(tmp_path / "threads")])
    assert fingerprint(tmp_path / "own") == fingerprint(tmp_path / "threads")
    assert read_settings(tmp_path / "own").plan.transport == f"{OWN}:TRANSPORT", "a run goes on from any folder"


@pytest.mark.parametrize(
    ("name", "match"),
    [
        (f"{OWN}:Files", r"no transport of your own(.|\n)*got: <class"),
        ("ffdist.transport.process_group:GLOO", r"no transport of your own(.|\n)*got: gloo"),
        (f"{OWN}:TRANSPOR", r"has no 'TRANSPOR'"),
        ("glo", r"there is no transport 'glo'(.|\n)*did you mean 'gloo'"),
    ],
)
def test_what_is_no_transport_is_refused_before_anything_starts(name: str, match: str, tmp_path: Path) -> None:
    pipeline = Pipeline("mlp", "sff", stages=2, launcher="processes")
    with pytest.raises(ConfigError, match=match):
        pipeline.fit("digits", transport=name, out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_help_and_doctor_know_it(environment: dict[str, str]) -> None:
    assert "files" in command(environment, "ffdist", "train", "--help", "--transport")
    done = subprocess.run([sys.executable, "-c", SENDS], env=environment, capture_output=True, text=True, cwd="/")
    assert json.loads(done.stdout) == [["2 processes by files", "sent and received"]], done.stderr


def test_the_tests_of_the_contract_take_it_from_the_registry(environment: dict[str, str]) -> None:
    tests = HERE / "test_transport_contract.py"
    said = command(environment, "pytest", str(tests), "-k", "files", "-p", "no:cacheprovider", "-o", "addopts=-q")
    laws = [name for name in vars(TransportContract) | vars(EdgeContract) if name.startswith("test_")]
    passed = re.search(r"(\d+) passed, \d+ deselected", said)
    assert passed is not None, said
    assert int(passed[1]) >= len(laws)
