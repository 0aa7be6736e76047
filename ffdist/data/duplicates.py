"""Samples that are there more than once: a test on what was trained on says nothing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ffdist.data.row_digests import digests_of
from ffdist.notes import note

ORDER = ("train", "validation", "test")


def between(splits: Mapping[str, np.ndarray]) -> dict[tuple[str, str], int]:
    """Count the samples of a split that are also in an earlier one, where there are any.

    splits: digests int64 [N] of each.
    """
    names = [name for name in ORDER if name in splits]
    pairs = [(later, earlier) for place, later in enumerate(names) for earlier in names[:place]]
    counts = {(later, earlier): int(np.isin(splits[later], splits[earlier]).sum()) for later, earlier in pairs}
    return {pair: count for pair, count in counts.items() if count}


def note_duplicates(splits: Mapping[str, np.ndarray], where: str) -> None:
    """A line for each two splits that share samples. splits: samples [N, ...] in memory."""
    if len(splits) < 2:
        return
    digests = {
        name: digests_of(np.ascontiguousarray(sample).data for sample in samples) for name, samples in splits.items()
    }
    for (later, earlier), count in between(digests).items():
        note(
            f"{where}: {count:,} of {len(splits[later]):,} samples of {later} are also in {earlier}, bit for bit: "
            "accuracies on them are too high"
        )
