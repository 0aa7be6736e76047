"""Data sets by name: what can be opened, what can be prepared, and whether what is prepared is whole."""

from __future__ import annotations

import difflib
import io
import os
import shlex
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ffdist import digests
from ffdist.cores import available_cores
from ffdist.data.ahead import in_order
from ffdist.data.cached import prepared_in_cache
from ffdist.data.digits import digits
from ffdist.data.encoded import EncodedSplit, check_shards
from ffdist.data.images import Images, Moments, PreparedAs, Split
from ffdist.data.manifest import AGAIN, FORMAT, MANIFEST, DataManifest, ShardFile, SplitFiles, read_manifest
from ffdist.data.number_tables import open_numbers
from ffdist.data.parts import opened_parts
from ffdist.data.preparation import Preparation, from_values
from ffdist.data.row_digests import first_other, not_as_written_error, read_digests
from ffdist.data.shard_files import sha256
from ffdist.data.shards import open_folder, open_split
from ffdist.data.sources import KNOWN
from ffdist.data.sources.known import known_name
from ffdist.data.sources.listing import first_names, is_junk
from ffdist.errors import ConfigError, DataError, setting
from ffdist.notes import note
from ffdist.options import path_of
from ffdist.regular import open_regular
from ffdist.remote import RemoteFolder
from ffdist.renamed import renamed_arguments

CHUNK = 256
"""Pictures that are measured at once."""


@renamed_arguments(told="prepared_as")
def open_data(
    name_or_source: str | Path,
    image_size: int | None = None,
    *,
    data_root: str | Path | None = None,
    download: bool = True,
    prepared_as: Preparation | None = None,
    **preparation: Any,
) -> Images:
    """The embedded "digits"; a prepared folder, here or remote (s3://, gs://, ...); a data set that is known by name,
    which is fetched and prepared on first use; or a source that is prepared into the cache on the way: a folder of
    pictures, a table, whatever `prepare` takes. Pictures are resized to image_size x image_size where given.

    A name that is no folder is looked for in data/, too, where `ffdist data prepare NAME` puts it. The cache is
    $FFDIST_CACHE, else ffdist in $XDG_CACHE_HOME, else in ~/.cache; what is prepared there is used again while the
    source is unchanged.
    data_root: where known data sets lie as torchvision keeps them, or are fetched to; default: the cache. download:
        whether they may be fetched. prepared_as, or preparation: how a source is prepared, by the arguments of
        `prepare`: mode="rgb", size=64, label_column="class", ...
    Raises DataError for a name that is neither, for a folder that is not whole, and for a source that cannot be
    prepared; ConfigError for settings out of range.
    """
    remote = RemoteFolder.of(name_or_source)
    name = remote.url if remote else os.path.expanduser(name_or_source)
    chosen = prepared_as or from_values(preparation)
    folder = remote or folder_of(name)
    if name == "digits" or folder:
        if chosen.texts():
            raise ConfigError(
                "a prepared data set cannot be prepared in another way",
                where=name,
                expected="a source",
                got=" ".join(chosen.texts()),
                remedy=f"leave {setting('dataset.data_args')} out",
            )
        images = digits() if folder is None else open_folder(folder)
        return resized(replace(images, source=settled_source(name)), image_size)
    source = source_of(name)
    if os.path.lexists(kept := Path("data", name, MANIFEST)):
        note(f"{name} is taken as it is here, and not as it was prepared: {setting('dataset.data', kept.parent)}")
    sized = chosen
    if source not in KNOWN or KNOWN[source].shape is None:
        sized = chosen if chosen.size or image_size is None else replace(chosen, size=str(image_size))
    if source not in KNOWN and (numbers := open_numbers(Path(source), chosen)) is not None:
        check_no_size(numbers, image_size)
        return replace(numbers, source=settled_source(name), prepared=PreparedAs(None, chosen.texts()))
    root = None if data_root is None else path_of(data_root).absolute()
    made = PreparedAs(prepared_in_cache(source, sized, root=root, download=download), sized.texts(), root)
    assert made.folder
    return resized(replace(open_folder(made.folder), source=settled_source(name), prepared=made), image_size)


def check_no_size(numbers: Images, image_size: int | None) -> None:
    """Raises ConfigError where samples that are no pictures are to be resized."""
    if image_size is not None:
        raise ConfigError(
            "only pictures are resized",
            where=setting("dataset.image_size"),
            expected="pictures",
            got=f"numbers {numbers.shape}",
            remedy="leave it out",
        )


def resized(images: Images, size: int | None) -> Images:
    """The data set with pictures of `size` x `size`; as it is for None."""
    return images if size is None else images.at((size, size))


def folder_of(name_or_folder: str | Path) -> Path | None:
    """The prepared folder of a data set, as named or in data/; None for what is embedded, not prepared, or not there.

    A path that is there is meant itself: a source may have changed since it was prepared into data/ under its name.
    """
    name = str(name_or_folder)
    if name == "digits":
        return None
    itself = os.path.exists(name) and name not in KNOWN
    places = (Path(name),) if itself else (Path(name), Path("data", name))
    return next((path for path in places if os.path.lexists(path / MANIFEST)), None)


def is_prepared(name: str) -> bool:
    """True if it opens as it is, or has a name and splits of its own: nothing need be said of how to prepare it."""
    return name == "digits" or folder_of(name) is not None or not os.path.exists(name)


def source_of(name: str) -> str:
    """A known data set's name, or the path of a source. Raises DataError for what is neither, and for a run."""
    if Path(name, "config.toml").is_file() and Path(name, "metrics.jsonl").is_file():
        raise DataError(
            "the folder is a run's, and no data set",
            where=name,
            expected="the data that it learned",
            remedy=f"as `data` in {Path(name, 'config.toml')}; "
            f"to go on with the run, ffdist train --resume {shlex.quote(name)}",
        )
    if name in KNOWN or os.path.exists(name):
        return name
    if (known := known_name(name)) is not None:
        return known
    if name.casefold() == "emnist":
        raise DataError("EMNIST has several sets", got=name, expected=", ".join(k for k in KNOWN if k.startswith(name)))
    raise unknown_name_error(name)


def settled_source(name: str) -> str:
    """A name by which the source is found from any folder: the absolute path where it is one."""
    if folder := folder_of(name):
        return str(folder.absolute())
    if name != "digits" and name not in KNOWN and os.path.exists(name):
        return os.path.abspath(name)
    return known_name(name) or name


def unknown_name_error(name: str) -> DataError:
    """The error for a name that is no data set, with the nearest known name."""
    near = difflib.get_close_matches(name.casefold(), ["digits", *KNOWN], 1)
    remedy = "give the path of what is there: a folder of pictures, a table, a prepared folder"
    if os.sep in name:  # as runs name their data
        remedy = f"where they lie now: {setting('dataset.data', 'PATH')}"
    return DataError(
        "unknown data set",
        expected="a name of `ffdist datasets`, a prepared folder, a folder of pictures, or a table",
        got=name,
        remedy=f"did you mean {near[0]}?" if near else remedy,
    )


def verify(folder: Path | RemoteFolder) -> DataManifest:
    """Check a prepared folder down to the checksum of every byte and the mean of every pixel; returns its manifest.

    Raises DataError for the first check that fails.
    """
    manifest = read_manifest(folder)
    for name, split in manifest.splits.items():
        for shard in split.listed:  # first, as it says more than what follows from it
            check_sum(folder, shard)
        opened = open_split(folder, manifest, name)
        if isinstance(opened, EncodedSplit):
            check_shards(opened)
        if name == manifest.measured or isinstance(opened, EncodedSplit):
            check_pixels(folder, manifest, name, opened)
        check_digests(folder, split, opened)
    known = {MANIFEST} | {shard.file for split in manifest.splits.values() for shard in split.listed}
    names = folder.list_files() if isinstance(folder, RemoteFolder) else [path.name for path in folder.iterdir()]
    extra = sorted(name for name in names if name not in known and not is_junk(name))
    if extra:
        raise DataError(
            "the folder holds what the manifest does not list",
            where=folder,
            got=first_names(extra),
            remedy="remove it: nothing reads it",
        )
    return manifest


def check_sum(folder: Path | RemoteFolder, shard: ShardFile) -> None:
    """Raises DataError for a shard of the right size with other bytes; opening it tells whatever else is wrong."""
    try:
        if isinstance(folder, RemoteFolder):
            data = folder.read(shard.file)
            size, found = len(data), digests.sha256(io.BytesIO(data))
        else:
            size, found = (folder / shard.file).stat().st_size, sha256(folder / shard.file)
    except OSError:
        return
    if size == shard.bytes and found != shard.sha256:
        raise DataError(
            "a shard is corrupt",
            where=folder / shard.file,
            expected=f"sha256 {shard.sha256}",
            got=f"sha256 {found}",
            remedy=AGAIN,
        )


def check_digests(folder: Path | RemoteFolder, files: SplitFiles, split: Split) -> None:
    """Raises DataError where the file with a digest of each sample tells other samples or labels."""
    if files.digests is None:
        return
    where = folder / files.digests.file
    labels, digest = read_digests(opened_parts(folder, [files.digests]).whole(files.digests.file), len(split), where)
    if not np.array_equal(labels, split.labels):
        raise DataError("labels are not those of the digests", where=where, remedy=AGAIN)
    for start in range(0, len(split), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(split)))
        data = split.encoded(rows) if isinstance(split, EncodedSplit) else split.take(rows)
        if (other := first_other(data, digest[rows])) is not None:
            raise not_as_written_error(f"{where}, row {start + other}")


def check_pixels(folder: Path | RemoteFolder, manifest: DataManifest, name: str, split: Split) -> None:
    """Raises DataError for a picture that cannot be decoded, and where mean or std are not those of the pixels."""
    seen = Moments(manifest.shape[0])
    parts = (np.arange(start, min(start + CHUNK, len(split))) for start in range(0, len(split), CHUNK))
    cores = available_cores() if isinstance(split, EncodedSplit) else 1
    for counts in in_order(partial(levels, split), parts, threads=cores, ahead=cores, name="ffdist-check"):
        seen.counts += counts
    if name != manifest.measured:
        return
    for what, stated, found in zip(("mean", "std"), (manifest.mean, manifest.std), seen.result(), strict=True):
        if not np.allclose(stated, found, rtol=1e-6, atol=1e-9):
            raise DataError(
                f"{what} in the manifest is not that of the {manifest.measured} pixels",
                where=folder / MANIFEST,
                expected=found,
                got=stated,
                remedy=AGAIN,
            )


def levels(split: Split, rows: np.ndarray) -> np.ndarray:
    """Pixels of each level, int [C, 256]; encoded pictures in the size in which they were prepared."""
    if not isinstance(split, EncodedSplit):
        pictures = split.take(rows)
        return Moments(pictures.shape[-1]).add(pictures).counts
    seen = Moments(split.channels)
    for row in rows:
        seen.add(split.prepared(row)[None])
    return seen.counts


@dataclass(frozen=True)
class DatasetEntry:
    """A data set as `list_data` lists it: embedded, known by name, or prepared."""

    name: str
    state: Literal["embedded", "preparable", "prepared", "damaged"]
    """Damaged: a prepared folder whose manifest cannot be used; opening it says why."""
    shape: tuple[int, ...] | None
    """(C, H, W); None where its pictures differ in size."""
    num_classes: int
    counts: dict[str, int]
    """Samples of each split."""
    folder: Path | None = None


def digits_entry() -> DatasetEntry:
    """The entry of the embedded digits."""
    images = digits()
    counts = {"train": len(images.train), "test": len(images.test or ())}
    return DatasetEntry("digits", "embedded", images.shape, images.num_classes, counts)


def list_data(root: str | Path) -> list[DatasetEntry]:
    """List data sets: those embedded, those that can be prepared by name, and those prepared in `root` or up to two
    levels below it. Raises DataError for a folder that is not there, but for data/."""
    root = path_of(root)
    if root != Path("data") and not root.is_dir():
        raise DataError("there is no such folder", where=root, expected="a folder of prepared data sets")
    entries = [digits_entry()]
    entries += [DatasetEntry(name, "preparable", k.shape, k.num_classes, k.counts) for name, k in KNOWN.items()]
    manifests = sorted(path for depth in ("", "*/", "*/*/") for path in root.glob(depth + MANIFEST))
    return entries + [prepared_entry(path.parent) for path in manifests if is_ours(path)]


def is_ours(manifest: Path) -> bool:
    """True if a file says that it is a manifest; one that cannot be read may be."""
    try:
        with open_regular(manifest) as file:
            return FORMAT.encode() in file.read(80)
    except OSError:
        return True


def prepared_entry(folder: Path) -> DatasetEntry:
    """The entry of a prepared folder, by its manifest alone."""
    try:
        manifest = read_manifest(folder)
    except DataError:
        return DatasetEntry(folder.name, "damaged", None, 0, {}, folder)
    counts = {name: split.rows for name, split in manifest.splits.items()}
    return DatasetEntry(manifest.name, "prepared", manifest.shape, len(manifest.classes), counts, folder)
