"""Prepared folders, opened: shards of pixels are read through the memory map without a copy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from ffdist.data.encoded import EncodedSplit
from ffdist.data.images import ArraySplit, Images, Split, check_labels
from ffdist.data.manifest import Manifest, ShardFile, read_manifest
from ffdist.data.remote_pixels import RemoteSplit
from ffdist.data.shard_files import columns_in, shard_schema, unreadable
from ffdist.data.watch import Watch
from ffdist.remote import Remote


class ShardSplit(Split):
    """A split of a prepared folder. Opening it reads labels and sizes, and no pixels."""

    def __init__(self, folder: Path, manifest: Manifest, name: str) -> None:
        self.source = (folder, manifest, name)
        self.shape_hwc = (*manifest.shape[1:], manifest.shape[0])
        files = manifest.splits[name].files
        self.watched = [Watch(folder / shard.file, shard) for shard in files]
        opened = [open_shard(folder / shard.file, shard, manifest) for shard in files]
        self.shards = [pixels for pixels, _ in opened]
        self.labels = np.concatenate([labels for _, labels in opened]).astype(np.int64)
        self.starts = np.cumsum([0, *(len(pixels) for pixels in self.shards)])
        manifest.splits[name].check_counts(self.labels, len(manifest.classes), f"{folder}, split {name}")

    def take(self, indices: np.ndarray) -> np.ndarray:
        out = np.empty((len(indices), self.shards[0].shape[1]), np.uint8)
        owner = self.shard_of(indices)
        for shard in np.unique(owner):
            self.watched[shard].check()  # before: a page behind the end of a file that was cut off ends the process
            mine = np.flatnonzero(owner == shard)
            out[mine] = self.shards[shard][indices[mine] - self.starts[shard]]
            self.watched[shard].check()  # and behind: what was read is what was opened
        return out.reshape(len(indices), *self.shape_hwc)

    def shard_of(self, indices: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.starts, indices, side="right") - 1

    def digest(self) -> str:
        """Of the shards' checksums: no pixel is read."""
        _, manifest, name = self.source
        return manifest.splits[name].digest()

    def __reduce__(self) -> tuple:
        return ShardSplit, self.source  # another process maps the files itself


def open_shard(path: Path, shard: ShardFile, manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 [N, H * W * C] and labels int32 [N], both in the memory map.

    Raises DataError for a shard of another schema, or that has a label out of range.
    """
    schema = shard_schema(manifest.shape, manifest.superclass is not None)
    try:
        pixels, labels = columns(path, schema, shard.rows)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise unreadable(path, shard.rows, error) from error
    check_labels(labels, len(manifest.classes), path)
    return pixels, labels


def columns(path: Path, schema: pa.Schema, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and labels of the only record batch."""
    with pa.memory_map(str(path)) as source:  # its buffers outlive the open file
        return columns_in(source, schema, rows)


def open_split(folder: Path | Remote, manifest: Manifest, name: str) -> Split:
    if manifest.splits[name].index:
        return EncodedSplit(folder, manifest, name)
    return RemoteSplit(folder, manifest, name) if isinstance(folder, Remote) else ShardSplit(folder, manifest, name)


def open_folder(folder: Path | Remote) -> Images:
    """A prepared folder, memory-mapped where it is here; where it has no training split, that has no samples.

    Raises DataError for what cheap checks can find; `verify` finds the rest.
    """
    manifest = read_manifest(folder)
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
        manifest.superclass,
        validation=splits.get("validation"),
        decoding=decoding,
    )
