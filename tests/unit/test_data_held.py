"""What people hold as data: every kind becomes the same samples and labels."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from ffdist import Images, Pipeline, from_arrow, from_dataset, from_tensors, models, open_data
from ffdist.cli import main
from ffdist.data.given import as_images
from ffdist.data.groups import group_share
from ffdist.data.places import CACHE
from ffdist.data.sources.array_files import divided
from ffdist.errors import ConfigError, DataError

DRAWS = np.random.default_rng(0)
GREY = DRAWS.integers(0, 256, (60, 8, 8), np.uint8)
LABELS = np.arange(60) % 3
NAMES = np.array(["ant", "bee", "cow"])[LABELS]
NUMBERS = DRAWS.normal(50, 20, (60, 4)).astype(np.float32)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def files() -> list[str]:
    Path("images").mkdir(exist_ok=True)
    for row, picture in enumerate(GREY):
        (Path("images") / f"{row:02d}.png").write_bytes(png(picture))
    return [f"images/{row:02d}.png" for row in range(len(GREY))]


def write_tar(path: str, rows: Iterable[int], label: Callable[[int], tuple[str, bytes]], mode: str = "w") -> None:
    with tarfile.open(path, mode) as archive:  # pyright: ignore
        for row in rows:
            for ending, data in (("png", png(GREY[row])), label(row)):
                member = tarfile.TarInfo(f"./{row:04d}.{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def encoded_table(image: str = "img") -> pa.Table:
    return pa.table({image: [{"bytes": png(picture), "path": None} for picture in GREY], "label": NAMES.tolist()})


def stream(path: str) -> None:
    table = encoded_table()
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def lines(path: str) -> None:
    rows = [{"file_name": file, "label": str(name)} for file, name in zip(files(), NAMES, strict=True)]
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


WRITERS: dict[str, Callable[[str], Any]] = {
    "set.npz": lambda path: np.savez(path, images=GREY, labels=NAMES),
    "set.tar": lambda path: write_tar(path, range(60), lambda row: ("cls", NAMES[row].encode())),
    "set.tar.gz": lambda path: write_tar(
        path, range(60), lambda row: ("json", json.dumps({"label": str(NAMES[row])}).encode()), "w:gz"
    ),
    "set.parquet": lambda path: pq.write_table(encoded_table(), path),
    "set.feather": lambda path: feather.write_feather(encoded_table(), path),
    "set.arrow": stream,
    "set.csv": lambda path: pyarrow.csv.write_csv(pa.table({"file": files(), "class": NAMES.tolist()}), path),
    "set.jsonl": lines,
}


@pytest.mark.parametrize("file", WRITERS)
def test_every_kind_of_file_gives_the_same_samples(file: str) -> None:
    WRITERS[file](file)
    images = open_data(file, test_fraction=0)
    assert images.classes == ["ant", "bee", "cow"]
    assert np.array_equal(images.train.take(np.arange(60))[..., 0], GREY)
    assert images.train.labels.tolist() == LABELS.tolist()


def test_numpy_files_in_a_folder_are_told_apart_by_their_names() -> None:
    Path("set").mkdir()
    for split, rows in (("train", slice(0, 40)), ("val", slice(40, 50)), ("test", slice(50, 60))):
        np.save(f"set/{split}_images.npy", GREY[rows])
        np.save(f"set/{split}_labels.npy", LABELS[rows])
    images = open_data("set")
    assert images.validation is not None
    assert images.test is not None
    assert np.array_equal(images.test.take(np.arange(10))[..., 0], GREY[50:])
    assert images.validation.labels.tolist() == LABELS[40:50].tolist()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("x_train", ("train", "x")),
        ("X_test", ("test", "x")),
        ("yTest", ("test", "y")),
        ("train_images", ("train", "images")),
        ("val_labels", ("validation", "labels")),
        ("arr_0", ("train", "arr_0")),
        ("labels", ("train", "labels")),
    ],
)
def test_an_arrays_name_says_split_and_part(name: str, found: tuple[str, str]) -> None:
    assert divided(name) == found


def test_pickled_arrays_are_refused_unread() -> None:
    np.savez("set.npz", x=GREY, y=np.array([object()] * 60))
    with pytest.raises(DataError, match=r"a NumPy file cannot be read\n(.*\n)*  got: arrays of Python's objects"):
        open_data("set.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": GREY}, "samples and labels are not found"),
        ({"x": GREY, "y": LABELS[:50]}, r"expected: integers \[60\]"),
        ({"x": GREY, "images": GREY, "y": LABELS}, "two arrays may be the samples of train"),
    ],
)
def test_arrays_that_do_not_make_a_set_are_refused(arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez("set.npz", **arrays)
    with pytest.raises(DataError, match=message):
        open_data("set.npz")


def test_shards_of_a_tar_are_splits_by_their_names() -> None:
    Path("set").mkdir()
    for name, rows in (("train-000000", range(30)), ("train-000001", range(30, 50)), ("test-000000", range(50, 60))):
        write_tar(f"set/{name}.tar", rows, lambda row: ("cls", str(LABELS[row]).encode()))
    images = open_data("set")
    assert images.train.labels.tolist() == LABELS[:50].tolist()
    assert images.test is not None
    assert np.array_equal(images.test.take(np.arange(10))[..., 0], GREY[50:])


@pytest.mark.parametrize("cut", [0.3, 0.5, 0.75, 0.99])
def test_a_tar_that_ends_too_early_is_an_error_wherever_it_does(cut: float) -> None:
    write_tar("set.tar", range(60), lambda row: ("cls", b"%d" % LABELS[row]))
    whole = Path("set.tar").read_bytes()
    end = len(whole.rstrip(b"\0"))
    at = int(end * cut) // 512 * 512  # between two blocks, where readers of tars see nothing amiss
    Path("set.tar").write_bytes(whole[:at])
    with pytest.raises(DataError, match=r"(a tar cannot be read|a sample has no label)"):
        open_data("set.tar")


def test_a_sample_without_label_is_named() -> None:
    write_tar("set.tar", range(6), lambda row: ("txt", b"a caption"))
    message = r"a sample has no label\n  where: set.tar, sample ./0000\n(.*\n)*  got: png, txt"
    with pytest.raises(DataError, match=message):
        open_data("set.tar")
    write_tar("set.tar", range(6), lambda row: ("txt", NAMES[row].encode()))
    assert open_data("set.tar", label_column="txt", test_fraction=0).classes == ["ant", "bee", "cow"]


# Plain numbers.


def wine(label: str = "kind") -> pa.Table:
    columns = {f"f{place}": NUMBERS[:, place] for place in range(4)}
    return pa.table(columns | {label: NAMES.tolist()})


NUMBER_WRITERS: dict[str, Callable[[str], Any]] = {
    "wine.csv": lambda path: pyarrow.csv.write_csv(wine("target"), path),
    "wine.tsv": lambda path: wine("target").to_pandas().to_csv(path, sep="\t", index=False),
    "wine.parquet": lambda path: pq.write_table(wine("target"), path),
    "wine.feather": lambda path: feather.write_feather(wine("target"), path),
    "indexed.csv": lambda path: wine("target").to_pandas().to_csv(path),
    "wine.npz": lambda path: np.savez(path, x=NUMBERS, y=NAMES),
}


@pytest.mark.parametrize("file", NUMBER_WRITERS)
def test_tables_of_numbers_are_vectors_scaled_by_the_training_split(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    NUMBER_WRITERS[file](file)
    images = open_data(file, test_fraction=0)
    assert images.shape == (4,)
    assert np.allclose(images.train.take(np.arange(60)), NUMBERS, rtol=1e-6)
    assert np.allclose(images.mean, NUMBERS.mean(0), rtol=1e-5)
    assert np.allclose(images.std, NUMBERS.std(0), rtol=1e-5)
    assert images.classes == ["ant", "bee", "cow"]
    assert "scaled by mean and deviation" in capsys.readouterr().err


def test_what_is_no_number_is_named_by_file_row_and_column() -> None:
    frame = wine("target").to_pandas()
    frame["f2"] = frame["f2"].astype(object)
    frame.loc[7, "f2"] = "unknown"
    frame.to_csv("wine.csv", index=False)
    with pytest.raises(DataError, match=r"a column holds no numbers\n  where: wine.csv, column f2, row 7"):
        open_data("wine.csv")
    assert open_data("wine.csv", drop_columns=("f2",)).shape == (3,)
    frame.loc[7, "f2"] = None
    frame.to_csv("wine.csv", index=False)
    with pytest.raises(DataError, match=r"a number is missing\n  where: wine.csv, column f2, row 7"):
        open_data("wine.csv")


def test_columns_that_a_folders_first_table_lacks_are_left_out_and_noted(capsys: pytest.CaptureFixture[str]) -> None:
    Path("all").mkdir()
    pq.write_table(pa.table({"a": [1.0, 2, 3, 4], "target": list("uvuv")}), "all/train-1.parquet")
    pq.write_table(pa.table({"b": [0.0, 0], "a": [5.0, 6], "target": list("uv")}), "all/train-2.parquet")
    pq.write_table(pa.table({"target": ["u"], "a": [7.0]}), "all/test.parquet")
    images = open_data("all")
    assert images.shape == (1,)
    assert len(images.train) + (len(images.validation) if images.validation else 0) == 6
    assert "train-2.parquet: left out, since the first table has no such column: b" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["1,0.25", "2,1.5"], "labels are one whole number a sample"),
        ([], "a table has no rows"),
        (["1,u", "2,u"], "there is one class only"),
        (["1,u", "inf,v"], "a number is not finite"),
    ],
)
def test_numbers_that_cannot_be_learned_are_refused(rows: list[str], message: str) -> None:
    Path("t.csv").write_text("\n".join(["a,y", *rows]) + "\n")
    with pytest.raises(DataError, match=message):
        open_data("t.csv")


def test_a_run_on_numbers_goes_from_the_command_line_to_eval(capsys: pytest.CaptureFixture[str]) -> None:
    pyarrow.csv.write_csv(wine("target"), "wine.csv")
    main(
        [
            "train",
            "--data",
            "wine.csv",
            "--model",
            "mlp",
            "--model-args",
            "widths=8,8",
            "--epochs",
            "1",
            "--out",
            "r",
            "--stages",
            "1",
            "--launcher",
            "threads",
            "--batch-size",
            "8",
        ]
    )
    main(["eval", "r", "--json"])
    own = json.loads(capsys.readouterr().out.splitlines()[-1])
    main(["eval", "r", "--data", "wine.csv", "--json"])
    whole = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (own["samples"], whole["samples"]) == (12, 60)


# In Python.


def test_shares_are_held_out_by_class_and_by_group(capsys: pytest.CaptureFixture[str]) -> None:
    images = from_tensors(GREY, LABELS, test=0.2, validation=0.1)
    assert {name: len(of) for name, of in images.splits.items()} == {"train": 42, "validation": 6, "test": 12}
    assert images.test is not None
    assert np.bincount(images.test.labels).tolist() == [4, 4, 4]
    groups = np.arange(60) // 4
    held = from_tensors(np.arange(60, dtype=np.float32)[:, None], LABELS, test=0.2, validation=0.2, groups=groups)
    taken = [set((of.take(np.arange(len(of)))[:, 0] // 4).tolist()) for of in held.splits.values()]
    assert sum(map(len, taken)) == len(set.union(*taken)) == 15
    assert sum(len(of) for of in held.splits.values()) == 60
    assert "in whole groups" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="no sample is left to train on"):
        from_tensors(GREY, LABELS, test=0.6, validation=0.4)


def test_a_share_is_a_number_of_any_library_that_leaves_a_sample() -> None:
    for share in (np.float32(0.25), np.array(0.25), torch.tensor(0.25)):
        images = from_tensors(GREY, LABELS, test=share)  # pyright: ignore[reportArgumentType]
        assert images.test is not None
        assert len(images.test) == 15
    with pytest.raises(ConfigError, match="a share is a fraction\n  where: test"):
        from_tensors(GREY, LABELS, test=True)
    with pytest.raises(ConfigError, match=r"leaves one of 60 samples\n  got: 0\.995"):
        from_tensors(GREY, LABELS, test=0.995)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_groups_come_near_to_the_share_of_each_class(share: float) -> None:
    draws = np.random.default_rng(1)
    groups = draws.integers(0, 200, 3000)
    labels = draws.integers(0, 5, 3000)
    out = group_share(labels, groups, share, seed=0)
    assert not set(groups[out]) & set(groups[~out])
    shares = np.bincount(labels[out], minlength=5) / np.bincount(labels)
    assert np.abs(shares - share).max() < 0.05
    assert np.array_equal(out, group_share(labels, groups, share, seed=0))
    assert not np.array_equal(out, group_share(labels, groups, share, seed=1))


def test_a_column_of_groups_keeps_them_on_one_side() -> None:
    who = [f"p{row // 6}" for row in range(60)]
    pyarrow.csv.write_csv(pa.table({"file": files(), "class": NAMES.tolist(), "who": who}), "set.csv")
    images = open_data("set.csv", group_column="who", test_fraction=0.3, validation_fraction=0.2)
    rows = {GREY[row].tobytes(): row for row in range(60)}
    seen = {
        name: {rows[picture.tobytes()] // 6 for picture in of.take(np.arange(len(of)))}
        for name, of in images.splits.items()
    }
    assert len(seen) == 3
    assert sum(map(len, seen.values())) == len(set().union(*seen.values())) == 10
    frame = pandas.read_csv("set.csv")
    same = from_arrow(frame, group="who", test=0.3)
    assert {len(of) % 6 for of in same.splits.values()} == {0}
    frame.loc[3, "who"] = None
    with pytest.raises(DataError, match="a group is missing"):
        from_arrow(frame, group="who", test=0.3)


def test_samples_that_two_splits_share_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    from_tensors(GREY[:40], LABELS[:40], test=(GREY[35:], LABELS[35:]))
    assert "5 of 25 samples of test are also in train, bit for bit" in capsys.readouterr().err
    for split, rows in (("train", range(40)), ("test", range(35, 60))):
        for row in rows:
            folder = Path("tree", split, NAMES[row])
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(GREY[row]).save(folder / f"{row}.png")
    main(["data", "prepare", "tree", "--out", "out", "--json"])
    assert json.loads(capsys.readouterr().out)["duplicates"] == {"test in train": 5}
    main(["data", "check", "out"])
    assert "duplicates: 5 samples of test in train" in capsys.readouterr().out


def test_memory_maps_of_floats_are_not_copied() -> None:
    mapped = np.memmap("x.dat", np.float32, "w+", shape=(60, 4))
    mapped[:] = NUMBERS
    images = from_tensors(mapped, LABELS)
    assert np.shares_memory(images.train.samples, mapped)  # type: ignore[attr-defined]


def test_a_loaders_data_set_is_taken_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    dataset = TensorDataset(torch.from_numpy(GREY[:, None]), torch.from_numpy(LABELS))
    images = as_images(DataLoader(dataset, batch_size=7, shuffle=True))
    assert np.array_equal(images.train.take(np.arange(60))[..., 0], GREY)
    assert "of a DataLoader its data set is taken" in capsys.readouterr().err
    halves = from_dataset(dataset, test=0.5, groups=np.arange(60) // 2)
    assert len(halves.train) == 30


def frames() -> dict[str, Callable[[pa.Table], Any]]:
    return {"arrow": lambda table: table, "pandas": lambda table: table.to_pandas()}


@pytest.mark.parametrize("kind", ["arrow", "pandas", "polars"])
def test_frames_of_numbers_train_an_mlp(kind: str) -> None:
    table = wine("target")
    if kind == "polars":
        polars = pytest.importorskip("polars", reason="the frame's own package")
        frame = polars.from_arrow(table)
    else:
        frame = frames()[kind](table)
    images = as_images(frame)
    assert (images.shape, images.classes) == ((4,), ["ant", "bee", "cow"])
    assert np.allclose(images.mean, NUMBERS.mean(0), rtol=1e-5)
    chain = models.load_model("mlp", images.shape, images.num_classes, {"widths": "8,8"})
    result = Pipeline(chain, "local-ce").fit(frame, epochs=1, batch_size=8, progress=False, validation=0.2)
    assert len(result.records) == 1


def test_hugging_face_data_sets_and_their_folders_are_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    datasets = pytest.importorskip("datasets", reason="Hugging Face's own package")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["cow", "bee", "ant"])})

    def part(rows: slice) -> Any:
        pictures = [Image.fromarray(picture) for picture in GREY[rows]]
        return datasets.Dataset.from_dict({"img": pictures, "label": LABELS[rows].tolist()}, features=features)

    whole = datasets.DatasetDict(train=part(slice(0, 40)), validation=part(slice(40, 50)), test=part(slice(50, 60)))
    whole.save_to_disk("saved")
    Path("hub/data").mkdir(parents=True)
    Path("hub/README.md").write_text("---\ntags: []\n---\n")
    for split, of in whole.items():
        of.to_parquet(f"hub/data/{split}-00000-of-00001.parquet")
    found: list[Images] = [as_images(whole), open_data("saved"), open_data("hub")]
    for images in found:
        assert images.classes == ["cow", "bee", "ant"]
        assert {name: len(of) for name, of in images.splits.items()} == {"train": 40, "validation": 10, "test": 10}
        assert np.array_equal(images.train.take(np.arange(40))[..., 0], GREY[:40])
    assert np.array_equal(as_images(whole["train"]).train.labels, LABELS[:40])
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    Path("hub/data/train-00000-of-00001.parquet").write_text(pointer)
    with pytest.raises(DataError, match="pointer of Git LFS"):
        open_data("hub")
