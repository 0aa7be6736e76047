"""A stage's files of a snapshot, written in the background, and the word that they are on disk."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, wait
from typing import Any

from ffdist.pipeline.message import Snapshot, Written

Files = Mapping[str, Future[dict[str, Any]]]
"""By its name, each file that is being written: what the manifest says of it, when it is on disk."""


class BackgroundSnapshot:
    """A stage's part of the snapshot at work; there is at most one, so that one copy of the blocks is held."""

    def __init__(self) -> None:
        self.at = (0, 0)
        """The snapshot's step and epoch."""
        self.files: dict[str, Future[dict[str, Any]]] = {}

    def begin(self, marker: Snapshot, files: Files) -> None:
        """Take on files that are being written; their names go to `marker.awaited`, for which the commit waits."""
        self.at = marker.step, marker.epoch
        self.files |= files
        marker.awaited += files

    def wait(self) -> None:
        """Wait until nothing is being written; what writing raised is raised by `written`."""
        wait(self.files.values())

    def written(self) -> Written | None:
        """The message that all files are on disk, given once; None before, and where nothing is being written. Raises
        what writing raised."""
        if not self.files or not all(file.done() for file in self.files.values()):
            return None
        files, self.files = self.files, {}
        return Written(*self.at, [file.result() for file in files.values()])

    def end(self) -> None:
        """Wait until nothing is being written, so that who resumes the run finds the disk quiet, and forget the
        files."""
        self.wait()
        self.files = {}
