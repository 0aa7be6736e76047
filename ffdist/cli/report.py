"""`ffdist report`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ffdist.cli.evaluate import open_data_of
from ffdist.cli.help import Flag, Positional
from ffdist.cli.parsing import parsed
from ffdist.cli.train import local_folder
from ffdist.errors import ConfigError
from ffdist.loading import loading
from ffdist.notes import note
from ffdist.plain import PlainConsole
from ffdist.runtime.interrupts import handle_signals, unwind
from ffdist.settings import Settings
from ffdist.trust import TRUSTING

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Report:
    """Settings of runs, how their blocks learned, and results: as a page of HTML, several runs compared; with
    --text, --json, --figures or --cam in the terminal."""

    run: Annotated[tuple[Path, ...], Positional]
    """Run folders."""
    out: Path | None = None
    """File of the page. Default: report.html in the run folder. Of several runs in this folder."""
    open: Flag = False
    """Show the page in a browser."""
    text: Flag = False
    """Print tables in place of the page."""
    snapshot: str = "final"
    """Which snapshot is measured: final, last, best (where the run has marked one), or the step of one.
    final: what the run ended with, the best where it may stop early, else the last."""
    data: str | None = None
    """Another data set to measure on, of the same shape and classes. Default: the run's own."""
    pictures: int = 10
    """Number of test pictures with class activation maps, of each class in turn, and of mistakes."""
    no_pictures: Flag = False
    """Measure nothing on the data: a page without confusion matrix, mistakes and maps."""
    cam: Flag = False
    """Draw class activation maps (cam.png): where in some test pictures each block sees the evidence for the class."""
    figures: Flag = False
    """Draw each block's loss and accuracy over the epochs (curves.png)."""
    to: Path | None = None
    """Folder for the figures. Default: the run folder."""
    trust: Flag = False
    """Run code that the run's settings name, though others began it. Code with which this user began a run may."""
    json: Flag = False
    """Print one JSON object a run: settings, starts, epochs, test, figures."""


def main(args: Sequence[str]) -> None:
    command = parsed(Report, args, "ffdist report")
    TRUSTING.set(TRUSTING.get() or command.trust)
    in_terminal = command.text or command.json or command.cam or command.figures
    check(command, in_terminal)
    command = replace(command, run=tuple(local_folder(run) for run in command.run))
    if in_terminal:
        for run in command.run:
            print_report(command, run)
    if not in_terminal or command.out:
        write_page(command)


def check(command: Report, in_terminal: bool) -> None:
    """Raises ConfigError for what does not go together."""
    if not command.run:
        raise ConfigError("no run was given", expected="ffdist report RUN ...")
    if command.pictures < 1:
        raise ConfigError("--pictures is too small", expected=">= 1", got=command.pictures, remedy="--no-pictures")
    if len(command.run) > 1 and command.to and (command.cam or command.figures):
        raise ConfigError(
            "the figures of several runs would take each other's place",
            where="--to",
            remedy="leave it out: each run's go into its own folder",
        )
    if command.open and in_terminal and not command.out:
        raise ConfigError(
            "there is no page to open",
            expected="--open without --text, --json, --figures and --cam",
            remedy="leave one of them out, or name the page: --out FILE",
        )


def write_page(command: Report) -> None:
    """Write the page and say where it is."""
    with loading():  # of torch, after the parsing
        from ffdist.page.write import write_report

    handle_signals(unwind)  # what is half written goes again
    path = write_report(
        *command.run,
        out=command.out,
        snapshot=command.snapshot,
        data=command.data,
        pictures=None if command.no_pictures else command.pictures,
    )
    PlainConsole(stderr=command.json).print(f"page: {path}", soft_wrap=True)
    if command.open:
        import webbrowser

        if not webbrowser.open(path.resolve().as_uri()):
            note("there is no browser to open the page with")


def print_report(command: Report, run: Path) -> None:
    """Tables of one run in the terminal, and its figures."""
    with loading():
        from ffdist.report.log import as_written, read_run_log
        from ffdist.report.summary import starts_table, summary
        from ffdist.runtime.record import read_starts
        from ffdist.runtime.run import read_settings

    settings, console = read_settings(run), PlainConsole(quiet=command.json)
    records, end = read_run_log(run)
    starts = read_starts(run)
    if len(command.run) > 1:
        console.print(f"{run}", soft_wrap=True)
    with as_written(run):
        tables: list[Table] = summary(dict(settings.items()), dict(Settings().items()), records, end)
    for table in [*([starts_table(starts)] if starts else []), *tables]:
        console.print(table)
    figures = draw_figures(command, run, records, console)
    if command.json:
        values = {
            "run": run,
            "settings": dict(settings.items()),
            "starts": starts,
            "epochs": records,
            "reason": end and end["reason"],
            "test": end and end["test"],
            "figures": figures,
        }
        print(json.dumps(values, default=str))


def draw_figures(command: Report, run: Path, records: list[dict[str, Any]], console: PlainConsole) -> list[Path]:
    """Draw the figures that are asked for; returns their files."""
    folder, paths = command.to or run, list[Path]()
    if command.figures:
        from ffdist.report.figure import draw_curves
        from ffdist.report.log import as_written
        from ffdist.runtime.exported import write_whole

        handle_signals(unwind)
        with as_written(run):
            curves = draw_curves(records)
        write_whole(folder / "curves.png", curves)
        console.print(f"curves: {folder / 'curves.png'}", soft_wrap=True)
        paths.append(folder / "curves.png")
    if command.cam:
        draw_cam(command, run, folder / "cam.png", console)
        paths.append(folder / "cam.png")
    return paths


def draw_cam(command: Report, run: Path, path: Path, console: PlainConsole) -> None:
    """Raises DataError without test pictures, NetworkError for a network without maps."""
    from ffdist.page.measured import of_each_class, samples
    from ffdist.report.cam import activation_maps, focus_table
    from ffdist.report.figure import draw_maps
    from ffdist.runtime.exported import write_whole
    from ffdist.runtime.run import load_classifier

    handle_signals(unwind)
    classifier, settings, facts = load_classifier(run, command.snapshot)
    images = open_data_of(run, command.data, settings, facts, "report --cam")
    chosen = of_each_class(images, command.pictures)
    assert images.test is not None
    x, y = samples(images, images.test, chosen, settings)
    blocks = activation_maps(classifier, x, y)
    write_whole(path, draw_maps(x * classifier.std + classifier.mean, y, blocks, facts.classes))
    console.print(focus_table(blocks, y))
    console.print(f"maps: {path}", soft_wrap=True)
