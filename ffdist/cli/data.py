"""`ffdist data`."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from ffdist.cli.help import Flag, Positional
from ffdist.cli.parsing import parsed_of
from ffdist.errors import ConfigError
from ffdist.folders import command, container_note
from ffdist.notes import QUIET, note
from ffdist.options import path_of
from ffdist.plain import PlainConsole, table
from ffdist.remote import RemoteFolder, url_of
from ffdist.runtime.interrupts import handle_signals, unwind

if TYPE_CHECKING:
    from ffdist.data.catalog import DatasetEntry


@dataclass(frozen=True)
class List:
    """List data sets: those embedded, those that can be prepared by name, and those prepared."""

    root: Path = Path("data")
    """Folder to look in, two levels deep."""
    json: Flag = False
    """Print a JSON list."""

    def run(self) -> None:
        from ffdist.data import list_data  # after the parsing, here and below: they import torch

        entries = list_data(self.root)
        if self.json:
            print(json.dumps([asdict(entry) for entry in entries], default=str))
            return
        rows = table("data set", "state", "shape", "classes", "samples", "folder")
        for entry in entries:
            shape = "any" if entry.shape is None else " x ".join(map(str, entry.shape))
            counts = ", ".join(f"{split} {count:,}" for split, count in entry.counts.items())
            rows.add_row(entry.name, entry.state, shape, str(entry.num_classes), counts, str(entry.folder or ""))
        PlainConsole().print(rows)


@dataclass(frozen=True)
class Prepare:
    """Turn a data set into Arrow shards with a manifest, for `ffdist train --data FOLDER`."""

    source: Annotated[str, Positional]
    """A name of `ffdist datasets`; or a folder with a folder of pictures for each class; or a Parquet, Arrow, Feather
    or CSV file, or a folder of them, with a column of pictures and one of labels."""
    out: Path | None = None
    """New folder for the shards; s3://, gs:// and other addresses, too. Default: data/<name>."""
    from_: Path | None = None
    """Folder that holds a data set known by name as torchvision keeps it. Default: download it."""
    cache: Path | None = None
    """Where downloads are kept. Default: $FFDIST_CACHE, else ffdist in $XDG_CACHE_HOME, else in ~/.cache."""
    download: bool = True
    """Download a data set known by name that is not there."""
    size: str | None = None
    """Side to which pictures are scaled and cut, or HEIGHTxWIDTH. Needed where they differ."""
    mode: Literal["keep", "rgb", "grey"] = "keep"
    """Channels of the prepared pictures; keep takes them as they are."""
    background: str = "white"
    """What transparent pictures are laid over: a colour's name, or #rrggbb."""
    value_range: tuple[float, float] | None = None
    """Values of black and white in pictures of more than 8 bits, e.g. 0 4095. Default: 0 65535 for 16 bits; needed
    where pictures hold less, and for floats."""
    image_column: str = "image"
    """Column of pictures in a table: encoded bytes, or arrays."""
    label_column: str = "label"
    """Column of labels in a table: whole numbers from 0, or names."""
    group_column: str | None = None
    """Column of groups in a table: patients, speakers, scenes. No group is in two splits that are held out of one."""
    group_pattern: str | None = None
    """Regular expression that finds the group in a picture's path below its class folder: "patient[0-9]+"; with
    parentheses, what they hold."""
    splits: tuple[str, ...] = ()
    """What makes train, validation and test, and nothing else then: names or patterns of folders or files, e.g.
    train=a test=b test=c; or none: no name means a split. Default: as names say: train, Training, seg_test, val."""
    ignore: tuple[str, ...] = ()
    """Folders and files that are left out, by name or pattern."""
    skip_broken: Flag = False
    """Leave out pictures that cannot be read. They are listed, here and in manifest.json."""
    store: Literal["auto", "pixels", "encoded"] = "auto"
    """How pictures are kept. pixels: decoded, all of one size; encoded: JPEG, PNG and others byte for byte, of any
    sizes, decoded while a network trains. auto: encoded where pixels take more than 8 GiB and more than they do."""
    test_fraction: float | None = None
    """Share of each class held out for testing, where the source has no test split. 1: all of it is, for a set that is
    only evaluated. Default: 0.2."""
    validation_fraction: float | None = None
    """Share of each class for a validation split of its own, where the source has none. Default: 0: training holds out
    its own."""
    seed: int = 0
    """Seed by which held-out samples are drawn."""
    workers: int | None = None
    """Threads that decode pictures. Default: one a core."""
    json: Flag = False
    """Print one JSON object."""

    def run(self) -> None:
        from ffdist.cli.described import print_manifest
        from ffdist.data import describe, prepare
        from ffdist.data.manifest import read_manifest
        from ffdist.data.preparation import sides
        from ffdist.data.sources.splits import read_splits

        out = url_of(self.out) or self.out or Path("data") / default_name(self.source)
        if isinstance(out, Path) and (warning := container_note(out)):
            note(warning)
        handle_signals(unwind)  # what is half written goes again
        prepare(
            self.source,
            out,
            from_dir=self.from_,
            cache=self.cache,
            download=self.download,
            size=sides(self.size),
            mode=self.mode,
            background=self.background,
            value_range=self.value_range,
            image_column=self.image_column,
            label_column=self.label_column,
            group_column=self.group_column,
            group_pattern=self.group_pattern,
            splits=read_splits(self.splits),
            ignore=self.ignore,
            skip_broken=self.skip_broken,
            store=self.store,
            test_fraction=self.test_fraction,
            validation_fraction=self.validation_fraction,
            seed=self.seed,
            workers=self.workers,
            notify=note,
        )
        manifest = read_manifest(RemoteFolder.of(out) or Path(out))
        if self.json:
            print(json.dumps(describe(out, manifest)))
            return
        print_manifest(manifest, PlainConsole())
        if QUIET in os.environ:
            return
        hint = command("train", "--data", out) if "train" in manifest.splits else command("eval", "RUN", "--data", out)
        print(f"prepared {out}; next: {hint}")


def default_name(source: str) -> str:
    """The default name of the folder below data/, from the source's name."""
    path = path_of(source).resolve()
    return path.stem if path.is_file() else path.name or "root"


@dataclass(frozen=True)
class Check:
    """Verify a prepared folder down to the checksum of every shard."""

    folder: Annotated[Path, Positional]
    """Prepared folder, or its name in data/."""
    json: Flag = False
    """Print one JSON object."""

    def run(self) -> None:
        from ffdist.cli.described import print_manifest
        from ffdist.data import describe, verify
        from ffdist.data.catalog import digits_entry, folder_of

        if str(self.folder) == "digits" and not self.folder.exists():
            print_named(digits_entry(), Path("data"), as_json=self.json)
            return
        folder = RemoteFolder.of(self.folder) or folder_of(self.folder) or self.folder
        manifest = verify(folder)
        if self.json:
            print(json.dumps(describe(folder, manifest)))
            return
        rows = sum(split.rows for split in manifest.splits.values())
        print(f"{folder} is whole: {manifest.name}, {rows:,} samples, {len(manifest.classes)} classes")
        print_manifest(manifest, PlainConsole())
        for text in manifest.notes:
            print(f"noted when it was prepared: {text}")


def print_named(entry: DatasetEntry, root: Path, *, as_json: bool) -> None:
    """Print what is known of a data set without a folder: one that is embedded, or not prepared yet."""
    if as_json:
        print(json.dumps(asdict(entry), default=str))
        return
    counts = ", ".join(f"{split} {count:,}" for split, count in entry.counts.items())
    shape = " x ".join(map(str, entry.shape)) if entry.shape else "pictures of any size"
    here = entry.state == "embedded"
    state = "is embedded, without files to check" if here else f"is fetched on first use, and is not in {root}"
    print(f"{entry.name} {state}: {shape}, {entry.num_classes} classes, {counts}")
    size = [] if entry.shape else ["--image-size", 96]
    print(f"next: {command('train', '--data', entry.name, *size)}")


@dataclass(frozen=True)
class Show:
    """Write a contact sheet of training pictures as a network gets them: plain, then several draws of each."""

    data: Annotated[str, Positional]
    """Data set, as `ffdist train --data` takes it."""
    augment: tuple[str, ...] = ()
    """Transforms, as `ffdist train --augment` takes them."""
    preprocess: tuple[str, ...] = ()
    """Steps that give pictures their size, as `ffdist train --preprocess` takes them."""
    image_size: int | None = None
    """Resize pictures to this height and width."""
    mean: tuple[float, ...] = ()
    """Mean of pixels, as `ffdist train --mean` takes it."""
    std: tuple[float, ...] = ()
    """Standard deviation of pixels, as `ffdist train --std` takes it."""
    data_args: tuple[str, ...] = ()
    """How to prepare data that are not prepared yet, as `ffdist train --data-args` takes it."""
    data_root: Path | None = None
    """Folder of known data sets, as `ffdist train --data-root` takes it."""
    out: Path = Path("sheet.png")
    """New picture file."""
    pictures: int = 8
    """Pictures, a row each, of as many classes as there are."""
    draws: int = 4
    """Draws of each picture, a column each."""
    seed: int = 0
    """Seed of the draws, which are those of a run with this seed."""

    def run(self) -> None:
        from ffdist.data.sheet import sheet
        from ffdist.runtime.opened import open_dataset
        from ffdist.settings import Settings
        from ffdist.snapshot.files import write_durably

        for name, value in (("--pictures", self.pictures), ("--draws", self.draws)):
            if value < 1:
                raise ConfigError(f"{name} is too small", expected=">= 1", got=value)
        if self.out.exists():
            raise ConfigError("the file exists", where=self.out, remedy="choose another name with --out")
        settings = Settings().changed(
            data=self.data,
            augment=self.augment,
            preprocess=self.preprocess,
            image_size=self.image_size,
            mean=self.mean,
            std=self.std,
            data_args=self.data_args,
            data_root=self.data_root,
        )
        made = sheet(
            open_dataset(settings.dataset),
            settings.dataset.augment,
            pictures=self.pictures,
            draws=self.draws,
            seed=self.seed,
        )
        file = io.BytesIO()
        file.name = self.out.name  # by which Pillow knows the format
        try:
            made.save(file)
            write_durably(self.out, file.getvalue(), make_parents=False)
        except (OSError, ValueError) as error:
            remedy = "a name that ends in .png or .jpg, in a folder that can be written"
            raise ConfigError("the sheet cannot be written", where=self.out, got=error, remedy=remedy) from error
        print(f"{self.out}: {self.pictures} training pictures, each plain and in {self.draws} draws")


@dataclass(frozen=True)
class Cache:
    """List the cache for data: data sets prepared on the way to a run, and downloads; or remove some."""

    remove: tuple[str, ...] = ()
    """Names of what to remove; it is prepared or downloaded again when it is needed."""
    unused_days: float | None = None
    """Remove the prepared data sets that were not used for so many days; 0: all of them."""
    json: Flag = False
    """Print a JSON list."""

    def run(self) -> None:
        from datetime import datetime

        from ffdist.data.kept import list_cache, prune_cache
        from ffdist.data.places import cache_folder

        removing = bool(self.remove) or self.unused_days is not None
        found = prune_cache(self.remove, unused_days=self.unused_days) if removing else list_cache()
        if self.json:
            print(json.dumps([asdict(each) for each in found], default=str))
            return
        rows = table("name", "kind", "MiB", "used last")
        for each in found:
            rows.add_row(
                each.name, each.kind, f"{each.bytes / 2**20:,.1f}", f"{datetime.fromtimestamp(each.used):%F %H:%M}"
            )
        PlainConsole().print(rows)
        total = sum(each.bytes for each in found) / 2**20
        print(f"{'removed from' if removing else 'in'} {cache_folder()}: {len(found)}, {total:,.1f} MiB")


COMMANDS = {"list": List, "prepare": Prepare, "check": Check, "show": Show, "cache": Cache}


def main(args: Sequence[str]) -> None:
    parsed_of(COMMANDS, args, "ffdist data").run()
