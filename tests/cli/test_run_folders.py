"""What a run's folder promises: the same data, the same code, from any folder, and nothing lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from forked import run
from harness import python_path
from jobs import fingerprint
from PIL import Image

from ffdist.cli import main
from ffdist.cli.train import parse
from ffdist.data import open_data
from ffdist.digests import with_digest, without_digest
from ffdist.report.log import read_run_log
from ffdist.runtime.folder import write_run_files
from ffdist.settings.toml import tomllib
from ffdist.snapshot import committed

TINY = [
    "--launcher",
    "threads",
    "--stages",
    "1",
    "--threads",
    "1",
    "--model",
    "mlp",
    "--model-args",
    "widths=8,8",
    "--batch-size",
    "16",
]
Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """What a command says on stderr when it ends with status 1."""

    def run(*args: object) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(arg) for arg in args])
        assert stop.value.code == 1
        return capsys.readouterr().err

    return run


def ffdist(*args: object) -> None:
    main([str(arg) for arg in args])


def prepared(
    out: Path, *, classes: tuple[str, ...] = ("dark", "light"), count: int = 30, light: int = 200, mode: str = "L"
) -> Path:
    """Pictures of 6x6 in two classes that differ by their brightness, the first 10 of each for the test."""
    tree = out.with_name(f"{out.name}-tree")
    draw = np.random.default_rng(0)
    for index, name in enumerate(classes):
        for i in range(count):
            folder = tree / ("test" if i < 10 else "train") / name
            folder.mkdir(parents=True, exist_ok=True)
            pixels = (light * index // (len(classes) - 1) + draw.integers(0, 40, (6, 6))).astype(np.uint8)
            Image.fromarray(pixels).convert(mode).save(folder / f"{i:03d}.png")
    shutil.rmtree(out, ignore_errors=True)
    ffdist("data", "prepare", tree, "--out", out)
    shutil.rmtree(tree)
    return out


def state(run: Path) -> dict[str, bytes]:
    """All files of a run but its lock."""
    return {str(path): path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"classes": ("left", "mid")}, "class 0 was 'dark', and is 'left'"),
        ({"classes": ("light", "dark")}, "the train split's samples"),
        ({"classes": ("a", "b", "c")}, "2 classes were, 3 are"),
        ({"count": 40}, "train split of 40 samples was, of 60 is"),
        ({"light": 180}, "mean ("),
        ({"mode": "RGB"}, "shape (1, 6, 6) was, (3, 6, 6) is"),
    ],
    ids=str,
)
def test_other_data_in_the_same_place_are_refused(
    other: dict, says: str, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prepared(tmp_path / "p")
    ffdist("train", "--data", "p", "--epochs", 1, *TINY, "--out", "r")
    prepared(tmp_path / "p", **other)
    if other == {"classes": ("light", "dark")}:  # the names as before, the pictures swapped
        path = tmp_path / "p/manifest.json"
        path.write_text(path.read_text().replace('"light",\n  "dark"', '"dark",\n  "light"'))
    before = state(tmp_path / "r")
    text = refused("train", "--resume", "--out", "r", "--epochs", 2)
    assert "not the data that the run has learned" in text
    assert says in text
    assert state(tmp_path / "r") == before


def test_other_data_are_refused_by_every_launcher_before_it_starts(tmp_path: Path, refused: Refused) -> None:
    run, other = tmp_path / "r", prepared(tmp_path / "other", light=180)
    ffdist("train", "--data", prepared(tmp_path / "own"), "--epochs", 1, *TINY, "--out", run)
    before = state(run)
    for launcher in ("threads", "processes", "ray"):
        args = ("train", "--resume", "--out", run, "--epochs", 2, "--data", other, "--launcher", launcher)
        assert "not the data that the run has learned" in refused(*args)
        assert state(run) == before


@pytest.mark.parametrize("name", ["mean", "classes"])
def test_a_changed_manifest_of_the_data_is_refused(name: str, tmp_path: Path, refused: Refused) -> None:
    data, run = prepared(tmp_path / "p"), tmp_path / "r"
    ffdist("train", "--data", data, "--epochs", 1, *TINY, "--out", run)
    values = without_digest(json.loads((data / "manifest.json").read_text()))
    values[name] = [0.25] if name == "mean" else ["dark", "lite"]
    (data / "manifest.json").write_text(json.dumps(with_digest(values)))
    assert f"{'class 1' if name == 'classes' else 'mean'}" in refused("train", "--resume", "--out", run, "--epochs", 2)


def test_data_that_moved_are_the_same_wherever_they_lie(
    tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    prepared(tmp_path / "data/p")
    ffdist("train", "--data", "p", "--epochs", 1, "--schedule", "constant", *TINY, "--out", "r")
    ffdist("train", "--data", "data/p", "--epochs", 2, "--schedule", "constant", *TINY, "--out", "whole")
    monkeypatch.chdir(tmp_path / "elsewhere")
    ffdist("eval", "../r")  # found from here: it keeps whole paths
    (tmp_path / "data/p").rename(tmp_path / "moved")
    assert "remedy: where they lie now: --data PATH" in refused("eval", "../r")
    assert "unknown data set" in refused("train", "--resume", "--out", "../r", "--epochs", 2)
    ffdist("train", "--resume", "--out", "../r", "--epochs", 2, "--data", "../moved")
    assert (
        Path(tomllib.loads((tmp_path / "r/config.toml").read_text())["dataset"]["data"]).resolve() == tmp_path / "moved"
    )
    ffdist("eval", "../r")
    assert fingerprint(tmp_path / "r") == fingerprint(tmp_path / "whole")


def test_of_a_run_without_a_digest_what_it_has_is_compared(
    tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = prepared(tmp_path / "p"), tmp_path / "r"
    ffdist("train", "--data", data, "--epochs", 1, *TINY, "--out", run)
    facts = json.loads((run / "data.json").read_text())
    old = {name: facts[name] for name in ("classes", "shape", "mean", "std")}
    (run / "data.json").write_text(json.dumps(old))
    capsys.readouterr()
    ffdist("train", "--resume", "--out", run, "--epochs", 2)
    assert "does not say which samples it has learned" in capsys.readouterr().err
    (run / "data.json").write_text(json.dumps(old | {"mean": [0.1]}))
    assert "mean (0.1) was" in refused("train", "--resume", "--out", run, "--epochs", 3)


RULE = """
from dataclasses import dataclass
from ffdist.objectives import SFF

@dataclass(frozen=True)
class Mine(SFF):
    pass
"""
NETWORK = """
from torch import nn

def build(shape, classes, width: int = 8):
    size = shape[0] * shape[1] * shape[2]
    return nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(size, width), nn.ReLU()), nn.Linear(width, width))
"""


def test_own_code_is_found_from_any_folder_and_what_becomes_of_it_is_noted(
    tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    (home / "nets").mkdir(parents=True)
    elsewhere.mkdir()
    (home / "my_rule_of_a_test.py").write_text(RULE)
    (home / "nets/__init__.py").touch()
    (home / "nets/small.py").write_text(NETWORK)
    own = ["--model", "nets.small:build", "--objective", "my_rule_of_a_test.py:Mine", "--model-args", "width=12"]
    env = {**os.environ, "PYTHONPATH": python_path()}
    train = ["train", "--launcher", "threads", "--stages", "1", "--epochs", "1", *own, "--out", "r"]
    for folder, args in ((home, train), (elsewhere, ["eval", "../home/r", "--json"])):
        command = [sys.executable, "-m", "ffdist", *args]
        done = run(command, env=env, cwd=folder)
        assert done.returncode == 0, done.stderr
    rule, monkeyed = home / "my_rule_of_a_test.py", RULE + "# a remark\n"
    monkeypatch.chdir(elsewhere)
    rule.write_text(monkeyed)
    ffdist("eval", "../home/r")
    assert "the run's rule has changed since the run began" in capsys.readouterr().err
    text = refused("train", "--resume", "--out", "../home/r", "--epochs", 2)
    assert "the run's rule has changed" in text
    rule.unlink()
    text = refused("eval", "../home/r")
    remedy = text.split("restore it: ")[1].splitlines()[0]
    subprocess.run(remedy, shell=True, check=True)
    ffdist("train", "--resume", "--out", "../home/r", "--epochs", 2)
    rule.rename(elsewhere / "moved.py")
    assert "is gone" in refused("train", "--resume", "--out", "../home/r", "--epochs", 3)
    ffdist("train", "--resume", "--out", "../home/r", "--epochs", 3, "--objective", "moved.py:Mine")
    ffdist("eval", "../home/r")


def test_commands_in_remedies_work_as_they_are_typed(
    tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names that a shell would take apart are quoted."""
    run, data = tmp_path / "läuf [lr=1e-3]", prepared(tmp_path / "dat en")
    ffdist("train", *TINY, "--epochs", 1, "--out", run)
    remedies = [
        (("train", *TINY, "--out", run), f"--resume '{run}'"),
        (("train", run), f"ffdist train --resume '{run}'"),
        (("train", data), f"ffdist train --data '{data}'"),
        (("data", "prepare", data, "--out", tmp_path / "x"), f"ffdist train --data '{data}'"),
        (("data", "prepare", tmp_path, "--out", data), f"ffdist train --data '{data}'"),
        (("train", "--data", run), f"ffdist train --resume '{run}'"),
    ]
    for command, remedy in remedies:
        assert remedy in refused(*command), command
    capsys.readouterr()
    for command in ("data", "check"), ("datasets",):
        ffdist(*command, "digits")
        assert "train 1,437, test 360\nnext: ffdist train --data digits\n" in capsys.readouterr().out


def test_fewer_epochs_are_refused_and_at_its_end_nothing_is_left_to_do(
    tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "r"
    ffdist("train", *TINY, "--epochs", 3, "--out", run)
    before = state(run)
    assert "--epochs is less than the run has begun" in refused("train", "--resume", "--out", run, "--epochs", 2)
    assert "unknown data set" in refused("train", "--resume", run, "--data", "nowhere")
    other = prepared(tmp_path / "other")
    assert "not the data that the run has learned" in refused("train", "--resume", run, "--data", other)
    for more in ([], ["--epochs", 3], ["--keep", 5]):
        capsys.readouterr()
        ffdist("train", "--resume", "--out", run, *more)
        assert "nothing left to do: the run has done its 3 epochs; give more --epochs" in capsys.readouterr().err
    (tmp_path / "more.toml").write_text("lr = 0.5\nepochs = 4")
    assert "--lr cannot change" in refused("train", "--resume", "--out", run, "--config", tmp_path / "more.toml")
    assert "--model cannot change" in refused("train", "sff-cnn-mnist", "--resume", "--out", run)
    assert state(run) == before
    (tmp_path / "more.toml").write_text(f"epochs = 4\nresume = true\nout = '{run}'")
    ffdist("train", "--config", tmp_path / "more.toml")
    assert tomllib.loads((run / "config.toml").read_text())["training"]["epochs"] == 4


def test_a_finished_run_whose_last_snapshots_were_removed_goes_on_from_the_one_before_to_the_same_end(
    tmp_path: Path,
) -> None:
    run = tmp_path / "r"
    ffdist("train", *TINY, "--epochs", 2, "--keep", 2, "--out", run)
    first, last = committed(run)
    before = {path.name: path.read_bytes() for path in last.iterdir()}
    epochs = read_run_log(run)[0]
    shutil.rmtree(last)
    ffdist("train", "--resume", run)
    assert committed(run) == [first, last]
    assert {path.name: path.read_bytes() for path in last.glob("*.safetensors")} == {
        name: text for name, text in before.items() if name.endswith(".safetensors")
    }
    again = read_run_log(run)[0]
    assert [each["epoch"] for each in again] == [each["epoch"] for each in epochs] == [1, 2]
    assert again[1]["train"]["blocks"] == epochs[1]["train"]["blocks"]


def test_a_preset_beside_a_run_that_goes_on_leaves_the_runs_settings(
    tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    """The preset has 30 epochs; the run was told 2."""
    run, words = tmp_path / "r", ["--launcher", "threads", "--stages", 1, "--samples", 200]
    ffdist("train", "digits", *words, "--epochs", 2, "--out", run)
    before = state(run)
    capsys.readouterr()
    ffdist("train", "--resume", run, "digits", "--samples", 200)
    err = capsys.readouterr().err
    assert "goes on with its own settings where the preset digits has others: --epochs 2\n" in err
    assert "nothing left to do" in err
    assert state(run) == before
    assert "--samples cannot change" in refused("train", "--resume", run, "digits", "--samples", 300)


def test_settings_stay_as_they_were_where_training_does_not_go_on(tmp_path: Path, refused: Refused) -> None:
    run = tmp_path / "r"
    ffdist("train", *TINY, "--epochs", 1, "--out", run)
    before = (run / "config.toml").read_bytes()
    for block in run.glob("snapshots/*/block-*"):
        block.write_bytes(b"")
    assert "no snapshot of the run is whole" in refused("train", "--resume", "--out", run, "--epochs", 2)
    assert (run / "config.toml").read_bytes() == before


def test_a_run_that_ended_before_its_first_snapshot_goes_on_from_its_beginning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*TINY, "--epochs", "2", "--seed", "3"]
    ffdist("train", *flags, "--out", tmp_path / "whole")
    cut = tmp_path / "cut"
    write_run_files(cut, parse([*flags, "--out", str(cut)]).settings, open_data("digits"))  # and then it was killed
    (cut / "stage-0.log").write_text("began\n")
    ffdist("train", "--resume", "--out", cut)
    assert "has no snapshot yet: it starts from its beginning" in capsys.readouterr().err
    assert fingerprint(cut) == fingerprint(tmp_path / "whole")


def test_a_run_that_diverged_does_not_block_its_folder(
    tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    run, flags = tmp_path / "r", [*TINY, "--epochs", 1]
    assert "not a finite number" in refused("train", *flags, "--lr", "1e30", "--epochs", 2, "--out", run)
    log = (run / "stage-0.log").read_text()
    assert "another" not in refused("train", *flags, "--lr", "-1", "--out", run)
    assert (run / "stage-0.log").read_text() == log
    ffdist("train", *flags, "--out", run)
    assert "ended before its first snapshot; it is begun anew" in capsys.readouterr().err
    assert committed(run)
    assert "already holds a run" in refused("train", *flags, "--out", run)


@pytest.mark.parametrize("command", ["eval", "report", "resume"])
def test_settings_that_were_cut_short_or_changed_are_no_settings(
    command: str, tmp_path: Path, refused: Refused
) -> None:
    run = tmp_path / "r"
    ffdist("train", *TINY, "--epochs", 1, "--out", run)
    args = ("train", "--epochs", 2, "--resume", "--out", run) if command == "resume" else (command, run)
    path, whole = run / "config.toml", (run / "config.toml").read_text()
    for text in (whole.partition("augment")[0], whole.replace("lr = ", "lr = 1"), whole.replace("epochs = 1", "")):
        path.write_text(text)
        assert "not as they were written" in refused(*args)
    older = whole.partition("\n")[2]
    path.write_text(older.partition("augment")[0])  # of a run that kept no digest
    assert "not as they were written" in refused(*args)
    path.write_text(f"{older}timeout = {'9' * 400}")
    assert "ffdist: error" in refused(*args)
    path.write_text(older)
    ffdist(*args)


@pytest.mark.parametrize("text", ["null", "[" * 100_000, "[]", '{"classes": 1}', '{"mean": [null]}', ""])
def test_facts_of_another_kind_are_one_clear_error(text: str, tmp_path: Path, refused: Refused) -> None:
    run = tmp_path / "r"
    write_run_files(run, parse([*TINY, "--out", str(run)]).settings, open_data("digits"))
    values = json.loads((run / "data.json").read_text())
    changed = values | {"std": [0.5]}
    for damage in (text, json.dumps(changed), json.dumps({**values, "shape": [1, 2**31, 8], "splits": None})):
        (run / "data.json").write_text(damage)
        assert "the facts of a run's data cannot be read" in refused("eval", run)


def test_eval_takes_the_test_split_of_other_data_alone(
    tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = prepared(tmp_path / "p", count=60), tmp_path / "r"
    ffdist("train", "--data", data, "--epochs", 2, *TINY, "--out", run, "--samples", 90)
    few = prepared(tmp_path / "few", count=12, light=230)
    capsys.readouterr()
    ffdist("eval", run, "--data", few, "--json")
    other = json.loads(capsys.readouterr().out)
    assert other["samples"] == 20
    text = refused("eval", run, "--data", prepared(tmp_path / "three", classes=("a", "b", "c")))
    assert "2 classes were, 3 are" in text
    swapped = prepared(tmp_path / "swapped")
    path = swapped / "manifest.json"
    text = path.read_text().replace('"dark",\n  "light"', '"light",\n  "dark"')
    path.write_text(re.sub(r',\s*"digest": "[^"]*"', "", text))
    assert "the same classes in another order" in refused("eval", run, "--data", swapped)


def test_other_data_are_normalised_as_those_that_were_learned(tmp_path: Path) -> None:
    """The moments are the network's, whatever other data have: the accuracy is that of the classifier."""
    from ffdist.data import from_tensors
    from ffdist.data.fitting import as_trained_images
    from ffdist.runtime.data_facts import DataFacts

    pixels = np.random.default_rng(0).integers(0, 255, (20, 6, 6), dtype=np.uint8)
    images = from_tensors(pixels, np.arange(20) % 2)
    facts = DataFacts(images.classes, images.shape, (0.25,), (0.75,))
    assert as_trained_images(images, facts, "") == replace(images, mean=(0.25,), std=(0.75,))


def test_without_a_test_split_no_hint_leads_to_an_error(
    tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = prepared(tmp_path / "p"), tmp_path / "r"
    values = without_digest(json.loads((data / "manifest.json").read_text()))
    del values["splits"]["test"]
    (data / "manifest.json").write_text(json.dumps(with_digest(values)))
    ffdist("train", "--data", data, "--epochs", 1, *TINY, "--out", run, "--validation", 0)
    said = capsys.readouterr().out
    assert "ffdist eval" not in said
    assert "ffdist report" in said
    assert "training accuracy" in said
    assert "the data have no test split" in refused("eval", run)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"mean": ', '"mean": null, "m": '),
        ('"blocks": ', '"blocks": 3, "b": '),
        ('{"schema"', '7\n{"schema"'),
        ('"stages": ', '"s": '),
        ('"test": ', '"t": '),
        ('"loss": ', '"loss": "x", "l": '),
        ('"epoch"', "{"),
    ],
)
def test_a_run_log_of_other_kinds_is_one_clear_error(before: str, after: str, tmp_path: Path, refused: Refused) -> None:
    run = tmp_path / "r"
    ffdist("train", *TINY, "--epochs", 1, "--out", run)
    log = run / "metrics.jsonl"
    log.write_text(log.read_text().replace(before, after))
    assert "a run log is not as it was written" in refused("report", run)
    ffdist("eval", run)
