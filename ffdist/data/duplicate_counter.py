"""Pictures that are there more than once: a test on what was trained on says nothing."""

from __future__ import annotations

import numpy as np

from ffdist.data.duplicates import between


class DuplicateCounter:
    """Counts repeated pictures by digests of their pixels; twelve bytes of memory a picture."""

    def __init__(self) -> None:
        self.parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}

    def add(self, split: str, labels: np.ndarray, digests: np.ndarray) -> None:
        """Add samples of a split. labels: int32 [N]; digests: int64 [N], of the pixels."""
        self.parts.setdefault(split, []).append((labels, digests))

    def between(self) -> dict[str, int]:
        """Count the pictures of a split that are also in an earlier one, by both names: "test in train"."""
        splits = {split: np.concatenate([digests for _, digests in batches]) for split, batches in self.parts.items()}
        return {f"{later} in {earlier}": count for (later, earlier), count in between(splits).items()}

    def notes(self) -> list[str]:
        """A line for each kind of repetition."""
        rows = {split: sum(len(labels) for labels, _ in batches) for split, batches in self.parts.items()}
        notes = []
        for pair, count in self.between().items():
            later, _, earlier = pair.partition(" in ")
            notes.append(
                f"{count:,} of {rows[later]:,} pictures of {later} are also in {earlier}, pixel for pixel: "
                "accuracies on them are too high"
            )
        labels = np.concatenate([labels for batches in self.parts.values() for labels, _ in batches])
        pairs = np.unique(
            np.stack([np.concatenate([d for batches in self.parts.values() for _, d in batches]), labels], 1), axis=0
        )
        different = len(pairs) - len(np.unique(pairs[:, 0]))
        if different:
            notes.append(f"{different:,} pictures are in several classes, pixel for pixel")
        return notes
