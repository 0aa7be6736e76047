"""Small jobs on the embedded digits, for tests of the trainer."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ffdist.data import open_data
from ffdist.events import ProgressMade, RunEvent, SnapshotCommitted
from ffdist.models import Chain, cnnb
from ffdist.objectives import SFF, Objective
from ffdist.runtime.job import Job
from ffdist.runtime.planning import count_workers
from ffdist.runtime.threads import run_threads
from ffdist.settings import Settings
from ffdist.snapshot import latest

NEEDS_MUON = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="needs torch.optim.Muon, of torch 2.9")
QUIET = lambda event: None  # noqa: E731 - a reporter that tells nobody


@dataclass(frozen=True)
class Noisy:
    """Builds a linear block with dropout, which draws random numbers in every step."""

    in_features: int
    out_features: int

    def __call__(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(self.in_features, self.out_features), nn.ReLU(), nn.Dropout(0.2))


def noisy_chain(width: int = 24) -> Chain:
    """Three blocks with dropout for the digits."""
    sizes = [64, width, width, width]
    blocks = [(f"noisy{i + 1}", Noisy(sizes[i], sizes[i + 1])) for i in range(3)]
    return Chain(blocks, input_shape=(1, 8, 8), num_classes=10)


@dataclass(frozen=True)
class DigitsJob:
    """Makes a small job; can be sent to another process."""

    run: Path | None = None
    epochs: int = 2
    objective: Objective = field(default_factory=SFF)
    settings: dict[str, Any] = field(default_factory=dict)
    noisy: bool = False
    """Dropout in every block; the small convolutional network otherwise."""

    def __call__(self) -> Job:
        images = open_data("digits")
        if self.run is not None:
            self.run.mkdir(parents=True, exist_ok=True)
        options = {"batch_size": 64, "threads": 1, "augment": ("crop",), "device": "cpu"} | self.settings
        own = {name: options.pop(name) for name in ("resume", "report_every") if name in options}
        if not {"stages", "cut", "plan", "replicas", "devices"} & options.keys():
            options["stages"] = 1
        settings = Settings().changed(epochs=self.epochs, **options)
        chain = noisy_chain() if self.noisy else cnnb(images.shape, images.num_classes, (8, 12, 16))
        job = Job(chain, self.objective, images, settings, run=self.run, **own)
        return replace(job, workers=count_workers(settings, job.names, None))


class PowerCutError(Exception):
    """What ends a run in these tests."""


def cut_power_at(step: int, make: DigitsJob) -> None:
    """Run until a batch has been reported, and the snapshot that was due before it is committed, then fail; threads
    that work ahead may get further."""
    every = make.settings.get("snapshot_every")
    due = step // every * every if every else 0
    reached = committed = 0

    def report(event: RunEvent) -> None:
        nonlocal reached, committed
        match event:
            case SnapshotCommitted(step=at):
                committed = at
            case ProgressMade(step=at):
                reached = at
            case _:
                return
        if reached >= step and committed >= due:
            raise PowerCutError

    with pytest.raises(PowerCutError):
        run_threads(replace(make, settings=make.settings | {"report_every": 0.0})(), report)


def fingerprint(run: Path) -> list[str]:
    """The sha256 of every block's file in the last snapshot: weights, buffers, optimiser, schedule, counts."""
    manifest = latest(run)
    assert manifest is not None
    return [f"{manifest.step} {entry['file']} {entry['sha256']}" for entry in manifest.files]


def learned(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records without times and places: what every cut must agree on."""
    return [
        {
            name: {k: v for k, v in part.items() if k != "samples_per_second"}
            for name, part in record.items()
            if isinstance(part, dict)
        }
        for record in records
    ]


def live_tensor_bytes() -> int:
    """Bytes of all tensors that are alive in this process, each storage once."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, nn.Parameter) and thing.layout == torch.strided and not thing.is_meta:
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())
