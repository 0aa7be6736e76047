"""`ffdist predict`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ffdist.cli.help import Flag, Positional
from ffdist.cli.parsing import parsed
from ffdist.cli.train import local_folder
from ffdist.errors import ConfigError, DataError
from ffdist.loading import loading
from ffdist.notes import note
from ffdist.plain import PlainConsole, table
from ffdist.trust import TRUSTING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Predict:
    """The class of each picture, by a run's snapshot."""

    run: Annotated[Path, Positional]
    """Run folder."""
    images: Annotated[tuple[Path, ...], Positional]
    """Pictures of any format, size and mode, and folders of them; they are read as the run's data were."""
    snapshot: str = "final"
    """Which snapshot: final, last, best (where the run has marked one), or the step of one.
    final: what the run ended with, the best where it may stop early, else the last."""
    predictor: str = "mean"
    """Predictor that decides: mean, last, weighted, fusion, or a block's name."""
    top_k: int | None = None
    """Number of most likely classes to show. Default: 1; all with --json."""
    batch_size: int = 64
    """Pictures at once."""
    trust: Flag = False
    """Run code that the run's settings name, though others began it. Code with which this user began a run may."""
    json: Flag = False
    """Print one JSON object for each picture, with the scores of all classes."""


def main(args: Sequence[str]) -> None:
    command = parsed(Predict, args, "ffdist predict")
    TRUSTING.set(TRUSTING.get() or command.trust)
    command = replace(command, run=local_folder(command.run))
    if not command.images:
        raise ConfigError("there are no pictures to predict", expected="ffdist predict RUN PICTURE ...")
    for name, value in (("--top-k", command.top_k), ("--batch-size", command.batch_size)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} is too small", expected=">= 1", got=value)
    with loading():  # of torch, after the parsing
        from ffdist.runtime.prediction import Predictions, pictures_at, unreadable_error
        from ffdist.runtime.run import load_classifier

    classifier, _, facts = load_classifier(command.run, command.snapshot)
    predictions = Predictions(classifier.choose(command.predictor), facts, command.batch_size)
    paths = [path for given in command.images for path in pictures_at(given, predictions.bad)]
    if not paths and not predictions.bad:
        raise DataError(
            "there is no picture",
            where=", ".join(map(str, command.images)),
            expected="a PNG, JPEG or other picture file",
        )
    rows = (row(path, scores, facts.classes, command) for path, scores in predictions.of(paths))
    if command.json:
        for one in rows:
            print(json.dumps(one))
    else:
        show(list(rows), command.top_k or 1)
    sys.stdout.flush()
    for line in predictions.notes():
        note(f"note: {line}")
    if predictions.bad:
        raise unreadable_error(predictions.bad, max(len(paths), len(predictions.bad)))


def row(path: Path, scores: Tensor, classes: list[str], command: Predict) -> dict:
    """One picture's answer: the best class, and the best ones with their scores, best first."""
    shares = scores.softmax(0)
    order = scores.argsort(descending=True, stable=True).tolist()[: command.top_k]
    top = [{"class": classes[k], "index": k, "share": float(shares[k]), "score": float(scores[k])} for k in order]
    return {"image": str(path), **{name: top[0][name] for name in ("class", "index", "share")}, "top": top}


def show(rows: list[dict], top_k: int) -> None:
    from ffdist.runtime.prediction import printable

    if not rows:
        return
    headers = ["picture", "class", "confidence", *(["then"] if top_k > 1 else [])]
    grid = table(*headers, caption="confidence: softmax of the scores")
    for one in rows:
        then = ", ".join(f"{other['class']} {other['share']:.1%}" for other in one["top"][1:])
        cells = [printable(Path(one["image"])), one["class"], f"{one['share']:.1%}", *([then] if top_k > 1 else [])]
        grid.add_row(*cells)
    PlainConsole().print(grid)
