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

from ffdist.data.content import FileStates, changed_error, content, file_states
from ffdist.data.kept import mark_used, size_text
from ffdist.data.manifest import read_manifest
from ffdist.data.places import CACHE, PREPARED, cache_folder, locked, unwritable_cache_error
from ffdist.data.preparation import Preparation
from ffdist.data.prepare import prepare
from ffdist.data.sources import KNOWN, DataSource, open_source
from ffdist.data.sources.archive import is_archive
from ffdist.data.sources.known import have_known
from ffdist.data.sources.splits import choice, read_splits
from ffdist.errors import ConfigError, DataError, setting
from ffdist.folders import UNWRITABLE, container_note
from ffdist.notes import note, silenced
from ffdist.scratch import write_whole

MAKING = 1
"""The version of what `prepare` makes of a source; another number where that changes."""


@dataclass(frozen=True)
class CacheEntry:
    """The index entry of a source that has been prepared."""

    folder: str
    """Its name in the cache."""
    look: str
    settled: bool
    """Whether equal file states mean equal bytes (`FileStates`)."""
    extra_files: list[str]
    """Files that it names, and that lie elsewhere."""


def prepared_in_cache(
    source: str, preparation: Preparation, *, root: Path | None = None, download: bool = True
) -> Path:
    """The prepared folder of a known data set, or of the files at a path; prepared anew where they have changed.

    root: where known data sets lie as torchvision keeps them; default: the cache. Of processes that ask at once, one
    prepares, and the others wait. Raises what `prepare` raises, and DataError for a cache that cannot be written.
    """
    cache = cache_folder()
    known = source in KNOWN
    place = Path(os.path.abspath(root or cache if known else source))
    if not known and cache.resolve().is_relative_to(place.resolve()):
        raise ConfigError(
            "the cache for data would lie in the source",
            where=cache,
            expected="a place outside of it",
            got=f"a folder in {place}",
            remedy=f"set {CACHE} to another folder",
        )
    key = hashlib.blake2b(
        repr((source if known else "", place, preparation, MAKING)).encode(), digest_size=16
    ).hexdigest()
    index = cache / PREPARED / "index" / f"{key}.json"
    if folder := unchanged(source, place, index):  # needs no right to write, as where others have filled the cache
        return folder
    with writable(cache), locked(index.with_suffix(".lock"), f"preparing {source}"):
        if folder := unchanged(source, place, index):  # another process was faster
            return folder
        return prepare_anew(source, place, index, preparation, root=place if known else None, download=download)


def unchanged(source: str, place: Path, index: Path) -> Path | None:
    """The folder prepared from a source that is as it was then; None where none is known."""
    entry = read_entry(index)
    if entry is None or not is_whole(folder := index.parents[1] / entry.folder):
        return None
    files = [place]
    if source in KNOWN:
        found = KNOWN[source].find(place)
        if found is None:  # its download is gone, and is not needed
            return used(folder, f"{source} as it was prepared before")
        files = KNOWN[source].parts(found)
    if not entry.settled or file_states(files[0], [*files[1:], *map(Path, entry.extra_files)]).digest != entry.look:
        return None
    return used(folder, f"{source}, unchanged since it was prepared")


def prepare_anew(
    source: str, place: Path, index: Path, preparation: Preparation, *, root: Path | None, download: bool
) -> Path:
    """Look at every byte of a source, and prepare it unless that has been done of these very bytes."""
    files, *more = KNOWN[source].parts(have_known(source, place, download)) if root else [place]
    name, apart = place.name.partition(".")[0], []
    if root or not is_archive(place):  # which is unpacked when it is prepared
        with silenced():  # the same notes come when it is prepared
            opened = open_files(source, place, preparation)
            name, apart = opened.name, opened.files_elsewhere()
    named = [path.absolute() for path in apart if not path.absolute().is_relative_to(files)]
    elsewhere = [*more, *named]
    before = file_states(files, elsewhere)
    made_of = f"{MAKING} {preparation!r} {content(files, elsewhere)}"
    digest = hashlib.blake2b(made_of.encode(), digest_size=8).hexdigest()
    folder = index.parents[1] / f"{name[:80]}-{digest}"
    with locked(index.parent / f"{folder.name}.lock", f"preparing {source}"):
        if is_whole(folder):
            used(folder, f"{source}, of which the same files were prepared before")
        else:
            make(source, folder, preparation, root, before, read_entry(index))
            if file_states(files, elsewhere).digest != before.digest:
                shutil.rmtree(folder)
                raise changed_error(files)
    now = file_states(files, elsewhere)
    settled = now.settled and now.digest == before.digest
    write_entry(index, CacheEntry(folder.name, now.digest, settled, [str(path) for path in named]))
    return folder


def open_files(source: str, place: Path, preparation: Preparation) -> DataSource:
    """Open a source with the settings of its preparation. Raises DataError as `open_source`."""
    return open_source(
        source,
        root=place,
        download=False,
        columns=preparation.columns,
        choice=choice(Path(source), read_splits(preparation.splits), preparation.ignore),
        holding=preparation.holding,
        value_range=preparation.value_range,
    )


def make(
    source: str, folder: Path, preparation: Preparation, root: Path | None, seen: FileStates, former: CacheEntry | None
) -> None:
    """Prepare a source into `folder`, and say so. former: the entry of the source before it changed, for the note."""
    if os.path.lexists(folder):
        note(f"{folder} is damaged, and is prepared anew")
        shutil.rmtree(folder)
    size = f"{seen.files:,} file{'s' * (seen.files > 1)}, {seen.bytes / 2**20:,.1f} MiB"
    note(f"preparing {source} ({size}) into {folder}, which is used again while the source is unchanged")
    if former and former.folder != folder.name:
        note(f"{source} has changed since it was prepared before; that stays in {folder.with_name(former.folder)}")
    if preparation.drop_columns:
        raise ConfigError(
            "only tables of plain numbers have columns to drop",
            where=source,
            remedy=f"leave {setting('drop_columns')} out",
        )
    values = asdict(preparation) | {"size": preparation.decoding.size, "splits": read_splits(preparation.splits)}
    values.pop("drop_columns")
    prepare(source, folder, from_dir=root, **values)
    note(size_text())
    if text := container_note(folder):
        note(text)


def used(folder: Path, what: str) -> Path:
    """Mark a prepared folder as used now, and say which one is used."""
    mark_used(folder)
    note(f"data: {what}, in {folder}")
    return folder


def is_whole(folder: Path) -> bool:
    """True if every shard is there, in its size."""
    try:
        splits = read_manifest(folder).splits.values()
        return all((folder / shard.file).stat().st_size == shard.bytes for each in splits for shard in each.listed)
    except (DataError, OSError):
        return False


def read_entry(index: Path) -> CacheEntry | None:
    """The index entry in a file; None where there is none, or it cannot be read."""
    try:
        return CacheEntry(**json.loads(index.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # it is made anew
        return None


def write_entry(index: Path, entry: CacheEntry) -> None:
    """Write an index entry, whole or not at all: other processes may read it at the same time."""
    write_whole(index, json.dumps(asdict(entry)).encode())


@contextmanager
def writable(cache: Path) -> Iterator[None]:
    """Raises DataError where the cache cannot be written inside."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise unwritable_cache_error(cache, error) from error
