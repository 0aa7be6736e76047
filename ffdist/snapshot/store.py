"""A run's snapshots: blocks to files and back, and the commit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import replace
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from torch import Tensor

from ffdist.errors import SnapshotError, setting
from ffdist.notes import note
from ffdist.pipeline.background_snapshot import Files
from ffdist.pipeline.block import LearningBlock, averaged
from ffdist.pipeline.classifier import Classifier
from ffdist.pipeline.message import Restore, Snapshot
from ffdist.pipeline.predictors import last_weights
from ffdist.snapshot.chosen import mark_final, mark_if_best
from ffdist.snapshot.files import (
    BlockCopy,
    block_file,
    check_numbers,
    check_same_tensors,
    read_block,
    write_of_snapshot,
)
from ffdist.snapshot.manifest import Manifest, commit, committed, discard_others, read_manifest, snapshot_folder
from ffdist.snapshot.mirror import Mirrored
from ffdist.snapshot.records import RECORDS, PackedRecords

OWN = ("config.toml", "data.json")
"""The files that make a folder a run."""


def checked_folder(run: Path, marker: Snapshot) -> Path:
    """The folder of a snapshot. Raises SnapshotError for a link to somewhere else, which may have come since the run
    began."""
    folder = snapshot_folder(run, marker.step, marker.epoch)
    for place in (folder.parent, folder):
        if place.is_symlink():
            raise SnapshotError(
                "a link stands where a snapshot goes",
                where=place,
                expected="a folder, or nothing",
                got=f"a link to {place.readlink()}",
                remedy="remove the link, and put back the folder that was there; the snapshot before, where there was "
                "one, is whole",
            )
    return folder


class SnapshotStore:
    """The snapshots of one run folder; without a folder, none are kept."""

    def __init__(self, run: Path | None, blocks: Sequence[str], *, keep: int = 2, keep_best: str | None = None) -> None:
        """keep: so many of the newest stay. keep_best: a predictor, by whose validation accuracy the best stays."""
        self.run = run
        self.blocks = list(blocks)
        self.keep = keep
        self.keep_best = keep_best
        self.mirrored = Mirrored(run)
        self.identity = identity_of(run)
        """The identity of the run's folder, so that no other one is made in its place where it goes."""
        self.own = [run / name for name in OWN if (run / name).exists()] if run else []
        """Those of the run's own files that are there as it begins."""
        self.writing = Lock()
        """Held while a file is written: a worker in several stages has several threads that write, one at a time."""
        self.packed = PackedRecords()
        self.noted = False
        """Whether it was said that an old one cannot be removed."""

    def save(self, blocks: Sequence[LearningBlock], marker: Snapshot) -> Files:
        """One stage's part: its blocks' files, of the blocks as they are now, written while the caller goes on."""
        if self.run is None:
            return {}
        self.check_there(self.run)
        folder = checked_folder(self.run, marker)
        paths = [folder / block_file(block.spec.index, block.spec.name) for block in blocks]
        held = [(path, BlockCopy(*block.state()), Future()) for path, block in zip(paths, blocks, strict=True)]
        Thread(target=copy_context().run, args=(self._write_all, held), daemon=True, name="ffdist snapshot").start()
        return {path.name: future for path, _, future in held}

    def _write_all(self, held: list[tuple[Path, BlockCopy, Future[dict[str, Any]]]]) -> None:
        """A thread of its own, which nobody waits for at the interpreter's end: a disk may hang."""
        for path, block, future in held:
            try:
                with self.writing:
                    future.set_result(self._write(path, block))
            except BaseException as error:  # raised again by the stage
                future.set_exception(error)

    def check_there(self, run: Path) -> None:
        """Raises SnapshotError where the run's folder is gone, or another one has come in its place, or what says what
        run it is."""
        if self.identity is not None and identity_of(run) != self.identity:
            raise SnapshotError(
                "the run folder is gone, or another is in its place",
                where=run,
                expected="the folder in which the run began",
                got="another one" if run.exists() else "none",
                remedy="put it back, then go on with "
                f"{setting('resume')}; or start a new run, and let nothing remove its folder",
            )
        for path in self.own:
            if not path.exists():
                raise SnapshotError(
                    "a file of the run is gone",
                    where=path,
                    expected="what the run began with: without it, it can neither go on nor be measured",
                    got="none",
                    remedy="put it back; or start a new run, and let nothing remove its files",
                )

    @contextmanager
    def in_its_folder(self, run: Path) -> Iterator[None]:
        """Raises SnapshotError of the run's folder for what fails within since that has gone meanwhile."""
        try:
            yield
        except (OSError, SnapshotError):
            self.check_there(run)
            raise

    def _write(self, path: Path, held: BlockCopy) -> dict[str, Any]:
        assert self.run
        self.check_there(self.run)
        with self.in_its_folder(self.run):
            entry = held.write(path, self.run)
        self.mirrored.put(path)
        return entry

    def save_extra_file(
        self, marker: Snapshot, name: str, tensors: dict[str, Tensor], fields: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """A file that belongs to no block, on disk when this returns."""
        if self.run is None:
            return []
        self.check_there(self.run)
        folder = checked_folder(self.run, marker)
        return [self._write(folder / f"{name}.safetensors", BlockCopy(tensors, fields))]

    def load_extra_file(self, manifest: Manifest, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The inverse of `save_extra_file`. Raises SnapshotError for a missing or corrupt file."""
        path = manifest.folder / f"{name}.safetensors"
        for entry in manifest.extra_files:
            if entry["file"] == path.name:
                self.mirrored.fetch(path, entry)
                return read_block(path, entry)
        raise SnapshotError(
            "the snapshot lacks a file", where=path, remedy="resume with the objective that the run was started with"
        )

    def commit(self, marker: Snapshot, records: list[dict[str, Any]]) -> None:
        """The marker has passed every stage, and all that it awaited is on disk."""
        if self.run is None:
            return
        self.check_there(self.run)
        assert len(marker.files) == len(self.blocks), "a stage passed the marker on without its files"
        folder = checked_folder(self.run, marker)
        newest = [*self.packed.add(records)]
        manifest = Manifest(
            marker.step, marker.epoch, marker.batch, self.blocks, marker.files, newest, marker.extra_files
        )
        with self.in_its_folder(self.run):
            if self.packed.count:
                write_of_snapshot(folder / RECORDS, bytes(self.packed.data))
                self.mirrored.put(folder / RECORDS)
                manifest = replace(manifest, record_file=self.packed.entry)
            commit(self.run, manifest)
            best = mark_if_best(self.run, manifest, self.keep_best)
            self._discard_others(self.run, manifest, best)
        self.mirrored.commit(folder, committed(self.run))

    def _discard_others(self, run: Path, manifest: Manifest, best: Path | None) -> None:
        """One that cannot be removed, as where a network's file system keeps a file that somebody reads, stays until
        the next commit; no run ends by it."""
        try:
            discard_others(run, manifest, keep=self.keep, best=best)
        except OSError as error:
            self.check_there(run)
            if not self.noted:
                note(f"an old snapshot cannot be removed: {error.strerror or error}: {error.filename}")
            self.noted = True

    def load(self, blocks: Sequence[LearningBlock], manifest: Manifest) -> None:
        """Each block from its own file, whatever stage wrote it.

        Raises SnapshotError for a missing or corrupt file, and for a snapshot of another model.
        """
        for block in blocks:
            block.load_state(*self._read(manifest, block.spec.index, block.parts.state_dict()))

    def is_kept(self, marker: Restore) -> bool:
        """True if there is such a snapshot to end with; where there is none, that is said."""
        if self.run is None:
            return False
        folder = snapshot_folder(self.run, marker.step, marker.epoch)
        if folder in committed(self.run):
            return True
        note(f"the snapshot of the best epoch, {marker.epoch}, is not kept: the run ends with what it learned last")
        return False

    def restore(self, blocks: Sequence[LearningBlock], marker: Restore) -> None:
        """Blocks as they were. Raises as `load` does."""
        assert self.run is not None, "asked for where there is one"
        self.load(blocks, read_manifest(snapshot_folder(self.run, marker.step, marker.epoch)))

    def end_with(self, marker: Restore) -> None:
        """All blocks are as they were: what the run ends with is the snapshot that they are of."""
        if self.run is not None:
            mark_final(self.run, snapshot_folder(self.run, marker.step, marker.epoch))
            note(f"the run ends with its best epoch, {marker.epoch}: that is what is tested, and used from now on")

    def load_weights(self, classifier: Classifier, manifest: Manifest) -> None:
        """Blocks and heads alone, averaged where an average was kept, into a whole network, and the blocks' weights in
        its predictor and their learning rates. Raises as `load` does."""
        for index, parts in enumerate(classifier.parts):
            tensors, fields = self._read(manifest, index, parts.state_dict())
            chosen = averaged(tensors) or tensors
            parts.load_state_dict({name: chosen[name] for name in parts.state_dict()})
            if groups := fields.get("param_groups"):
                classifier.rates[classifier.names[index]] = groups[0]["lr"]
        if weights := last_weights(manifest.records):
            classifier.weigh(weights)

    def _read(
        self, manifest: Manifest, index: int, expected: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        if manifest.blocks != self.blocks:
            raise SnapshotError(
                "the snapshot is of another model",
                where=manifest.folder,
                expected=f"blocks {', '.join(self.blocks)}",
                got=f"blocks {', '.join(manifest.blocks)}",
                remedy="resume with the model the run was started with",
            )
        path = manifest.folder / manifest.files[index]["file"]
        self.mirrored.fetch(path, manifest.files[index])
        tensors, fields = read_block(path, manifest.files[index])
        check_same_tensors(path, tensors, expected)
        check_numbers(path, tensors)
        return tensors, fields


def identity_of(folder: Path | None) -> tuple[int, int] | None:
    """The identity by which a folder differs from others of its name; None where there is none."""
    try:
        found = folder and folder.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if found else None
