"""`ffdist report` in Python: one file of HTML that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ffdist.errors import ConfigError, FfdistError
from ffdist.folders import remedy_of, system_reason
from ffdist.notes import note
from ffdist.options import path_of
from ffdist.page.measured import measured, why_not
from ffdist.page.render import page
from ffdist.page.run import RunView, check_runs, names_of, view_run
from ffdist.page.spans import read_trace
from ffdist.report.log import as_written
from ffdist.report.summary import summary
from ffdist.runtime.run import read_settings
from ffdist.snapshot import as_snapshot, pulled
from ffdist.snapshot.files import write_durably
from ffdist.trust import trusting

NAME = "report.html"
OURS = b'<meta name="generator" content="ffdist '
"""A mark in the head of every page, by which a file may be overwritten."""


def write_report(
    *runs: str | Path,
    out: str | Path | None = None,
    snapshot: str | int = "final",
    data: str | None = None,
    pictures: int | None = 10,
    trust: bool = False,
) -> Path:
    """Write what the runs did as a page of HTML; several runs are compared. It is written anew where it is there.

    out: the file. Default: report.html in the run's folder; of several runs, in this one.
    snapshot: whose mistakes are shown: "final", which the run ended with; "last"; the step of one that is kept;
        "best", where the run has marked one.
    data: another data set of the same shape and classes to measure it on; default: the run's own test split.
    pictures: how many there are of mistakes, and of class activation maps; None: nothing is measured.
    trust: as `ffdist.load` has it.
    Returns the file. Raises SnapshotError where there is no run, DataError for a run log that is not as it was written,
    ConfigError for a file that cannot be written, or is there and no such page.
    """
    if not runs:
        raise ConfigError("no run was given", expected="at least one run's folder")
    if pictures is not None and (isinstance(pictures, bool) or not isinstance(pictures, int) or pictures < 1):
        raise ConfigError("pictures has a wrong value", expected=">= 1, or None", got=repr(pictures))
    chosen = as_snapshot(snapshot)
    folders = list(dict.fromkeys(pulled(run) for run in runs))
    check_runs(folders)
    path = path_of(out) if out is not None else (folders[0] if len(folders) == 1 else Path()) / NAME
    check_free(path)
    with trusting(trust):
        views = [
            measured_view(run, name, chosen, data, pictures)
            for run, name in zip(folders, names_of(folders), strict=True)
        ]
    text = render(views, folders)
    try:
        write_durably(path, text.encode(errors="backslashreplace"))
    except OSError as error:
        raise ConfigError(
            "the page cannot be written",
            where=path,
            got=system_reason(error, path),
            remedy=remedy_of(error, "name another file: --out FILE; in Python out=FILE"),
        ) from error
    return path


def render(views: Sequence[RunView], folders: Sequence[Path]) -> str:
    """Raises DataError where a run log shows that it is not as a run has written it."""
    if len(folders) == 1:
        with as_written(folders[0]):
            return page(views)
    for view, folder in zip(views, folders, strict=True):
        with as_written(folder):
            page([view])
    return page(views)


def measured_view(run: Path, name: str, snapshot: str | int, data: str | None, pictures: int | None) -> RunView:
    """The view with what is measured, or why that is not."""
    with as_written(run):
        view = replace(view_run(run, name), trace=read_trace(run))
        summary(view.settings, view.defaults, view.records, view.end)  # which leaves out nothing that is not a number
    if pictures is None:
        return view
    if view.facts is None or not view.snapshots:
        if snapshot not in ("final", "last"):
            raise ConfigError("the run has no snapshot yet", where=run, got=f"snapshot {snapshot}")
        return replace(view, unmeasured="the run has no snapshot yet")
    try:
        if view.at_work:
            note(f"{name} is at work; what is measured takes turns with it")
        return replace(
            view,
            measured=measured(run, read_settings(run), view.facts, snapshot=snapshot, data=data, pictures=pictures),
        )
    except FfdistError as error:
        if snapshot not in ("final", "last") or data is not None:
            raise
        note(f"nothing is measured on the data of {name}: {why_not(error)}")
        return replace(view, unmeasured=why_not(error))


def check_free(path: Path) -> None:
    """Raises ConfigError for a file that is none of our pages, or that is no file."""
    if not path.exists():
        return
    if path.is_dir():
        raise ConfigError("the page's file is a folder", where=path, remedy=f"name a file in it: {path / NAME}")
    if path.is_file():
        with path.open("rb") as file:
            if OURS in file.read(4096):
                return
    raise ConfigError(
        "the file exists, and is not a report's page", where=path, remedy="choose another name, or remove it first"
    )
