"""`ffdist report`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ffdist.cli.evaluate import opened
from ffdist.cli.help import Flag, Positional
from ffdist.cli.parsing import parsed
from ffdist.cli.train import here
from ffdist.errors import DataError
from ffdist.loading import loading
from ffdist.plain import PlainConsole
from ffdist.settings import Settings

if TYPE_CHECKING:
    import numpy as np

    from ffdist.data import Images


@dataclass(frozen=True)
class Report:
    """What a run was told, how its blocks learned, what came out; figures where asked for."""

    run: Annotated[Path, Positional]
    """Run directory."""
    cam: Flag = False
    """Draw class activation maps (cam.png): where in some test pictures each block sees the evidence for the class."""
    data: str | None = None
    """Another data set for --cam, of the same shape and classes. Default: the run's own."""
    pictures: int = 10
    """Test pictures in cam.png, of each class in turn."""
    figures: Flag = False
    """Draw each block's loss and accuracy over the epochs (curves.png)."""
    to: Path | None = None
    """Folder for the figures. Default: the run directory."""
    json: Flag = False
    """Print one JSON object: settings, starts, epochs, test, figures."""


def main(args: Sequence[str]) -> None:
    command = parsed(Report, args, "ffdist report")
    command = replace(command, run=here(command.run))
    with loading():  # of torch, behind the parsing
        from ffdist.report.log import as_written, read_run_log
        from ffdist.report.summary import starts_table, summary
        from ffdist.runtime.record import read_starts
        from ffdist.runtime.run import read_settings

    settings, console = read_settings(command.run), PlainConsole(quiet=command.json)
    records, end = read_run_log(command.run)
    starts = read_starts(command.run)
    if starts:
        console.print(starts_table(starts))
    with as_written(command.run):
        for table in summary(dict(settings.items()), dict(Settings().items()), records, end):
            console.print(table)
    figures = drawn(command, records, console)
    if command.json:
        told = {"run": command.run, "settings": dict(settings.items()), "starts": starts, "epochs": records,
                "reason": end and end["reason"], "test": end and end["test"], "figures": figures}  # fmt: skip
        print(json.dumps(told, default=str))


def drawn(command: Report, records: list[dict[str, Any]], console: PlainConsole) -> list[Path]:
    """The figures that are asked for."""
    folder, paths = command.to or command.run, list[Path]()
    folder.mkdir(parents=True, exist_ok=True)
    if command.figures:
        from ffdist.report.figure import draw_curves
        from ffdist.report.log import as_written

        with as_written(command.run):
            draw_curves(records, folder / "curves.png")
        console.print(f"curves: {folder / 'curves.png'}", soft_wrap=True)
        paths.append(folder / "curves.png")
    if command.cam:
        draw_cam(command.run, command.data, command.pictures, folder / "cam.png", console)
        paths.append(folder / "cam.png")
    return paths


def draw_cam(run: Path, data: str | None, pictures: int, path: Path, console: PlainConsole) -> None:
    """Raises DataError without test pictures, NetworkError for a network without maps."""
    from ffdist.data import Loader
    from ffdist.report.cam import activation_maps, focus_table
    from ffdist.report.figure import draw_maps
    from ffdist.runtime.run import load_classifier

    classifier, settings, facts = load_classifier(run)
    images = opened(run, data, settings, facts, "report --cam")
    chosen = of_each_class(images, pictures)
    assert images.test is not None
    loader = Loader(images, images.test, chosen, batch_size=len(chosen), seed=0, train=False,
                    image_size=settings.dataset.image_size)  # fmt: skip
    x, y = next(iter(loader.epoch(0)))
    blocks = activation_maps(classifier, x, y)
    draw_maps(x * classifier.std + classifier.mean, y, blocks, facts.classes, path)
    console.print(focus_table(blocks, y))
    console.print(f"maps: {path}", soft_wrap=True)


def of_each_class(images: Images, count: int) -> np.ndarray:
    """Indices of test samples: the first of each class, then the second, ... Raises DataError where there are none."""
    import numpy as np
    import torch

    if images.test is None or len(images.shape) != 3:
        raise DataError("there are no test pictures", where=images.name, expected="a test split of (C, H, W)",
                        got=f"samples of {images.shape}")  # fmt: skip
    labels = torch.from_numpy(images.test.labels)
    rank = torch.zeros_like(labels)
    for label in labels.unique():
        rank[labels == label] = torch.arange(int((labels == label).sum()))
    return np.lexsort((labels.numpy(), rank.numpy()))[: max(1, count)]
