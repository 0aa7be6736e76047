"""Any source of pictures, turned into Arrow shards and a manifest.

The source is read in order, the pictures are decoded by threads a chunk at a time, and the shards are written in order:
what is in memory is a few chunks and one shard a split, however many pictures there are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from ffdist.cores import available_cores
from ffdist.data.atomic_folder import atomic_folder, check_free
from ffdist.data.column_names import IMAGE, LABEL, Columns
from ffdist.data.content import ChangeCheck
from ffdist.data.decode import Size, check_options
from ffdist.data.depth import Range
from ffdist.data.formats import quiet_pillow
from ffdist.data.places import cache_folder
from ffdist.data.sources import KNOWN, DataSource, open_source
from ffdist.data.sources.archive import UnpackedSource, called, is_archive, unpacked
from ffdist.data.sources.shares import HoldOutOptions
from ffdist.data.sources.splits import choice
from ffdist.data.storing import (
    Store,
    check_store,
)
from ffdist.data.writing import Progress, WriteOptions, write
from ffdist.errors import ConfigError, DataError, setting
from ffdist.notes import note
from ffdist.options import path_of
from ffdist.plain import PlainConsole, text_column
from ffdist.remote import RemoteFolder, url_of
from ffdist.renamed import renamed_arguments


@renamed_arguments(tell="notify")
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
    notify: Callable[[str], None] = note,
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
        the encoded pictures; a note says so. For encoded pictures `size` is only the default size in which a network
        gets them; without it, their own, or 224 where they differ.
    test_fraction, seed: the share of each class that is held out where the source has no test split; None: a fifth. 1:
        all is the test split, for a set to evaluate only. validation_fraction: likewise; None: none.
    workers: decoding threads; default: a core each. progress: default: a bar, where stderr is a terminal.

    notify: gets what a user should know beside (`Manifest.notes`), a line each; default: onto stderr.

    All or nothing: `out` appears when
    everything is written; before that, an error or interrupt leaves nothing behind.
    Raises DataError for an `out` that exists or cannot be made, no room on the disk, a source that is not what it
    should be, changes while it is read or has one class, folders and files whose split is not clear, pictures that
    cannot be read (all are named), pictures of different shapes, and values whose range is not known; ConfigError for
    settings out of range.
    """
    source = os.path.expanduser(source)
    target = RemoteFolder.of(out) or path_of(out)
    check_local(source)
    decoding = check_options(size, mode, background, value_range)
    holding = HoldOutOptions(test_fraction, validation_fraction, seed, group_pattern)
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
    making = WriteOptions(decoding, workers or available_cores(), skip_broken, store)
    changes = ChangeCheck()
    if source not in KNOWN:
        changes.add(Path(source))  # before it is opened: a file that comes while it is listed is a change, too
    with opening(source, target, splits, ignore, reading) as opened:
        notes = write_folder(opened, target, making, changes, progress)
    for text in notes:
        notify(f"note: {text}")
    return target if isinstance(target, Path) else target.url


def write_folder(
    source: DataSource,
    target: Path | RemoteFolder,
    making: WriteOptions,
    changes: ChangeCheck,
    progress: Progress | None,
) -> Sequence[str]:
    """Write the shards and the manifest of an open source into a new folder, all or nothing; return the manifest's
    notes. Raises DataError where one of the files has changed meanwhile, and as `write` does."""
    changes.add(*source.files_elsewhere())
    reporting = nullcontext(progress) if progress else bar(source.name)
    with atomic_folder(target) as folder, reporting as report, quiet_pillow():
        manifest = write(source, folder, making, report)
        changes.check()  # before the folder appears: shards of files that changed are no data set
    return manifest.notes


@contextmanager
def opening(
    source: str, target: Path | RemoteFolder, splits: Any, ignore: str | Sequence[str], reading: Mapping[str, Any]
) -> Iterator[DataSource]:
    """A source, opened; an archive unpacked beside the target. reading: of `open_source`."""
    path = Path(source)
    if source in KNOWN or not is_archive(path):
        yield open_source(source, choice=choice(path, splits, ignore), **reading)
        return
    with unpacked(path, target) as place, called(place, path):
        opened = open_source(str(place), choice=choice(place, splits, ignore), **reading)
        yield UnpackedSource(opened, place, path)


def check_local(source: str) -> None:
    """Raises DataError for an address."""
    if url := url_of(source):
        raise DataError(
            "pictures are prepared from folders and files of this machine",
            where=url,
            got="an address",
            remedy="copy them here, or mount them; the prepared folder may be remote",
        )


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


def check_outside(out: Path | RemoteFolder, source: str) -> None:
    """Raises DataError for a new folder that would be one of the source's."""
    if (
        isinstance(out, Path)
        and source not in KNOWN
        and os.path.realpath(out).startswith(os.path.realpath(source) + os.sep)
    ):
        raise DataError(
            "the new folder would lie in the source",
            where=out,
            expected="a place outside of it",
            remedy=f"name another with {setting('out')}, e.g. {setting('out', '../prepared')}",
        )


def known_root(source: str, from_dir: Path | None, cache: Path | None) -> Path | None:
    """The folder in which a known data set is looked for; None for other sources.

    Raises ConfigError for a user without a home.
    """
    if source not in KNOWN:
        return None
    return path_of(from_dir or cache or cache_folder())


@contextmanager
def bar(title: str) -> Iterator[Progress]:
    """A progress bar on stderr, where that is a terminal."""
    console = PlainConsole(stderr=True)
    columns = (text_column("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with RichProgress(*columns, console=console, disable=not console.is_terminal) as shown:
        task = shown.add_task(title, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)
