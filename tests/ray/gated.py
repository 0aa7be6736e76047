"""A small job that stands still at a gate until a test opens it: so a test can kill something at one known moment."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ffdist.data import Split, open_data
from ffdist.errors import DataError
from ffdist.events import EpochEnded, RunEvent
from ffdist.presets import with_preset
from ffdist.runtime.folder import write_run_files
from ffdist.runtime.job import Job
from ffdist.runtime.start import make_job
from ffdist.settings import Settings

SETTINGS = with_preset(Settings(), "digits").changed(
    samples=400,
    batch_size=40,
    epochs=4,
    threads=1,
    device="cpu",
    model_args=("widths=8,12,16",),
    cut=(1, 2),
)
TAKEN = 2 * 400
"""Samples: behind the second epoch (of 320, and 80 of validation); when it has ended, the first has its snapshot."""


class GatedSplit(Split):
    """A split that waits, behind so many samples, for somebody to hold the gate (a FIFO) open."""

    def __init__(self, split: Split, gate: Path) -> None:
        self.split = split
        self.gate = gate
        self.labels = split.labels
        self.taken = 0

    def take(self, indices: np.ndarray) -> np.ndarray:
        if self.taken >= TAKEN:
            self.gate.open("rb").close()
        self.taken += len(indices)
        return self.split.take(indices)

    def digest(self) -> str:
        return self.split.digest()


@dataclass(frozen=True)
class GatedJob:
    """Picklable, as `SettingsJob` is."""

    run: Path
    gate: Path | None = None
    settings: Settings = SETTINGS
    workers: int = 2

    def __call__(self) -> Job:
        images = open_data("digits")
        if self.gate:
            images = replace(images, train=GatedSplit(images.train, self.gate))
        return make_job(self.settings, images, self.run, self.workers)


@dataclass(frozen=True)
class WaitingJob:
    """One that is made only when a file is there."""

    run: Path
    file: Path

    def __call__(self) -> Job:
        while not self.file.exists():
            time.sleep(0.05)
        return GatedJob(self.run)()


class Broken:
    """A job whose data cannot be opened."""

    def __call__(self) -> Job:
        raise DataError("the data are nowhere")


def begun(run: Path, settings: Settings = SETTINGS) -> Path:
    write_run_files(run, settings, open_data("digits"))
    return run


def new_gate(folder: Path) -> Path:
    os.mkfifo(folder / "gate")
    return folder / "gate"


def open_gate(gate: Path) -> int:
    """From now on nobody waits there, as long as the descriptor is open."""
    return os.open(gate, os.O_RDWR)


def drive(run: Path, gate: Path, address: str) -> None:
    """A driver of its own process, that says how far it is."""
    from ffdist.runtime.ray import RayOptions, run_ray

    def say(event: RunEvent) -> None:
        print(event.name, event.record["epoch"] if isinstance(event, EpochEnded) else "", flush=True)

    run_ray(GatedJob(run, gate), 2, say, run=run, options=RayOptions(address))


if __name__ == "__main__":
    drive(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
