"""Code that somebody's file names is not run unasked; such as a user has begun a run with is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import ffdist
from ffdist import Pipeline, replay, trust
from ffdist.cli import main
from ffdist.digests import of_json
from ffdist.errors import ConfigError
from ffdist.page.write import write_report
from ffdist.runtime.data_facts import CHECK, FACTS
from ffdist.runtime.run import read_settings, write_settings
from ffdist.trust import place_of, trusted

NETWORK = "--data digits --model cnnb --model-args widths=4,4,4"
RUNS = f"{NETWORK} --samples 100 --epochs 1 --batch-size 50 --stages 1 --threads 1"
COMMANDS = (
    "eval RUN",
    "predict RUN PICTURE",
    "export RUN --to FILE.safetensors",
    "report RUN --cam",
    "train --resume RUN --epochs 2",
    "train --replay RUN --batch 1",
)
EVIL = """\
from pathlib import Path

Path({mark!r}).touch()
from ffdist.objectives import SFF


class Mine(SFF):
    pass


class Step:
    def __call__(self, picture):
        return picture
"""


@pytest.fixture(autouse=True)
def nothing_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    before = set(trust.HERE), dict(trust.DOUBTED)
    trust.HERE.clear()
    token = trust.TRUSTING.set(False)
    yield
    trust.TRUSTING.reset(token)
    trust.HERE.clear()
    trust.HERE.update(before[0])
    trust.DOUBTED.clear()
    trust.DOUBTED.update(before[1])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("plain") / "run"
    main(["train", *RUNS.split(), "--launcher", "threads", "--track", "none", "--out", str(run)])
    return run


def evil(folder: Path, name: str) -> tuple[Path, Path]:
    """A module of that name, and the file that it makes when it is imported."""
    mark = folder / f"{name} was run"
    (folder / f"{name}.py").write_text(EVIL.format(mark=str(mark)))
    return folder / f"{name}.py", mark


def foreign(plain: Path, to: Path, **settings: object) -> Path:
    """A whole run, whose settings say something else."""
    shutil.copytree(plain, to)
    write_settings(to, read_settings(to).changed(**settings))
    return to


@pytest.mark.parametrize("words", COMMANDS)
def test_no_command_runs_what_a_foreign_run_names(plain: Path, words: str, tmp_path: Path) -> None:
    code, mark = evil(tmp_path, "evil_" + "".join(c if c.isalnum() else "_" for c in words))
    run = foreign(plain, tmp_path / "run", objective=f"{code}:Mine")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "x.png")
    places = {"RUN": run, "PICTURE": tmp_path / "x.png", "FILE.safetensors": tmp_path / "x.safetensors"}
    argv = [str(places.get(word, word)) for word in words.split()]
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 1
    assert not mark.exists()
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    main([*argv, "--trust"])
    assert mark.exists()


def test_nothing_in_python_does(plain: Path, tmp_path: Path) -> None:
    code, mark = evil(tmp_path, "evil_python")
    run = foreign(plain, tmp_path / "run", objective=f"{code}:Mine")
    for use in (ffdist.load, Pipeline.resume, lambda run: replay(run, 1)):
        with pytest.raises(ConfigError, match=r"not run unasked[^$]*trust=True"):
            use(run)
    write_report(run)  # a page of what was measured before
    assert not mark.exists()
    assert ffdist.load(run, trust=True).classes == ffdist.load(plain).classes
    assert mark.exists()
    assert ffdist.load(run)  # as it was said once


@pytest.mark.parametrize("setting", ["model", "optimizer", "callback", "augment", "preprocess"])
def test_whatever_setting_names_it(plain: Path, setting: str, tmp_path: Path) -> None:
    code, mark = evil(tmp_path, f"evil_{setting}")
    name = f"{code}:Step"
    run = foreign(plain, tmp_path / "run", **{setting: name if setting in ("model", "optimizer") else (name,)})
    with pytest.raises(SystemExit):
        main(["train", "--resume", str(run), "--epochs", "2", "--launcher", "threads"])
    assert not mark.exists()


def test_a_module_by_its_name_too(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, mark = evil(tmp_path, "evil_module")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for number, name in enumerate(("evil_module:Mine", "./evil_module.py:Mine", f"{tmp_path}/evil_module:Mine")):
        run = foreign(plain, tmp_path / f"run{number}", objective=name)
        with pytest.raises(ConfigError, match="not run unasked"):
            ffdist.load(run)
    assert not mark.exists()


def test_data_facts_and_exported_files_name_none_either(plain: Path, tmp_path: Path) -> None:
    code, mark = evil(tmp_path, "evil_facts")
    run = tmp_path / "run"
    shutil.copytree(plain, run)
    values = json.loads((run / FACTS).read_text()) | {"preprocess": [f"{code}:Step"]}
    del values[CHECK]
    (run / FACTS).write_text(json.dumps(values | {CHECK: of_json(values)}))
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "x.png")
    with pytest.raises(ConfigError, match="not run unasked"):
        ffdist.read_pictures([tmp_path / "x.png"], run)

    main(["export", str(plain), "--to", str(tmp_path / "x.safetensors")])
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        about = file.metadata()
    about["measured"] = json.dumps(json.loads(about["measured"]) | {"preprocess": [f"{code}:Step"]})
    save_file(load_file(tmp_path / "x.safetensors"), tmp_path / "y.safetensors", about)
    with pytest.raises(ConfigError, match="not run unasked"):
        ffdist.load(tmp_path / "y.safetensors").evaluate("digits")
    assert not mark.exists()


def test_what_a_user_has_begun_a_run_with_goes_on_and_is_measured(tmp_path: Path) -> None:
    code, mark = evil(tmp_path, "own_rule")
    run = tmp_path / "run"
    own = ["--objective", f"{code}:Mine", "--launcher", "threads", "--track", "none"]
    main(["train", *RUNS.split(), *own, "--out", str(run)])
    assert mark.exists()
    trust.HERE.clear()  # as in a process to come
    assert str(code) in trusted()
    main(["eval", str(run), "--json"])
    main(["train", "--resume", str(run), "--epochs", "2", "--launcher", "threads"])


def test_a_place_is_that_of_the_file_or_the_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert place_of("x.py:A") == place_of("./x.py:B") == place_of(f"{tmp_path}/x.py:C") == str(tmp_path / "x.py")
    assert place_of("package.module:A") == "package.module"
    assert place_of("sff") == ""


def test_a_list_that_cannot_be_written_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.delenv("FFDIST_CACHE", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    trust.trust(["x.py:A"])
    assert place_of("x.py:A") in trusted()  # in this process
    trust.HERE.clear()
    assert not trusted()


def test_a_place_may_have_bytes_that_are_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FFDIST_CACHE", str(tmp_path))
    name = os.fsdecode(b"/code/r\xe9gle.py") + ":Rule"
    trust.trust([name])
    trust.HERE.clear()  # as in a process to come
    assert place_of(name) in trusted()
