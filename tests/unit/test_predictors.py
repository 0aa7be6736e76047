"""Predictors are what they say, and are counted as they should be."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from jobs import QUIET, DigitsJob
from torch import Tensor

from ffdist.errors import ConfigError
from ffdist.pipeline.classifier import Classifier
from ffdist.pipeline.message import EvalBatch
from ffdist.pipeline.predictors import ScoreTally, block_weights, predictions
from ffdist.runtime.threads import run_threads
from ffdist.snapshot import SnapshotStore, latest

NAMES = ["a", "b", "c", "fusion"]


def scores(batch: int = 40, classes: int = 7) -> dict[str, Tensor]:
    return dict(zip(NAMES, torch.randn(4, batch, classes, generator=torch.Generator().manual_seed(1)), strict=True))


def test_predictors_equal_their_definitions() -> None:
    given, weights = scores(), {"a": 0.2, "b": 0.3, "c": 0.5}
    answers = predictions(given, weights)
    blocks = torch.stack([given[name] for name in "abc"])
    torch.testing.assert_close(answers["mean"], blocks.mean(0))
    assert torch.equal(answers["last"], given["c"])
    torch.testing.assert_close(answers["weighted"], torch.einsum("s,sbk->bk", torch.tensor([0.2, 0.3, 0.5]), blocks))
    assert torch.equal(answers["fusion"], given["fusion"])
    assert predictions({"a": given["a"]}, None).keys() == {"mean", "last"}


def test_a_block_weighs_the_log_odds_of_its_validation_accuracy_and_none_at_chance() -> None:
    weights = block_weights({"good": 899, "fair": 499, "chance": 98, "worse": 10}, samples=998, num_classes=10)
    odds = [math.log(0.9 / 0.1) + math.log(9), math.log(9)]
    assert weights["good"] == pytest.approx(odds[0] / sum(odds))
    assert weights["fair"] == pytest.approx(odds[1] / sum(odds))
    assert weights["chance"] == weights["worse"] == 0
    assert sum(weights.values()) == pytest.approx(1)
    assert block_weights({"a": 0, "b": 0}, samples=10, num_classes=10) == {"a": 0.5, "b": 0.5}
    assert all(math.isfinite(w) for w in block_weights({"a": 10, "b": 0}, samples=10, num_classes=2).values())


def test_top_1_and_top_5_count_as_sorting_does() -> None:
    given, labels = scores(), torch.arange(40) % 7
    tally = ScoreTally()
    for part in (slice(0, 30), slice(30, 40)):
        stacked = torch.stack([given[name][part] for name in NAMES])
        tally.add(EvalBatch("test", None, labels[part], scores=stacked, scored=NAMES), None)
    result = tally.result([{"block": name, "accuracy": None} for name in [*NAMES, "silent"]])
    answers = predictions(given, None)
    for name, answer in answers.items():
        ranks = answer.argsort(1, descending=True)
        assert result["accuracy"][name] == sum(int(r[0] == y) for r, y in zip(ranks, labels, strict=True)) / 40
        assert result["top5"][name] == sum(int(y in r[:5]) for r, y in zip(ranks, labels, strict=True)) / 40
    assert [block.get("top5") for block in result["blocks"]][2:] == [
        result["top5"]["last"],
        result["top5"]["fusion"],
        None,
    ]
    assert result["samples"] == 40


def test_of_five_classes_or_fewer_there_is_no_top_5() -> None:
    tally = ScoreTally()
    tally.add(EvalBatch("test", None, torch.tensor([0, 1]), scores=torch.eye(3)[None, :2], scored=["a"]), None)
    assert "top5" not in tally.result([])


def test_the_weights_of_the_test_split_are_the_last_validations_and_travel_with_the_snapshot(tmp_path: Path) -> None:
    job = DigitsJob(tmp_path, epochs=3, settings={"fusion": True, "stages": 2})()
    result, manifest = run_threads(job, QUIET), latest(tmp_path)
    assert manifest is not None
    assert "weighted" not in result.records[0]["validation"]["accuracy"]
    classifier = Classifier(job.chain, job.objective, fusion=True)
    SnapshotStore(tmp_path, job.names).load_weights(classifier, manifest)
    accurate = {b["block"]: b["accuracy"] for b in result.records[-1]["validation"]["blocks"] if b["block"] != "fusion"}
    samples = result.records[-1]["validation"]["samples"]
    expected = block_weights({name: round(a * samples) for name, a in accurate.items()}, samples, 10)
    assert result.records[-1]["validation"]["weights"] == expected
    torch.testing.assert_close(classifier.weights, torch.tensor(list(expected.values())))
    test = job.loaders().test
    assert test is not None
    assert result.test is not None
    for predictor in ("mean", "last", "weighted", "fusion", "conv2"):
        with torch.no_grad():
            right = sum(int((classifier.choose(predictor)(x).argmax(1) == y).sum()) for x, y in test.epoch(0))
        named = {b["block"]: b["accuracy"] for b in result.test["blocks"]} | result.test["accuracy"]
        assert right / 360 == pytest.approx(named[predictor], abs=1 / 360)


def test_a_predictor_that_is_not_there_is_refused() -> None:
    job = DigitsJob()()
    with pytest.raises(ConfigError, match=r"train with rule\.fusion"):
        Classifier(job.chain, job.objective).choose("fusion")
    with pytest.raises(ConfigError, match="mean, last, weighted, conv1, conv2, conv3"):
        Classifier(job.chain, job.objective).choose("best")
