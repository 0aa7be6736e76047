"""The commit: a snapshot exists from the moment its manifest is renamed into place, and not before."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ffdist.errors import SnapshotError
from ffdist.snapshot.files import write_of_snapshot

FORMAT = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a committed snapshot holds: where the run stands, the file of each block, the epochs' records so far."""

    step: int
    epoch: int
    batch: int
    blocks: list[str]
    """Names of all blocks in order."""
    files: list[dict[str, Any]]
    """File name, bytes and sha256 of each block, in the blocks' order."""
    records: list[dict[str, Any]] = field(default_factory=list)
    beside: list[dict[str, Any]] = field(default_factory=list)
    """The same of files that belong to no block."""
    folder: Path = field(default_factory=Path)


def snapshot_folder(run: Path, step: int, epoch: int) -> Path:
    """Of the snapshot at that step with so many epochs ended: no two of a run share one."""
    return run / "snapshots" / f"step-{step:09d}-epoch-{epoch:05d}"


def commit(run: Path, manifest: Manifest, *, keep: int) -> None:
    """Call only when every file named by `manifest` is on disk. Then the `keep` newest snapshots stay, no older ones.

    What a stage may be writing already, of a later step, is not touched.
    """
    values = {name: value for name, value in asdict(manifest).items() if name != "folder"}
    folder = snapshot_folder(run, manifest.step, manifest.epoch)
    write_of_snapshot(folder / MANIFEST, json.dumps({"format": FORMAT, **values}, indent=1).encode())
    committed = [m for m in _folders(run) if (m / MANIFEST).exists()]
    kept = set(committed[-keep:])
    for old in _folders(run):
        if old < folder and old not in kept:
            _discard(old)


def latest(run: Path) -> Manifest | None:
    """The newest committed snapshot of a run; None when there is none yet."""
    committed = [folder for folder in _folders(run) if (folder / MANIFEST).exists()]
    return read_manifest(committed[-1]) if committed else None


def read_manifest(folder: Path) -> Manifest:
    """Raises SnapshotError when the manifest is not whole or of a format this version does not know."""
    path = folder / MANIFEST
    try:
        values = json.loads(path.read_text())
        found = values.pop("format")
        if found != FORMAT:
            raise SnapshotError("unknown snapshot format", where=path, expected=FORMAT, got=found,
                                remedy="use the version of ffdist that wrote it")  # fmt: skip
        return Manifest(**values, folder=folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, SnapshotError):
            raise
        raise SnapshotError("a manifest cannot be read", where=path, got=error,
                            remedy="delete this snapshot's folder to go on from the one before") from error  # fmt: skip


def _folders(run: Path) -> list[Path]:
    """Snapshot folders, oldest first; their names sort by step, then by epoch."""
    return sorted(path for path in (run / "snapshots").glob("step-*") if path.is_dir())


def _discard(folder: Path) -> None:
    """Manifest first, so that what is half deleted is no snapshot."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder)
