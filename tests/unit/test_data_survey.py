"""What a set of pictures holds is told, and a set that would be black without a word is refused."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from ffdist import from_arrow, from_dataset
from ffdist.data import Images, open_data, prepare
from ffdist.data.decode import Decoding, read_picture
from ffdist.data.survey import Survey
from ffdist.errors import DataError

DRAWS = np.random.default_rng(0)
LEVELS = (60, 200)
"""Mean grey level of each class, of 0..255."""


def tree(root: Path, make: Callable[[np.ndarray], Image.Image], ending: str = "tif") -> str:
    """A tree of two classes, made of grey levels 0..255, int [12, 12]."""
    for label, level in enumerate(LEVELS):
        folder = root / f"class{label}"
        folder.mkdir(parents=True)
        for place in range(8):
            grey = level + DRAWS.integers(-40, 41, (12, 12))
            grey[0, :2] = (0, 255)[label]
            make(grey).save(folder / f"{place}.{ending}")
    return str(root)


def floats(grey: np.ndarray) -> Image.Image:
    return Image.fromarray((grey / 255).astype(np.float32))


NARROW = {
    "12 bits in 16": (lambda grey: Image.fromarray((grey * 16 + 15).astype(np.uint16)), (0, 4095)),
    "8 bits in 16": (lambda grey: Image.fromarray(grey.astype(np.uint16)), (0, 255)),
    "8 bits in 32": (lambda grey: Image.fromarray(grey.astype(np.int32)), (0, 255)),
    "signed": (lambda grey: Image.fromarray((grey * 16 - 1024).astype(np.int32)), (-1024, 3071)),
    "floats": (floats, (0, 1)),
}


@pytest.mark.parametrize("kind", NARROW)
def test_a_set_of_unknown_range_is_refused_and_read_right_when_it_is_given(kind: str, tmp_path: Path) -> None:
    make, limits = NARROW[kind]
    source = tree(tmp_path / "tree", make)
    with pytest.raises(DataError, match=r"in 16 such pictures\n  remedy: .*value_range=") as refused:
        prepare(source, tmp_path / "out")
    assert kind == "signed" or f"value_range=({limits[0]}, {limits[1]})" in str(refused.value), "the remedy is right"
    assert not (tmp_path / "out").exists()
    images = open_data(prepare(source, tmp_path / "out", value_range=limits, test_fraction=0))
    x = images.train.take(np.arange(16))[..., 0]
    means = [x[images.train.labels == label].mean() for label in (0, 1)]
    assert means == pytest.approx(LEVELS, abs=5)
    assert images.decoding == Decoding((12, 12), "grey", value_range=limits)


def test_sixteen_bits_that_need_them_are_read_without_a_setting(tmp_path: Path) -> None:
    source = tree(tmp_path / "tree", lambda grey: Image.fromarray((grey * 257).astype(np.uint16)), "png")
    images = open_data(prepare(source, tmp_path / "out", test_fraction=0))
    assert images.train.take(np.arange(8)).mean() == pytest.approx(LEVELS[0], abs=5)


def test_what_may_be_unexpected_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def icon(grey: np.ndarray) -> Image.Image:
        return Image.fromarray(np.stack([grey * 0, grey * 0, grey, grey * 0 + 255 * (grey > 200)], 2).astype(np.uint8))

    prepare(tree(tmp_path / "icons", icon, "png"), tmp_path / "a", background="blue")
    text = capsys.readouterr().err
    assert "note: red holds 0 in every pixel of the training pictures" in text
    assert "blue holds" not in text
    prepare(
        tree(tmp_path / "tree", lambda grey: Image.fromarray((grey * 0 + grey[5, 5]).astype(np.uint8)), "png"),
        tmp_path / "b",
    )
    assert "note: 16 of 16 pictures are of one colour only; the first: " in capsys.readouterr().err
    deep = tree(tmp_path / "deep", lambda grey: Image.fromarray((grey * 257).astype(np.uint16)), "png")
    prepare(deep, tmp_path / "c", value_range=(0, 40000))
    assert "of 16 pictures hold values beyond 0..40000, which were cut off" in capsys.readouterr().err


def test_of_animations_the_first_frame_is_taken_and_this_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [Image.fromarray(DRAWS.integers(0, 256, (9, 9, 3), np.uint8)) for _ in range(3)]
    for kind in ("gif", "png", "webp", "tif"):
        (tmp_path / "tree" / kind).mkdir(parents=True)
        options = {"lossless": True} if kind == "webp" else {}
        for place in range(2):
            frames[0].save(
                tmp_path / "tree" / kind / f"{place}.{kind}", save_all=True, append_images=frames[1:], **options
            )
    images = open_data(prepare(str(tmp_path / "tree"), tmp_path / "out", test_fraction=0))
    assert "note: 8 of 8 pictures hold several frames or pages; the first was taken" in capsys.readouterr().err
    first = np.asarray(frames[0]).astype(int)
    for x in images.train.take(np.arange(8)):
        assert np.abs(x - first).mean() < 20, "a GIF has fewer colours"


def test_what_two_saw_is_what_one_would_have_seen() -> None:
    pictures = [DRAWS.integers(0, 256, (4, 4, 1), np.uint8) for _ in range(5)] + [np.zeros((4, 4, 1), np.uint8)]

    def seen(part: list[np.ndarray], start: int) -> Survey:
        survey = Survey()
        for place, picture in enumerate(part):
            survey.add(read_picture(picture, "here"), start + place)
        return survey

    assert seen(pictures[:2], 0).merge(seen(pictures[2:], 2)) == seen(pictures, 0)


def test_the_manifest_says_how_pictures_were_read(tmp_path: Path) -> None:
    source = tree(tmp_path / "tree", lambda grey: Image.fromarray(grey.astype(np.uint8)), "png")
    prepare(source, tmp_path / "out", size=(6, 8), background="#102030")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["decoding"] == {"size": [6, 8], "mode": "grey", "background": "#102030", "value_range": None}


@pytest.mark.parametrize("kind", ["dataset", "table"])
def test_pictures_in_memory_are_held_to_the_same(kind: str) -> None:
    values = np.random.default_rng(5).integers(0, 4096, (6, 8, 8)).astype(np.uint16)
    opened, labels = [Image.fromarray(one) for one in values], [0, 1] * 3

    def images(**settings: Any) -> Images:
        if kind == "dataset":
            return from_dataset(list(zip(opened, labels, strict=True)), **settings)  # pyright: ignore[reportArgumentType]
        return from_arrow(pa.table({"image": [png(one) for one in opened], "label": labels}), **settings)

    with pytest.raises(DataError, match=r"nearly black\n  where: data set .*, row 0(.|\n)*value_range=\(0, 4095\)"):
        images()
    read = images(value_range=(0, 4095))
    assert np.array_equal(read.train.take(np.arange(6))[..., 0], values >> 4)
    assert read.decoding == Decoding((8, 8), "grey", "white", (0, 4095))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()
