"""A record of what a run was made with, in its folder: a line each time that it begins or goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from ffdist import environment
from ffdist.device import seen
from ffdist.errors import DataError, described
from ffdist.json_lines import read_json_lines, remove_cut_off
from ffdist.loading import import_seconds
from ffdist.notes import note
from ffdist.regular import append_to
from ffdist.report.log import writing
from ffdist.runtime.agent import agent_imports
from ffdist.runtime.run import write_settings
from ffdist.settings import Settings

ENVIRONMENT = "environment.jsonl"


def facts(launcher: str, stages: int, argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Facts of the process that starts the run; argv: the command, where it is not what has started this process.

    "import_seconds" is what torch and the like took in what has started the workers; what they took in these is in
    their logs. Environment variables are not recorded.
    """
    kind, number = seen()
    return {
        "command": environment.command_line(argv),
        "folder": str(Path.cwd()),
        "folder_commit": environment.commit_of(Path.cwd()),
        "launcher": launcher,
        "stages": stages,
        "import_seconds": round(agent_imports() if launcher == "torchrun" else import_seconds(), 2),
        "commit": environment.commit(),
        "accelerators": f"{number} {kind}" if kind else None,
        **environment.versions(),
        "torch": torch.__version__,  # with what it was built for
        **environment.host(),
    }


def note_start(run: Path, start: dict[str, Any], recorded: Settings | None = None) -> None:
    """The stages are ready: add what `facts` found to the folder, and the settings with which it goes on.

    Raises SnapshotError where it cannot be written, ConfigError where the settings cannot.
    """
    if recorded:
        write_settings(run, recorded)
    began = {"began": datetime.now().astimezone().isoformat(timespec="seconds")}
    path = run / ENVIRONMENT
    with writing(path):
        if remove_cut_off(path):
            note(f"{path}: the last line was cut off, and is removed")
        with append_to(path) as file:
            file.write(json.dumps(began | start) + "\n")


def read_starts(run: Path) -> list[dict[str, Any]]:
    """Read what `note_start` has written, oldest first; empty for a run of a version that wrote none.

    A last line that a crash has cut off is left out. Raises DataError for a file that cannot be read otherwise.
    """
    path = run / ENVIRONMENT
    try:
        return [dict(start.items()) for start in read_json_lines(path)]
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(
            "the record of a run's environment cannot be read",
            where=path,
            expected="a JSON object a line",
            got=described(error),
            remedy="remove the file: nothing else needs it",
        ) from error
