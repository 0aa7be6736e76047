"""Sources that are prepared on the way to a run: into the cache, under a name that their content gives, and used again
while that is the same.

    CACHE/prepared/pictures-3f2a90c1d4e5b6a7   shards and manifest, as `ffdist data prepare` writes them
    CACHE/prepared/index/...json               what a source looked like when that was made of it
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from ffdist.data.content import Look, content, look
from ffdist.data.manifest import read_manifest
from ffdist.data.places import PREPARED, cache_folder, locked, no_place
from ffdist.data.preparation import Preparation
from ffdist.data.prepare import prepare
from ffdist.data.sources import KNOWN, Source, open_source
from ffdist.data.sources.known import have_known
from ffdist.data.sources.splits import choice, read_splits
from ffdist.errors import ConfigError, DataError, setting
from ffdist.folders import UNWRITABLE, loss
from ffdist.notes import note, silenced

MAKING = 1
"""Of what `prepare` makes of a source; another number where that changes."""


@dataclass(frozen=True)
class Entry:
    """What is known of a source that has been prepared."""

    folder: str
    """Its name in the cache."""
    look: str
    settled: bool
    """Whether an equal look means equal bytes."""
    beside: list[str]
    """Files that it names, and that lie elsewhere."""


def prepared_in_cache(source: str, told: Preparation, *, root: Path | None = None, download: bool = True) -> Path:
    """The prepared folder of a known data set, or of the files at a path; prepared anew where they have changed.

    root: where known data sets lie as torchvision keeps them; default: the cache. Of processes that ask at once, one
    prepares, and the others wait. Raises what `prepare` raises, and DataError for a cache that cannot be written.
    """
    cache = cache_folder()
    known, place = source in KNOWN, os.path.abspath(root or cache if source in KNOWN else source)
    key = hashlib.blake2b(repr((source if known else "", place, told, MAKING)).encode(), digest_size=16).hexdigest()
    index = cache / PREPARED / "index" / f"{key}.json"
    with writable(cache), locked(index.with_suffix(".lock"), f"preparing {source}"):
        entry = read_entry(index)
        former = cache / PREPARED / entry.folder if entry else None
        whole = former is not None and is_whole(former)
        if known and former and whole and KNOWN[source].find(Path(place)) is None:  # its download is gone
            return used(former, f"{source} as it was prepared before")
        files, *more = KNOWN[source].parts(have_known(source, Path(place), download)) if known else [Path(place)]
        if (
            entry
            and former
            and whole
            and entry.settled
            and look(files, [*more, *map(Path, entry.beside)]).digest == entry.look
        ):
            return used(former, f"{source}, unchanged since it was prepared")
        with silenced():  # what is told of it is told when it is prepared
            opened = open_files(source, Path(place), told)
        named = [path.absolute() for path in opened.beside() if not path.absolute().is_relative_to(files)]
        beside = [*more, *named]
        before = look(files, beside)
        made_of = f"{MAKING} {told!r} {content(files, beside)}"
        digest = hashlib.blake2b(made_of.encode(), digest_size=8).hexdigest()
        folder = cache / PREPARED / f"{opened.name[:80]}-{digest}"
        with locked(index.parent / f"{folder.name}.lock", f"preparing {source}"):
            if is_whole(folder):
                used(folder, f"{source}, of which the same files were prepared before")
            else:
                make(source, folder, told, Path(place) if known else None, before, former)
            if look(files, beside).digest != before.digest:
                shutil.rmtree(folder)
                raise DataError("the source changed while it was read", where=files,
                                expected="files that stay as they are",
                                remedy="start again when it is complete")  # fmt: skip
        now = look(files, beside)
        write_entry(index, Entry(folder.name, now.digest, now.settled, [str(path) for path in named]))
        return folder


def open_files(source: str, place: Path, told: Preparation) -> Source:
    return open_source(
        source,
        root=place,
        download=False,
        columns=told.columns,
        choice=choice(Path(source), read_splits(told.splits), told.ignore),
        holding=told.holding,
        value_range=told.value_range,
    )


def make(source: str, folder: Path, told: Preparation, root: Path | None, seen: Look, former: Path | None) -> None:
    """former: what was prepared of the source before it changed."""
    if os.path.lexists(folder):
        note(f"{folder} is damaged, and is prepared anew")
        shutil.rmtree(folder)
    size = f"{seen.files:,} file{'s' * (seen.files > 1)}, {seen.bytes / 2**20:,.1f} MiB"
    note(f"preparing {source} ({size}) into {folder}, which is used again while the source is unchanged")
    if former not in (None, folder):
        note(f"{source} has changed since it was prepared before; that stays in {former}")
    if told.drop_columns:
        raise ConfigError("only tables of plain numbers have columns to drop", where=source,
                          remedy=f"leave {setting('drop_columns')} out")  # fmt: skip
    values = asdict(told) | {"size": told.decoding.size, "splits": read_splits(told.splits)}
    values.pop("drop_columns")
    prepare(source, folder, from_dir=root, **values)
    if text := loss(folder):
        note(text)


def used(folder: Path, what: str) -> Path:
    note(f"data: {what}, in {folder}")
    return folder


def is_whole(folder: Path) -> bool:
    """Whether every shard is there, in its size."""
    try:
        splits = read_manifest(folder).splits.values()
        return all((folder / shard.file).stat().st_size == shard.bytes for of in splits for shard in of.listed)
    except (DataError, OSError):
        return False


def read_entry(index: Path) -> Entry | None:
    try:
        return Entry(**json.loads(index.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # it is made anew
        return None


def write_entry(index: Path, entry: Entry) -> None:
    partial = index.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(asdict(entry)), encoding="utf-8")
    partial.replace(index)


@contextmanager
def writable(cache: Path) -> Iterator[None]:
    """Raises DataError where the cache cannot be written inside."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise no_place(cache, error) from error
