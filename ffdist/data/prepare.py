"""Any source of pictures, turned into Arrow shards and a manifest.

The source is read in order, the pictures are decoded by threads a chunk at a time, and the shards are written in order:
what is in memory is a few chunks and one shard a split, however many pictures there are.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from ffdist.cores import available_cores
from ffdist.data.ahead import in_order
from ffdist.data.appearing import appearing, check_free, check_room
from ffdist.data.column_names import IMAGE, LABEL, Columns
from ffdist.data.decode import Decoding, Size, check_options, read_picture
from ffdist.data.depth import Range
from ffdist.data.formats import quiet_pillow
from ffdist.data.images import Moments
from ffdist.data.manifest import LeftOut, Manifest
from ffdist.data.places import cache_folder
from ffdist.data.sources import KNOWN, Item, Source, open_source
from ffdist.data.sources.archive import Archived, called, is_archive, unpacked
from ffdist.data.sources.listing import SHOWN, shown
from ffdist.data.sources.shares import Holding
from ffdist.data.sources.splits import SPLITS, choice
from ffdist.data.storing import (
    SEEN,
    USUAL,
    Store,
    check_store,
    mean_bytes,
    planned,
    read_and_kept,
    sizes_note,
    writer_of,
)
from ffdist.data.survey import Survey, constant_channels
from ffdist.data.twice import Twice
from ffdist.errors import ConfigError, DataError, setting, spelled
from ffdist.notes import note
from ffdist.plain import PlainConsole, text_column
from ffdist.remote import Remote, url_of

Progress = Callable[[int, int], None]
"""Called with the samples done and the samples in all."""

CHUNK_BYTES = 2**21
"""Decoded pixels of a chunk, about; never more than 256 pictures."""


def prepare(
    source: str | Path,
    out: str | Path,
    *,
    from_dir: Path | None = None,
    cache: Path | None = None,
    download: bool = True,
    size: int | Size | None = None,
    mode: str = "keep",
    background: str = "white",
    value_range: Range | None = None,
    image_column: str = IMAGE,
    label_column: str = LABEL,
    group_column: str | None = None,
    group_pattern: str | None = None,
    splits: Mapping[str, str | Sequence[str]] | Sequence[str] | None = None,
    ignore: str | Sequence[str] = (),
    skip_broken: bool = False,
    store: Store = "auto",
    test_fraction: float | None = None,
    validation_fraction: float | None = None,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
    tell: Callable[[str], None] = note,
) -> Path | str:
    """Write the shards and the manifest of a data set into the new folder `out`, and return it.

    out: of this machine, or an address (s3://, gs://, ...), into which all is put when it is made here.
    source: one of `KNOWN`, a tree with a folder of pictures for each class, or Parquet, Arrow, Feather or CSV files;
        or a zip or tar of these.
    from_dir: torchvision's root, with the known data set in it; None: `cache`, into which it
        is downloaded unless `download` is false; default: $FFDIST_CACHE, else ffdist in $XDG_CACHE_HOME, else in
        ~/.cache.
    size: side, or (height, width), that pictures are scaled and cut to. mode: rgb, grey or keep. background: the colour
        that transparent pictures are laid over. value_range: the values of black and white in pictures of more than 8
        bits; None: 0 and 65535 for 16 bits, which they must need.
    image_column, label_column: of a table. group_column: one whose equal values stay in one split. group_pattern: a
        regular expression that finds a picture's group in its path below the folder of its class, "patient[0-9]+"; with
        parentheses, what is in them.
    splits: the folders or files, by name or pattern, that make "train", "validation" and "test", and nothing else then;
        or texts, ["train=a", "test=b"]; "none": no name means a split; None: as their names say. ignore: names or
        patterns that are left out.
    skip_broken: leave out pictures that cannot be read, and list them in the manifest.
    store: "pixels": decoded, all of one size; "encoded": JPEG, PNG and others byte for byte, of any sizes, decoded
        while a network trains, to the very same pixels; "auto": encoded where pixels take more than 8 GiB and more than
        the encoded pictures, which is told. Of encoded pictures `size` is what a network gets where nobody says
        otherwise; without, their own, or 224 where they differ.
    test_fraction, seed: the share of each class that is held out where the source has no test split; None: a fifth. 1:
        all is the test split, for a set to evaluate only. validation_fraction: likewise; None: none.
    workers: decoding threads; default: a core each. progress: default: a bar, where stderr is a terminal.

    tell: gets what a user should know beside (`Manifest.notes`), a line each; default: onto stderr.

    All or nothing: `out` appears when
    everything is written; before that, an error or interrupt leaves nothing behind.
    Raises DataError for an `out` that exists or cannot be made, no room on the disk, a source that is not what it
    should be or has one class, folders and files whose split is not clear, pictures that cannot be read (all are
    named), pictures of different shapes, and values whose range is not known; ConfigError for settings out of range.
    """
    source = str(source)
    target = Remote.of(out) or Path(out)
    if url := url_of(source):
        raise DataError("pictures are prepared from folders and files of this machine", where=url, got="an address",
                        remedy="copy them here, or mount them; the prepared folder may be remote")  # fmt: skip
    decoding = check_options(size, mode, background, value_range)
    holding = Holding(test_fraction, validation_fraction, seed, group_pattern)
    check_settings(source, from_dir, workers)
    check_store(store)
    check_free(target)
    check_outside(target, source)
    reading = {
        "root": known_root(source, from_dir, cache),
        "download": download and from_dir is None,
        "columns": Columns(image_column, label_column, group_column),
        "holding": holding,
        "value_range": decoding.value_range,
    }
    with opening(source, target, splits, ignore, reading) as opened:
        reporting = nullcontext(progress) if progress else bar(opened.name)
        with appearing(target) as folder, reporting as report, quiet_pillow():
            manifest = write(opened, folder, decoding, workers or available_cores(), report, skip_broken=skip_broken,
                             store=store)  # fmt: skip
    for text in manifest.notes:
        tell(f"note: {text}")
    return target if isinstance(target, Path) else target.url


@contextmanager
def opening(
    source: str, target: Path | Remote, splits: Any, ignore: str | Sequence[str], reading: Mapping[str, Any]
) -> Iterator[Source]:
    """A source, opened; an archive unpacked beside the target. reading: of `open_source`."""
    path = Path(source)
    if source in KNOWN or not is_archive(path):
        yield open_source(source, choice=choice(path, splits, ignore), **reading)
        return
    with unpacked(path, target) as place, called(place, path):
        opened = open_source(str(place), choice=choice(place, splits, ignore), **reading)
        yield Archived(opened, place, path)


def check_settings(source: str, from_dir: Path | None, workers: int | None) -> None:
    """Raises ConfigError for those that are out of range, or not of such a source."""
    if workers is not None and workers < 1:
        raise ConfigError("no thread is left to decode", where=setting("workers"), expected=">= 1", got=workers)
    if from_dir and source not in KNOWN:
        raise ConfigError(
            "only data sets with a name are looked for in torchvision's root",
            where=setting("from_dir", from_dir),
            expected=" or ".join(KNOWN),
            got=source,
            remedy=f"leave out {setting('from_dir')}",
        )


def check_outside(out: Path | Remote, source: str) -> None:
    """Raises DataError for a new folder that would be one of the source's."""
    if (
        isinstance(out, Path)
        and source not in KNOWN
        and os.path.realpath(out).startswith(os.path.realpath(source) + os.sep)
    ):
        raise DataError("the new folder would lie in the source", where=out, expected="a place outside of it",
                        remedy=f"name another with {setting('out')}, e.g. {setting('out', '../prepared')}")  # fmt: skip


def known_root(source: str, from_dir: Path | None, cache: Path | None) -> Path | None:
    """Where a known data set is looked for; nothing else needs a place.

    Raises ConfigError for a user without a home.
    """
    if source not in KNOWN:
        return None
    return from_dir or (cache.expanduser() if cache else cache_folder())


def write(
    source: Source,
    folder: Path,
    decoding: Decoding,
    workers: int,
    report: Progress,
    *,
    skip_broken: bool = False,
    store: Store = "pixels",
) -> Manifest:
    """Decode every item of a source, write the shards, and the manifest last."""
    items = source.items()
    first, like, broken = first_readable(items, decoding)
    h, w, c = like.shape
    total = sum(source.counts.values())
    seen = [first, *islice(items, SEEN - 1)]
    plan = planned(store, pixels=total * (h * w * c + 8), encoded=round(total * mean_bytes(seen)))
    check_room(folder, plan.bytes)
    counts = {split: source.counts[split] for split in SPLITS if split in source.counts}
    shards = {split: writer_of(source, split, folder, like.shape, plan) for split in counts}
    measured = next(iter(counts))
    moments, survey, twice, done, shapes = Moments(c), Survey(), Twice(), len(broken), {like.shape}
    decode_one = partial(decode_chunk, like=like, decoding=decoding, encoded=plan.encoded)
    jobs = chunks(chain(seen, items), max(1, min(256, CHUNK_BYTES // (h * w * c))))
    with closing(in_order(decode_one, jobs, threads=workers, ahead=2 * workers, name="ffdist-decode")) as decoded:
        for chunk in decoded:
            broken += chunk.broken
            if skip_broken or not broken:  # else nothing will come of it; the rest is read to name all that is broken
                shards[chunk.split].add(chunk.pictures, chunk.labels)
                twice.add(chunk.split, chunk.labels, chunk.digests)
                shapes |= chunk.shapes
                if chunk.split == measured:
                    moments.counts += chunk.moments.counts
            survey.merge(chunk.survey)
            done += len(chunk.labels) + len(chunk.broken)
            report(done, total)
    if done != total:
        raise DataError("the source changed while it was read", expected=f"{total} samples", got=done)
    broken.sort(key=lambda one: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", one.where)])
    if broken and not skip_broken:
        raise cannot_be_read(broken)
    survey.check(decoding)
    splits = {split: writer.finish() for split, writer in shards.items()}
    check_left(broken, {split: files.counts for split, files in splits.items()}, source.classes)
    mean, std = moments.result()
    mode = "grey" if c == 1 else "rgb"
    resolved = replace(decoding, size=(h, w) if len(shapes) == 1 else None, mode=mode)  # so that others are read alike
    size = resolved.size or (USUAL, USUAL)
    manifest = Manifest(
        source.name,
        source.classes,
        (c, size[0], size[1]),
        mean,
        std,
        splits,
        source.superclass,
        resolved,
        source.held_out,
        (*source.left_out, *(LeftOut(one.where, one.why) for one in broken)),
        (
            *source.notes,
            *plan.notes,
            *sizes_note(shapes),
            *twice.notes(),
            *survey.notes(decoding),
            *constant_channels(moments.counts),
        ),
        twice.between(),
    )
    replace(manifest, notes=tuple(map(spelled, manifest.notes))).write(folder)
    return manifest


class Reference(NamedTuple):
    """The picture that all others must be like."""

    where: str
    shape: tuple[int, int, int]
    """(H, W, C)."""


class Broken(NamedTuple):
    """A picture that cannot be read."""

    where: str
    why: str
    split: str
    label: int


class Chunk(NamedTuple):
    """Decoded samples of one split."""

    split: str
    labels: np.ndarray
    pictures: np.ndarray | list[bytes]
    """uint8 [N, H, W, C]; or as they are encoded."""
    shapes: set[tuple[int, ...]]
    """(H, W, C) of those."""
    moments: Moments
    survey: Survey
    digests: np.ndarray
    """int64 [N], of the pixels."""
    broken: list[Broken]
    """Beside the N."""


def first_readable(items: Iterator[Item], decoding: Decoding) -> tuple[Item, Reference, list[Broken]]:
    """The first item that can be read, how it looks, and those before it. Raises DataError where there is none."""
    broken = []
    for item in items:
        try:
            return item, Reference(item.where, read_picture(item.data, item.where, decoding).pixels.shape), broken
        except DataError as error:
            broken.append(Broken(item.where, str(error.got), item.split, item.label))
    raise cannot_be_read(broken)


def cannot_be_read(broken: Sequence[Broken]) -> DataError:
    """All that are broken, as one error."""
    remedy = "replace or remove {}, or leave {} out with " + setting("skip_broken", True)
    if len(broken) == 1:
        return DataError("a picture cannot be read", where=broken[0].where, got=broken[0].why,
                         remedy=remedy.format("it", "it"))  # fmt: skip
    lines = shown([f"{one.where}: {one.why}" for one in broken], "\n         ")
    more = f"the first {SHOWN} are:\n         " if len(broken) > SHOWN else ""
    return DataError(f"{len(broken):,} pictures cannot be read", where=more + lines,
                     remedy=remedy.format("them", "them"))  # fmt: skip


def check_left(broken: Sequence[Broken], counts: Mapping[str, list[int]], classes: Sequence[str]) -> None:
    """Raises DataError for classes of which only broken pictures were there."""
    lost = sorted({(one.split, one.label) for one in broken if not counts[one.split][one.label]})
    if lost:
        raise DataError(
            "no picture of a class can be read",
            where=shown(f"{classes[label]} in {split}" for split, label in lost),
            got=shown((f"{one.where}: {one.why}" for one in broken), "\n         ", 3),
            remedy=f"replace them, or leave the class out with {setting('ignore')}",
        )


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Items in lists of `size` (the last of a split may be shorter), each of one split, in that split's order."""
    held: dict[str, list[Item]] = {}
    for item in items:
        held.setdefault(item.split, []).append(item)
        if len(held[item.split]) == size:
            yield held.pop(item.split)
    yield from held.values()


def decode_chunk(items: list[Item], *, like: Reference, decoding: Decoding, encoded: bool = False) -> Chunk:
    """encoded: whether pictures are kept so, and may differ in height and width. Raises DataError for a picture of
    another shape."""
    pixels, kept = np.empty((0 if encoded else len(items), *like.shape), np.uint8), list[bytes]()
    moments, survey, shapes = Moments(like.shape[-1]), Survey(), set[tuple[int, ...]]()
    labels, broken, digests = [], [], []
    for item in items:
        try:
            picture, data = (
                read_and_kept(item, decoding) if encoded else (read_picture(item.data, item.where, decoding), b"")
            )
        except DataError as error:
            broken.append(Broken(item.where, str(error.got), item.split, item.label))
            continue
        shape = picture.pixels.shape
        if shape[2:] != like.shape[2:] or (shape != like.shape and not encoded):
            raise unlike(like, Reference(item.where, shape), encoded=encoded)
        survey.add(picture, item.where)
        shapes.add(shape)
        digests.append(hashlib.blake2b(np.ascontiguousarray(picture.pixels).data, digest_size=8).digest())
        if encoded:
            moments.add(picture.pixels[None])
            kept.append(data)
        else:
            pixels[len(labels)] = picture.pixels
        labels.append(item.label)
    if not encoded:
        pixels = pixels[: len(labels)]
        moments.add(pixels)
    return Chunk(
        items[0].split,
        np.array(labels, np.int32),
        kept if encoded else pixels,
        shapes,
        moments,
        survey,
        np.frombuffer(b"".join(digests), np.int64),
        broken,
    )


def unlike(like: Reference, other: Reference, *, encoded: bool = False) -> DataError:
    """Two pictures of different shapes, and what makes all alike."""
    sizes = like.shape[:2] != other.shape[:2] and not encoded
    remedies = [f"a size ({setting('size', '64')}), or keep them as they are ({setting('store', 'encoded')})"] * sizes
    remedies += [f"a mode ({setting('mode', 'rgb')}, or {setting('mode', 'grey')})"] * (like.shape[2] != other.shape[2])
    return DataError(
        f"two pictures differ in {'channels' if encoded else 'height, width or channels'}",
        where=f"{like.where} and {other.where}",
        expected=like.shape,
        got=other.shape,
        remedy=f"give {'; and '.join(remedies)}",
    )


@contextmanager
def bar(title: str) -> Iterator[Progress]:
    """A progress bar on stderr, where that is a terminal."""
    console = PlainConsole(stderr=True)
    columns = (text_column("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with RichProgress(*columns, console=console, disable=not console.is_terminal) as shown:
        task = shown.add_task(title, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)
