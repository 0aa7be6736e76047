"""Pictures that are there more than once: a test on what was trained on says nothing."""

from __future__ import annotations

import numpy as np


class Twice:
    """Counts them by digests of their pixels, twelve bytes a picture."""

    def __init__(self) -> None:
        self.parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}

    def add(self, split: str, labels: np.ndarray, digests: np.ndarray) -> None:
        """labels: int32 [N]; digests: int64 [N]."""
        self.parts.setdefault(split, []).append((labels, digests))

    def notes(self) -> list[str]:
        """A line for each kind of repetition."""
        splits = {split: np.concatenate([digests for _, digests in of]) for split, of in self.parts.items()}
        told = []
        names = [name for name in ("train", "validation", "test") if name in splits]
        for place, later in enumerate(names):
            for earlier in names[:place]:
                same = int(np.isin(splits[later], splits[earlier]).sum())
                if same:
                    told.append(f"{same:,} of {len(splits[later]):,} pictures of {later} are also in {earlier}, pixel "
                                "for pixel: accuracies on them are too high")  # fmt: skip
        labels = np.concatenate([labels for of in self.parts.values() for labels, _ in of])
        pairs = np.unique(
            np.stack([np.concatenate([d for of in self.parts.values() for _, d in of]), labels], 1), axis=0
        )
        different = len(pairs) - len(np.unique(pairs[:, 0]))
        if different:
            told.append(f"{different:,} pictures are in several classes, pixel for pixel")
        return told
