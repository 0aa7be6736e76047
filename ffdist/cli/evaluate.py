"""`ffdist eval`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from ffdist.cli.help import Flag, Positional
from ffdist.cli.parsing import parsed
from ffdist.cli.train import local_folder
from ffdist.errors import ConfigError
from ffdist.loading import loading
from ffdist.plain import PlainConsole
from ffdist.trust import TRUSTING

if TYPE_CHECKING:
    from ffdist.data import Images
    from ffdist.runtime.data_facts import DataFacts
    from ffdist.settings import Settings


@dataclass(frozen=True)
class Eval:
    """Top-1 and top-5 accuracy of a run's snapshot on the test split, by predictor and block."""

    run: Annotated[Path, Positional]
    """Run folder."""
    data: str | None = None
    """Another data set of the same shape and classes. Default: the run's own."""
    snapshot: str = "final"
    """Which snapshot: final, last, best (where the run has marked one), or the step of one.
    final: what the run ended with, the best where it may stop early, else the last."""
    batch_size: int | None = None
    """Samples in a batch. Default: the run's own, which gives training's numbers bit for bit."""
    confusion: Flag = False
    """Print the confusion matrix too: true classes down, predicted ones across."""
    predictor: Literal["mean", "last", "weighted", "fusion"] = "mean"
    """Predictor whose confusion matrix is printed."""
    views: tuple[Literal["flip", "shift"], ...] = ()
    """Measure by averaged scores of several views, too. flip: mirrored; shift: by a pixel, both ways along the
    diagonal. What comes of it stands apart."""
    trust: Flag = False
    """Run code that the run's settings name, though others began it. Code with which this user began a run may."""
    json: Flag = False
    """Print one JSON object, accuracies as fractions; with --confusion, its counts in it."""


def main(args: Sequence[str]) -> None:
    command = parsed(Eval, args, "ffdist eval")
    TRUSTING.set(TRUSTING.get() or command.trust)
    command = replace(command, run=local_folder(command.run))
    if command.batch_size is not None and command.batch_size < 1:
        raise ConfigError("--batch-size is too small", expected=">= 1", got=command.batch_size)
    if command.predictor != "mean" and not command.confusion:
        raise ConfigError(
            "--predictor chooses a confusion matrix, and none is asked for",
            got=f"--predictor {command.predictor}",
            remedy="--confusion beside it; accuracies are printed of every predictor",
        )
    evaluate(command)


def evaluate(command: Eval) -> None:
    with loading():  # of torch, after the parsing
        from ffdist.report.console import accuracy_table, confusion_table
        from ffdist.runtime.data_facts import read_facts
        from ffdist.runtime.evaluation import measure_run
        from ffdist.runtime.own_code import check_code
        from ffdist.runtime.run import check_named, read_settings

    settings, facts = read_settings(command.run), read_facts(command.run)
    check_named(settings, command.run)
    check_code(command.run, settings, strict=False)
    images = open_data_of(command.run, command.data, settings, facts, "eval")
    result, confusions = measure_run(
        command.run,
        settings,
        images,
        batch_size=command.batch_size,
        views=command.views,
        snapshot=command.snapshot,
    )
    if command.confusion:
        if command.predictor not in confusions:
            raise ConfigError(
                f"the run has no predictor '{command.predictor}'",
                where="--predictor",
                expected=", ".join(confusions),
                got=command.predictor,
            )
        counts = confusions[command.predictor].counts.tolist()
        result["confusion"] = {"predictor": command.predictor, "classes": facts.classes, "counts": counts}
    if command.json:
        print(json.dumps(result))
        return
    console = PlainConsole()
    console.print(accuracy_table(result, "test"))
    if seen := result.get("views"):
        console.print(
            accuracy_table(seen, "test", f", each seen {seen['passes']} times: {' and '.join(seen['views'])}")
        )
    if command.confusion:
        console.print(confusion_table(result["confusion"]))


def open_data_of(run: Path, data: str | None, settings: Settings, facts: DataFacts, command: str) -> Images:
    """The run's own data, or others, as its network takes them. Raises DataError for those that do not fit, ConfigError
    where its own were given in Python."""
    from ffdist.data.fitting import as_trained_images, opened_to_measure
    from ffdist.data.preparation import from_texts
    from ffdist.runtime.opened import open_dataset
    from ffdist.runtime.own_code import GIVEN
    from ffdist.runtime.run import no_data_to_measure_error

    if data is None and settings.dataset.data == GIVEN:
        raise no_data_to_measure_error(run, facts, command)
    if data is None:
        return as_trained_images(open_dataset(settings.dataset), facts, settings.dataset.data)
    preparation = from_texts(settings.dataset.data_args, "")
    return as_trained_images(opened_to_measure(data, facts, settings.dataset.image_size, preparation), facts, data)
