"""Data as people hold them: each form works, or is refused with a remedy that works when it is followed."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, SubsetRandomSampler, TensorDataset

from ffdist import SFF, Pipeline, from_arrow, from_dataset, from_tensors, models, open_data
from ffdist.cli.data import default_name
from ffdist.data import Images, describe, prepare
from ffdist.data.decode import Decoding
from ffdist.data.given import as_images
from ffdist.errors import ConfigError, DataError
from ffdist.objectives import Hinton
from ffdist.settings.toml import settings_in
from ffdist.snapshot.mirror import mirror_of

DRAWS = np.random.default_rng(0)
GREY = DRAWS.integers(0, 256, (12, 6, 7), np.uint8)
FLOATS = DRAWS.normal(size=(12, 5)).astype(np.float32)
LABELS = np.arange(12) % 3
NAMES = np.array(["dog", "cat", "eel"])


def png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png")
    return buffer.getvalue()


PNGS = [png(picture) for picture in GREY]


def named(images: Any, split: str = "train") -> list[str]:
    return [images.classes[k] for k in getattr(images, split).labels]


def features(names: list[str] | None) -> dict[str, str]:
    return {"huggingface": json.dumps({"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}})}


def test_names_are_matched_to_names_whatever_the_order_of_the_classes() -> None:
    words = NAMES[LABELS].tolist()
    order = ["eel", "dog", "cat"]
    table = pa.table({"image": PNGS, "label": words})
    coded = pa.table({"image": PNGS, "label": LABELS}).replace_schema_metadata(features(NAMES.tolist()))
    items = list(zip(GREY, words, strict=True))
    for images in (
        from_arrow(table, classes=order),
        from_arrow(coded, classes=order),
        from_tensors(GREY, words, classes=np.array(order)),
        from_tensors(GREY, np.array(words, object), classes=pd.Index(order)),
        from_dataset(items, classes=tuple(order)),  # pyright: ignore[reportArgumentType]
    ):
        assert images.classes == order
        assert named(images) == words


def test_a_split_whose_own_numbers_mean_other_names_is_matched_by_name() -> None:
    train = pa.table({"image": PNGS, "label": LABELS}).replace_schema_metadata(features(NAMES.tolist()))
    test = pa.table({"image": PNGS[:2], "label": [0, 1]}).replace_schema_metadata(features(["cat", "eel"]))
    assert named(from_arrow(train, test=test), "test") == ["cat", "eel"]

    class Items(TensorDataset):
        classes = NAMES.tolist()

    class Fewer(Items):
        classes = ("eel", "cat")

    x = torch.from_numpy(FLOATS)
    images = from_dataset(Items(x, torch.from_numpy(LABELS)), test=Fewer(x[:2], torch.tensor([0, 1])))
    assert named(images, "test") == ["eel", "cat"]
    with pytest.raises(DataError, match=r"test, row 1\n  expected: dog, cat, eel\n  got: fox"):
        from_arrow(train, test=test.replace_schema_metadata(features(["cat", "fox"])))


@pytest.mark.parametrize(
    "labels",
    [
        LABELS.astype(np.float64),
        LABELS[:, None],
        torch.from_numpy(LABELS).to(torch.int8),
        pd.Series(LABELS, dtype="Int64"),
        LABELS.astype(">i4")[::-1][::-1],
        [np.int64(k) for k in LABELS],
        [torch.tensor([k]) for k in LABELS],
        pa.array(LABELS),
    ],
)
def test_whole_numbers_of_any_type_are_the_same_labels(labels: Any) -> None:
    assert from_tensors(GREY, labels).train.labels.tolist() == LABELS.tolist()
    items = list(zip(GREY, labels, strict=True)) if not isinstance(labels, pa.Array) else []
    if items:
        assert from_dataset(items).train.labels.tolist() == LABELS.tolist()  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("labels", [LABELS % 2 == 0, torch.from_numpy(LABELS % 2 == 0), list(LABELS % 2 == 0)])
def test_truths_are_two_classes(labels: Any) -> None:
    images = from_tensors(GREY, labels)
    assert images.num_classes == 2
    assert images.train.labels.tolist() == (LABELS % 2 == 0).astype(int).tolist()


def quartiles(y: np.ndarray) -> np.ndarray:
    return np.unique(np.digitize(y, np.quantile(y, [0.25, 0.5, 0.75])), return_inverse=True)[1]


def one_hot(y: np.ndarray) -> np.ndarray:
    return np.eye(3)[y]


@pytest.mark.parametrize(
    ("labels", "expected", "follow"),
    [
        (LABELS + 1, r"not numbered from 0(.|\n)*classes=\[1, 2, 3\]", None),
        (one_hot(LABELS), r"one-hot labels(.|\n)*numpy\.argmax\(y, 1\)", lambda y: np.argmax(y, 1)),
        (
            LABELS / 7,
            r"no regression(.|\n)*numpy\.digitize",
            quartiles,
        ),
        (np.where(LABELS == 2, np.nan, LABELS), r"missing(.|\n)*row 2(.|\n)*NaN", None),
        (["cat", None] * 6, r"missing(.|\n)*row 1", None),
        (["cat", 1] * 6, r"unlike kinds(.|\n)*str\(label\)", lambda y: [str(label) for label in y]),
        (np.arange(12).astype("M8[D]"), r"names(.|\n)*astype\(str\)", lambda y: y.astype(str)),
        (np.ones((12, 3)), r"one class a sample(.|\n)*y\[:, 0\]", None),
        (np.full(12, 2**63, np.uint64), r"less than 2\*\*63", None),
        (LABELS[:0], r"one whole number a sample", None),
        (np.zeros(12, int), r"one class only", None),
    ],
)
def test_other_labels_are_refused_with_what_to_do(labels: Any, expected: str, follow: Any) -> None:
    with pytest.raises(DataError, match=expected):
        from_tensors(GREY, labels)
    if follow:
        assert from_tensors(GREY, follow(labels)).num_classes > 1


BELOW = np.where(LABELS == 2, -1, LABELS)


@pytest.mark.parametrize(
    "make", [pa.table, pa.RecordBatch.from_pydict, pd.DataFrame, pl.DataFrame, datasets.Dataset.from_dict]
)
def test_labels_below_0_are_left_out_in_the_words_of_the_tables_library(make: Any) -> None:
    table = make({"image": PNGS, "kind": BELOW})
    with pytest.raises(DataError, match=r"0 or more\n  got: -1, 4 rows") as error:
        from_arrow(table, label="kind")
    way = str(error.value.remedy).partition(": ")[2].partition(";")[0]
    left = eval(way, {"table": table, "dataset": table, "pyarrow": pa, "polars": pl})  # as a user would paste it
    assert named(from_arrow(left, label="kind")) == ["0", "1"] * 4


SPARSE = "{name: kind.subtype for name, kind in table.dtypes.items() if isinstance(kind, pandas.SparseDtype)}"


@pytest.mark.parametrize(
    ("column", "way"),
    [
        (pd.arrays.SparseArray(LABELS), f"table.astype({SPARSE})"),
        (FLOATS[:, 0] * 1j, "table.drop(columns='b')"),
        (FLOATS[:, 0].astype(np.longdouble), "table.astype({'b': 'float64'})"),
        (np.array([2**70, 3, 5] * 4, object), "table.astype({'b': 'float64'})"),
        (
            pl.Series(LABELS.tolist(), dtype=pl.Int128),
            "table.cast({polars.Int128: polars.Int64, polars.UInt128: polars.UInt64})",
        ),
        (pl.Series(np.array(["x", "y", "z"] * 4)), "table.drop('b')"),
        (np.arange(12).astype("M8[s]"), "table.drop(columns='b')"),
    ],
)
def test_a_frame_with_a_column_that_is_no_number_is_read_as_the_remedy_has_it(column: Any, way: str) -> None:
    make = pl.DataFrame if isinstance(column, pl.Series) else pd.DataFrame
    table = make({"a": FLOATS[:, 0], "b": column, "label": LABELS})
    with pytest.raises(DataError, match=r"cannot be read|holds no numbers") as error:
        as_images(table)
    assert way in str(error.value.remedy)
    images = as_images(eval(way, {"table": table, "pandas": pd, "polars": pl}))  # as a user would paste it
    assert (images.classes, images.shape) == (["0", "1", "2"], (1,) if "drop" in way else (2,))


@pytest.mark.parametrize(
    ("make", "labels"),
    [
        (pd.DataFrame, pd.cut(LABELS, 3)),
        (pd.DataFrame, LABELS * 1j),
        (pd.DataFrame, np.array([2**70, 3, 5] * 4, object)),
        (pl.DataFrame, pl.Series([{"u": k} for k in LABELS.tolist()])),
        (pl.DataFrame, pl.Series(LABELS.tolist()).cast(pl.Duration)),
        (pa.table, pa.array([{"u": k} for k in LABELS.tolist()])),
        (pa.table, pa.array([b"\xff\x01", b"\xff\x02", b"\xff\x03"] * 4)),
        (pa.table, pa.array(LABELS, pa.duration("s"))),
        (datasets.Dataset.from_dict, [{"u": k} for k in LABELS.tolist()]),
    ],
)
def test_labels_of_a_type_that_is_neither_number_nor_text_are_classes_as_texts(make: Any, labels: Any) -> None:
    table = make({"a": FLOATS[:, 0], "label": labels})
    with pytest.raises(DataError, match=r"cannot be read|whole numbers or strings") as error:
        as_images(table)
    way = re.split(r"as labels, |as a class: ", str(error.value.remedy))[-1]
    names = {"table": table, "dataset": table, "pyarrow": pa, "polars": pl}
    assert as_images(eval(way, names)).num_classes == 3


def test_arrays_labels_below_0_are_left_out_or_numbered_anew() -> None:
    with pytest.raises(DataError, match="0 or more") as error:
        from_tensors(GREY, BELOW)
    way, _, other = str(error.value.remedy).partition("; ")
    names = {"x": GREY, "y": BELOW, "numpy": np}
    assert from_tensors(*eval(way.partition(": ")[2], names)).num_classes == 2
    assert from_tensors(GREY, eval(other.partition(": ")[2], names)).num_classes == 3


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet", "feather"])
def test_labels_below_0_in_a_file_are_left_out_of_it_or_named(ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"table.{ending}"

    def write(frame: pd.DataFrame) -> None:
        table = pa.Table.from_pandas(frame, preserve_index=False)
        {
            "csv": lambda: frame.to_csv(file, index=False),
            "jsonl": lambda: frame.to_json(file, orient="records", lines=True),
            "parquet": lambda: pq.write_table(table, file),
            "feather": lambda: feather.write_feather(table, file),
        }[ending]()

    frame = pd.DataFrame({"a": FLOATS[:, 0], "b": FLOATS[:, 1], "label": BELOW})
    write(frame)
    with pytest.raises(DataError, match=r"got: -1, 4 rows(.|\n)*rows out of the file(.|\n)*all classes as names"):
        open_data(file)
    write(frame[frame.label >= 0])
    assert open_data(file).classes == ["0", "1"]
    write(frame.assign(label=NAMES[BELOW]))
    assert open_data(file).classes == sorted(NAMES)


def test_places_below_home_are_named_by_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    np.savez(tmp_path / "set.npz", x=FLOATS, y=LABELS)
    for place in ("~/set.npz", Path("~/set.npz")):
        assert as_images(place).source == str(tmp_path / "set.npz")
    pq.write_table(pa.table({"image": PNGS, "label": LABELS}), tmp_path / "pets.parquet")
    assert prepare("~/pets.parquet", "~/prepared") == tmp_path / "prepared"
    assert open_data("~/prepared").source == str(tmp_path / "prepared")
    assert describe("~/prepared")["name"] == "pets"
    assert default_name("~/pets.parquet") == default_name("~/pets") == "pets"
    assert mirror_of("~/run") == mirror_of(Path("~/run")) == tmp_path / "run"
    (tmp_path / "own.toml").write_text("lr = 0.5")
    assert settings_in("~/own.toml").optim.lr == 0.5


def test_numbers_that_are_named_are_the_classes(capsys: pytest.CaptureFixture[str]) -> None:
    images = from_tensors(GREY, LABELS + 1, test=(GREY, LABELS + 1), classes=[3, 1, 2])
    assert (images.classes, named(images)) == (["3", "1", "2"], [str(k + 1) for k in LABELS])
    assert named(from_arrow(pa.table({"image": PNGS, "label": LABELS + 1}))) == [str(k + 1) for k in LABELS]
    assert "labels 1, 2, 3 become classes 0..2" in capsys.readouterr().err


@pytest.mark.parametrize("classes", [3, ["a", "b", "c"], {"a": 0, "b": 1, "c": 2}, {0: "a", 1: "b", 2: "c"}])
def test_classes_may_be_a_number_names_or_a_mapping(classes: Any) -> None:
    assert from_tensors(GREY, LABELS, classes=classes).num_classes == 3


@pytest.mark.parametrize("classes", ["abc", len, ["a", "a", "b"], [1.5], True, ["1", "2", "0"], {"a": 5, "b": 6}])
def test_classes_that_are_none_are_refused(classes: Any) -> None:
    with pytest.raises(DataError, match="class"):
        from_tensors(GREY, LABELS, classes=classes)


def test_a_data_sets_own_classes_that_are_none_are_noted(capsys: pytest.CaptureFixture[str]) -> None:
    class Items(TensorDataset):
        def classes(self) -> list[str]:
            return []

    assert from_dataset(Items(torch.from_numpy(FLOATS), torch.from_numpy(LABELS))).classes == ["0", "1", "2"]
    assert "class names are not used" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("column", "names"),
    [
        (pa.array(NAMES[LABELS]).cast(pa.large_string()), ["cat", "dog", "eel"]),
        (pa.array(NAMES[LABELS], pa.string_view()), ["cat", "dog", "eel"]),
        (pa.array(NAMES[LABELS]).cast(pa.binary()), ["cat", "dog", "eel"]),
        (pa.DictionaryArray.from_arrays(LABELS, pa.array(NAMES, pa.string_view())), ["cat", "dog", "eel"]),
        (pc.run_end_encode(pa.array(np.sort(LABELS))), ["0", "1", "2"]),  # pyright: ignore[reportAttributeAccessIssue]
        (pa.array(LABELS, pa.int8()).dictionary_encode(), ["0", "1", "2"]),
        (pa.array(LABELS, pa.uint64()), ["0", "1", "2"]),
        (pa.array(LABELS.tolist(), pa.decimal128(4, 1)), ["0", "1", "2"]),
        (pa.array(LABELS % 2 == 0), ["0", "1"]),
    ],
)
def test_label_columns_of_any_type_are_read(column: pa.Array, names: list[str]) -> None:
    assert from_arrow(pa.table({"image": PNGS, "label": column})).classes == names


def test_an_int8_column_may_have_two_hundred_names() -> None:
    table = pa.table({"image": PNGS, "label": pa.array(LABELS, pa.int8())})
    assert from_arrow(table, classes=[f"c{k}" for k in range(200)]).num_classes == 200


@pytest.mark.parametrize("metadata", ["not json", "null", '{"info": null}', '{"info": {"features": null}}', "[]"])
def test_metadata_without_names_give_none(metadata: str) -> None:
    table = pa.table({"image": PNGS, "label": LABELS}).replace_schema_metadata({"huggingface": metadata})
    assert from_arrow(table).classes == ["0", "1", "2"]


def write(folder: Path, **labels: pa.Array) -> Path:
    folder.mkdir()
    for stem, column in labels.items():
        pq.write_table(pa.table({"image": PNGS, "label": column}), folder / f"{stem}.parquet")
    return folder


def test_label_columns_of_two_integer_types_are_one_and_of_unlike_kinds_refused(tmp_path: Path) -> None:
    small, large = pa.array(LABELS, pa.int8()), pa.array(LABELS * 100, pa.int64())
    images = open_data(prepare(str(write(tmp_path / "a", x1=small, x2=large)), tmp_path / "out", test_fraction=0))
    assert images.classes == ["0", "1", "2", "100", "200"]
    words = pa.array(NAMES[LABELS])
    coded = words.dictionary_encode()
    images = open_data(prepare(str(write(tmp_path / "c", train=words, test=coded)), tmp_path / "out2"))
    assert named(images, "test") == NAMES[LABELS].tolist()
    for k, labels in enumerate(({"x1": small, "x2": words}, {"train": words, "test": small})):
        with pytest.raises(DataError, match=r"unlike kinds\n  where: .*parquet(.|\n)*remedy: write both as names"):
            prepare(str(write(tmp_path / f"b{k}", **labels)), tmp_path / "out3")


@pytest.mark.parametrize(
    "picture",
    [
        pa.array([GREY[0].tolist(), [[None] * 7] * 6, *GREY[2:].tolist()]),
        pa.array([[1.0, None], *[[1.0, 2.0]] * 11]),
    ],
)
def test_a_null_in_a_sample_is_refused_with_its_row(picture: pa.Array) -> None:
    with pytest.raises(DataError, match=r"holds a null\n  where: .*row [01]\n"):
        from_arrow(pa.table({"image": picture, "label": LABELS}))


def test_pictures_may_be_views_and_files(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    for row, data in enumerate(PNGS):
        (tmp_path / "img" / f"{row}.png").write_bytes(data)
    paths = [f"img/{row}.png" for row in range(12)]
    structs = pa.array([{"bytes": None, "path": str(tmp_path / path)} for path in paths])
    for column in (pa.array(PNGS, pa.binary_view()), pa.array(PNGS).dictionary_encode(), structs):
        images = from_arrow(pa.table({"image": column, "label": LABELS}))
        assert np.array_equal(images.train.take(np.arange(12))[..., 0], GREY)
    frame = pd.DataFrame({"filename": paths, "label": NAMES[LABELS]})
    frame.to_csv(tmp_path / "labels.csv", index=False)
    frame.to_csv(tmp_path / "labels.tsv", index=False, sep="\t")
    frame.to_csv(tmp_path / "semicolon.csv", index=False, sep=";", encoding="utf-8-sig")
    frame.to_parquet(tmp_path / "labels.parquet")
    for name in ("labels.csv", "labels.tsv", "semicolon.csv", "labels.parquet"):
        out = prepare(str(tmp_path / name), tmp_path / "out" / name, image_column="filename", test_fraction=0)
        images = open_data(out)
        assert np.array_equal(images.train.take(np.arange(12))[..., 0], GREY)
        assert named(images) == NAMES[LABELS].tolist()
    (tmp_path / "img" / "3.png").unlink()
    (tmp_path / "img" / "5.png").unlink()
    with pytest.raises(DataError, match=r"2 pictures cannot be read\n  where: .*csv, row 3(.|\n)*row 5.*No such"):
        prepare(str(tmp_path / "labels.csv"), tmp_path / "none", image_column="filename")
    columns = {"image_column": "filename", "test_fraction": 0}
    images = open_data(prepare(str(tmp_path / "labels.csv"), tmp_path / "left", **columns, skip_broken=True))
    assert np.array_equal(images.train.take(np.arange(10))[..., 0], np.delete(GREY, [3, 5], 0))
    frame.assign(filename=frame.filename.str.replace("/", "\\")).drop([3, 5]).to_csv(tmp_path / "dos.csv", index=False)
    dos = open_data(prepare(str(tmp_path / "dos.csv"), tmp_path / "dos", **columns))
    assert dos.train.digest() == images.train.digest()
    frame.assign(filename=[f"{i}" for i in range(12)]).to_csv(tmp_path / "ids.csv", index=False)
    with pytest.raises(DataError, match=r"file is not there\n  where: .*ids.csv, row 0\n  expected: .*from the folder"):
        prepare(str(tmp_path / "ids.csv"), tmp_path / "none", image_column="filename")


@pytest.mark.parametrize("kind", [np.float16, np.float64, ">f4", np.longdouble])
def test_floats_of_any_type_order_and_stride_are_the_same(kind: Any) -> None:
    x = DRAWS.integers(0, 9, (12, 5)).astype(kind)
    frozen = np.asfortranarray(x)
    frozen.flags.writeable = False
    for same in (frozen, x[::-1][::-1], x.tolist(), list(x), torch.from_numpy(x.astype("f4")).requires_grad_()):
        assert np.array_equal(from_tensors(same, LABELS).train.take(np.arange(12)), x.astype(np.float32))
    assert from_tensors(x[::-1], LABELS[::-1]).train.take(np.array([0]))[0, 0] == x[-1, 0]


@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.uint32, np.int64, ">u2"])
def test_whole_numbers_up_to_255_are_pictures_and_beyond_refused(kind: Any) -> None:
    x = GREY.astype(kind)
    assert np.array_equal(from_tensors(x, LABELS).train.take(np.arange(12)), GREY[..., None])
    with pytest.raises(DataError, match=r"out of range(.|\n)*numpy\.asarray\(x, \"float32\"\)(.|\n)*normalize=True"):
        from_tensors(x * 100, LABELS)
    assert from_tensors(np.asarray(x, "float32"), LABELS, normalize=True).mean[0] == pytest.approx(GREY.mean(), rel=0.2)


@pytest.mark.parametrize(
    ("x", "remedy"),
    [
        (FLOATS + 1j, r"numpy\.stack\(\[x\.real, x\.imag\], 1\)"),
        (torch.from_numpy(FLOATS).to_sparse(), r"x\.to_dense\(\)"),
        (np.ma.masked_less(FLOATS, 0), r"x\.filled"),
        (np.where(FLOATS[3, 1] == FLOATS, np.nan, FLOATS), r"row 3(.|\n)*nan_to_num"),
        (FLOATS[:, 0], r"x\.reshape\(-1, 1\)"),
        ([[1.0, 2.0], [1.0]] * 6, "one shape"),
        (torch.empty(12, 5, device="meta"), "without values"),
    ],
)
def test_other_samples_are_refused_with_what_to_do(x: Any, remedy: str) -> None:
    with pytest.raises(DataError, match=remedy):
        from_tensors(x, LABELS)


@pytest.mark.parametrize("shape", [(12, 8, 9, 3), (12, 28, 28, 1), (12, 16, 16, 13)])
def test_floats_with_channels_last_are_asked_for(shape: tuple[int, ...]) -> None:
    x = DRAWS.random(shape).astype(np.float32)
    items: Any = list(zip(x, LABELS, strict=True))
    table = pa.table({"image": x.tolist(), "label": LABELS})
    for make, args in ((from_tensors, (x, LABELS)), (from_dataset, (items,)), (from_arrow, (table,))):
        with pytest.raises(DataError, match=r"\[C, H, W\] or \[H, W, C\]\?(.|\n)*channels_last=True"):
            make(*args)
        last, first = make(*args, channels_last=True), make(*args, channels_last=False)
        assert np.array_equal(last.train.take(np.arange(12)), np.moveaxis(x, -1, 1))
        assert np.array_equal(first.train.take(np.arange(12)), x)


def test_uint8_with_channels_last_are_taken_when_set_so() -> None:
    x = DRAWS.integers(0, 256, (12, 8, 9, 3), np.uint8)
    with pytest.raises(DataError, match="channels_last=True"):
        from_tensors(x, LABELS)
    assert from_tensors(x, LABELS, channels_last=True).shape == (3, 8, 9)


def test_loaders_and_parts_of_data_sets_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    whole = TensorDataset(torch.from_numpy(FLOATS), torch.from_numpy(LABELS))
    for data in (DataLoader(whole, shuffle=True), Subset(whole, range(12)), ConcatDataset([whole]), [*whole]):
        assert np.array_equal(as_images(data).train.take(np.arange(12)), FLOATS)
    assert "its data set is taken" in capsys.readouterr().err
    loader = DataLoader(whole, sampler=SubsetRandomSampler([0, 1, 2, 3]))
    with pytest.raises(DataError, match=r"Subset\(loader\.dataset, list\(loader\.sampler\)\)"):
        as_images(loader)
    assert len(as_images(Subset(loader.dataset, list(loader.sampler))).train) == 4


class Numbered(Dataset):
    """Two samples, the second of class 1, whose name is the second of `classes`."""

    def __init__(self, *classes: str) -> None:
        self.classes = [*classes]

    def __len__(self) -> int:
        return 2

    def __getitem__(self, row: int) -> tuple[np.ndarray, int]:
        return FLOATS[row], row


def test_parts_that_number_their_classes_differently_are_refused_and_taken_by_name() -> None:
    other: Any = ConcatDataset([Numbered("cat", "dog"), Numbered("dog", "cat", "eel")])
    with pytest.raises(DataError, match=r"part 0\n  expected: 0 for dog, as in part 1\n  got: 0 for cat\n"):
        as_images(other)
    by_name: Any = [(x, part.classes[y]) for part in other.datasets for x, y in map(part.__getitem__, range(len(part)))]
    assert named(as_images(by_name)) == ["cat", "dog", "dog", "cat"]
    longer: Any = ConcatDataset([Numbered("cat", "dog"), Numbered("cat", "dog", "eel")])
    assert as_images(longer).classes == ["cat", "dog", "eel"]


def test_pictures_of_pillow_beside_their_labels_are_read_as_files_are() -> None:
    grey = [Image.fromarray(picture) for picture in GREY]
    palettes = [Image.merge("RGB", [picture] * 3).quantize(256) for picture in grey]
    assert np.abs(as_images((palettes, LABELS)).train.take(np.arange(12))[..., 0].astype(int) - GREY).max() < 8
    deep = [Image.fromarray(picture.astype(np.float32) / 255) for picture in GREY]
    with pytest.raises(DataError, match=r"value_range=\(0, 1\)"):
        from_tensors(deep, LABELS)  # pyright: ignore[reportArgumentType]
    read = from_tensors(deep, LABELS, value_range=(0, 1))  # pyright: ignore[reportArgumentType]
    assert np.abs(read.train.take(np.arange(12))[..., 0].astype(int) - GREY).max() < 2
    assert read.decoding
    assert read.decoding.value_range == (0, 1)


def test_names_that_differ_by_blanks_or_capitals_are_noted(capsys: pytest.CaptureFixture[str]) -> None:
    assert as_images((FLOATS[:4], ["a", "a ", "A", "b"])).classes == ["A", "a", "a ", "b"]
    assert "blanks or capitals alone: 'A' and 'a' and 'a '; write" in capsys.readouterr().err
    as_images((FLOATS[:4], ["a", "b", "b", "a"]))
    assert not capsys.readouterr().err


def test_names_for_labels_that_count_from_one_say_how_they_count_from_zero() -> None:
    with pytest.raises(DataError, match=r"expected: 0\.\.2\n  got: 3\n  remedy: count from 0: y - 1"):
        from_tensors(FLOATS, LABELS + 1, classes=["a", "b", "c"])


@pytest.mark.parametrize("shape", [(8, 8, 12), (8, 7, 5), (9, 9, 3), (9, 8, 1), (6, 5, 4, 1), (7, 6, 5, 4)])
def test_floats_whose_channels_may_be_last_are_asked_for(shape: tuple[int, ...]) -> None:
    x = DRAWS.normal(size=(4, *shape)).astype(np.float32)
    with pytest.raises(DataError, match=r"are these samples \[C, .*H, W\] or \[.*H, W, C\]\?(.|\n)*channels_last=True"):
        as_images((x, LABELS[:4]))
    assert from_tensors(x, LABELS[:4], channels_last=True).shape == (shape[-1], *shape[:-1])
    assert from_tensors(x, LABELS[:4], channels_last=False).shape == shape


@pytest.mark.parametrize("shape", [(1, 1, 12), (3, 8, 9), (13, 8, 8), (2, 9, 1), (5, 6, 7, 8), (1, 9, 9, 9)])
def test_floats_with_channels_first_are_taken(shape: tuple[int, ...]) -> None:
    x = DRAWS.normal(size=(4, *shape)).astype(np.float32)
    assert as_images((x, LABELS[:4])).shape == shape


def test_items_may_be_mappings_and_of_more_values_are_refused() -> None:
    items = [{"image": x, "label": y} for x, y in zip(FLOATS, LABELS, strict=True)]
    assert np.array_equal(as_images(items).train.take(np.arange(12)), FLOATS)
    with pytest.raises(DataError, match=r"got: image, label(.|\n)*image=\.\.\."):
        from_dataset(items, image="img")  # pyright: ignore[reportArgumentType]
    triples: Any = [(x, y, 0) for x, y in zip(FLOATS, LABELS, strict=True)]
    with pytest.raises(DataError, match=r"from_dataset\(\[\(x, y\) for x, y, \*_ in dataset\]\)"):
        from_dataset(triples)
    assert len(from_dataset([(x, y) for x, y, *_ in triples]).train) == 12  # pyright: ignore[reportArgumentType]


def test_splits_may_come_in_different_forms() -> None:
    pair = (FLOATS, LABELS)
    items = TensorDataset(torch.from_numpy(FLOATS), torch.from_numpy(LABELS))
    table = pa.table({"image": FLOATS.tolist(), "label": LABELS})
    frame = pd.DataFrame({"image": FLOATS.tolist(), "label": LABELS})
    held = from_tensors(FLOATS, LABELS).train
    for data in (pair, items, table, frame, from_tensors(*pair)):
        for test in (pair, items, table, frame, held):
            images = as_images(data, test, pair)
            assert images.test is not None
            assert images.validation is not None
            assert images.test.labels.tolist() == images.validation.labels.tolist() == LABELS.tolist()
    images = as_images({"train": pair, "Val": items, "test": table})
    assert images.validation is not None
    for data, remedy in (
        ({"train": pair, "unsupervised": items}, "splits are not understood"),
        (FLOATS, r"without labels(.|\n)*\(samples, labels\)"),
        ((x for x in [pair]), r"list\(data\)"),
        (7, "unknown kind of data"),
    ):
        with pytest.raises(DataError, match=remedy):
            as_images(data)


def test_a_validation_split_of_ones_own_is_validated_on() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(5, 8), nn.Linear(8, 8))
    pipeline = Pipeline(network, SFF())
    pipeline.fit((FLOATS, LABELS), validation=(FLOATS[:6], LABELS[:6]), epochs=1, batch_size=4, progress=False)
    with pytest.raises(DataError, match="validation samples are unlike"):
        pipeline.fit((FLOATS, LABELS), validation=(FLOATS[:6, :3], LABELS[:6]), epochs=1, progress=False)


def test_what_is_predicted_has_the_range_of_the_training(capsys: pytest.CaptureFixture[str]) -> None:
    pictures = np.repeat(GREY[:, None], 3, 1)
    pipeline = Pipeline(models.mlp((3, 6, 7), 3, widths=(8, 8)), SFF())
    pipeline.fit((pictures, LABELS), epochs=1, batch_size=4, validation=0, progress=False)
    expected = pipeline.predict(pictures)
    assert torch.equal(pipeline.predict(pictures.transpose(0, 2, 3, 1)), expected)
    for beyond in (pictures.astype("f4"), pictures.astype("f4") / 127.5 - 1):
        with pytest.raises(DataError, match=r"beyond the range(.|\n)*x / 255"):
            pipeline.predict(beyond)
    pipeline.fit((pictures.astype("f4") / 255, LABELS), epochs=1, batch_size=4, validation=0, progress=False)
    with pytest.raises(DataError, match=r"0\.\.1\n  got: uint8\n(.|\n)*x / 255"):
        pipeline.predict(pictures)
    frozen = pictures / np.float32(255)
    frozen.flags.writeable = False
    pipeline.predict(frozen)
    assert "far from" not in capsys.readouterr().err
    with pytest.raises(DataError, match=r"another scale(.|\n)*x / 255"):
        pipeline.predict(pictures.astype("f4"))
    pipeline.predict(frozen * 3)
    assert "far from those of the training" in capsys.readouterr().err


def test_floats_of_another_size_are_scaled_refused_or_noted(capsys: pytest.CaptureFixture[str]) -> None:
    x = GREY.astype("f4")[:, None]
    network = models.mlp((1, 6, 7), 3, widths=(8, 8))
    fit: dict[str, Any] = {"epochs": 1, "batch_size": 4, "validation": 0, "progress": False}
    for scale in (1.0, 1e-5):
        with pytest.raises(DataError, match="normalize=True"):
            Pipeline(network, Hinton()).fit((x * scale, LABELS), **fit)
    Pipeline(network, Hinton(strength=255)).fit((x, LABELS), **fit)
    assert not capsys.readouterr().err
    Pipeline(network, SFF()).fit((x, LABELS), **fit)
    assert "are trained on as they are" in capsys.readouterr().err
    scaled = from_tensors(x, LABELS, normalize=True)
    pipeline = Pipeline(network, Hinton())
    pipeline.fit(scaled, **fit)
    own = Pipeline(network, Hinton())
    own.fit(((x - scaled.mean[0]) / scaled.std[0], LABELS), **fit)
    mine, theirs = pipeline.classifier.blocks.state_dict(), own.classifier.blocks.state_dict()
    assert all(torch.allclose(mine[name], theirs[name], atol=1e-4) for name in mine)
    assert torch.equal(pipeline.predict(x), own.predict((x - scaled.mean[0]) / scaled.std[0]))


def test_what_is_nearly_right_is_refused_with_what_is_right() -> None:
    pair = {"x": FLOATS, "y": LABELS}
    with pytest.raises(DataError, match=r"remedy: \(data\['x'\], data\['y'\]\)"):
        as_images(pair)
    with pytest.raises(DataError, match=r"remedy: {'train': data\[0\], 'test': data\[1\]}"):
        as_images(((FLOATS, LABELS), (FLOATS, LABELS)))
    frame = pd.DataFrame({"a": FLOATS[:, 0], "b": LABELS > 0, "c": pd.array(LABELS, dtype="Int64")})
    with pytest.raises(DataError, match=r"x\.astype\('float32'\)"):
        from_tensors(frame, LABELS)
    assert from_tensors(frame.astype("float32"), LABELS).shape == (3,)
    assert as_images((list(GREY[:2]), [0, 1])).shape == (1, 6, 7)


def test_token_ids_are_learned_from_as_floats() -> None:
    ids = torch.randint(0, 500, (12, 5))
    with pytest.raises(DataError, match=r"token ids: x\.float\(\), without normalize, and x\.long\(\) in the block"):
        from_tensors(ids, LABELS)
    with pytest.raises(DataError, match=r"row 0(.|\n)*token ids: x\.float\(\)"):
        from_dataset(TensorDataset(ids, torch.from_numpy(LABELS)))

    class Words(nn.Embedding):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input.long()).flatten(1)

    pipeline = Pipeline(nn.Sequential(Words(500, 4), nn.Linear(20, 8)), SFF(), launcher="threads")
    pipeline.fit((ids.float(), LABELS), epochs=1, batch_size=6, validation=0)
    assert pipeline.predict(ids.float()).shape == (12,)


def test_commands_in_errors_stay_commands_in_python() -> None:
    with pytest.raises(DataError, match="a name of `ffdist datasets`"):
        Pipeline(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), SFF()).fit("unheard-of")


@pytest.mark.parametrize(
    ("shape", "remedy"),
    [
        ((8, 8, 8), lambda x: x[:, None]),
        ((28, 28, 28), lambda x: x[:, None]),
        ((16, 3, 9, 9), lambda x: x.swapaxes(1, 2)),
        ((6, 1, 9, 9), lambda x: x.swapaxes(1, 2)),
        ((4, 9, 9, 3), None),
        ((3, 9, 3), None),
    ],
)
def test_volumes_and_frames_are_asked_for(shape: tuple[int, ...], remedy: Any) -> None:
    x = DRAWS.normal(size=(12, *shape)).astype(np.float32)
    items: Any = list(zip(x, LABELS, strict=True))
    table = pa.table({"image": x.tolist(), "label": LABELS})
    makers: Any = ((as_images, ((x, LABELS),)), (from_dataset, (items,)), (from_arrow, (table,)))
    for make, args in makers:
        with pytest.raises(DataError, match=r"are these samples \[(.|\n)*channels_last"):
            make(*args)
    if remedy is not None:
        assert as_images((remedy(x), LABELS)).shape == remedy(x).shape[1:]
    else:
        assert from_tensors(x, LABELS, channels_last=True).shape == (shape[-1], *shape[:-1])
    assert from_tensors(x, LABELS, channels_last=False).shape == shape
    assert from_dataset(items, channels_last=False).shape == shape


@pytest.mark.parametrize("shape", [(13, 8, 8), (5, 6, 7, 8), (3, 8, 9), (1, 9, 9, 9), (16, 9, 12), (12, 5)])
def test_what_is_taken_for_many_channels_is_noted(shape: tuple[int, ...], capsys: pytest.CaptureFixture[str]) -> None:
    x = DRAWS.normal(size=(12, *shape)).astype(np.float32)
    as_images((x, LABELS))
    message = f"are taken for {shape[0]} channels of {' x '.join(map(str, shape[1:]))}; say so by from_tensors"
    assert (message in capsys.readouterr().err) == (shape[0] > 4 and len(shape) > 2)
    from_tensors(x, LABELS, channels_last=False)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_items_rows_and_tensors_of_as_many_channels_are_the_same_data(
    channels: int, capsys: pytest.CaptureFixture[str]
) -> None:
    x = DRAWS.integers(0, 256, (12, channels, 8, 9), np.uint8)
    expected = from_tensors(x, LABELS)
    assert expected.shape == (channels, 8, 9)
    behind = np.moveaxis(x, 1, -1)
    for samples in (x, behind, torch.from_numpy(x)):
        items: Any = list(zip(samples, LABELS, strict=True))
        assert from_dataset(items).digest == expected.digest
        assert from_arrow(pa.table({"image": samples.tolist(), "label": LABELS})).digest == expected.digest
    assert ("none of these is transparency" in capsys.readouterr().err) == (channels in (2, 4))
    small: Any = [(x[0, :, :, :3], 0), (x[1, :, :, :3], 1)]
    if channels > 1:
        with pytest.raises(DataError, match=r"\[C, H, W\] or \[H, W, C\]"):
            from_dataset(small)
        assert from_dataset(small, channels_last=False).shape == (channels, 8, 3)
        behind = [(np.moveaxis(x, 0, -1), y) for x, y in small]
        assert from_dataset(behind, channels_last=True).shape == (channels, 8, 3)  # pyright: ignore[reportArgumentType]


def test_how_pictures_were_read_is_recorded_as_far_as_it_is_known(tmp_path: Path) -> None:
    x = DRAWS.integers(0, 256, (12, 8, 9, 3), np.uint8)
    pillow = [Image.fromarray(one) for one in x]
    files = [tmp_path / f"{place}.png" for place in range(12)]
    for image, file in zip(pillow, files, strict=True):
        image.save(file)
    paths = pa.table({"image": [str(file) for file in files], "label": LABELS})
    held = [
        from_tensors(x.transpose(0, 3, 1, 2), LABELS),
        from_tensors(pillow, LABELS),  # pyright: ignore[reportArgumentType]
        from_dataset(list(zip(pillow, LABELS, strict=True))),  # pyright: ignore[reportArgumentType]
        from_arrow(pa.table({"image": x.tolist(), "label": LABELS})),
    ]
    assert all(images.in_memory for images in held)
    assert not from_arrow(paths).in_memory
    for images in (*held, from_arrow(paths)):
        assert images.decoding == Decoding((8, 9), "rgb")
    assert from_tensors(FLOATS, LABELS).decoding is None
    assert from_tensors(DRAWS.integers(0, 256, (12, 4, 8, 9), np.uint8), LABELS).decoding is None


def test_whole_numbers_of_more_than_8_bits_are_scaled_by_the_range_that_is_named(tmp_path: Path) -> None:
    """Each way in gives the pixels that a file of these values gives."""
    twelve = GREY.astype(np.uint16) << 4 | 7
    columns = {"image": pa.array(twelve.tolist()), "label": pa.array(LABELS)}
    table, items = pa.table(columns), [*zip(twelve, LABELS.tolist(), strict=True)]
    ways: dict[str, Callable[..., Images]] = {
        "tensors": lambda **said: from_tensors(twelve, LABELS, **said),
        "one channel": lambda **said: from_tensors(torch.tensor(twelve.astype(np.int64))[:, None], LABELS, **said),
        "items": lambda **said: from_dataset(items, **said),  # pyright: ignore[reportArgumentType]
        "table": lambda **said: from_arrow(table, **said),
    }
    for name, way in ways.items():
        read = way(value_range=(0, 4095))
        assert np.array_equal(read.train.take(np.arange(12))[..., 0], GREY), name
        assert read.decoding
        assert read.decoding.value_range == (0, 4095)
        with pytest.raises(DataError, match=r"value_range=\(0, 4095\)"):
            way()
        with pytest.raises(DataError, match=r"expected: 0\.\.1023\n"):
            way(value_range=(0, 1023))
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"white: value_range=\(0, 4095\);"):
        prepare(tmp_path / "t.parquet", tmp_path / "none")
    out = prepare(tmp_path / "t.parquet", tmp_path / "out", value_range=(0, 4095), test_fraction=0)
    pixels = open_data(out).train.take(np.arange(12))[..., 0]
    assert sorted(map(bytes, pixels)) == sorted(map(bytes, GREY))


def test_floats_and_a_range_of_pictures_are_refused() -> None:
    with pytest.raises(DataError, match="floats have no black and white"):
        from_tensors(FLOATS, LABELS, value_range=(0, 1))
    for limits in ((4095, 0), (0, 1, 2), (0, float("inf"))):
        with pytest.raises(ConfigError, match=r"unusable range of values\n  where: value_range\n"):
            from_tensors(GREY, LABELS, value_range=limits)  # pyright: ignore[reportArgumentType]


def test_a_range_for_8_bits_is_refused_and_not_passed_over() -> None:
    low = GREY // 16
    with pytest.raises(DataError, match=r"8 bits have black and white of their own(.|\n)*value_range=\(0, 15\)"):
        from_tensors(low, LABELS, value_range=(0, 15))
    made = from_tensors(low.astype(np.int16), LABELS, value_range=(0, 15))
    assert np.array_equal(made.train.take(np.arange(len(low)))[..., 0], low * 17)


def test_what_was_trained_on_12_bits_predicts_12_bits() -> None:
    twelve = GREY.astype(np.uint16) << 4
    pipeline = Pipeline(nn.Sequential(nn.Flatten(), nn.Linear(42, 8)), SFF(), launcher="threads")
    pipeline.fit(from_tensors(twelve, LABELS, value_range=(0, 4095)), epochs=1, batch_size=4, progress=False)
    assert torch.equal(pipeline.predict(twelve), pipeline.predict(GREY))
    with pytest.raises(DataError, match=r"expected: 0\.\.4095\n  got: \d+\.\.\d{5}\n"):
        pipeline.predict(GREY.astype(np.uint16) << 8)


def test_paths_and_bytes_of_pictures_are_items_as_pillow_s_are(tmp_path: Path) -> None:
    files = []
    for place, picture in enumerate(GREY):
        files.append(tmp_path / f"{place}.png")
        files[-1].write_bytes(png(picture))
    same = from_dataset([(Image.fromarray(x), y) for x, y in zip(GREY, LABELS.tolist(), strict=True)])  # pyright: ignore
    for form in (str, Path, Path.read_bytes):
        made = as_images([(form(file), y) for file, y in zip(files, LABELS.tolist(), strict=True)])
        assert made.digest == same.digest
        assert not made.in_memory, "nothing else was done to them"
    for frame in (pd.DataFrame, partial(pl.DataFrame, schema={"image": pl.Object, "label": pl.Int64})):
        for form in (str, Path):
            columns = {"image": [form(file) for file in files], "label": LABELS.tolist()}
            assert as_images(frame(columns)).digest == same.digest
    with pytest.raises(DataError, match=r"no known kind(.|\n)*'a good film', which is no file"):
        as_images([("a good film", 1), ("a bad one", 0)])
    with pytest.raises(DataError, match=r"cannot be read(.|\n)*row 1"):
        as_images([(files[0], 0), (tmp_path / "lost.png", 1)])


def test_an_error_for_an_archive_of_arrays_says_how_to_give_them(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x_train=GREY, y_train=LABELS, test_images=GREY[:6], test_labels=LABELS[:6])
    with np.load(tmp_path / "set.npz") as data:
        with pytest.raises(DataError, match="splits are not understood") as error:
            as_images(data)
        made = as_images(eval(str(error.value.remedy), {"data": data}))  # as a user would paste it
    assert {split: len(of) for split, of in made.splits.items()} == {"train": 12, "test": 6}


def test_columns_of_numbers_are_the_same_in_every_split_whatever_their_order() -> None:
    table = pa.table({"a": [0.0, 1.0], "b": [5.0, 6.0], "label": [0, 1]})
    images = as_images({"train": table, "test": table.select(["label", "b", "a"])})
    assert images.test is not None
    assert images.test.samples.tolist() == images.train.samples.tolist() == [[0, 5], [1, 6]]
    with pytest.raises(DataError, match="columns of other names"):
        as_images({"train": table, "test": table.rename_columns(["a", "c", "label"])})
