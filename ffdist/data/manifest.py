"""What a prepared folder says about itself: `manifest.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ffdist.data.decode import Decoding, read_decoding
from ffdist.errors import DataError

MANIFEST = "manifest.json"
FORMAT = "ffdist-data"
VERSION = 1


@dataclass(frozen=True)
class ShardFile:
    """One file of a split."""

    file: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class SplitFiles:
    """The shards of a split, in order, and the samples of each class."""

    files: list[ShardFile]
    counts: list[int]

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.files)


@dataclass(frozen=True)
class Manifest:
    """A prepared data set without its pixels."""

    name: str
    classes: list[str]
    shape: tuple[int, int, int]
    """(C, H, W)."""
    mean: tuple[float, ...]
    """Per channel, of the training pixels in [0, 1]."""
    std: tuple[float, ...]
    splits: dict[str, SplitFiles]
    """"train", and "validation" and "test" where there is one."""
    superclass: tuple[int, ...] | None = None
    decoding: Decoding | None = None
    """How its pictures were read; None in folders that do not say so."""

    def write(self, folder: Path) -> None:
        text = json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, indent=1)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Raises DataError where there is none, where it is damaged, or where it is of another version."""
    path = folder / MANIFEST
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if (fields.pop("format"), fields.pop("version")) != (FORMAT, VERSION):
            raise ValueError(f"not {FORMAT} version {VERSION}")
        return parsed(**fields)
    except FileNotFoundError as error:
        raise DataError("not a prepared data set", where=folder, expected=MANIFEST, got="no such file",
                        remedy="ffdist data prepare SOURCE --out FOLDER") from error  # fmt: skip
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError("the manifest cannot be used", where=path, expected=f"{FORMAT} version {VERSION}", got=error,
                        remedy="prepare the data set again") from error  # fmt: skip


def parsed(
    *,
    splits: dict,
    shape: list,
    mean: list,
    std: list,
    superclass: list | None,
    decoding: dict | None = None,
    **fields,
) -> Manifest:
    channels, height, width = shape
    if len(mean) != channels or len(std) != channels:
        raise ValueError(f"{len(mean)} means and {len(std)} deviations of {channels} channels")
    if "train" not in splits or not all(split["files"] for split in splits.values()):
        raise ValueError("no training split, or a split without files")
    return Manifest(
        **fields,
        shape=(channels, height, width),
        mean=tuple(mean),
        std=tuple(std),
        splits={name: SplitFiles([ShardFile(**f) for f in s["files"]], s["counts"]) for name, s in splits.items()},
        superclass=None if superclass is None else tuple(superclass),
        decoding=None if decoding is None else read_decoding(decoding),
    )
