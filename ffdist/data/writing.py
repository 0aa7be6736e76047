"""Shards and manifest of a source: its pictures are decoded by threads, and written in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path

from ffdist.data.ahead import in_order
from ffdist.data.atomic_folder import check_room
from ffdist.data.chunks import (
    BrokenPicture,
    Chunk,
    ReferencePicture,
    broken_pictures_error,
    check_left,
    chunks,
    decode_chunk,
    first_readable,
    natural_order,
)
from ffdist.data.decode import Decoding
from ffdist.data.duplicate_counter import DuplicateCounter
from ffdist.data.images import Moments
from ffdist.data.manifest import DataManifest, LeftOut, SplitFiles
from ffdist.data.sources.base import DataSource, Item
from ffdist.data.sources.splits import SPLITS
from ffdist.data.storing import DEFAULT_SIDE, SEEN, StoragePlan, Store, mean_bytes, sizes_note, storage_plan, writer_of
from ffdist.data.survey import Survey, constant_channels
from ffdist.errors import DataError, spelled

Progress = Callable[[int, int], None]
"""Called with the samples done and the samples in all."""
CHUNK_BYTES = 2**21
"""Decoded pixels of a chunk, about: what bounds the memory of large pictures."""
MAX_IN_CHUNK = 256
"""Pictures of a chunk, at most."""


@dataclass(frozen=True)
class WriteOptions:
    """The settings by which a source is written."""

    decoding: Decoding
    workers: int
    """Decoding threads."""
    skip_broken: bool = False
    store: Store = "pixels"


def write(source: DataSource, folder: Path, making: WriteOptions, report: Progress) -> DataManifest:
    """Decode every item of a source, write the shards, and the manifest last. Raises DataError as `prepare` does."""
    items = source.items()
    first, like, broken = first_readable(items, making.decoding)
    total = sum(source.counts.values())
    seen = [first, *islice(items, SEEN - 1)]
    pixels = like.bytes
    plan = storage_plan(making.store, pixels=total * (pixels + 8), encoded=round(total * mean_bytes(seen)))
    check_room(folder, plan.bytes)
    writing = DatasetWriter(source, folder, making, like, plan, broken)
    for chunk in decoded(chain(seen, items), making, like, plan):
        writing.add(chunk)
        report(writing.done, total)
    if writing.done != total:
        raise DataError("the source changed while it was read", expected=f"{total} samples", got=writing.done)
    manifest = writing.finish()
    manifest.write(folder)
    return manifest


def decoded(items: Iterator[Item], making: WriteOptions, like: ReferencePicture, plan: StoragePlan) -> Iterator[Chunk]:
    """The items in their order; a few chunks are in memory."""
    work = partial(decode_chunk, like=like, decoding=making.decoding, encoded=plan.encoded)
    jobs, threads = chunks(items, max(1, min(MAX_IN_CHUNK, CHUNK_BYTES // like.bytes))), making.workers
    with closing(in_order(work, jobs, threads=threads, ahead=2 * threads, name="ffdist-decode")) as made:
        yield from made


class DatasetWriter:
    """Write a source's samples into shards, and keep account of them. broken: of its first pictures."""

    def __init__(
        self,
        source: DataSource,
        folder: Path,
        making: WriteOptions,
        like: ReferencePicture,
        plan: StoragePlan,
        broken: list[BrokenPicture],
    ) -> None:
        self.source = source
        self.making = making
        self.like = like
        self.plan = plan
        self.broken = broken
        splits = [split for split in SPLITS if split in source.counts]
        self.shards = {split: writer_of(source, split, folder, like.shape, plan) for split in splits}
        self.measured = splits[0]
        self.done = len(broken)
        """Items that were decoded, or cannot be."""
        self.moments = Moments(like.shape[2])
        self.survey = Survey()
        self.duplicates = DuplicateCounter()
        self.shapes: set[tuple[int, ...]] = {like.shape}

    def add(self, chunk: Chunk) -> None:
        """Write a chunk of decoded samples to the shards of its split, and count them."""
        self.broken += chunk.broken
        if self.making.skip_broken or not self.broken:  # else the rest is read to name all that is broken
            self.shards[chunk.split].add(chunk.pictures, chunk.labels)
            self.duplicates.add(chunk.split, chunk.labels, chunk.digests)
            self.shapes |= chunk.shapes
            if chunk.split == self.measured:
                self.moments.counts += chunk.moments.counts
        self.survey.merge(chunk.survey)
        self.done += len(chunk.labels) + len(chunk.broken)

    def finish(self) -> DataManifest:
        """Write the last shards. Raises DataError for broken pictures, unless they are skipped; for classes of which
        nothing is left; and for what the survey refuses."""
        self.broken.sort(key=natural_order)
        if self.broken and not self.making.skip_broken:
            raise broken_pictures_error(self.broken)
        self.survey.check(self.making.decoding)
        splits = {split: writer.finish() for split, writer in self.shards.items()}
        check_left(self.broken, {split: files.counts for split, files in splits.items()}, self.source.classes)
        return self.manifest(splits)

    def manifest(self, splits: dict[str, SplitFiles]) -> DataManifest:
        """The manifest of what was written. splits: the files of each split."""
        source, (height, width, channels) = self.source, self.like.shape
        own = (height, width) if len(self.shapes) == 1 else None
        size = own or (DEFAULT_SIDE, DEFAULT_SIDE)
        mean, std = self.moments.result()
        mode = "grey" if channels == 1 else "rgb"
        return DataManifest(
            source.name,
            source.classes,
            (channels, size[0], size[1]),
            mean,
            std,
            splits,
            decoding=replace(self.making.decoding, size=own, mode=mode),  # so that others are read alike
            held_out=source.held_out,
            left_out=(*source.left_out, *(LeftOut(one.where, one.why) for one in self.broken)),
            notes=tuple(map(spelled, self.notes())),
            duplicates=self.duplicates.between(),
        )

    def notes(self) -> Iterator[str]:
        """Notes for the user, a line each: the source's own, then those on its pictures."""
        yield from self.source.notes
        yield from self.plan.notes
        yield from sizes_note(self.shapes)
        yield from self.duplicates.notes()
        yield from self.survey.notes(self.making.decoding)
        yield from constant_channels(self.moments.counts)
