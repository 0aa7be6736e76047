"""Zips, and tars of folders, as they are downloaded: unpacked while a data set is prepared of them, and gone after."""

from __future__ import annotations

import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ffdist.data.atomic_folder import check_room, temporary_folder
from ffdist.data.formats import is_picture
from ffdist.data.sources.base import DataSource, Item
from ffdist.data.sources.listing import is_junk
from ffdist.data.sources.tars import is_tar, members_of
from ffdist.data.sources.tars import opened as opened_tar
from ffdist.errors import DataError, FfdistError
from ffdist.notes import note
from ffdist.remote import RemoteFolder

FIRST = 64
"""Members of a tar that are looked at to decide whether it holds folders or webdataset's samples."""
ERRORS = (zipfile.BadZipFile, tarfile.TarError, OSError, EOFError, zlib.error, RuntimeError, NotImplementedError)


def is_archive(path: Path) -> bool:
    """True if it is a zip, or a tar of pictures in folders, none of which has a file of its name beside it."""
    if not path.is_file() or path.suffix.lower() == ".zip":
        return path.is_file()
    if not is_tar(path):
        return False
    with opened_tar(path) as archive:
        names = [PurePosixPath(member.name) for member in islice(members_of(archive, path), FIRST)]
    pictures = [name for name in names if is_picture(Path(name.name))]
    stems = {name.with_suffix("") for name in names if name not in pictures}
    alone = stems.isdisjoint(name.with_suffix("") for name in pictures)
    return bool(pictures) and alone and all(len(name.parts) > 1 for name in pictures)


@contextmanager
def unpacked(path: Path, out: Path | RemoteFolder) -> Iterator[Path]:
    """Unpack an archive beside `out`, where there is room for it; gone at the end. A folder that holds nothing but
    one folder or file stands for that.

    Raises DataError for one that is damaged, locked by a password, or larger than the disk.
    """
    with temporary_folder(out) as folder:
        count, size = unpack(path, folder)
        note(f"{path}: {count:,} files ({size / 2**20:,.1f} MiB) are unpacked to be prepared, and removed after")
        place = folder
        while len(inner := [each for each in place.iterdir() if not is_junk(each.name)]) == 1 and inner[0].is_dir():
            place = inner[0]
        yield inner[0] if len(inner) == 1 and not is_picture(inner[0]) else place


def unpack(path: Path, folder: Path) -> tuple[int, int]:
    """Files and bytes that were written. Where a name leads out of the folder, or is a link's, nothing is."""
    count = total = 0
    for name, size, data in members(path, folder):
        target = inside(folder, name)
        if target is None:
            continue
        with errors(path, name):
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                shutil.copyfileobj(data, file, 2**20)
                if file.tell() != size:
                    raise EOFError(f"{file.tell():,} bytes, where its header says {size:,}")
        count, total = count + 1, total + size
    return count, total


def inside(folder: Path, name: str) -> Path | None:
    """The path that a member is written to; None for what systems leave. Raises DataError for a name that leads
    elsewhere."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if any(is_junk(part) and part != ".." for part in parts if part != "."):
        return None
    if not parts or ".." in parts or os.path.isabs(name) or ":" in parts[0]:
        raise DataError("a file in an archive would lie outside of it", where=name, expected="names inside of it")
    return folder.joinpath(*parts)


def members(path: Path, folder: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Name, bytes and content of every plain file. Raises DataError where they are more than the disk has room for."""
    if is_tar(path):
        with opened_tar(path) as archive:
            for member in members_of(archive, path):
                check_room(folder, member.size)
                data = archive.extractfile(member)
                assert data, "a plain file"
                yield member.name, member.size, data
        return
    with errors(path), zipfile.ZipFile(path) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
        check_room(folder, sum(info.file_size for info in infos))
        for info in infos:
            with errors(path, info.filename), archive.open(info) as data:
                yield info.filename, info.file_size, data


@contextmanager
def errors(path: Path, name: str | None = None) -> Iterator[None]:
    """Raises DataError where an archive cannot be read inside."""
    try:
        yield
    except FfdistError:
        raise
    except ERRORS as error:
        locked = "password" in str(error)
        raise DataError(
            "an archive cannot be read",
            where=f"{path}, {name}" if name else path,
            expected="a whole zip or tar, without a password",
            got=str(error).replace(str(path), path.name) or type(error).__name__,
            remedy="unpack it with its password, and give the folder" if locked else f"fetch or write {path} again",
        ) from error


@contextmanager
def called(place: Path, path: Path) -> Iterator[None]:
    """Errors inside speak of the archive, and not of the place where it is unpacked."""
    try:
        yield
    except FfdistError as error:
        details = {name: renamed(text, place, path) for name, text in error.details.items()}
        if details["remedy"] != error.details["remedy"]:
            details["remedy"] = f"unpack {path}; then as for a folder: {details['remedy']}"
        raise error.again(**details) from error


def renamed(text: Any, place: Path, path: Path) -> Any:
    return str(text).replace(str(place), str(path)) if str(place) in str(text) else text


class UnpackedSource(DataSource):
    """A source that lies unpacked in `place`, and is called like its archive."""

    def __init__(self, inner: DataSource, place: Path, path: Path) -> None:
        self.inner = inner
        self.place = place
        self.path = path
        self.name = path.name.partition(".")[0] or path.name
        self.classes = inner.classes
        self.counts = inner.counts
        self.held_out = inner.held_out
        self.left_out = inner.left_out
        self.notes = [renamed(text, place, path) for text in inner.notes]

    def items(self) -> Iterator[Item]:
        for item in self.inner.items():
            yield item._replace(where=renamed(item.where, self.place, self.path))
