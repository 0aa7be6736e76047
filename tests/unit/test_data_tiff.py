"""TIFFs whose pixels are more, or other, than what Pillow makes of them: read rightly, or refused by name."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ffdist import from_dataset
from ffdist.data import open_data, prepare
from ffdist.data.decode import Decoding, decode, read_picture
from ffdist.errors import DataError

DRAWS = np.random.default_rng(0)
GREY, RGB, CMYK = 1, 2, 5
NEITHER, PREMULTIPLIED, CLEAR = 0, 1, 2


def tiff(x_hwc: np.ndarray, colour: int, *extra: int, planar: bool = False, packed: bool = False, **tags: Any) -> bytes:
    """An array as Pillow writes none: colour: the photometric interpretation; extra: what further channels are."""
    height, width, channels = x_hwc.shape
    data = (np.moveaxis(x_hwc, 2, 0) if planar else x_hwc).tobytes()
    planes = np.split(np.frombuffer(data, np.uint8), channels if planar else 1)
    strips = [zlib.compress(plane.tobytes()) if packed else plane.tobytes() for plane in planes]
    offsets = np.cumsum([8, *map(len, strips)]).tolist()
    kind = {"u": 1, "i": 2, "f": 3}[x_hwc.dtype.kind]
    entries: dict[int, tuple[str, list[int]]] = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [8 * x_hwc.itemsize] * channels),
        259: ("H", [8 if packed else 1]),
        262: ("H", [colour]),
        273: ("I", offsets[:-1]),
        277: ("H", [channels]),
        278: ("I", [height]),
        279: ("I", [len(strip) for strip in strips]),
        284: ("H", [2 if planar else 1]),
        339: ("H", [kind] * channels),
        **({338: ("H", list(extra))} if extra else {}),
        **{int(tag.removeprefix("tag")): ("H", [value]) for tag, value in tags.items()},
    }
    where = offsets[-1] + offsets[-1] % 2
    table, behind = struct.pack("<H", len(entries)), b""
    after = where + 2 + 12 * len(entries) + 4
    for tag, (form, values) in sorted(entries.items()):
        packed_values = struct.pack(f"<{len(values)}{form}", *values)
        if len(packed_values) > 4:
            packed_values, behind = struct.pack("<I", after + len(behind)), behind + packed_values
        table += struct.pack("<HHI", tag, {"H": 3, "I": 4}[form], len(values)) + packed_values.ljust(4, b"\0")
    body = b"".join(strips)
    return b"II*\0" + struct.pack("<I", where) + body.ljust(where - 8, b"\0") + table + bytes(4) + behind


def drawn(channels: int, dtype: str = "uint8") -> np.ndarray:
    limits = np.iinfo(dtype)
    return DRAWS.integers(limits.min, limits.max, (9, 8, channels), dtype, endpoint=True)


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize(
    ("x", "colour", "extra", "mode"),
    [
        (drawn(2), GREY, (NEITHER,), "grey"),
        (drawn(4), RGB, (NEITHER,), "rgb"),
        (drawn(4), RGB, (), "rgb"),
        (drawn(5), RGB, (NEITHER, NEITHER), "rgb"),
        (drawn(5), RGB, (CLEAR, NEITHER), "rgb"),
        (drawn(4, "uint16"), RGB, (NEITHER,), "rgb"),
        (drawn(5), CMYK, (NEITHER,), "rgb"),
    ],
)
def test_channels_that_are_no_colour_are_left_out_only_where_this_was_set(
    x: np.ndarray, colour: int, extra: tuple[int, ...], mode: str
) -> None:
    data = tiff(x, colour, *extra)
    for given in (bytes, opened):  # Pillow before 13 opens some only as those who read the bytes have taught it
        with pytest.raises(DataError, match=rf"of its {x.shape[2]} channels .*mode=.{mode}. takes"):
            decode(given(data), "here")
    picture = read_picture(data, "here", Decoding(mode=mode))  # pyright: ignore[reportArgumentType]
    colours = {GREY: 1, RGB: 3, CMYK: 4}[colour]
    assert picture.spare == x.shape[2] - colours - (CLEAR in extra)
    if colour != CMYK and CLEAR not in extra:
        assert np.array_equal(picture.pixels, x[..., :colours] >> (8 if x.itemsize == 2 else 0))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("colours", "colour"), [(1, GREY), (3, RGB)])
def test_transparency_is_no_channel_that_is_left_out(colours: int, colour: int, packed: bool) -> None:
    x = drawn(colours + 1)
    alpha = x[..., -1:] / 255
    expected = x[..., :-1] * alpha + 255 * (1 - alpha)
    got = decode(tiff(x, colour, CLEAR, packed=packed), "here")
    assert np.abs(got - expected).max() < 1
    premultiplied = np.concatenate([np.rint(x[..., :-1] * alpha).astype(np.uint8), x[..., -1:]], 2)
    over = decode(tiff(premultiplied, colour, PREMULTIPLIED, packed=packed), "here", Decoding(background="black"))
    assert np.abs(over - x[..., :-1] * alpha).max() < 2


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (tiff(drawn(2, "uint16"), GREY, NEITHER), "a TIFF of 2 channels of 16 bits, which Pillow does not read"),
        (tiff(drawn(5), GREY, *[NEITHER] * 4), "a TIFF of 5 channels of 8 bits"),
        (tiff(np.zeros((9, 8, 1)), GREY), "a TIFF of 1 channel of 64 floating-point bits"),
        (tiff(drawn(2), GREY, CLEAR, planar=True, packed=True), "grey and transparency in planes of their own"),
        (tiff(drawn(3, "uint16"), RGB, planar=True), "more than 8 bits, uncompressed, in planes of their own"),
        (tiff(drawn(5), RGB, NEITHER, NEITHER, planar=True, packed=True), "2 of its 5 channels are no colours"),
    ],
)
def test_what_cannot_be_read_rightly_is_refused_by_what_it_is(data: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(data)
    for given in (data, tmp_path / "a.tif"):
        with pytest.raises(DataError, match=why):
            decode(given, "here")


@pytest.mark.parametrize("planar", [False, True])
def test_planes_and_interleaved_channels_are_the_same(planar: bool) -> None:
    for x in (drawn(3), drawn(3, "uint16")):
        read = decode(tiff(x, RGB, planar=planar, packed=True), "here")
        assert np.array_equal(read, x >> (8 if x.itemsize == 2 else 0))


def test_the_least_value_may_be_white_and_values_may_have_signs() -> None:
    x = drawn(1, "uint16")
    assert np.array_equal(decode(tiff(x, 0), "here"), 255 - (x >> 8))
    assert np.array_equal(decode(tiff(x >> 8, 0), "here", Decoding(value_range=(0, 255))), 255 - (x >> 8))
    levels = np.float32(x / 65535)
    read = decode(tiff(levels, 0), "here", Decoding(value_range=(0, 1)))
    assert np.abs(read.astype(int) - (255 - (x >> 8))).max() <= 1
    signed = drawn(1, "int8")
    with pytest.raises(DataError, match="which values are black and white"):
        decode(tiff(signed, GREY), "here")
    read = decode(tiff(signed, GREY), "here", Decoding(value_range=(-128, 127)))
    assert np.array_equal(read, signed.astype(int) + 128)
    high = drawn(1, "uint32")
    read = decode(tiff(high, GREY), "here", Decoding(value_range=(0, 2**32 - 1)))
    assert np.array_equal(read, high >> 24)


@pytest.mark.parametrize("colour", [RGB, CMYK])
@pytest.mark.parametrize("packed", [False, True])
def test_colours_of_sixteen_bits_are_read_in_their_range(colour: int, packed: bool) -> None:
    x = drawn(3 if colour == RGB else 4, "uint16") >> 4
    read = decode(tiff(x, colour, packed=packed), "here", Decoding(value_range=(0, 4095)))
    assert np.array_equal(read, decode(tiff((x >> 4).astype(np.uint8), colour), "here"))


def test_a_volume_in_one_page_is_noted_as_several_pages_are() -> None:
    assert read_picture(tiff(drawn(1), GREY, tag32997=3), "here").frames


def test_a_set_with_a_second_band_is_refused_and_prepared_by_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        (tmp_path / "tree" / name).mkdir(parents=True)
        for place in range(2):
            (tmp_path / "tree" / name / f"{place}.tif").write_bytes(tiff(drawn(2), GREY, NEITHER))
    with pytest.raises(DataError, match=r"4 pictures cannot be read\n(.|\n)*mode=.grey. takes the first alone"):
        prepare(tmp_path / "tree", tmp_path / "out")
    images = open_data(prepare(tmp_path / "tree", tmp_path / "out", mode="grey", test_fraction=0))
    assert images.shape == (1, 9, 8)
    assert "4 of 4 pictures have channels that are neither colour nor transparency" in capsys.readouterr().err
    items = [(opened(tiff(drawn(2), GREY, NEITHER)), label) for label in (0, 1)]
    with pytest.raises(DataError, match=r"row 0(.|\n)*1 of its 2 channels"):
        from_dataset(items)  # pyright: ignore[reportArgumentType]


def test_grey_of_sixteen_bits_with_transparency_stays_grey() -> None:
    values = np.stack([DRAWS.integers(0, 65536, (9, 8)), np.full((9, 8), 65535)], 2).astype(">u2")

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 9, 16, 4, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert np.array_equal(decode(png, "here"), (values[..., :1] >> 8).astype(np.uint8))


@pytest.mark.parametrize(
    "packing",
    [
        None,
        "tiff_lzw",
        "tiff_adobe_deflate",
        "tiff_deflate",
        "packbits",
        "group3",
        "group4",
        "jpeg",
        "zstd",
        "lzma",
        "webp",
    ],
)
def test_one_colour_is_packed_as_small_as_can_be_and_is_read(packing: str | None) -> None:
    mode = "1" if packing in ("group3", "group4") else "RGB"
    file = io.BytesIO()
    try:
        Image.new(mode, (2000, 1500), 1).save(file, "TIFF", compression=packing)
    except (OSError, ValueError, KeyError):  # which a build of Pillow may lack
        if packing in ("zstd", "lzma", "webp"):
            return
        raise
    assert decode(file.getvalue(), "x").shape[:2] == (1500, 2000)


def test_more_pixels_than_a_tiff_holds_are_refused_before_there_is_memory_for_them() -> None:
    whole = tiff(drawn(1), GREY)
    for tag, claimed in ((257, 12_000), (256, 12_000)):
        bad = bytearray(whole)
        at = bad.index(struct.pack("<HHI", tag, 4, 1))
        bad[at + 8 : at + 12] = struct.pack("<I", claimed)
        with pytest.raises(DataError, match=r"strips|bytes cannot hold"):
            decode(bytes(bad), "x")
    packed = bytearray(tiff(np.zeros((9, 8, 1), np.uint8), GREY, packed=True))
    for tag in (256, 257, 278):
        at = packed.index(struct.pack("<HHI", tag, 4, 1))
        packed[at + 8 : at + 12] = struct.pack("<I", 9_000)
    with pytest.raises(DataError, match="bytes cannot hold the 9000 x 9000 pixels"):
        decode(bytes(packed), "x")
