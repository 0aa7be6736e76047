"""Prepared folders, opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock

import numpy as np

from ffdist.data.encoded import EncodedSplit
from ffdist.data.images import ArraySplit, Images, Split
from ffdist.data.manifest import DataManifest, read_manifest
from ffdist.data.pixel_file import PixelFile
from ffdist.data.remote_pixels import RemoteSplit
from ffdist.notes import note
from ffdist.remote import RemoteFolder

HELD = 2**28
"""Bytes of a split's pixels that stay in memory, at most; of a larger one each sample is read when it is taken."""


class ShardSplit(Split):
    """A split of a prepared folder. Opening it reads labels and sizes, and no pixels."""

    def __init__(self, folder: Path, manifest: DataManifest, name: str) -> None:
        self.source = (folder, manifest, name)
        self.shape_hwc = (*manifest.shape[1:], manifest.shape[0])
        self.width = int(np.prod(self.shape_hwc))
        self.files = [PixelFile(folder / shard.file, shard, manifest) for shard in manifest.splits[name].files]
        self.labels = np.concatenate([file.labels for file in self.files]).astype(np.int64)
        self.starts = np.cumsum([0, *(len(file.labels) for file in self.files)])
        manifest.splits[name].check_counts(self.labels, len(manifest.classes), f"{folder}, split {name}")
        self.held: np.ndarray | None = None
        """uint8 [N, H * W * C], of the shards that are here."""
        self.here: set[int] = set()
        # loader threads come at once for the same shards, each of which is read once
        self.lock = Lock()

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Raises DataError naming file and row of a shard that is gone or has changed."""
        owner = self.shard_of(indices)
        shards = np.unique(owner).tolist()
        if len(self) * self.width <= HELD:
            out = np.take(self.holding(shards), indices, axis=0)
            for shard in shards:
                self.files[shard].watch.check(ShardSampleName(self, shard, owner, indices))
        else:
            out = np.empty((len(indices), self.width), np.uint8)
            for shard in shards:
                mine = np.flatnonzero(owner == shard)
                self.files[shard].read(indices[mine] - self.starts[shard], mine, out)
        return out.reshape(len(indices), *self.shape_hwc)

    def holding(self, shards: Sequence[int]) -> np.ndarray:
        """`held` with these shards in it; each is read once."""
        if self.held is not None and self.here.issuperset(shards):
            return self.held
        with self.lock:
            if self.held is None:  # before anything is read: what `here` says is of this memory, after an error, too
                self.held = np.empty((len(self), self.width), np.uint8)
            for shard in set(shards) - self.here:
                rows = np.arange(len(self.files[shard].labels))
                self.files[shard].read(rows, self.starts[shard] + rows, self.held)
                self.here.add(shard)
            return self.held

    def shard_of(self, indices: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.starts, indices, side="right") - 1

    def digest(self) -> str:
        """A digest of the shards' checksums: no pixel is read."""
        _, manifest, name = self.source
        return manifest.splits[name].digest()

    def __reduce__(self) -> tuple:
        return ShardSplit, self.source  # another process opens the files itself


class ShardSampleName:
    """A name for the first sample taken from a shard, found only when an error is printed."""

    def __init__(self, split: ShardSplit, shard: int, owner: np.ndarray, indices: np.ndarray) -> None:
        self.split = split
        self.shard = shard
        self.owner = owner
        self.indices = indices

    def __str__(self) -> str:
        first = self.indices[np.argmax(self.owner == self.shard)]
        return self.split.files[self.shard].where(int(first - self.split.starts[self.shard]))


def open_split(folder: Path | RemoteFolder, manifest: DataManifest, name: str) -> Split:
    """One split of a prepared folder, by what its shards hold and where they are. Raises DataError as `open_folder`."""
    if manifest.splits[name].index:
        return EncodedSplit(folder, manifest, name)
    return (
        RemoteSplit(folder, manifest, name) if isinstance(folder, RemoteFolder) else ShardSplit(folder, manifest, name)
    )


def open_folder(folder: Path | RemoteFolder) -> Images:
    """A prepared folder; where it has no training split, that has no samples.

    Raises DataError for what cheap checks can find; `verify` finds the rest.
    """
    manifest = read_manifest(folder)
    if isinstance(folder, RemoteFolder) and any(each.digests is None for each in manifest.splits.values()):
        note(
            f"{folder}: prepared without digests of its samples, so its shards are read without them; prepare it again"
        )
    splits = {name: open_split(folder, manifest, name) for name in manifest.splits}
    channels, height, width = manifest.shape
    decoding = manifest.decoding and replace(manifest.decoding, size=(height, width))
    return Images(
        manifest.name,
        splits.get("train") or ArraySplit(np.empty((0, height, width, channels), np.uint8), np.empty(0, np.int64)),
        splits.get("test"),
        manifest.classes,
        manifest.shape,
        manifest.mean,
        manifest.std,
        validation=splits.get("validation"),
        decoding=decoding,
    )
