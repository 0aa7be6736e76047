"""A description of a prepared data set, for a program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ffdist.data.manifest import DataManifest, read_manifest
from ffdist.options import path_of
from ffdist.remote import RemoteFolder


def describe(folder: str | Path | RemoteFolder, manifest: DataManifest | None = None) -> dict[str, Any]:
    """Classes, shape, counts by split and class, sizes, how splits were drawn, duplicates, what was left out and why.
    It is what `ffdist data prepare --json` and `ffdist data check --json` print.

    folder: prepared, here or remote. Raises DataError for one that is not, or that is damaged.
    """
    manifest = manifest or read_manifest(
        folder if isinstance(folder, RemoteFolder) else RemoteFolder.of(folder) or path_of(folder)
    )
    drawn, decoding = manifest.held_out, manifest.decoding
    return {
        "folder": str(folder),
        "name": manifest.name,
        "classes": manifest.classes,
        "shape": manifest.shape,
        "mean": manifest.mean,
        "std": manifest.std,
        "splits": {
            name: {"samples": split.rows, "by_class": split.counts, "bytes": sum(file.bytes for file in split.listed)}
            for name, split in manifest.splits.items()
        },
        "store": "encoded" if manifest.encoded else "pixels",
        "decoding": None if decoding is None else vars(decoding),
        "held_out": None if drawn is None else vars(drawn),
        "duplicates": manifest.duplicates,
        "left_out": [vars(entry) for entry in manifest.left_out],
        "notes": manifest.notes,
    }
