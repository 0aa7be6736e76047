"""Batches that brought a block to NaN or infinity: which samples they had, kept in the run's folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ffdist.data import Loader
from ffdist.errors import SnapshotError, described
from ffdist.notes import note
from ffdist.pipeline.finite import Nonfinite
from ffdist.regular import read_text
from ffdist.report.log import writing
from ffdist.snapshot.files import block_file, write_durably

KEPT = "nonfinite"
"""In a run's folder: a file for each block that such a batch came to."""
MAX_NOTES = 5
"""Batches that one worker notes on stderr, at most; all are kept."""


@dataclass
class NonfiniteRecorder:
    """Keeps the numbers of such batches' samples."""

    run: Path | None
    make_loader: Callable[[], Loader]
    """Makes the loader of the training split, as the source has it."""
    leads: bool = True
    """Whether this worker keeps what it finds: of what all that share a stage know, one of them alone does."""
    log: Callable[[str], object] = lambda text: None
    worker: int = 0
    """Several may find the same batch, and keep it at the same time, before the run stops."""
    count: int = 0

    @cached_property
    def loader(self) -> Loader:
        """Made at the first such batch: most runs have none."""
        return self.make_loader()

    def __call__(self, found: Nonfinite) -> str | None:
        """Keep the batch's samples; return their file, None where the run keeps nothing. Raises SnapshotError where
        that cannot be written."""
        samples = numbers_of(self.loader, found.step)
        values = {
            "batch": found.step,
            "epoch": found.epoch + 1,
            "block": found.spec.name,
            "what": found.trouble.what,
            "value": repr(found.trouble.value),
            "skipped": found.skipped,
            "samples": samples.tolist(),
        }
        path = self.run and self.run / KEPT / name_of(found)
        if path and (self.leads or not found.skipped):
            with writing(path):
                write_durably(path, (json.dumps(values) + "\n").encode(), writer=f"worker-{self.worker}")
        if found.skipped and self.leads:
            self._note(found, path)
        return str(path) if path else None

    def _note(self, found: Nonfinite, path: Path | None) -> None:
        self.count += 1
        text = f"{found.spec.name} skipped batch {found.step} of epoch {found.epoch + 1}: {found.trouble.what} "
        text += f"{found.trouble.value}"
        self.log(text)
        if self.count <= MAX_NOTES:
            more = "; more are kept there, without a note" if self.count == MAX_NOTES else ""
            note(text + (f"; its samples' numbers: {path}{more}" if path else ""))


def name_of(found: Nonfinite) -> str:
    """The file's name, by which `kept_batches` sorts: batch first, then block."""
    block = block_file(found.spec.index, found.spec.name).removesuffix(".safetensors")
    return f"batch-{found.step:09d}-{block}.json"


def numbers_of(loader: Loader, step: int) -> np.ndarray:
    """The places in the training split, from 0, of the samples of batch `step` of a run, from 1, in their order."""
    epoch, batch = divmod(step - 1, len(loader))
    return loader.order(epoch)[batch * loader.batch_size : (batch + 1) * loader.batch_size]


def kept_batches(run: Path) -> list[dict[str, Any]]:
    """Read the kept samples of such batches, in order. Raises SnapshotError for a file that is none of these."""
    found = []
    for path in sorted((run / KEPT).glob("batch-*.json")):
        try:
            values = json.loads(read_text(path))
            values["batch"] = int(values["batch"])
            found.append(values)
        except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
            raise SnapshotError(
                "the record of a batch cannot be read",
                where=path,
                got=described(error),
                remedy="name the batch by its number, or remove the file",
            ) from error
    return found
