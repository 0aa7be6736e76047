"""Whatever the queues hold and however large the batches are, stages learn what one process does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from jobs import QUIET, DigitsJob, fingerprint

from ffdist.data import from_tensors, open_data
from ffdist.runtime.threads import run_threads


@pytest.mark.parametrize(("batch_size", "queue"), [(1, 1), (1, 64), (4096, 1), (4096, 64)])
def test_queues_of_1_to_64_and_batches_of_1_to_4096_change_nothing(tmp_path: Path, batch_size: int, queue: int) -> None:
    split = open_data("digits").train
    count = 40 if batch_size == 1 else len(split)
    samples = split.take(np.arange(count))
    images = from_tensors(samples, split.labels[:count], channels_last=True, classes=[*"0123456789"])
    for stages in (1, 3):
        options = {"stages": stages, "queue": queue, "batch_size": batch_size}
        job = DigitsJob(tmp_path / str(stages), epochs=1, settings=options)()
        run_threads(replace(job, images=images), QUIET)
    assert fingerprint(tmp_path / "1") == fingerprint(tmp_path / "3")
