from __future__ import annotations

import io
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from ffdist.data import ArraySplit, Images, Split, from_arrow, from_dataset, from_tensors
from ffdist.errors import DataError

DRAWS = np.random.default_rng(0)
COLOUR = DRAWS.integers(0, 256, (6, 8, 9, 3), np.uint8)
GREY = DRAWS.integers(0, 256, (6, 8, 9), np.uint8)
LABELS = np.array([2, 0, 1, 2, 0, 1])


def held(split: Split | None) -> np.ndarray:
    assert isinstance(split, ArraySplit)
    return split.samples


def png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png")
    return buffer.getvalue()


class Items(Dataset):
    """Items made of pictures and labels, as users write them."""

    classes = ("a", "b", "c")

    def __init__(self, pictures: list, labels: list) -> None:
        self.items = list(zip(pictures, labels, strict=True))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple:
        return self.items[index]


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[tuple]:
        yield GREY[0], 0


@pytest.mark.parametrize("kind", [torch.from_numpy, np.asarray])
def test_uint8_tensors_become_pictures_with_their_own_moments(kind) -> None:
    images = from_tensors(kind(COLOUR.transpose(0, 3, 1, 2)), kind(LABELS))
    assert images.shape == (3, 8, 9)
    assert images.classes == ["0", "1", "2"]
    assert np.array_equal(images.train.take(np.array([4, 1])), COLOUR[[4, 1]])
    assert np.allclose(images.mean, COLOUR.mean((0, 1, 2)) / 255)
    assert np.allclose(images.std, COLOUR.std((0, 1, 2)) / 255)
    assert from_tensors(kind(GREY), kind(LABELS)).shape == (1, 8, 9)


def test_a_constant_channel_can_be_normalised() -> None:
    assert from_tensors(np.full((3, 2, 2), 7, np.uint8), np.array([0, 1, 0])).std == (1.0,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16])
def test_floats_of_any_shape_stay_as_they_are(dtype: torch.dtype) -> None:
    x = torch.arange(30).reshape(6, 5).to(dtype)
    images = from_tensors(x, LABELS, test=(x[:2], LABELS[:2]), classes=["a", "b", "c", "d"], name="mine")
    assert (images.name, images.shape, images.num_classes, images.mean, images.std) == ("mine", (5,), 4, (0.0,), (1.0,))
    assert held(images.train).dtype == np.float32
    assert np.array_equal(held(images.test), x[:2].float().numpy())


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (GREY, LABELS[:5], r"expected: integers \[6\]\n  got: int64 \[5\]"),
        (GREY, LABELS / 2, "one whole number a sample"),
        (GREY, LABELS - 1, r"train, row 1\n  expected: 0 or more\n  got: -1, 2 rows"),
        (COLOUR, LABELS, r"got: uint8 \[6, 8, 9, 3\]\n  remedy: .*channels_last=True"),
        (GREY[:0], LABELS[:0], "there is no sample"),
        ([GREY[0], GREY[1, :5]], LABELS[:2], "samples are no tensor"),
        ((x for x in GREY), LABELS, r"remedy: x\.toarray\(\) .*numpy\.stack\(list\(x\)\)"),
        (GREY, np.ma.masked_equal(LABELS, 1), "labels are masked(.|\n)*remedy: leave those rows out$"),
    ],
)
def test_tensors_that_are_no_labelled_samples_are_refused(x: np.ndarray, y: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_tensors(x, y)


@pytest.mark.parametrize("labels", [LABELS * 10**9, LABELS * 10**15, LABELS + 7, np.array([0, 7, 0, 0, 0, 7])])
def test_labels_that_are_not_numbered_from_0_are_refused_before_their_classes_are_counted_out(labels) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=rf"numbered from 0(.|\n)*different: .*{labels.max()}\n.*classes=\["):
            from_tensors(GREY, labels)
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()
    images = from_tensors(GREY, labels, classes=np.unique(labels).tolist())
    assert images.classes == [str(value) for value in np.unique(labels)]
    assert np.array_equal(np.unique(labels)[images.train.labels], labels)


def test_up_to_half_of_the_classes_may_be_without_a_sample_which_is_noted(capsys: pytest.CaptureFixture[str]) -> None:
    assert from_tensors(GREY, np.array([0, 3, 5, 0, 3, 5])).num_classes == 6
    assert "no sample of class 1, 2, 4" in capsys.readouterr().err
    for labels in ([0, 3, 6, 0, 3, 6], [1, 2, 3, 4, 3, 2]):
        with pytest.raises(DataError, match="numbered from 0"):
            from_tensors(GREY, np.array(labels))
    assert from_tensors(GREY, np.array([1, 3, 6, 1, 3, 6]), classes=list("abcdefg")).num_classes == 7


def test_a_test_split_must_be_like_the_training_split() -> None:
    with pytest.raises(DataError, match=r"expected: uint8 \[8, 9, 1\]\n  got: uint8 \[8, 8, 1\]"):
        from_tensors(GREY, LABELS, test=(GREY[:, :, :8], LABELS))
    with pytest.raises(DataError, match=r"data set tensors, test, row 2"):
        from_tensors(GREY, LABELS, test=(GREY, LABELS + np.array([0, 0, 5, 0, 0, 0])))


def test_data_sets_of_pillow_pictures_tensors_and_arrays_are_the_same_data() -> None:
    pictures = {
        "pillow": [Image.fromarray(picture) for picture in COLOUR],
        "tensors": list(torch.from_numpy(COLOUR).permute(0, 3, 1, 2)),
        "arrays": list(COLOUR),
    }
    for kind, of in pictures.items():
        images = from_dataset(Items(of, [torch.tensor(k) for k in LABELS]), test=Items(of[:3], LABELS[:3].tolist()))
        assert np.array_equal(held(images.train), COLOUR), kind
        assert np.array_equal(images.train.labels, LABELS)
        assert len(images.test or ()) == 3
        assert (images.name, images.classes, images.shape) == ("Items", ["a", "b", "c"], (3, 8, 9))


def test_a_data_set_of_float_tensors_stays_as_it_is() -> None:
    x = torch.randn(6, 2, 4, 4)
    images = from_dataset(TensorDataset(x, torch.from_numpy(LABELS)), name="mine")
    assert np.array_equal(held(images.train), x.numpy())
    assert (images.name, images.shape, images.num_classes) == ("mine", (2, 4, 4), 3)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Items([GREY[0], GREY[1, :5]], [0, 1]), r"row 1\n  expected: uint8 \[8, 9, 1\]\n  got: uint8 \[5, 9, 1\]"),
        (Items([GREY[0]], [0.5]), r"row 0\n  expected: whole numbers, or names\n  got: 0\.5"),
        (Items([GREY[0]], [3]), r"row 0\n  expected: 0\.\.2\n  got: 3"),
        (Items(["a file"], [0]), r"or its bytes\n  got: the text 'a file', which is no file"),
        (Items([], []), "there is no sample"),
        (Stream(), "has no length"),
    ],
)
def test_data_sets_that_cannot_be_used_are_refused(dataset: Dataset, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_dataset(dataset)


class Broken(Items):
    """A user's data set with a defect of its own."""

    def __getitem__(self, index: int) -> tuple:
        return super().__getitem__(index if index < 2 else index + 99)


def test_an_item_that_raises_is_named_by_its_row_and_keeps_its_own_traceback() -> None:
    with pytest.raises(DataError, match=r"Broken, train, row 2\n(.|\n)*got: IndexError: list index") as caught:
        from_dataset(Broken(list(GREY), LABELS.tolist()))
    assert isinstance(caught.value.__cause__, IndexError)


def nested(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    return pa.array(values.tolist(), kind)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([png(picture) for picture in COLOUR]),
        pa.array([{"bytes": png(picture), "path": "x.png"} for picture in COLOUR]),
        nested(COLOUR, pa.list_(pa.list_(pa.list_(pa.int64())))),
        nested(COLOUR, pa.list_(pa.list_(pa.list_(pa.uint8(), 3), 9), 8)),
        nested(COLOUR.transpose(0, 3, 1, 2), pa.large_list(pa.list_(pa.list_(pa.uint8())))),
        pa.FixedShapeTensorArray.from_numpy_ndarray(COLOUR),
    ],
)
def test_every_form_of_image_column_gives_the_same_pictures(column: pa.Array) -> None:
    table = pa.table({"image": column, "label": LABELS})
    chunked = pa.concat_tables([table.slice(0, 2), table.slice(2)])
    images = from_arrow(chunked, test=table.slice(3))
    assert np.array_equal(held(images.train), COLOUR)
    assert np.array_equal(held(images.test), COLOUR[3:])
    assert np.array_equal(images.train.labels, LABELS)


@pytest.mark.parametrize(
    ("labels", "classes", "codes"),
    [
        (["dog", "cat", "eel", "dog"], ["cat", "dog", "eel"], [1, 0, 2, 1]),
        (pa.array(["dog", "cat", "eel", "dog"]).dictionary_encode(), ["cat", "dog", "eel"], [1, 0, 2, 1]),
        ([30, 7, 7, 9], ["7", "9", "30"], [2, 0, 0, 1]),
    ],
)
def test_labels_that_occur_become_classes_in_sorted_order(labels: list, classes: list[str], codes: list[int]) -> None:
    images = from_arrow(pa.table({"picture": list(map(png, GREY[:4])), "kind": labels}), image="picture", label="kind")
    assert images.classes == classes
    assert images.train.labels.tolist() == codes


def test_named_classes_take_labels_as_their_numbers() -> None:
    images = from_arrow(pa.table({"image": GREY.tolist(), "label": [0, 3, 0, 3, 0, 3]}), classes=["a", "b", "c", "d"])
    assert images.train.labels.tolist() == [0, 3, 0, 3, 0, 3]


def test_float_columns_stay_as_they_are() -> None:
    x = np.random.default_rng(0).normal(size=(6, 5))
    images: Images = from_arrow(pa.table({"image": x.tolist(), "label": LABELS}))
    assert images.shape == (5,)
    assert np.array_equal(held(images.train), x.astype(np.float32))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": [b"x"]}, "lacks a column\n  where: data set table, train\n  expected: label\n  got: image"),
        ({"image": [png(GREY[0]), b"broken"], "label": [0, 1]}, "cannot be read\n.*: data set table, train, row 1"),
        ({"image": [png(GREY[0]), None], "label": [0, 1]}, "sample is missing\n  where: data set table, train, row 1"),
        ({"image": [b"", b""], "label": [0, None]}, "label is missing\n  where: data set table, train, row 1"),
        ({"image": [b"", b""], "label": [0, -1]}, "row 1\n  expected: 0 or more\n  got: -1"),
        ({"image": [b"", b""], "label": [0.5, 1.0]}, r"row 0\n  expected: whole numbers, or names\n  got: 0\.5"),
        ({"image": [[[1, 2], [3]]], "label": [0]}, "lists differ in length\n  where: data set table, train, row 0"),
        ({"image": [[[1, 256]]], "label": [0]}, r"pixel is out of range\n.*\n  expected: 0\.\.255\n  got: 1\.\.256"),
        ({"image": [[1, 2, 3]], "label": [0]}, r"uint8 \[3\] is not a picture"),
        ({"image": [1, 2], "label": [0, 1]}, "expected: binary, struct with bytes, paths, nested lists"),
        ({"image": [b"", b""], "label": [0, 1], "split": ["train", "test"]}, "several splits(.|\n)*got: column split"),
        ({"image": [b"", b""], "label": [0, 1], "is_train": [False, True]}, "several splits(.|\n)*is_train, with Fals"),
        ({"a": [1.5, 2.5], "label": [0, 1], "Usage": ["Training", "PublicTest"]}, "several splits(.|\n)*column Usage"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(columns: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_arrow(pa.table(columns))


def test_a_column_that_is_there_twice_is_refused() -> None:
    columns = [pa.array([png(GREY[0])] * 2), pa.array([0, 1]), pa.array([1, 0])]
    with pytest.raises(DataError, match=r"a table has a column twice(.|\n)*one 'label'"):
        from_arrow(pa.Table.from_arrays(columns, names=["image", "label", "label"]))


def test_rows_of_one_split_are_taken_whatever_a_column_calls_it() -> None:
    images = from_arrow(pa.table({"image": [png(x) for x in GREY], "label": LABELS, "split": ["train"] * 6}))
    assert np.array_equal(images.train.take(np.arange(6))[..., 0], GREY)


def test_a_test_table_must_be_like_the_training_table() -> None:
    table = pa.table({"image": GREY.tolist(), "label": LABELS})
    with pytest.raises(DataError, match=r"data set table, test, row 1\n  expected: 0, 1, 2\n  got: 9"):
        from_arrow(table, test=pa.table({"image": GREY[:2].tolist(), "label": [0, 9]}))
    with pytest.raises(DataError, match=r"expected: uint8 \[8, 9, 1\]\n  got: uint8 \[5, 9, 1\]"):
        from_arrow(table, test=pa.table({"image": GREY[:, :5].tolist(), "label": LABELS}))
