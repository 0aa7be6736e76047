"""`ffdist eval`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from ffdist.errors import ConfigError, DataError
from ffdist.plain import PlainConsole

if TYPE_CHECKING:
    from ffdist.data import Images
    from ffdist.runtime.run import DataFacts


@dataclass(frozen=True)
class Eval:
    """Top-1 and top-5 accuracy of a run's last snapshot on the test split, by predictor and block."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory."""
    data: str | None = None
    """Another data set of the same shape and classes. Default: the run's own."""
    batch_size: int | None = None
    """Samples a batch. Default: the run's own, which gives training's numbers bit for bit."""
    confusion: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the confusion matrix too: true classes down, predicted ones across."""
    predictor: Literal["mean", "last", "weighted", "fusion"] = "mean"
    """Whose confusion it is."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object, accuracies as fractions; with --confusion, its counts in it."""


def main(args: Sequence[str]) -> None:
    command = tyro.cli(Eval, args=list(args), prog="ffdist eval")
    if command.batch_size is not None and command.batch_size < 1:
        raise ConfigError("--batch-size is too small", expected=">= 1", got=command.batch_size)
    evaluate(command)


def evaluate(command: Eval) -> None:
    from ffdist.data import open_data  # behind the parsing: they import torch
    from ffdist.report.console import accuracy_table, confusion_table
    from ffdist.runtime.evaluation import measure_run
    from ffdist.runtime.run import read_facts, read_settings

    settings, facts = read_settings(command.run), read_facts(command.run)
    name = command.data or settings.data
    images = open_data(name, settings.image_size)
    check_same(images, facts, name)
    result, confusions = measure_run(command.run, settings, images, batch_size=command.batch_size)
    if command.confusion:
        if command.predictor not in confusions:
            raise ConfigError(f"the run has no predictor '{command.predictor}'", where="--predictor",
                              expected=", ".join(confusions), got=command.predictor)  # fmt: skip
        counts = confusions[command.predictor].counts.tolist()
        result["confusion"] = {"predictor": command.predictor, "classes": facts.classes, "counts": counts}
    if command.json:
        print(json.dumps(result))
        return
    console = PlainConsole()
    console.print(accuracy_table(result, "test"))
    if command.confusion:
        console.print(confusion_table(result["confusion"]))


def check_same(images: Images, facts: DataFacts, name: str) -> None:
    """Raises DataError when the network was trained for other pictures or classes."""
    if tuple(images.shape) != facts.shape or list(images.classes) != facts.classes:
        raise DataError("the data do not fit the network", where=name,
                        got=f"{images.shape}, classes {images.classes[:5]}",
                        expected=f"{facts.shape}, classes {facts.classes[:5]}")  # fmt: skip
