from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ffdist.data.decode import Decoding, check_options, decode
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
        with pytest.raises(DataError, match=r"black and white.*\n(.|\n)*--value-range 0 255"):
            decode(data, "here")
        assert np.array_equal(decode(data, "here", Decoding(value_range=(0, 255)))[..., 0], GREY)


def test_unknown_modes_and_empty_sizes_are_refused() -> None:
    assert check_options(5, "rgb") == Decoding((5, 5), "rgb")
    assert check_options((4, 6), "keep") == Decoding((4, 6), "keep")
    with pytest.raises(ConfigError, match="expected: rgb or grey or keep\n  got: sepia"):
        check_options(None, "sepia")
    with pytest.raises(ConfigError, match="size >= 1"):
        check_options(0, "rgb")
