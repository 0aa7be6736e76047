"""Metrics of a user's own: in the run log, in the history, for trackers and on the page; and they change no bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import QUIET, DigitsJob, fingerprint
from torch import Tensor

import ffdist
from ffdist.errors import ConfigError
from ffdist.pipeline.own_metrics import OwnMetrics, check_metrics, given_metrics, named_metrics
from ffdist.report.log import read_run_log
from ffdist.runtime.threads import run_threads

OWN = """
import torch

class Recall:
    \"\"\"As torchmetrics has its own.\"\"\"
    def __init__(self, num_classes, average="macro"):
        assert average == "macro"
        self.hits, self.seen = torch.zeros(num_classes), torch.zeros(num_classes)

    def update(self, scores, labels):
        torch.manual_seed(5)
        torch.rand(3)
        hits = scores.argmax(1) == labels
        for k in range(len(self.seen)):
            self.seen[k] += (labels == k).sum()
            self.hits[k] += hits[labels == k].sum()
        scores.zero_()
        labels.zero_()

    def compute(self):
        return (self.hits / self.seen).mean()

    def reset(self):
        self.hits.zero_(), self.seen.zero_()

def right(scores, labels):
    return {"share": (scores.argmax(1) == labels).float().mean(), "count": len(labels)}

def number(scores, labels, num_classes):
    return num_classes

def breaks(scores, labels):
    raise ValueError("no such thing")

def breaks_later(scores, labels):
    if len(labels) > 25:
        raise ValueError("too many")
    return 1.0
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "own_metrics_of_a_test.py"
    path.write_text(OWN)
    return path


def test_metrics_are_logged_by_epoch_and_change_no_bit(own: Path, tmp_path: Path) -> None:
    of = {"samples": 640, "validation": 0.2, "stages": 2}
    names = tuple(f"{own}:{name}" for name in ("Recall", "right", "number"))
    run_threads(DigitsJob(tmp_path / "plain", settings=of)(), QUIET)
    run_threads(DigitsJob(tmp_path / "told", settings=of | {"metric": names})(), QUIET)
    assert fingerprint(tmp_path / "told") == fingerprint(tmp_path / "plain")
    plain, _ = read_run_log(tmp_path / "plain")
    records, end = read_run_log(tmp_path / "told")
    assert end
    for record, before in zip(records, plain, strict=True):
        found = record["validation"]["metrics"]
        assert found["right/share"] == pytest.approx(record["validation"]["accuracy"]["mean"])
        assert found["right/count"] == record["validation"]["samples"]
        assert 0 < found["Recall"] <= 1
        assert found["number"] == 10
        assert record["validation"]["accuracy"] == before["validation"]["accuracy"]
    assert end["test"]["metrics"]["right/count"] == end["test"]["samples"]


def test_metrics_of_python_are_in_the_history_and_on_the_page_and_eval_knows_named_ones(
    own: Path, tmp_path: Path
) -> None:
    def confident(scores: Tensor, labels: Tensor) -> Tensor:
        return scores.softmax(1).max(1).values.mean()

    pipeline = ffdist.Pipeline("cnnb", "sff", threads=1, samples=640, metric=[f"{own}:right"])
    result = pipeline.fit("digits", out=tmp_path / "run", epochs=2, progress=False, metrics={"sure": confident})
    table = result.history().to_pydict()
    assert len(table["validation/metric/sure"]) == 2
    assert table["validation/metric/right/share"] == pytest.approx(table["validation/accuracy/mean"])
    page = ffdist.write_report(tmp_path / "run", pictures=None).read_text()
    assert "right/share" in page
    assert "sure" in page
    from ffdist.cli.evaluate import main

    main([str(tmp_path / "run"), "--json"])


@pytest.mark.parametrize(
    ("name", "what"),
    [("breaks", "no such thing"), ("missing", "has no 'missing'"), ("OWN", "has no")],
)
def test_a_metric_that_cannot_work_is_refused_before_anything_starts(own: Path, name: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        check_metrics(named_metrics([f"{own}:{name}"], 10), 10)


@pytest.mark.parametrize("given", [{"": len}, [7], [None], {"text": "f1"}, {"none": lambda scores, labels: None}])
def test_what_is_no_metric_is_refused(given: Any) -> None:
    with pytest.raises(ConfigError):
        check_metrics(given_metrics(given, 10), 10)


def test_two_of_one_name_are_refused(own: Path) -> None:
    with pytest.raises(ConfigError, match="one name"):
        named_metrics([f"{own}:right", f"{own}:right"], 10)
    with pytest.raises(ConfigError, match="its own"):
        given_metrics([lambda s, y: 1, lambda s, y: 2], 10)


def test_one_that_fails_later_is_reported_and_left_out(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = OwnMetrics(named_metrics([f"{own}:breaks_later", f"{own}:right"], 10))
    for samples in (30, 30):
        metrics.add(torch.rand(samples, 10), torch.zeros(samples, dtype=torch.int64))
        values = metrics.result()
    assert values == {"right/share": pytest.approx(values["right/share"]), "right/count": 30.0}
    assert capsys.readouterr().err.count("breaks_later") == 1


def test_what_is_not_finite_is_null_in_json() -> None:
    metrics = OwnMetrics({"nan": lambda scores, labels: float("nan")})
    metrics.add(torch.rand(4, 2), torch.zeros(4, dtype=torch.int64))
    assert json.dumps(metrics.result(), allow_nan=False) == '{"nan": null}'


def test_metrics_without_samples_to_measure_are_refused(own: Path) -> None:
    with pytest.raises(ConfigError, match="no samples"):
        ffdist.Pipeline("cnnb", "sff").fit(
            (torch.rand(64, 1, 8, 8), torch.arange(64) % 10), validation=0, metric=[f"{own}:right"], epochs=1
        )
