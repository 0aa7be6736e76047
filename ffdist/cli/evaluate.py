"""`ffdist eval`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from ffdist.config import TrainSettings
from ffdist.data import Images, Loader, open_data
from ffdist.errors import DataError
from ffdist.pipeline.classifier import Classifier
from ffdist.runtime.run import DataFacts, load_classifier


@dataclass(frozen=True)
class Eval:
    """Accuracy of a run's last snapshot on the test split, by predictor and block."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory."""
    data: str | None = None
    """Another data set of the same shape and classes. Default: the run's own."""
    batch_size: int = 500
    """Samples a batch."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object, accuracies as fractions."""


def main(args: Sequence[str]) -> None:
    command = tyro.cli(Eval, args=list(args), prog="ffdist eval")
    classifier, settings, facts = load_classifier(command.run)
    images = open_data(command.data or settings.data, settings.image_size)
    check_same(images, facts, command.data or settings.data)
    result = evaluate(classifier, settings, images, command.batch_size)
    if command.json:
        print(json.dumps(result))
    else:
        Console().print(table(result))


def check_same(images: Images, facts: DataFacts, name: str) -> None:
    """Raises DataError when the network was trained for other pictures or classes, or there is nothing to test on."""
    if tuple(images.shape) != facts.shape or list(images.classes) != facts.classes:
        raise DataError("the data do not fit the network", where=name,
                        got=f"{images.shape}, classes {images.classes[:5]}",
                        expected=f"{facts.shape}, classes {facts.classes[:5]}")  # fmt: skip
    if images.test is None:
        raise DataError("the data have no test split", where=name, remedy="prepare them with one")


def evaluate(classifier: Classifier, settings: TrainSettings, images: Images, batch_size: int) -> dict[str, Any]:
    """{"accuracy": mean of blocks, "last", "blocks": {name: accuracy}, "samples"}; accuracies are fractions."""
    assert images.test is not None
    loader = Loader(images, images.test, np.arange(len(images.test)), batch_size=batch_size, seed=0, train=False,
                    image_size=settings.image_size)  # fmt: skip
    correct = dict.fromkeys(["mean", "last", *classifier.names], 0)
    samples = 0
    for x, y in loader.epoch(0):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16"):
            scores = classifier.scores(x)
        named = {"mean": scores.mean, "last": scores.last, **dict(zip(classifier.names, scores.blocks, strict=True))}
        for name, given in named.items():
            correct[name] += 0 if given is None else int((given.argmax(1) == y).sum())
        samples += len(y)
    fractions = {name: count / samples for name, count in correct.items()}
    blocks = {name: fractions[name] for name in classifier.names}
    return {"accuracy": fractions["mean"], "last": fractions["last"], "blocks": blocks, "samples": samples}


def table(result: dict[str, Any]) -> Table:
    rows = Table("predictor", "accuracy", title=f"{result['samples']:,} test samples")
    rows.add_row("[bold]mean of blocks", f"[bold]{result['accuracy']:.2%}")
    rows.add_row("last block", f"{result['last']:.2%}")
    for name, accuracy in result["blocks"].items():
        rows.add_row(f"  block {name}", f"{accuracy:.2%}")
    return rows
