"""Neighbours among the transforms of a user's own that change a picture at a time, done together.

They draw from the generators of a process, so that threads can only take turns. With several workers each has a process
for them; what a picture becomes is decided by its seeds, whoever changes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from weakref import WeakValueDictionary

import numpy as np

from ffdist.data.readers import Readers
from ffdist.data.transforms.called import CallableTransform
from ffdist.data.transforms.load import load_transforms


class CallableTransforms:
    """The transforms, as a process gets them: by their names and options."""

    what: str = "transforms"
    alone: str = "its pictures are changed one after another"

    def __init__(self, transforms: Sequence[CallableTransform]) -> None:
        self.transforms = list(transforms)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(str(each.as_call()) for each in self.transforms)

    @property
    def where(self) -> str:
        return f"transform {' '.join(self.names)}"

    def __getstate__(self) -> tuple[str, ...]:
        return self.names

    def __setstate__(self, names: tuple[str, ...]) -> None:
        self.transforms = [each for each in load_transforms(names) if isinstance(each, CallableTransform)]

    def read(self, x: np.ndarray, seeds: Sequence[np.ndarray]) -> np.ndarray:
        """x: contiguous [B, H, W, C], changed in place; seeds: of each transform, int64 [B]."""
        for transform, own in zip(self.transforms, seeds, strict=True):
            transform.change(x, own.tolist())
        return x


_POOLS: WeakValueDictionary[tuple[tuple[str, ...], int], Readers] = WeakValueDictionary()
# stages that are threads of one process make their loaders at the same time, and share a pool
_POOLS_LOCK = Lock()


def pool(changes: CallableTransforms, count: int) -> Readers:
    """`count` processes for these transforms; loaders that live at the same time share them."""
    key = (changes.names, count)
    with _POOLS_LOCK:
        found = _POOLS.get(key)
        if found is None or found.lost:
            found = _POOLS[key] = Readers(changes, count)
        return found


class CallableSteps:
    """Neighbouring callable transforms, applied in one go.

    workers: threads that make batches side by side; from 2 on each has a process, once the first batch is made.
    """

    def __init__(self, transforms: Sequence[CallableTransform], workers: int) -> None:
        self.transforms = list(transforms)
        self.changes = CallableTransforms(transforms)
        self.readers = pool(self.changes, workers) if workers > 1 else None

    def batch(self, x: np.ndarray, drawn: Sequence[np.ndarray]) -> np.ndarray:
        """x: contiguous [B, H, W, C], whose memory may be used again; drawn: float64 [B, 2] of each transform."""
        seeds = [each.seeds(own) for each, own in zip(self.transforms, drawn, strict=True)]
        if self.readers is None or not len(x):
            return self.changes.read(x, seeds)
        self.readers.start()
        return self.readers.read((x, seeds), (x.dtype, x.shape))
