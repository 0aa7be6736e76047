"""Finished trainings of a comparison are kept, found again by what they are of, and never mixed with others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ffdist.bench import sittings
from ffdist.bench.recipes import Recipe
from ffdist.bench.settings import BenchSettings
from ffdist.bench.sittings import COMPARISON, TRAININGS, ComparisonSetup, FinishedTrainings, Training
from ffdist.bench.whole_runs import Epoch
from ffdist.errors import ConfigError, DataError

FOUND = ComparisonSetup("ddp-views", "conv1 conv2 conv3 @ 0, 1 by batch", 1, (1, 2))
RECIPE = Recipe((("betas", (0.9, 0.99)), ("lr", 0.1), ("epochs", 2)))
TRAINING = Training([Epoch(1.5, 0.25, 0.125), Epoch(3.0, 0.75, 0.5)], 1.875, True)


def settings(folder: Path, **others: Any) -> BenchSettings:
    return BenchSettings().changed(finished=folder, **others)


def sitting(folder: Path, seeds: int, report: Callable[[str], None] = lambda line: None, **others: Any) -> list[int]:
    """The seeds that were run, of the first so many."""
    run: list[int] = []
    with FinishedTrainings(settings(folder, **others), report) as kept:
        assert kept.setup(lambda: FOUND) == FOUND
        for seed in range(seeds):

            def train(seed: int = seed) -> Training:
                run.append(seed)
                return TRAINING

            assert kept.load_or_run("ours", RECIPE, seed, train) == TRAINING
    return run


def test_a_sitting_goes_on_after_the_last_training_that_was_kept_whole(tmp_path: Path) -> None:
    assert sitting(tmp_path, 2) == [0, 1]
    with (tmp_path / TRAININGS).open("ab") as file:
        file.write(b'{"side": "ours", "rec')  # killed
    assert sitting(tmp_path, 4, rounds=2, lengths=(2, 3)) == [2, 3]
    assert sitting(tmp_path, 4) == []
    with FinishedTrainings(settings(tmp_path), lambda line: None) as kept:
        assert kept.load_or_run("ddp-views", RECIPE, 0, lambda: TRAINING._replace(free=False)).free is False
        other = Recipe((*RECIPE.values[:-1], ("epochs", 3)))
        assert kept.load_or_run("ours", other, 0, lambda: TRAINING._replace(probe=1.0)).probe == 1.0
        kept.lines[0]["sitting"] = "2026-11-29T23:00+00:00"
        assert "taken in 2 sittings" in kept.notes[0]
        assert "2026-11-29T23:00+00:00 (1 trainings)" in kept.notes[0]


def test_trainings_of_another_comparison_are_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sitting(tmp_path, 1)
    others: list[tuple[dict[str, Any], str]] = [
        ({"target": 0.7}, "compare.target(.|\n)*expected: 0.75\n *got: 0.7"),
        ({"weight_decay": 0.5}, "train.optim.weight_decay"),
        ({"seed": 3}, "train.training.seed"),
        ({"link": "1gbit"}, "compare.link"),
    ]
    for other, named in others:
        with pytest.raises(ConfigError, match=named):
            sitting(tmp_path, 1, **other)
    for name, facts in (("code", lambda: "0" * 64), ("machine", lambda: {"name": "another"})):
        with monkeypatch.context() as patched:
            patched.setattr(sittings, name, facts)
            with pytest.raises(ConfigError, match=f"another comparison: {name}"):
                sitting(tmp_path, 1)
    assert sitting(tmp_path, 1) == []


def test_a_folder_has_one_comparison_at_a_time_and_says_what_it_keeps_when_that_is_stopped(tmp_path: Path) -> None:
    messages: list[str] = []

    def stopped() -> None:
        with FinishedTrainings(settings(tmp_path), messages.append) as kept:
            kept.load_or_run("ours", RECIPE, 0, lambda: TRAINING)
            with pytest.raises(ConfigError, match="another comparison is at work there"):
                sitting(tmp_path, 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert messages == [f"1 finished training is kept in {tmp_path}: the same command goes on from there"]
    assert sitting(tmp_path, 1) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (TRAININGS, '{"side": 3}\n'),
        (TRAININGS, "[1, 2\n"),
        (TRAININGS, '{"side": "ours", "recipe": {}, "seed": 0, "sitting": 3, "epochs": []}\n'),
        (COMPARISON, "[]"),
        (COMPARISON, "{"),
        (COMPARISON, '{"found": {"blocks": 3}}'),
        (COMPARISON, '{"found": {"blocks": [], "winner": 3}}'),
    ],
)
def test_files_that_are_none_of_ours_are_refused(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=f"cannot be read\n *where: .*{name}"):
        sitting(tmp_path, 1)
    assert (tmp_path / name).read_text() == text
