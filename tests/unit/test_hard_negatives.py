"""Hard negatives: predictions travel back from the last stage to the source, and the pipeline still changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from jobs import QUIET, DigitsJob, cut_power_at, fingerprint, learned

from ffdist.errors import ConfigError, SnapshotError
from ffdist.objectives import Hinton, Objective, SELFourier
from ffdist.pipeline.message import TrainBatch
from ffdist.pipeline.score_table import ScoreSender, ScoreTable
from ffdist.runtime.agree import check_job
from ffdist.runtime.threads import run_threads
from ffdist.snapshot import latest
from ffdist.transport import Edge, open_local

HARD = Hinton(predict="linear", hard=True, lag=9)
MAKE = DigitsJob(noisy=True, objective=HARD, epochs=3, settings={"samples": 800, "batch_size": 50})
"""12 batches an epoch."""


@pytest.mark.parametrize("microbatches", [1, 3])
def test_one_two_and_three_stages_learn_the_same_bits(microbatches: int, tmp_path: Path) -> None:
    results = []
    for stages in (1, 2, 3):
        run = tmp_path / str(stages)
        settings = MAKE.settings | {"stages": stages, "microbatches": microbatches}
        result = run_threads(replace(MAKE, run=run, settings=settings)(), QUIET)
        results.append((fingerprint(run), learned(result.records), result.test))
    assert results[1] == results[0]
    assert results[2] == results[0]


@pytest.mark.parametrize(("before", "after"), [(1, 2), (3, 1)])
@pytest.mark.parametrize("step", [4, 16])
def test_a_run_cut_off_goes_on_with_what_was_known_and_what_was_on_its_way(
    before: int, after: int, step: int, tmp_path: Path
) -> None:
    also = {"fusion": True, "microbatches": 2, "ema": 0.9, "windows": ((0, 1), (0, 3), (1, 3))}
    make = replace(MAKE, settings=MAKE.settings | also | {"snapshot_every": 3})
    run_threads(replace(make, run=tmp_path / "whole")(), QUIET)
    cut = replace(make, run=tmp_path / "cut")
    cut_power_at(step, replace(cut, settings=make.settings | {"stages": before}))
    manifest = latest(tmp_path / "cut")
    assert manifest
    assert 0 < manifest.step < 36
    run_threads(replace(cut, settings=make.settings | {"stages": after, "resume": True})(), QUIET)
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "whole")


@pytest.mark.parametrize("name", ["predictions", "feedback"])
def test_a_snapshot_without_what_was_known_is_refused(name: str, tmp_path: Path) -> None:
    make = replace(MAKE, run=tmp_path, epochs=1)
    run_threads(make(), QUIET)
    manifest = latest(tmp_path)
    assert manifest
    (manifest.folder / f"{name}.safetensors").unlink()
    with pytest.raises(SnapshotError, match=f"no snapshot(.|\n)*{name}.safetensors: a snapshot file is missing"):
        run_threads(replace(make, epochs=2, settings=MAKE.settings | {"resume": True})(), QUIET)


@pytest.mark.parametrize("rule", [Hinton, SELFourier])
def test_what_is_drawn_follows_what_was_predicted(rule: type[Objective], tmp_path: Path) -> None:
    """Once, and not as even draws would have it."""
    prints = set()
    for hard in (True, False):
        run = tmp_path / str(hard)
        run_threads(replace(MAKE, run=run, objective=rule(predict="linear", hard=hard, lag=9))(), QUIET)  # type: ignore[call-arg]
        prints.add(tuple(fingerprint(run)))
    assert len(prints) == 2


def test_the_source_knows_of_each_sample_what_was_said_of_it_so_many_batches_ago() -> None:
    job, lag, sent, seen = MAKE(), 9, {}, {}
    loader = job.loaders().train
    sender, receiver = open_local(Edge("back", lag))
    known, feedback = ScoreTable(loader, 10, lag, receiver, lambda *_: []), ScoreSender([sender], lag, lambda *_: [])
    for step in range(1, 3 * len(loader)):
        epoch, batch = divmod(step - 1, len(loader))
        rows = loader.order(epoch)[batch * 50 : (batch + 1) * 50].tolist()
        if step > lag:
            seen |= sent.pop(step - lag)
        expected = torch.stack([seen.get(row, torch.zeros(10)) for row in rows])
        assert torch.equal(known.before(step), expected)
        scores = torch.randn(50, 10)
        feedback.send(TrainBatch(step, None, torch.zeros(50), epoch, scores=3 * scores, scored=3))
        sent[step] = dict(zip(rows, 3 * scores / 3, strict=True))
    known.drain(3 * len(loader) - 1)
    assert len(feedback.recent) == lag


def test_a_pipeline_that_holds_more_batches_than_the_lag_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"at least 11 batches(.|\n)*lag=11"):
        check_job(replace(replace(MAKE, settings=MAKE.settings | {"queue": 4})(), workers=3))
    check_job(replace(MAKE(), workers=3))


def test_hard_negatives_need_readouts_and_a_lag_that_an_edge_can_hold() -> None:
    with pytest.raises(ConfigError, match=r'objective_args=dict\(predict="linear", hard=True\)$'):
        Hinton(hard=True)
    for lag in (0, 65):
        with pytest.raises(ConfigError, match="1 to 64 batches"):
            Hinton(predict="linear", hard=True, lag=lag)
