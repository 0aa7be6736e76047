"""The form in which pictures are kept: as pixels, or as they were encoded."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
from PIL import Image

from ffdist.data.decode import Decoding, Picture, read_picture, reason
from ffdist.data.encoded_writer import EncodedWriter
from ffdist.data.formats import Encoded, open_picture, regular
from ffdist.data.manifest import SplitFiles
from ffdist.data.shard_files import ShardWriter
from ffdist.data.sources.base import DataSource, Item
from ffdist.errors import ConfigError, DataError, setting

Store = Literal["auto", "pixels", "encoded"]
PIXELS = 8 * 2**30
"""Bytes of pixels up to which "auto" keeps pixels."""
SEEN = 64
"""Pictures by which the size of all is estimated."""
DEFAULT_SIDE = 224
"""The default side at which a network gets pictures that differ in size."""


def check_store(store: Any) -> None:
    """Raises ConfigError for none of the forms."""
    if store not in get_args(Store):
        raise ConfigError(
            "unknown form of pictures", where=setting("store"), expected=" or ".join(get_args(Store)), got=store
        )


class StoragePlan(NamedTuple):
    """The form in which a data set is kept."""

    encoded: bool
    bytes: int
    """Estimated bytes of the stored pictures."""
    notes: tuple[str, ...] = ()


def storage_plan(store: Store, *, pixels: int, encoded: int) -> StoragePlan:
    """The form that `store` asks for, or that "auto" chooses. pixels, encoded: estimated bytes of either form."""
    if store != "auto":
        return StoragePlan(store == "encoded", encoded if store == "encoded" else pixels)
    if pixels <= max(PIXELS, encoded):
        return StoragePlan(False, pixels)
    text = (
        f"pictures are kept as they are encoded, about {encoded / 2**30:.1f} GiB, and decoded in training; pixels "
        f"would take {pixels / 2**30:.1f} GiB: {setting('store', 'pixels')}"
    )
    return StoragePlan(True, encoded, (text,))


def mean_bytes(items: Sequence[Item]) -> float:
    """Bytes of a picture as it is encoded; of an array about half their numbers, as PNG has them."""

    def size(data: Encoded) -> float:
        if isinstance(data, Path):
            try:
                return data.stat().st_size
            except OSError:
                return 0
        return len(data) if isinstance(data, bytes) else np.asarray(data).nbytes / 2

    return sum(size(item.data) for item in items) / len(items)


class Writer(Protocol):
    """Writes the shards of one split."""

    def add(self, pictures: Any, labels: np.ndarray) -> None: ...

    def finish(self) -> SplitFiles: ...


def writer_of(source: DataSource, split: str, folder: Path, shape: tuple[int, int, int], plan: StoragePlan) -> Writer:
    """shape: (H, W, C)."""
    h, w, c = shape
    if not plan.encoded:
        return ShardWriter(folder, split, (c, h, w), len(source.classes))
    samples = source.counts[split]
    share = plan.bytes * samples // max(1, sum(source.counts.values()))
    return EncodedWriter(folder, split, len(source.classes), samples=samples, bytes=share)


def read_and_kept(item: Item, decoding: Decoding) -> tuple[Picture, bytes]:
    """A picture, decoded, and the bytes that it was decoded from; an array's as PNG. Raises DataError for one that
    cannot be read."""
    try:
        data = as_encoded_bytes(item.data)
    except (OSError, ValueError) as error:
        raise DataError("a picture cannot be read", where=item.where, got=reason(error)) from error
    try:
        return read_picture(data, item.where, decoding), data
    except DataError:
        read_picture(item.data, item.where, decoding)  # a file's name may say more of what is wrong
        raise


def as_encoded_bytes(data: Encoded) -> bytes:
    """A picture's encoded bytes; an array or opened picture as PNG. Raises OSError for a file that cannot be read."""
    if isinstance(data, bytes):
        return data
    if isinstance(data, Path):
        regular(data)
        return data.read_bytes()
    file = io.BytesIO()
    picture = data if isinstance(data, Image.Image) else open_picture(data)
    picture.save(file, "PNG")
    return file.getvalue()


def sizes_note(shapes: Iterable[tuple[int, ...]]) -> list[str]:
    """A note on pictures that differ in size; none where all are alike. shapes: (H, W, C) of each."""
    sides = [shape[:2] for shape in shapes]
    if len({*sides}) < 2:
        return []
    heights, widths = (
        (extreme(h for h, _ in sides) for extreme in (min, max)),
        (extreme(w for _, w in sides) for extreme in (min, max)),
    )
    sizes = " x ".join(f"{low} to {high}" for low, high in (tuple(heights), tuple(widths)))
    return [
        f"pictures differ in size, {sizes} (height x width): a network gets them at {DEFAULT_SIDE} x {DEFAULT_SIDE}, "
        f"or as {setting('dataset.image_size')} says"
    ]
