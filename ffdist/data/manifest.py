"""A prepared folder's description of itself: `manifest.json`."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from ffdist.data.decode import Decoding, read_decoding
from ffdist.digests import OTHER_DIGEST, with_digest, without_digest
from ffdist.errors import DataError, FfdistError
from ffdist.folders import command
from ffdist.regular import read_bytes
from ffdist.remote import RemoteFolder

MANIFEST = "manifest.json"
FORMAT = "ffdist-data"
VERSION = 1
AGAIN = "prepare the data set again"
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class ShardFile:
    """One file of a split."""

    file: str
    """Its name in the folder."""
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class SplitFiles:
    """The shards of a split, in order, and the samples of each class."""

    files: list[ShardFile]
    counts: list[int]
    index: ShardFile | None = None
    """Where each picture lies in the shards, if they hold pictures as they are encoded; None: they hold pixels."""
    digests: ShardFile | None = None
    """A digest of each sample; None in folders that were written without."""

    @property
    def rows(self) -> int:
        """Samples of the split."""
        return sum(shard.rows for shard in self.files)

    def check_counts(self, labels: np.ndarray, num_classes: int, where: object) -> None:
        """labels: int [N]. Raises DataError where they are others than were counted."""
        counts = np.bincount(labels, minlength=num_classes).tolist()
        if counts != self.counts:
            raise DataError(
                "labels are not those that the manifest counts",
                where=where,
                expected=self.counts,
                got=counts,
                remedy=AGAIN,
            )

    def digest(self, extra: str = "") -> str:
        """A digest of the checksums of the files that have the samples."""
        files = [(shard.rows, shard.sha256) for shard in [*self.files, *([self.index] if self.index else [])]]
        return hashlib.blake2b((repr(files) + extra).encode(), digest_size=16).hexdigest()

    @property
    def listed(self) -> list[ShardFile]:
        """All files of the split."""
        return [*self.files, *(file for file in (self.index, self.digests) if file is not None)]


@dataclass(frozen=True)
class HeldOut:
    """The way in which splits were drawn from a source that has none of them."""

    test_fraction: float
    """The share of each class; 0 where the test split is the source's own, or there is none."""
    seed: int
    validation_fraction: float = 0
    groups: str | None = None
    """What was drawn in whole groups: a column's name."""


@dataclass(frozen=True)
class LeftOut:
    """Something of the source that was not taken."""

    what: str
    """A name below the source, or an ending, or a row of a table."""
    why: str
    count: int = 1


@dataclass(frozen=True)
class DataManifest:
    """The description of a prepared data set: all but its samples."""

    name: str
    classes: list[str]
    shape: tuple[int, int, int]
    """(C, H, W)."""
    mean: tuple[float, ...]
    """Per channel, of the training pixels in [0, 1]; of the test pixels where there is no training split."""
    std: tuple[float, ...]
    splits: dict[str, SplitFiles]
    """"train", "validation" and "test", of each what there is; "train" or "test" at least."""
    superclass: tuple[int, ...] | None = None
    """A number of each class, in folders of an older version; its shards repeat it in a column, which nothing reads."""
    decoding: Decoding | None = None
    """How its pictures were read; None in folders that do not say so."""
    held_out: HeldOut | None = None
    """How splits were drawn; None where all are the source's own, or the folder does not say so."""
    left_out: tuple[LeftOut, ...] = ()
    """Parts of the source that were not taken, with the reasons."""
    notes: tuple[str, ...] = ()
    """Other notes for the user from when it was prepared."""
    duplicates: dict[str, int] | None = None
    """Samples of one split that are also in another: {"test in train": 3}; None in folders that do not say so."""

    @property
    def encoded(self) -> bool:
        """True if its shards hold pictures as they were encoded, and not pixels."""
        return any(split.index for split in self.splits.values())

    @property
    def measured(self) -> str:
        """The split whose pixels `mean` and `std` are of."""
        return "train" if "train" in self.splits else "test"

    def write(self, folder: Path) -> None:
        """Write `manifest.json` with its own digest into the folder."""
        text = json.dumps(with_digest({"format": FORMAT, "version": VERSION, **asdict(self)}), indent=1)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path | RemoteFolder) -> DataManifest:
    """The manifest of a prepared folder, here or remote.

    Raises DataError where there is none, where it cannot be read or holds what it should not, or is of another version.
    """
    path = folder / MANIFEST
    read = folder.check().read if isinstance(folder, RemoteFolder) else lambda name: read_bytes(folder / name)
    try:
        data = read(MANIFEST)
        fields = json.loads(data.decode("utf-8"))
        check(isinstance(fields, dict), "no JSON object")
        fields = without_digest(fields)
        if (fields.pop("format"), fields.pop("version")) != (FORMAT, VERSION):
            raise ValueError(f"not {FORMAT} version {VERSION}")
        unknown = [*fields.keys() - inspect.signature(parsed).parameters.keys()]
        check(not unknown, f"an entry that none has: {unknown[:1]}")
        return parsed(**fields)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(
            "not a prepared data set", where=folder, expected=MANIFEST, got="no such file", remedy=how_prepared(folder)
        ) from error
    except OSError as error:
        raise DataError(
            "the manifest cannot be read",
            where=path,
            got=error.strerror or error,
            remedy="make it readable for this user",
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, FfdistError) as error:
        got = "JSON that is nested too deeply" if isinstance(error, RecursionError) else error
        raise DataError(
            "the manifest cannot be used",
            where=path,
            expected=f"{FORMAT} version {VERSION}",
            got=got,
            remedy=AGAIN
            if str(error) != OTHER_DIGEST
            else f'{AGAIN}; or take its "digest" out, if it was you who changed something else in it',
        ) from error


def how_prepared(folder: Path | RemoteFolder) -> str:
    """The remedy where a folder is not prepared."""
    if isinstance(folder, RemoteFolder):
        return command("data", "prepare", "SOURCE", "--out", folder)
    if str(folder) == "digits" and not folder.exists():
        return f"digits are embedded, without a folder: {command('train', '--data', folder)}"
    source = folder if folder.exists() else "SOURCE"
    return f"{command('data', 'prepare', source)} --out FOLDER"


def parsed(
    *,
    name: str,
    classes: list,
    splits: dict,
    shape: list,
    mean: list,
    std: list,
    superclass: list | None,
    decoding: dict | None = None,
    held_out: dict | None = None,
    left_out: Sequence[dict] = (),
    notes: Sequence[str] = (),
    duplicates: dict | None = None,
) -> DataManifest:
    """A manifest from its fields in JSON. Raises ValueError, TypeError or KeyError for what no manifest holds."""
    check(isinstance(name, str), "the name is no text")
    check(is_list(classes, str) and len(classes) > 0, "these are not class names")
    check(len(set(classes)) == len(classes), "two classes have one name")
    check(is_list(shape, int) and len(shape) == 3 and min(shape) > 0, "the manifest's shape is not [C, H, W]")
    channels, height, width = shape
    check(channels * height * width < 2**31, "the shape is too large")
    if len(mean) != channels or len(std) != channels:
        raise ValueError(f"{len(mean)} means and {len(std)} deviations of {channels} channels")
    check(all(is_number(value) for value in (*mean, *std)) and min(std) > 0, "mean or std is no usable number")
    check(isinstance(splits, dict), "the manifest's splits are no object")
    check("train" in splits or "test" in splits, "no training split and no test split")
    check(set(splits) <= set(SPLITS), f"splits {', '.join(splits)}, not {', '.join(SPLITS)}")
    files = {split: parsed_split(split, each) for split, each in splits.items()}
    names = [shard.file for each in files.values() for shard in each.listed]
    check(len(set(names)) == len(names), "a shard is listed twice")
    check(
        superclass is None or (is_list(superclass, int) and len(superclass) == len(classes) and min(superclass) >= 0),
        "the superclasses are not one number a class",
    )
    check(isinstance(notes, (list, tuple)) and all(isinstance(note, str) for note in notes), "the notes are no texts")
    check(
        duplicates is None or (isinstance(duplicates, dict) and all(map(is_count, duplicates.values()))),
        "the duplicates are no counts",
    )
    return DataManifest(
        name=name,
        classes=classes,
        shape=(channels, height, width),
        mean=tuple(mean),
        std=tuple(std),
        splits=files,
        superclass=None if superclass is None else tuple(superclass),
        decoding=None if decoding is None else read_decoding(decoding),
        held_out=None if held_out is None else parsed_held_out(held_out),
        left_out=tuple(parsed_left_out(entry) for entry in left_out),
        notes=tuple(notes),
        duplicates=duplicates,
    )


def parsed_split(name: str, fields: dict) -> SplitFiles:
    """A split's files from their fields in JSON. Raises ValueError, TypeError or KeyError for other fields."""
    files = [ShardFile(**file) for file in fields["files"]]
    counts = fields["counts"]
    index, digests = (ShardFile(**fields[key]) if fields.get(key) is not None else None for key in ("index", "digests"))
    index_files = [file for file in (index, digests) if file]
    check(len(files) > 0, f"{name} has no files")
    for shard in (*files, *index_files):
        check(is_name(shard.file), f"a shard elsewhere: {shard.file!r}")
        check(is_count(shard.rows) and shard.rows > 0 and is_count(shard.bytes), f"sizes of {shard.file} are no counts")
        check(isinstance(shard.sha256, str), f"the checksum of {shard.file} is no text")
    check(is_list(counts, int) and all(map(is_count, counts)), f"the counts of {name} are no counts")
    rows = sum(shard.rows for shard in files)
    check(all(file.rows == rows for file in index_files), f"the index or the digests of {name} have other rows")
    return SplitFiles(files, counts, index, digests)


def parsed_left_out(fields: dict) -> LeftOut:
    entry = LeftOut(**fields)
    check(isinstance(entry.what, str) and isinstance(entry.why, str) and is_count(entry.count), "what was left out")
    return entry


def parsed_held_out(fields: dict) -> HeldOut:
    drawn = HeldOut(**fields)
    shares = (drawn.test_fraction, drawn.validation_fraction)
    known = drawn.groups is None or isinstance(drawn.groups, str)
    check(all(map(is_number, shares)) and type(drawn.seed) is int and known, "how splits were drawn")
    return drawn


def check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def is_name(value: Any) -> bool:
    """True if it names a file in the very folder."""
    return isinstance(value, str) and "\0" not in value and Path(value).name == value != ".."


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def is_list(values: Any, kind: type) -> bool:
    """True if it is a list of that type alone; true and false are no numbers."""
    return isinstance(values, list) and all(type(value) is kind for value in values)
