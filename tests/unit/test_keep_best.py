"""The best epoch's snapshot beside the newest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from jobs import QUIET, DigitsJob, fingerprint

import ffdist
from ffdist.report.log import read_run_log
from ffdist.runtime.threads import run_threads
from ffdist.snapshot import committed
from ffdist.snapshot.chosen import MARK, ends_with_best, mark_if_best
from ffdist.snapshot.manifest import Manifest, commit, discard_others, snapshot_folder


def epoch(run: Path, number: int, accuracy: float | None, keep: int = 1) -> None:
    """Ends in `run`, and its snapshot is committed."""
    split = {} if accuracy is None else {"validation": {"accuracy": {"mean": accuracy}}}
    manifest = Manifest(number * 10, number, 0, [], [], [{"epoch": number, "train": {"blocks": []}, **split}])
    snapshot_folder(run, manifest.step, number).mkdir(parents=True)
    commit(run, manifest)
    discard_others(run, manifest, keep=keep, best=mark_if_best(run, manifest, "mean"))


def kept(run: Path) -> list[int]:
    return [int(folder.name.rpartition("-")[2]) for folder in committed(run)]


def test_the_best_stays_until_a_better_one_comes_and_of_equals_the_first(tmp_path: Path) -> None:
    after = []
    for number, accuracy in enumerate([0.5, 0.7, 0.7, 0.6, None, 0.9, 0.1], 1):
        epoch(tmp_path, number, accuracy)
        after.append(kept(tmp_path))
    assert after == [[1], [2], [2, 3], [2, 4], [2, 5], [6], [6, 7]]
    assert json.loads((tmp_path / MARK).read_text())["epoch"] == 6


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"snapshot": "../../x", "accuracy": 1.0}', '{"snapshot": 3}'])
def test_a_mark_that_cannot_be_read_is_made_anew(tmp_path: Path, text: str) -> None:
    epoch(tmp_path, 1, 0.9)
    (tmp_path / MARK).write_text(text)
    epoch(tmp_path, 2, 0.3)
    assert json.loads((tmp_path / MARK).read_text())["epoch"] == 2


def test_a_run_that_goes_on_keeps_its_best_and_it_is_read(tmp_path: Path) -> None:
    options = {"validation": 0.2, "samples": 400, "keep": 1, "keep_best": "mean", "lr": 0.02, "stages": 2}
    run_threads(DigitsJob(tmp_path, epochs=2, settings=options)(), lambda event: None)
    run_threads(DigitsJob(tmp_path, epochs=4, settings=options | {"resume": True})(), lambda event: None)
    records, _ = read_run_log(tmp_path)
    accuracies = [record["validation"]["accuracy"]["mean"] for record in records]
    best = accuracies.index(max(accuracies)) + 1
    assert json.loads((tmp_path / MARK).read_text())["epoch"] == best
    assert kept(tmp_path) == sorted({best, 4})


def test_by_weights_the_first_epoch_counts_by_the_mean_as_none_are_measured_before_it(tmp_path: Path) -> None:
    options = {"validation": 0.2, "samples": 200, "keep": 5, "keep_best": "weighted", "early_stop": 9, "lr": 0.02}
    run_threads(DigitsJob(tmp_path, epochs=2, settings=options)(), QUIET)
    assert json.loads((tmp_path / MARK).read_text())["predictor"] == "weighted"
    run_threads(DigitsJob(tmp_path, epochs=4, settings=options | {"resume": True})(), QUIET)
    accuracies = [record["validation"]["accuracy"] for record in read_run_log(tmp_path)[0]]
    assert "weighted" not in accuracies[0]
    shares = [accuracies[0]["mean"], *(accuracy["weighted"] for accuracy in accuracies[1:])]
    mark = json.loads((tmp_path / MARK).read_text())
    assert (mark["epoch"], mark["accuracy"]) == (shares.index(max(shares)) + 1, max(shares))


@pytest.mark.parametrize("predictor", ["mean", "weighted"])
def test_an_only_epoch_is_the_best(predictor: str, tmp_path: Path) -> None:
    options = {"validation": 0.2, "samples": 100, "keep_best": predictor}
    run_threads(DigitsJob(tmp_path, epochs=1, settings=options)(), QUIET)
    assert json.loads((tmp_path / MARK).read_text())["epoch"] == 1


def test_in_python_the_best_is_what_it_was_at_its_epochs_end(tmp_path: Path) -> None:
    pipeline = ffdist.Pipeline("cnnb", "sff", model_args=["widths=8,8,8"], threads=1, batch_size=50, lr=0.02)
    options = {"samples": 400, "validation": 0.2, "keep_best": "mean", "track": (), "progress": False}
    pipeline.fit("digits", epochs=4, out=tmp_path / "run", **options)
    mark = json.loads((tmp_path / "run" / MARK).read_text())
    best = ffdist.load(tmp_path / "run", snapshot="best")
    assert best.history().num_rows == mark["epoch"]
    assert best.history().column("validation/accuracy/mean").to_pylist()[-1] == mark["accuracy"]


def test_a_run_that_may_stop_early_ends_with_its_best_whatever_the_plan(tmp_path: Path) -> None:
    plan = "{0} @ 0:0, 1:1 | {1}, {2} @ 1"
    names = DigitsJob()().names
    values = {
        "validation": 0.2,
        "samples": 200,
        "keep": 1,
        "lr": 0.05,
        "schedule": "constant",
        "lanes": 2,
        "early_stop": 2,
        "plan": plan.format(*names),
    }
    run_threads(DigitsJob(tmp_path / "run", epochs=12, settings=values)(), lambda event: None)
    records, end = read_run_log(tmp_path / "run")
    assert end
    accuracies = [record["validation"]["accuracy"]["mean"] for record in records]
    best = accuracies.index(max(accuracies)) + 1
    assert best < len(records) <= 12, "else nothing is shown"
    assert kept(tmp_path / "run") == [best, len(records)]
    assert ends_with_best(tmp_path / "run")
    # what one gets that has learned no further
    less = values | {"plan": "* @ 0"}
    run_threads(DigitsJob(tmp_path / "less", epochs=best, settings=less | {"early_stop": None})(), lambda event: None)
    _, shorter = read_run_log(tmp_path / "less")
    assert shorter
    assert end["test"]["accuracy"] == shorter["test"]["accuracy"]
    # and one that goes on does so from what it learned last
    run_threads(DigitsJob(tmp_path / "run", epochs=14, settings=values | {"early_stop": None, "resume": True})(), QUIET)
    assert not ends_with_best(tmp_path / "run")
    run_threads(DigitsJob(tmp_path / "whole", epochs=14, settings=less | {"early_stop": None})(), QUIET)
    assert fingerprint(tmp_path / "run") == fingerprint(tmp_path / "whole")


def test_what_is_used_after_an_early_stop_is_the_best(tmp_path: Path) -> None:
    pipeline = ffdist.Pipeline("cnnb", "sff", threads=1, batch_size=50, lr=0.5, schedule="constant", early_stop=2)
    options = {"samples": 200, "validation": 0.2, "track": (), "progress": False}
    result = pipeline.fit("digits", epochs=12, out=tmp_path / "run", **options)
    best = ffdist.load(tmp_path / "run", snapshot="best")
    assert best.history().num_rows < len(result.records)
    for network in (pipeline.classifier, ffdist.load(tmp_path / "run")):
        for name, value in best.state_dict().items():
            assert torch.equal(network.state_dict()[name], value), name
    assert result.test
    measured = ffdist.load(tmp_path / "run").evaluate("digits")
    assert measured["accuracy"] == result.test["accuracy"]
    last = ffdist.load(tmp_path / "run", snapshot="last")
    assert any(not torch.equal(value, last.state_dict()[name]) for name, value in best.state_dict().items())
