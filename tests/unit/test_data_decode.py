from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from ffdist.data.decode import Decoding, check_options, decode, read_picture
from ffdist.data.formats import is_picture
from ffdist.errors import ConfigError, DataError

DRAWS = np.random.default_rng(0)
COLOUR = DRAWS.integers(0, 256, (8, 10, 3), np.uint8)
GREY = DRAWS.integers(0, 256, (8, 10), np.uint8)


def encoded(image: Image.Image, kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def test_a_file_its_bytes_an_array_and_an_open_picture_are_the_same(tmp_path: Path) -> None:
    image = Image.fromarray(COLOUR)
    image.save(tmp_path / "a.png")
    for data in (tmp_path / "a.png", encoded(image), COLOUR, COLOUR.transpose(2, 0, 1), image):
        assert np.array_equal(decode(data, "here"), COLOUR)


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3), ("CMYK", 3), ("YCbCr", 3), ("HSV", 3)],
)
def test_every_mode_becomes_grey_or_rgb(mode: str, channels: int) -> None:
    image = Image.fromarray(COLOUR).convert(mode)
    assert decode(image, "here").shape == (8, 10, channels)
    assert decode(image, "here", Decoding(mode="rgb")).shape == (8, 10, 3)
    assert decode(image, "here", Decoding(mode="grey")).shape == (8, 10, 1)


def test_sixteen_bits_are_scaled_to_eight() -> None:
    deep = Image.fromarray(GREY.astype(np.uint16) * 257)
    assert deep.mode == "I;16"
    for data in (deep, encoded(deep), encoded(deep, "tiff")):
        assert np.array_equal(decode(data, "here")[..., 0], GREY)
    wide = deep.convert("I")
    assert np.array_equal(decode(wide, "here", Decoding(value_range=(0, 65535)))[..., 0], GREY)


def test_a_palette_with_transparency_is_read_without_complaint() -> None:
    palette = Image.fromarray(COLOUR).convert("P")
    data = encoded_with_transparency(palette)
    assert decode(data, "here").shape == (8, 10, 3)


def encoded_with_transparency(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png", transparency=bytes(range(256)))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_size_scales_to_cover_and_cuts_the_middle(kind: str) -> None:
    wide = np.zeros((40, 120, 3), np.uint8)
    wide[:, 40:80] = 255
    picture = decode(encoded(Image.fromarray(wide), kind), "here", Decoding((10, 10)))
    assert picture.shape == (10, 10, 3)
    assert picture[:, 1:-1].min() > 240
    assert decode(encoded(Image.fromarray(wide), kind), "here", Decoding((10, 30))).mean() == pytest.approx(85, abs=3)


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp", "tiff", "webp"])
def test_a_broken_picture_is_an_error_that_names_it(kind: str, tmp_path: Path) -> None:
    large = Image.fromarray(DRAWS.integers(0, 256, (64, 64, 3), np.uint8))
    path = tmp_path / f"a.{kind}"
    path.write_bytes(encoded(large, kind)[:-500])
    with pytest.raises(DataError, match=rf"cannot be read\n  where: {path}"):
        decode(path, path)
    with pytest.raises(DataError, match="no known format"):
        decode(b"nothing", path)


@pytest.mark.parametrize(
    "array", [GREY.astype(np.int64), np.zeros((5, 5, 2), np.uint8), np.zeros(4, np.uint8), GREY.astype(np.float32)]
)
def test_an_array_that_is_no_picture_is_an_error_that_says_why(array: np.ndarray) -> None:
    with pytest.raises(DataError, match=rf"got: {array.dtype} .* is not a picture"):
        decode(array, "here")


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_values_without_a_known_range_are_refused_unless_it_is_given(dtype: type) -> None:
    deep = Image.fromarray(GREY.astype(dtype))
    for data in (deep, encoded(deep, "tiff")):
        with pytest.raises(DataError, match=r"black and white.*\n(.|\n)*value_range=\(0, 255\)"):
            decode(data, "here")
        assert np.array_equal(decode(data, "here", Decoding(value_range=(0, 255)))[..., 0], GREY)


def test_unknown_modes_and_empty_sizes_are_refused() -> None:
    assert check_options(5, "rgb") == Decoding((5, 5), "rgb")
    assert check_options((4, 6), "keep") == Decoding((4, 6), "keep")
    with pytest.raises(ConfigError, match="expected: rgb or grey or keep\n  got: sepia"):
        check_options(None, "sepia")
    with pytest.raises(ConfigError, match="size >= 1"):
        check_options(0, "rgb")


def png_of_16_bits(values_hwc: np.ndarray) -> bytes:
    """A PNG of colours of 16 bits, which Pillow does not write: uint16 [H, W, 3]."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = values_hwc.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values_hwc)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_colours_of_sixteen_bits_are_read_in_their_range() -> None:
    values = COLOUR.astype(np.uint16)
    assert np.array_equal(decode(png_of_16_bits(values * 257), "here"), COLOUR)
    twelve = Decoding(value_range=(0, 4095))
    assert np.array_equal(decode(png_of_16_bits(values * 16), "here", twelve), COLOUR)
    assert np.array_equal(decode(png_of_16_bits(values), "here", Decoding(value_range=(0, 255))), COLOUR)
    assert read_picture(png_of_16_bits(values), "here").values == (COLOUR.min(), COLOUR.max())


@pytest.mark.parametrize("background", ["white", "black", "#204060"])
def test_transparent_pictures_lie_on_the_background(background: str) -> None:
    clear = np.zeros((4, 4, 4), np.uint8)
    clear[:2] = (250, 10, 20, 255)
    under = ImageColor.getrgb(background)
    image = Image.fromarray(clear)
    for data in (image, encoded(image), encoded(image.quantize(8)), image.convert("RGBa")):
        x = decode(data, "here", Decoding(background=background))
        assert np.abs(x[2:].astype(int) - under).max() <= 1
        assert np.abs(x[:2].astype(int) - (250, 10, 20)).max() <= 6, "a palette is not exact"
    grey = Image.fromarray(clear[..., [0, 3]])
    for image in (grey, grey.convert("La")):
        x = decode(image, "here", Decoding(background="white"))
        assert x.shape == (4, 4, 1)
        assert (x[2:] == 255).all()
        assert (x[:2] == 250).all()


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff", "mpo"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(kind: str, orientation: int, tmp_path: Path) -> None:
    upright = np.zeros((48, 96, 3), np.uint8)
    upright[:24, :24] = 255
    stored = Image.fromarray(upright)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}.get(orientation)
    if undo is not None:
        stored = stored.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x112] = orientation
    stored.save(tmp_path / "a", kind, exif=exif)
    for data in (tmp_path / "a", (tmp_path / "a").read_bytes(), Image.open(tmp_path / "a")):
        for decoding in (Decoding(), Decoding((12, 24))):
            x = decode(data, "here", decoding)
            height, width = decoding.size or (48, 96)
            assert x.shape == (height, width, 3)
            assert x[: height // 2 - 2, : width // 4 - 2].min() > 200
            assert x[height // 2 + 2 :].max() < 60


def test_pictures_are_known_by_ending_or_by_content(tmp_path: Path) -> None:
    image = Image.fromarray(COLOUR)
    kinds = {"a.JPG": "jpeg", "b.jfif": "jpeg", "c": "png", "d.happy": "gif", "e.jp2": "jpeg2000", "f": "tiff"}
    for name, kind in kinds.items():
        image.save(tmp_path / name, kind)
        assert is_picture(tmp_path / name)
    image.save(tmp_path / "camera.nef", "tiff")
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "archive.h5").touch()
    (tmp_path / "program.eps").touch()
    for name in ("camera.nef", "notes.txt", "archive.h5", "program.eps", "none"):
        assert not is_picture(tmp_path / name)
