"""Tars of samples as webdataset writes them: files of one name make a sample, `0001.jpg` and `0001.cls`, in a row.

They are read from front to back, once for the labels and once for the pictures, and never unpacked.
"""

from __future__ import annotations

import json
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ffdist.data.classes import encode_labels
from ffdist.data.column_names import LABEL, Columns
from ffdist.data.columns import joined
from ffdist.data.formats import endings
from ffdist.data.labels import LEAVE_OUT_OF_FILE, Labels, labels_of, texts
from ffdist.data.manifest import LeftOut
from ffdist.data.sources.base import DataSource, Item
from ffdist.data.sources.listing import Listing, is_junk
from ffdist.data.sources.name_groups import groups_by_name
from ffdist.data.sources.shares import HoldOutOptions, Shares
from ffdist.data.sources.splits import TEST, TRAIN, SplitChoice
from ffdist.data.sources.table_files import numerals
from ffdist.data.sources.table_splits import find_files
from ffdist.errors import DataError, setting
from ffdist.notes import listed

CLASSES = ("cls", "label", "class", "cls.txt", "label.txt", "class.txt")
"""Endings of files that hold a label as text."""
KEYS = ("label", "cls", "class", "class_name", "target")
"""The keys of a label in a sample's JSON."""
LARGE = 2**28
"""Bytes of one member, beyond which it is no picture."""
ERRORS = (tarfile.TarError, OSError, EOFError, zlib.error, ValueError)


class Sample(NamedTuple):
    """One sample: the members of a tar that have the same name but for their endings."""

    key: str
    members: dict[str, Any]
    """Small texts by ending; of pictures the member itself."""
    where: str


def is_tar(path: Path) -> bool:
    return path.name.lower().endswith((".tar", ".tar.gz", ".tgz"))


def holds_tars(path: Path, choice: SplitChoice) -> bool:
    """True if it is a tar, or a folder with tars in it and no folders."""
    if path.is_file():
        return is_tar(path)
    folders, files = Listing(path, choice).quiet().listed(path) if path.is_dir() else ([], [])
    return not folders and any(is_tar(file) for file in files)


class Tars(DataSource):
    """One tar, or a folder of them, whose names may say which split they are, as tables' do.

    columns: of samples, groups and labels: the ending of the member, or the key in the sample's JSON.
    Raises DataError for tars that cannot be read or end too early, and for samples without a label.
    """

    def __init__(self, path: Path, *, columns: Columns, choice: SplitChoice, holding: HoldOutOptions) -> None:
        self.name = path.name.partition(".")[0]
        self.columns = columns
        texts = {} if path.is_file() else {file: "" for file in Listing(path, choice).listed(path)[1] if is_tar(file)}
        found = find_files(path, choice, texts or None)
        self.files = found.splits
        self.without = 0
        self.groups: dict[object, int] = {}
        read = {split: self.labels_in(files) for split, files in self.files.items()}
        labels = {split: each for split, (each, _) in read.items()}
        self.classes, self.labels = encode_labels(labels, None, renumber=True)
        first = TRAIN if TRAIN in self.files else TEST
        counts = {split: len(labels) for split, labels in self.labels.items()}
        groups = np.array(read[first][1], np.int64) if columns.group else None
        if holding.group_pattern is not None:
            keys = (
                sample.key for file in self.files[first] for sample in samples_in(file) if picture_of(sample, columns)
            )
            groups = groups_by_name(holding.group_pattern, keys, path)
        named = f"'{columns.group}'" if columns.group else holding.named
        self.shares = Shares(counts, self.labels[first], holding, groups, named)
        self.counts = self.shares.counts
        self.held_out = self.shares.held_out
        self.notes = [*found.notes, *self.shares.notes]
        self.left_out = found.listing.left_out
        if self.without:
            self.left_out = [*self.left_out, LeftOut("samples", "without a picture", self.without)]

    def labels_in(self, files: list[Path]) -> tuple[Labels, list[int]]:
        """The labels of all samples, and the numbers of their groups."""
        parts, groups = [], []
        for file in files:
            values = []
            for sample in samples_in(file):
                if picture_of(sample, self.columns) is None:
                    self.without += 1
                    continue
                values.append(label_of(sample, self.columns))
                if self.columns.group:
                    groups.append(
                        self.groups.setdefault(field_of(sample, self.columns.group, "group"), len(self.groups))
                    )
            if values:
                parts.append(as_labels(values, str(file)))
        if not parts:
            raise DataError(
                "a tar has no samples", where=files[0], expected="KEY.jpg and KEY.cls, or KEY.json", got="no pictures"
            )
        return joined(parts, str(files[0])), groups

    def items(self) -> Iterator[Item]:
        for split, files in self.files.items():
            labels, row = self.labels[split].tolist(), 0
            for file in files:
                for sample, data in pictures_in(file, self.columns):
                    yield Item(self.shares.split(row) if split == TRAIN else split, labels[row], data, sample.where)
                    row += 1


def as_labels(values: list[Any], where: str) -> Labels:
    """Texts that all are whole numbers count as such."""
    if all(isinstance(value, str) for value in values):
        return numerals(texts(np.array(values), where))
    return labels_of(values, where, len(values), remedy=LEAVE_OUT_OF_FILE)


def label_of(sample: Sample, columns: Columns) -> Any:
    """A sample's label, from its member or JSON. Raises DataError where there is none."""
    named = columns.label != LABEL
    return field_of(
        sample, columns.label, "label", (columns.label,) if named else CLASSES, (columns.label,) if named else KEYS
    )


def field_of(sample: Sample, name: str, what: str, endings_: tuple[str, ...] = (), keys: tuple[str, ...] = ()) -> Any:
    """A text of a member, or a value of the sample's JSON."""
    for ending in endings_ or (name,):
        if isinstance(text := sample.members.get(ending), bytes):
            return text.decode("utf-8", "replace").strip()
    notes = {}
    if isinstance(text := sample.members.get("json"), bytes):
        try:
            notes = json.loads(text)
        except ValueError as error:
            raise DataError("a sample's JSON cannot be read", where=sample.where, got=error) from error
        for key in keys or (name,):
            if isinstance(notes, dict) and key in notes:
                return notes[key]
    flag = setting("label_column" if what == "label" else "group_column")
    has = [*sample.members, *(f"json: {key}" for key in notes if isinstance(notes, dict))]
    raise DataError(
        f"a sample has no {what}",
        where=sample.where,
        expected=f"KEY.{(endings_ or (name,))[0]}, or '{(keys or (name,))[0]}' in KEY.json",
        got=listed(has, 12),
        remedy=f"name the ending or the key with {flag}; a tar of a folder of pictures: unpack it, and give the folder",
    )


def picture_of(sample: Sample, columns: Columns) -> str | None:
    """The ending of the sample's picture."""
    if columns.image in sample.members:
        return columns.image
    return next((ending for ending in sample.members if f".{ending.rpartition('.')[2]}" in endings()), None)


def samples_in(file: Path) -> Iterator[Sample]:
    """Every sample, its pictures not read. Raises DataError for a tar that is damaged or ends too early."""
    for sample, _ in grouped(file):
        yield sample


def pictures_in(file: Path, columns: Columns) -> Iterator[tuple[Sample, bytes]]:
    """Samples with a picture, and its bytes."""
    for sample, archive in grouped(file):
        if ending := picture_of(sample, columns):
            member = sample.members[ending]
            with readable(file, sample.where):
                data = member if isinstance(member, bytes) else read(archive, member)
            yield sample, data


class readable:  # noqa: N801 - a context manager, as functions are
    """Raises DataError where a tar cannot be read inside."""

    def __init__(self, file: Path, where: str) -> None:
        self.file = file
        self.where = where

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, ERRORS) and not isinstance(error, DataError):
            raise DataError(
                "a tar cannot be read",
                where=self.where,
                expected="a whole tar",
                got=why(error, self.file),
                remedy=f"fetch or write {self.file} again",
            ) from error


def why(error: Exception, file: Path) -> str:
    """The reason that a tar cannot be read, in a line, when it is opened as its name says."""
    lines = str(error).splitlines()
    way = "gz" if file.name.lower().endswith("gz") else "tar"
    own = [line.partition(": ")[2] for line in lines if line.startswith(f"- method {way}:")]
    return (own or lines or [type(error).__name__])[0]


def grouped(file: Path) -> Iterator[tuple[Sample, tarfile.TarFile]]:
    """Members of one name that lie in a row; of those that are no pictures the bytes."""
    archive = opened(file)
    with archive:
        key, members = "", {}
        for member in members_of(archive, file):
            folder, _, name = member.name.rpartition("/")
            stem, _, ending = name.partition(".")
            found = f"{folder}/{stem}" if folder else stem
            if found != key and members:
                yield Sample(key, members, f"{file}, sample {key}"), archive
                members = {}
            key = found
            ending = ending.lower()
            if ending in members:
                raise DataError(
                    "a sample has two files of one ending",
                    where=f"{file}, sample {key}",
                    got=member.name,
                    remedy="write each sample under a name of its own",
                )
            members[ending] = member
            if f".{ending.rpartition('.')[2]}" not in endings():
                members[ending] = small(archive, member, file)
        if members:
            yield Sample(key, members, f"{file}, sample {key}"), archive


def opened(file: Path) -> tarfile.TarFile:
    """Open a tar, whatever it is compressed with. Raises DataError where it cannot be read."""
    with readable(file, str(file)):
        return tarfile.open(file, "r:*")
    raise AssertionError("an error is raised")


def members_of(archive: tarfile.TarFile, file: Path) -> Iterator[tarfile.TarInfo]:
    """Plain files, without what systems leave. Raises DataError where the end is missing."""
    last = "its beginning"
    while True:
        with readable(file, f"{file}, after {last}"):
            member = archive.next()
            if member is None:
                break
        archive.members = []  # pyright: ignore[reportAttributeAccessIssue] - it would keep a list of all
        last = member.name
        if member.isfile() and not is_junk(member.name.rpartition("/")[2]):
            if member.size > LARGE:
                raise DataError(
                    "a file in a tar is too large for a picture or a label",
                    where=f"{file}, {member.name}",
                    expected=f"{LARGE // 2**20} MiB at most",
                    got=f"{member.size:,} bytes",
                )
            yield member
    with readable(file, f"{file}, after {last}"):
        assert archive.fileobj
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(512).count(0) != 512:
            raise tarfile.ReadError("it ends without the two empty blocks that every tar ends with: it is cut off")


def small(archive: tarfile.TarFile, member: tarfile.TarInfo, file: Path) -> bytes:
    """The bytes of a label or JSON; b"" for a member of more than 1 MiB, which is neither."""
    if member.size > 2**20:
        return b""
    with readable(file, f"{file}, {member.name}"):
        return read(archive, member)
    raise AssertionError("an error is raised")


def read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    found = archive.extractfile(member)
    assert found, "a plain file"
    return found.read()
