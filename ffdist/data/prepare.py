"""Any source of pictures, turned into Arrow shards and a manifest.

The source is read in order, the pictures are decoded by threads a chunk at a time, and the shards are written in order:
what is in memory is a few chunks and one shard a split, however many pictures there are.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from ffdist.data.ahead import in_order
from ffdist.data.decode import Decoding, Size, check_options, read_picture
from ffdist.data.depth import Range
from ffdist.data.formats import quiet_pillow
from ffdist.data.images import Moments
from ffdist.data.manifest import Manifest
from ffdist.data.shards import ShardWriter
from ffdist.data.sources import KNOWN, Item, Source, open_source
from ffdist.data.survey import Survey, constant_channels
from ffdist.errors import ConfigError, DataError
from ffdist.folders import remedy_unwritable, why_unwritable

Progress = Callable[[int, int], None]
"""Called with the samples done and the samples in all."""

CHUNK_BYTES = 2**21
"""Decoded pixels of a chunk, about; never more than 256 pictures."""


def prepare(
    source: str,
    out: Path,
    *,
    from_dir: Path | None = None,
    cache: Path | None = None,
    download: bool = True,
    size: int | Size | None = None,
    mode: str = "keep",
    background: str = "white",
    value_range: Range | None = None,
    image_column: str = "image",
    label_column: str = "label",
    test_fraction: float = 0.2,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write the shards and the manifest of a data set into the new folder `out`, and return it.

    source: one of `KNOWN`, a tree with a folder of pictures for each class, or Parquet, Arrow or Feather files.
    from_dir: torchvision's root, with the known data set in it; None: `cache`, into which it
        is downloaded unless `download` is false; default: ffdist in $XDG_CACHE_HOME, else in ~/.cache.
    size: side, or (height, width), that pictures are scaled and cut to. mode: rgb, grey or keep. background: the colour
        that transparent pictures are laid over. value_range: the values of black and white in pictures of more than 8
        bits; None: 0 and 65535 for 16 bits, which they must need.
    test_fraction, seed: the share of each class that is held out where the source has no test split.
    workers: decoding threads; default: a core each. progress: default: a bar, where stderr is a terminal.

    All or nothing: `out` appears when everything is written; before that, an error or interrupt leaves nothing behind.
    What may be unexpected in the pictures (more frames than the first, a channel that never changes) is told on stderr.
    Raises DataError for an `out` that exists or cannot be made, no room on the disk, a source that is not what it
    should be or has one class, a picture that cannot be read, pictures of different shapes, and values whose
    range is not known; ConfigError for settings out of range.
    """
    decoding = check_options(size, mode, background, value_range)
    if not 0 <= test_fraction < 1:
        raise ConfigError("the test split is a fraction", where="--test-fraction", expected="0 <= x < 1",
                          got=test_fraction)  # fmt: skip
    if os.path.exists(out):  # Path.exists raises where it cannot look
        raise DataError("the folder exists, and nothing is overwritten", where=out, remedy="remove it, or name another")
    if from_dir and source not in KNOWN:
        raise ConfigError("only data sets with a name are looked for in torchvision's root", where=f"--from {from_dir}",
                          expected=" or ".join(KNOWN), got=source, remedy="leave out --from")  # fmt: skip
    root = from_dir or (cache.expanduser() if cache else default_cache())
    opened = open_source(source, root=root, download=download and from_dir is None, image_column=image_column,
                         label_column=label_column, test_fraction=test_fraction, seed=seed)  # fmt: skip
    if len(opened.classes) < 2:
        raise DataError("there is one class only", where=source, expected="2 classes or more",
                        got=", ".join(opened.classes),
                        remedy="give the folder that holds a folder of pictures for each class")  # fmt: skip
    with appearing(out) as folder, nullcontext(progress) if progress else bar(opened.name) as report, quiet_pillow():
        notes = write(opened, folder, decoding, workers or os.cpu_count() or 1, report)
    for note in notes:
        print(f"ffdist: note: {note}", file=sys.stderr)
    return out


def default_cache() -> Path:
    """Where downloads are kept. Raises ConfigError for a user whose home nobody knows."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(caches, "ffdist").expanduser()
    except RuntimeError as error:
        raise ConfigError("there is no home to keep downloads in", where=caches, got=error,
                          remedy="name a folder with --cache") from error  # fmt: skip


def write(source: Source, folder: Path, decoding: Decoding, workers: int, report: Progress) -> list[str]:
    """Decode every item of a source into shards, and write the manifest last.

    What a user should know of the pictures is returned, a line each."""
    items = source.items()
    first = next(items)
    like = Reference(first.where, read_picture(first.data, first.where, decoding).pixels.shape)
    h, w, c = like.shape
    total = sum(source.counts.values())
    check_room(folder, total * (h * w * c + 8))
    shards = {split: ShardWriter(folder, split, (c, h, w), len(source.classes), source.superclass)
              for split in source.counts}  # fmt: skip
    moments, survey, done = Moments(c), Survey(), 0
    decode_one = partial(decode_chunk, like=like, decoding=decoding)
    jobs = chunks(chain([first], items), max(1, min(256, CHUNK_BYTES // (h * w * c))))
    with closing(in_order(decode_one, jobs, threads=workers, ahead=2 * workers, name="ffdist-decode")) as decoded:
        for chunk in decoded:
            shards[chunk.split].add(chunk.pictures, chunk.labels)
            if chunk.split == "train":
                moments.counts += chunk.moments.counts
            survey.merge(chunk.survey)
            done += len(chunk.labels)
            report(done, total)
    if done != total:
        raise DataError("the source changed while it was read", expected=f"{total} samples", got=done)
    survey.check(decoding)
    mean, std = moments.result()
    splits = {split: writer.finish() for split, writer in shards.items()}
    resolved = replace(decoding, size=(h, w), mode="grey" if c == 1 else "rgb")  # so that others are read alike
    Manifest(source.name, source.classes, (c, h, w), mean, std, splits, source.superclass, resolved).write(folder)
    return survey.notes(decoding) + constant_channels(moments.counts)


class Reference(NamedTuple):
    """The picture that all others must be like."""

    where: str
    shape: tuple[int, ...]
    """(H, W, C)."""


class Chunk(NamedTuple):
    """Decoded samples of one split."""

    split: str
    labels: np.ndarray
    pictures: np.ndarray
    """uint8 [N, H, W, C]."""
    moments: Moments
    survey: Survey


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Items in lists of `size` (the last of a split may be shorter), each of one split, in that split's order."""
    held: dict[str, list[Item]] = {}
    for item in items:
        held.setdefault(item.split, []).append(item)
        if len(held[item.split]) == size:
            yield held.pop(item.split)
    yield from held.values()


def decode_chunk(items: list[Item], *, like: Reference, decoding: Decoding) -> Chunk:
    """Raises DataError for a picture that cannot be read or has another shape."""
    pictures, survey = np.empty((len(items), *like.shape), np.uint8), Survey()
    for slot, item in zip(pictures, items, strict=True):
        picture = read_picture(item.data, item.where, decoding)
        if picture.pixels.shape != like.shape:
            raise DataError("two pictures differ in height, width or channels", where=f"{like.where} and {item.where}",
                            expected=like.shape, got=picture.pixels.shape,
                            remedy="give a size (--size 64) and a mode (--mode rgb or grey)")  # fmt: skip
        slot[:] = picture.pixels
        survey.add(picture, item.where)
    labels = np.array([item.label for item in items], np.int32)
    return Chunk(items[0].split, labels, pictures, Moments(like.shape[-1]).add(pictures), survey)


def check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError("no room on the disk", where=folder.parent, expected=f"{needed / 2**20:.0f} MiB",
                        got=f"{free / 2**20:.0f} MiB free", remedy="make room, or a smaller --size")  # fmt: skip


@contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """A new folder beside `out`, which gets its name at the end, or is removed when anything goes wrong."""
    partial_folder = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial_folder.mkdir(parents=True)
    except OSError as error:
        raise DataError(
            "the folder cannot be made",
            where=out,
            expected="a place for a new folder",
            got=why_unwritable(out, error),
            remedy=remedy_unwritable(out, error, ["--out"]),
        ) from error
    try:
        yield partial_folder
        partial_folder.rename(out)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise DataError("no room on the disk", where=out.parent, got=error, remedy="make room") from error
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)


@contextmanager
def bar(title: str) -> Iterator[Progress]:
    """A progress bar on stderr, where that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with RichProgress(*columns, console=console, disable=not console.is_terminal) as shown:
        task = shown.add_task(title, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)
