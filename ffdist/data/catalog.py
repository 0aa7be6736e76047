"""Data sets by name: what can be opened, what can be prepared, and whether what is prepared is whole."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ffdist.data.digits import digits
from ffdist.data.images import Images
from ffdist.data.manifest import FORMAT, MANIFEST, Manifest, read_manifest
from ffdist.data.shards import AGAIN, ShardSplit, open_folder, sha256
from ffdist.data.sources import KNOWN
from ffdist.errors import DataError


def open_data(name_or_folder: str | Path, image_size: int | None = None) -> Images:
    """The embedded "digits", or a prepared folder; its pictures resized to image_size x image_size where given.

    A name that is no folder is looked for in data/, where `ffdist data prepare NAME` puts it.
    Raises DataError for a name that is neither, and for a folder that is not whole.
    """
    if name_or_folder == "digits":
        images = digits()
    elif folders := [path for path in (Path(name_or_folder), Path("data", name_or_folder)) if path.is_dir()]:
        images = open_folder(folders[0])
    else:
        raise unknown(str(name_or_folder))
    return images if image_size is None else replace(images, shape=(images.shape[0], image_size, image_size))


def unknown(name: str) -> DataError:
    near = difflib.get_close_matches(name, ["digits", *KNOWN], 1)
    source = near[0] if near else "SOURCE"
    remedy = f"ffdist data prepare {source} --out FOLDER, then --data FOLDER"
    return DataError("unknown data set", expected="digits, or a prepared folder", got=name,
                     remedy="did you mean digits?" if source == "digits" else remedy)  # fmt: skip


def verify(folder: Path) -> Manifest:
    """Every check there is, down to the checksum of every byte. Raises DataError for the first that fails."""
    manifest = read_manifest(folder)
    for name, split in manifest.splits.items():
        ShardSplit(folder, manifest, name)
        for shard in split.files:
            found = sha256(folder / shard.file)
            if found != shard.sha256:
                raise DataError("a shard is corrupt", where=folder / shard.file, expected=f"sha256 {shard.sha256}",
                                got=f"sha256 {found}", remedy=AGAIN)  # fmt: skip
    return manifest


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


def list_data(root: Path) -> list[Entry]:
    """What is embedded, what can be prepared by name, and what is prepared in `root` or up to two levels below it."""
    images = digits()
    counts = {"train": len(images.train), "test": len(images.test or ())}
    entries = [Entry("digits", "embedded", images.shape, images.num_classes, counts)]
    entries += [Entry(name, "preparable", k.shape, k.num_classes, k.counts) for name, k in KNOWN.items()]
    manifests = sorted(path for depth in ("", "*/", "*/*/") for path in root.glob(depth + MANIFEST))
    return entries + [prepared(path.parent) for path in manifests if FORMAT.encode() in path.read_bytes()[:80]]


def prepared(folder: Path) -> Entry:
    try:
        manifest = read_manifest(folder)
    except DataError:
        return Entry(folder.name, "damaged", None, 0, {}, folder)
    counts = {name: split.rows for name, split in manifest.splits.items()}
    return Entry(manifest.name, "prepared", manifest.shape, len(manifest.classes), counts, folder)
