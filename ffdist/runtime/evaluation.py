"""A trained run, measured: by the stage that trained it, so that the numbers are those of training, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ffdist.data import Images
from ffdist.errors import DataError, setting
from ffdist.pipeline.message import EndOfSplit, EvalBatch
from ffdist.pipeline.plan import build_block
from ffdist.pipeline.predictors import Tally, last_weights
from ffdist.pipeline.stage import Stage
from ffdist.runtime.run import with_snapshot
from ffdist.runtime.start import make_job
from ffdist.settings import Settings
from ffdist.snapshot import Manifest, SnapshotStore


class Confusion:
    """How often a sample of one class was taken for another: counts int64 [K, K], true classes down."""

    def __init__(self, num_classes: int) -> None:
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def add(self, scores: Tensor, y: Tensor) -> None:
        """scores: [B, K]; y: int64 [B]."""
        size = len(self.counts)
        self.counts += torch.bincount(y * size + scores.argmax(1), minlength=size**2).view(size, size)


def measure_run(
    run: Path, settings: Settings, images: Images, *, batch_size: int | None = None
) -> tuple[dict[str, Any], dict[str, Confusion]]:
    """The last snapshot on the test split of `images`: a record as training makes of it, each predictor's confusion.

    batch_size: default the run's own. Raises DataError without a test split, SnapshotError as `SnapshotStore.load`.
    """
    size = batch_size or settings.training.batch_size
    parts = min(settings.training.microbatches, size)
    job = make_job(settings.changed(batch_size=size, microbatches=parts), images, run, resume=True)
    loader = job.test_loader()
    if loader is None:
        raise DataError("the data have no test split", where=images.name, expected="a test split",
                        got=f"splits {', '.join(images.splits)}",
                        remedy=f"name data that have one: {setting('dataset.data')}, or prepare these with "
                        f"{setting('test_fraction')}")  # fmt: skip
    config = job.block_config(torch.device("cpu"), 1)
    store = SnapshotStore(run, job.names)
    stage = Stage(0, [build_block(job.chain, site, job.objective, config) for site in job.sites()], store.save)

    def load(manifest: Manifest) -> Manifest:
        store.load(stage.blocks, manifest)
        return manifest

    manifest = with_snapshot(run, load)
    stage.end_split(EndOfSplit("train", 0))  # what was counted before the snapshot
    tally, weights = Tally(), last_weights(manifest.records)
    confusions: dict[str, Confusion] = {}
    for x, y in loader.epoch(0):
        batch = stage.evaluate(EvalBatch("test", job.objective.prepare_eval(x, images.num_classes), y))
        for name, scores in tally.add(batch, weights).items():
            confusions.setdefault(name, Confusion(images.num_classes)).add(scores, y)
    return tally.result(stage.end_split(EndOfSplit("test", 0)).blocks), confusions
