"""The commit: a snapshot exists from the moment its manifest is renamed into place, and not before."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeGuard

from ffdist.digests import DIGEST, with_digest, without_digest
from ffdist.errors import DamagedSnapshotError, SnapshotError
from ffdist.pipeline.sink import counted_from_one
from ffdist.regular import read_text
from ffdist.snapshot.files import write_of_snapshot
from ffdist.snapshot.mirror import fetch_file
from ffdist.snapshot.records import RECORDS, read_packed

FORMAT = 4
"""Since 2 a manifest has a digest of itself; since 3 its records count epochs from 1; since 4 all but the newest are in
a file of their own."""
MANIFEST = "manifest.json"
NAME = re.compile(r"step-\d{9,19}-epoch-\d{5,19}")
"""A snapshot's folder, as `snapshot_folder` makes it."""
UNFINISHED = f"has no {MANIFEST}: it was not finished, or is being written"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The contents of a committed snapshot: where the run stands, the file of each block, the epochs' records so
    far."""

    step: int
    epoch: int
    """Epochs that are over."""
    batch: int
    """Batches learned since."""
    blocks: list[str]
    """Names of all blocks in order."""
    files: list[dict[str, Any]]
    """File name, bytes and sha256 of each block, in the blocks' order."""
    records: list[dict[str, Any]] = field(default_factory=list)
    """All of the run so far; in the file those that are not in `record_file`."""
    extra_files: list[dict[str, Any]] = field(default_factory=list)
    """The same of files that belong to no block."""
    record_file: dict[str, Any] | None = None
    """The same of the file with the earlier records; None where there are few."""
    folder: Path = field(default_factory=Path)

    @property
    def epochs_begun(self) -> int:
        """Epochs that are over or begun: a run cannot have fewer."""
        return self.epoch + (self.batch > 0)


def snapshot_folder(run: Path, step: int, epoch: int) -> Path:
    """The folder of the snapshot at that step with so many epochs ended: no two of a run share one."""
    return run / "snapshots" / f"step-{step:09d}-epoch-{epoch:05d}"


def commit(run: Path, manifest: Manifest) -> None:
    """Call only when every file named by `manifest` is on disk. Its records are those that no such file has."""
    names = [each.name for each in fields(manifest) if each.name != "folder"]
    values = {"format": FORMAT} | {name: getattr(manifest, name) for name in names}
    folder = snapshot_folder(run, manifest.step, manifest.epoch)
    text = json.dumps(with_digest(values), indent=1)
    write_of_snapshot(folder / MANIFEST, text.encode())


def discard_others(run: Path, manifest: Manifest, *, keep: int, best: Path | None = None) -> None:
    """The `keep` newest snapshots stay, and `best`; no others that are older than this one.

    What a stage may be writing already, of a later step, is not touched.
    """
    folder = snapshot_folder(run, manifest.step, manifest.epoch)
    kept = {*committed(run)[-keep:], best}
    for old in _folders(run):
        if old < folder and old not in kept:
            discard(old)


def committed(run: Path) -> list[Path]:
    """The folders of a run's committed snapshots, oldest first; whether they are whole is another matter."""
    while True:
        folders = _folders(run)
        found = [folder for folder in folders if (folder / MANIFEST).is_file()]
        # none, in a list that has changed: a run at work has discarded these meanwhile, and made others
        if found or folders == _folders(run):
            return found


def read_manifest(folder: Path) -> Manifest:
    """Raises DamagedSnapshotError when the manifest is not as it was written, SnapshotError when it is of a format this
    version does not know."""
    path = folder / MANIFEST
    fetch_file(path)
    try:
        return _parsed(json.loads(read_text(path)), folder)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, SnapshotError):
            raise
        raise DamagedSnapshotError(
            "a manifest cannot be read", where=path, got=error, remedy="restore it, or start a new run"
        ) from error


def _parsed(values: Any, folder: Path) -> Manifest:
    """Raises ValueError, TypeError or KeyError for what ffdist did not write, or not in this folder."""
    found = values.get("format") if isinstance(values, dict) else None
    if not _is_count(found):
        raise ValueError("no format")
    if found > FORMAT:
        raise SnapshotError(
            "unknown snapshot format",
            where=folder / MANIFEST,
            expected=f"<= {FORMAT}",
            got=found,
            remedy="use the version of ffdist that wrote it",
        )
    if found >= 2 and DIGEST not in values:
        raise ValueError("no digest")
    values = without_digest(values)
    del values["format"]
    if "beside" in values:  # as it was called before
        values["extra_files"] = values.pop("beside")
    manifest = Manifest(**values, folder=folder)
    _check_types(manifest)
    if manifest.record_file:
        path = folder / RECORDS
        fetch_file(path)
        manifest.records[:0] = read_packed(path, manifest.record_file)
        _check_records(manifest.records)
    manifest = replace(manifest, records=counted_from_one(manifest.records))
    if (named := snapshot_folder(Path(), manifest.step, manifest.epoch).name) != folder.name:
        raise ValueError(f"it is {named}'s")
    return manifest


def _check_types(manifest: Manifest) -> None:
    """Raises ValueError or TypeError; what a digest protects passes, and older manifests have none."""
    if not all(map(_is_count, (manifest.step, manifest.epoch, manifest.batch))):
        raise TypeError("step, epoch and batch are no counts")
    if not all(
        isinstance(part, list) for part in (manifest.blocks, manifest.files, manifest.records, manifest.extra_files)
    ):
        raise TypeError("blocks, files, records and extra_files are no lists")
    if not all(isinstance(name, str) for name in manifest.blocks) or len(manifest.files) != len(manifest.blocks):
        raise ValueError("blocks and files do not fit")
    packed = [manifest.record_file] if manifest.record_file else []
    if [entry["file"] for entry in packed] not in ([], [RECORDS]):
        raise ValueError("no file of records")
    for entry in (*manifest.files, *manifest.extra_files, *packed):
        name, size, digest = entry["file"], entry["bytes"], entry["sha256"]
        if not (
            isinstance(name, str) and re.fullmatch(r"[\w.-]+", name) and _is_count(size) and isinstance(digest, str)
        ):
            raise TypeError(f"no file of a snapshot: {entry}")
    _check_records(manifest.records)


def _check_records(records: list[dict[str, Any]]) -> None:
    """Raises TypeError or KeyError."""
    for record in records:
        if not isinstance(record, dict):
            raise TypeError("a record is no object")
        if not _is_count(record["epoch"]) or not isinstance(record["train"]["blocks"], list):
            raise TypeError("a record is none of an epoch")
        if validation := record.get("validation"):
            if not isinstance(weights := validation["weights"], dict):
                raise TypeError("a record's weights are no object")
            numbers = [validation["accuracy"]["mean"], *weights.values()]
            if not all(isinstance(number, (int, float)) for number in numbers):
                raise TypeError("a record holds what is no number")


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def passed_over(run: Path, after: str = "", *, unfinished: bool = True) -> list[str]:
    """The entries of `snapshots` that are no snapshots, and why.

    after: a name; of the entries whose names come later. unfinished: also those without a manifest."""
    places = sorted(path for path in (run / "snapshots").glob("step-*") if path.name > after)
    found = [(path.name, why) for path in places if (why := _why_none(path))]
    return [f"{name} {why}" for name, why in found if unfinished or why != UNFINISHED]


def _why_none(path: Path) -> str:
    """The reason why a place is no committed snapshot; empty for one that is."""
    if path.is_symlink():
        return f"is a link (to {path.readlink()}), and a run makes none"
    if not path.is_dir():
        return "is no folder"
    if not (path / MANIFEST).is_file():
        return UNFINISHED
    return "" if NAME.fullmatch(path.name) else "has no name that a run gives"


def _folders(run: Path) -> list[Path]:
    """Snapshot folders, oldest first; their names sort by step, then by epoch. Copies of a user's are none."""
    places = (run / "snapshots").glob("step-*")
    return sorted(path for path in places if NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink())


def discard(folder: Path) -> None:
    """Manifest first, so that what is half deleted is no snapshot."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder)
