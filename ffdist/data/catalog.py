"""Data sets by name: what can be opened, what can be prepared, and whether what is prepared is whole."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from ffdist.cores import available_cores
from ffdist.data.ahead import in_order
from ffdist.data.digits import digits
from ffdist.data.encoded import EncodedSplit, check_shards
from ffdist.data.images import Images, Moments, Split
from ffdist.data.manifest import FORMAT, MANIFEST, Manifest, ShardFile, read_manifest
from ffdist.data.shards import open_folder, open_split, sha256
from ffdist.data.sources import KNOWN
from ffdist.data.sources.listing import is_junk, shown
from ffdist.data.watch import AGAIN
from ffdist.errors import DataError, setting

CHUNK = 256
"""Pictures that are measured at once."""


def open_data(name_or_folder: str | Path, image_size: int | None = None) -> Images:
    """The embedded "digits", or a prepared folder; its pictures resized to image_size x image_size where given.

    A name that is no folder is looked for in data/, where `ffdist data prepare NAME` puts it.
    Raises DataError for a name that is neither, and for a folder that is not whole.
    """
    if name_or_folder == "digits":
        images = replace(digits(), source="digits")
    elif folder := folder_of(name_or_folder):
        images = replace(open_folder(folder), source=str(folder.absolute()))
    else:
        raise unknown(str(name_or_folder))
    return images if image_size is None else images.at((image_size, image_size))


def folder_of(name_or_folder: str | Path) -> Path | None:
    """The folder of a data set, as told or in data/; None for what is embedded, or not there."""
    if name_or_folder == "digits":
        return None
    return next((path for path in (Path(name_or_folder), Path("data", name_or_folder)) if path.is_dir()), None)


def unknown(name: str) -> DataError:
    near = difflib.get_close_matches(name, ["digits", *KNOWN], 1)
    source = near[0] if near else "SOURCE"
    remedy = f"ffdist data prepare {source} --out FOLDER, then {setting('dataset.data', 'FOLDER')}"
    if os.sep in name:  # as runs name their data
        remedy = f"where they lie now: {setting('dataset.data', 'FOLDER')}; or make them: {remedy}"
    return DataError("unknown data set", expected="digits, or a prepared folder", got=name,
                     remedy="did you mean digits?" if source == "digits" else remedy)  # fmt: skip


def verify(folder: Path) -> Manifest:
    """Every check there is, down to the checksum of every byte and the mean of every pixel.

    Raises DataError for the first that fails.
    """
    manifest = read_manifest(folder)
    for name, split in manifest.splits.items():
        for shard in split.listed:  # first, as it says more than what follows from it
            check_sum(folder / shard.file, shard)
        opened = open_split(folder, manifest, name)
        if isinstance(opened, EncodedSplit):
            check_shards(opened)
        if name == manifest.measured or isinstance(opened, EncodedSplit):
            check_pixels(folder, manifest, name, opened)
    known = {MANIFEST} | {shard.file for split in manifest.splits.values() for shard in split.listed}
    extra = sorted(path.name for path in folder.iterdir() if path.name not in known and not is_junk(path.name))
    if extra:
        raise DataError("the folder holds what the manifest does not list", where=folder, got=shown(extra),
                        remedy="remove it: nothing reads it")  # fmt: skip
    return manifest


def check_sum(path: Path, shard: ShardFile) -> None:
    """Raises DataError for a shard of the right size with other bytes; opening it tells whatever else is wrong."""
    try:
        found = sha256(path) if path.stat().st_size == shard.bytes else shard.sha256
    except OSError:
        return
    if found != shard.sha256:
        raise DataError("a shard is corrupt", where=path, expected=f"sha256 {shard.sha256}", got=f"sha256 {found}",
                        remedy=AGAIN)  # fmt: skip


def check_pixels(folder: Path, manifest: Manifest, name: str, split: Split) -> None:
    """Raises DataError for a picture that cannot be decoded, and where mean or std are not those of the pixels."""
    seen = Moments(manifest.shape[0])
    parts = (np.arange(start, min(start + CHUNK, len(split))) for start in range(0, len(split), CHUNK))
    cores = available_cores() if isinstance(split, EncodedSplit) else 1
    for counts in in_order(partial(levels, split), parts, threads=cores, ahead=cores, name="ffdist-check"):
        seen.counts += counts
    if name != manifest.measured:
        return
    for what, told, found in zip(("mean", "std"), (manifest.mean, manifest.std), seen.result(), strict=True):
        if not np.allclose(told, found, rtol=1e-6, atol=1e-9):
            raise DataError(f"{what} in the manifest is not that of the {manifest.measured} pixels",
                            where=folder / MANIFEST, expected=found, got=told, remedy=AGAIN)  # fmt: skip


def levels(split: Split, rows: np.ndarray) -> np.ndarray:
    """Pixels of each level, int [C, 256]; encoded pictures in the size in which they were prepared."""
    if not isinstance(split, EncodedSplit):
        pictures = split.take(rows)
        return Moments(pictures.shape[-1]).add(pictures).counts
    seen = Moments(split.channels)
    for row in rows:
        seen.add(split.whole(row)[None])
    return seen.counts


@dataclass(frozen=True)
class Entry:
    """A data set in a list."""

    name: str
    state: Literal["embedded", "preparable", "prepared", "damaged"]
    """Damaged: a prepared folder whose manifest cannot be used; opening it says why."""
    shape: tuple[int, ...] | None
    """(C, H, W); None where its pictures differ in size."""
    num_classes: int
    counts: dict[str, int]
    """Samples of each split."""
    folder: Path | None = None


def embedded() -> Entry:
    """The digits."""
    images = digits()
    counts = {"train": len(images.train), "test": len(images.test or ())}
    return Entry("digits", "embedded", images.shape, images.num_classes, counts)


def list_data(root: Path) -> list[Entry]:
    """What is embedded, what can be prepared by name, and what is prepared in `root` or up to two levels below it."""
    entries = [embedded()]
    entries += [Entry(name, "preparable", k.shape, k.num_classes, k.counts) for name, k in KNOWN.items()]
    manifests = sorted(path for depth in ("", "*/", "*/*/") for path in root.glob(depth + MANIFEST))
    return entries + [prepared(path.parent) for path in manifests if is_ours(path)]


def is_ours(manifest: Path) -> bool:
    """Whether a file says that it is a manifest; one that cannot be read may be."""
    try:
        with manifest.open("rb") as file:
            return FORMAT.encode() in file.read(80)
    except OSError:
        return True


def prepared(folder: Path) -> Entry:
    try:
        manifest = read_manifest(folder)
    except DataError:
        return Entry(folder.name, "damaged", None, 0, {}, folder)
    counts = {name: split.rows for name, split in manifest.splits.items()}
    return Entry(manifest.name, "prepared", manifest.shape, len(manifest.classes), counts, folder)
