from __future__ import annotations

import fcntl
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from forked import Forked, run
from PIL import Image

from ffdist.data import open_data, prepare
from ffdist.data.decode import decode
from ffdist.data.formats import formats
from ffdist.data.manifest import DataManifest, HeldOut, LeftOut, read_manifest
from ffdist.data.sources.splits import mark, read_splits
from ffdist.errors import ConfigError, DataError

CLASSES = ("ant", "bee", "cat")


def png(seed: int, size: tuple[int, int] = (6, 6)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def tree(folder: Path, count: int, first: int, classes: tuple[str, ...] = CLASSES) -> None:
    """`count` pictures a class, each with pixels of its own."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            (folder / name / f"{i}.png").write_bytes(png(first + 100 * label + i))


def table(path: Path, count: int, first: int, **columns: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {"image": [png(first + i) for i in range(count)], "label": [CLASSES[i % 2] for i in range(count)]}
    pq.write_table(pa.table(rows | columns), path)


def prepared(source: Path, **settings: object) -> DataManifest:
    out = source.parent / f"out{len(list(source.parent.glob('out*')))}"
    return read_manifest(prepare(source, out, **settings))  # pyright: ignore[reportArgumentType]


def counts(manifest: DataManifest) -> dict[str, int]:
    return {name: split.rows for name, split in manifest.splits.items()}


@pytest.mark.parametrize(
    ("split", "names"),
    [
        (
            "train",
            "train Train TRAIN training Training_Set tr trn seg_train mnist_train train-00000-of-00002 trainX "
            "X_train xtrain TrainSet trainset train_images trainimages train2017 imagesTr trainval split=train",
        ),
        ("validation", "val Val valid validation Validation_Set dev val2017 ILSVRC2012_img_val cifar10_dev devset"),
        ("test", "test TEST testing Test1 test_set tst te eval Evaluation imagesTs mnist-test t10k-images PublicTest"),
    ],
)
def test_names_say_their_split_in_any_case_and_company(split: str, names: str) -> None:
    for name in names.split():
        found = mark(name)
        assert found is not None, name
        assert found.split == split, name


def test_names_of_things_say_nothing_of_splits() -> None:
    for name in [
        "cats",
        "trains",
        "traitor",
        "latest",
        "contest",
        "device",
        "valley",
        "value",
        "greatest",
        "invalid",
        "attest",
        "strain",
        "dataset",
    ]:
        assert mark(name) is None, name


def test_a_name_may_say_more_than_a_split() -> None:
    marks = [mark(name) for name in ("train_images", "bullet_train", "train_test")]
    assert [found.alone for found in marks if found] == [True, False, True]
    assert marks[2] is not None
    assert marks[2].split is None


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train", "Test"),
        ("training", "testing"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("trainX", "testX"),
        ("archive/train", "archive/eval"),
        ("mnist_train", "mnist_test"),
        ("train/images", "test/images"),
    ],
)
def test_split_folders_are_splits_and_never_classes(tmp_path: Path, train: str, test: str) -> None:
    tree(tmp_path / "pets" / train, 4, 0)
    tree(tmp_path / "pets" / test, 2, 1000)
    manifest = prepared(tmp_path / "pets")
    assert manifest.classes == list(CLASSES)
    assert counts(manifest) == {"train": 12, "test": 6}


@pytest.mark.parametrize(
    ("classes", "called"),
    [
        (("2019", "2020"), "years or dates"),
        (("2021-03", "2021-04-30"), "years or dates"),
        (("batch_1", "batch_2"), "parts"),
        (("images_001", "images_002"), "parts"),
        (("2019", "ant"), None),
        (("class1", "class2"), None),
        (("0", "1"), None),
        (("1850", "3000"), None),
    ],
)
def test_folders_called_like_years_or_parts_are_classes_and_said_to_be(
    tmp_path: Path, classes: tuple[str, ...], called: str | None
) -> None:
    tree(tmp_path / "pets", 2, 0, classes)
    manifest = prepared(tmp_path / "pets", test_fraction=0)
    assert manifest.classes == list(classes)
    said = [text for text in manifest.notes if "taken for classes" in text]
    assert len(said) == (called is not None)
    assert all(f"like {called}: {', '.join(classes)}; if they are none" in text for text in said)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("mnist_train", "mnist_test"),
        ("Train", "Test"),
        ("train", "eval"),
        ("data/train-00000-of-00001", "data/test-00000-of-00001"),
        ("default/train/0000", "default/test/0000"),
        ("split=train/part-0", "split=test/part-0"),
    ],
)
def test_rows_of_split_files_never_mix(tmp_path: Path, train: str, test: str) -> None:
    table(tmp_path / "pets" / f"{train}.parquet", 20, 0)
    table(tmp_path / "pets" / f"{test}.PARQUET", 8, 1000)
    (tmp_path / "pets" / "README.md").write_text("about")
    (tmp_path / "pets" / "._junk.parquet").write_text("junk")
    manifest = prepared(tmp_path / "pets")
    assert counts(manifest) == {"train": 20, "test": 8}
    images = open_data(tmp_path / "out0")
    trained = {row.tobytes() for row in images.train.take(np.arange(20))}
    assert images.test is not None
    assert not trained & {row.tobytes() for row in images.test.take(np.arange(8))}


def test_shards_of_one_split_may_bear_numbers_and_checksums(tmp_path: Path) -> None:
    for i, checksum in enumerate(("a09b74b3ef9c3b56", "0c1d2e3f4a5b6c7d")):
        table(tmp_path / "hub" / "data" / f"train-0000{i}-of-00002-{checksum}.parquet", 5, 100 * i)
    table(tmp_path / "hub" / "data" / "test-00000-of-00001-cc000000aabbccdd.parquet", 4, 1000)
    assert counts(prepared(tmp_path / "hub")) == {"train": 10, "test": 4}


def test_places_and_files_that_cannot_be_are_refused(tmp_path: Path) -> None:
    tree(tmp_path / "pets", 2, 0)
    with pytest.raises(DataError, match=r"would lie in the source(.|\n)*name another with out, e.g. out="):
        prepare(tmp_path / "pets", tmp_path / "pets" / "prepared")
    (tmp_path / "pets.7z").write_bytes(b"7z")
    with pytest.raises(DataError, match="such archives are not read"):
        prepared(tmp_path / "pets.7z")
    with pytest.raises(ConfigError, match="where: workers"):
        prepared(tmp_path / "pets", workers=0)
    ready = prepare(tmp_path / "pets", tmp_path / "ready")
    with pytest.raises(DataError, match=r"prepared already(.|\n)*ffdist train --data"):
        prepared(ready)
    with pytest.raises(DataError, match=r"nothing is overwritten(.|\n)*ffdist train --data .*name another with out"):
        prepare(tmp_path / "pets", ready)


@pytest.mark.parametrize("kind", ["tree", "table"])
def test_a_users_own_validation_split_stays_one(tmp_path: Path, kind: str) -> None:
    for name, count, first in (("train", 6, 0), ("valid", 2, 1000), ("test", 3, 2000)):
        if kind == "tree":
            tree(tmp_path / "pets" / name, count, first)
        else:
            table(tmp_path / "pets" / f"{name}-0.parquet", 3 * count, first)
    manifest = prepared(tmp_path / "pets")
    assert counts(manifest) == {"train": 18, "validation": 6, "test": 9}
    assert manifest.held_out is None
    assert len(open_data(tmp_path / "out0").validation or ()) == 6


def test_a_validation_split_is_no_test_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree(tmp_path / "pets" / "train", 10, 0)
    tree(tmp_path / "pets" / "dev", 2, 1000)
    manifest = prepared(tmp_path / "pets", seed=3)
    assert counts(manifest) == {"train": 24, "validation": 6, "test": 6}
    assert manifest.held_out == HeldOut(0.2, 3)
    assert "the test split is drawn from train" in capsys.readouterr().err
    assert counts(prepared(tmp_path / "pets", test_fraction=0)) == {"train": 30, "validation": 6}
    assert counts(prepared(tmp_path / "pets", splits={"train": "train", "test": "dev"})) == {"train": 30, "test": 6}


@pytest.mark.parametrize(
    ("folders", "message", "settings"),
    [
        (
            ("train", "test", "unlabeled"),
            r"got: unlabeled\n  remedy: .*ignore=\[\"unlabeled\"\]",
            {"ignore": "unlabeled"},
        ),
        (("train", "test", "images to predict"), r"ignore=\[\"images to predict\"\]", {"ignore": "images*"}),
        (
            ("train", "test", "more"),
            r"splits=\[\"train=train\", \"test=test\"\]",
            {"splits": {"train": "train", "test": "test"}},
        ),
        (
            ("train", "later"),
            r"splits=\[\"train=train\", \"test=later\"\];",
            {"splits": {"train": "train", "test": "later"}},
        ),
        (("train", "bus"), r"got: bus\n.*if these are classes, splits=\"none\"", {"splits": "none"}),
        (
            ("train", "Train2", "test"),
            r"several folders(.|\n)*Train2, train\n.*splits=\[\"train=Train2\", \"test=test\", \"train=train\"\]",
            {"ignore": "Train2"},
        ),
        (
            ("lernen", "pruefen"),
            r"are they splits\?(.|\n)*splits=\[\"train=lernen\", \"test=pruefen\"\]",
            {"splits": "none"},
        ),
        (("lernen", "pruefen", "bus"), r"got: bus, lernen, pruefen, each with ant, bee, cat", {"splits": "none"}),
        (("cats_train", "cats_test"), r"", {}),
    ],
)
def test_what_is_not_understood_beside_splits_is_refused_with_a_remedy_that_works(
    tmp_path: Path, folders: tuple[str, ...], message: str, settings: dict
) -> None:
    for place, name in enumerate(folders):
        tree(tmp_path / "pets" / name, 3, 1000 * place)
    if message:
        with pytest.raises(DataError, match=message):
            prepared(tmp_path / "pets")
    prepared(tmp_path / "pets", **settings)


@pytest.mark.parametrize(
    ("names", "within"),
    [
        (("train", "test"), "{0}/{1}"),
        (("Training", "Testing"), "data/{0}/{1}"),
        (("train", "val", "test"), "{0}/{1}"),
        (("train_images", "test_images"), "{0}/{1}"),
    ],
)
def test_each_class_may_have_the_splits_in_it(names: tuple[str, ...], within: str, tmp_path: Path) -> None:
    for place, name in enumerate(("ant", "bee")):
        for split, folder in enumerate(names):
            path = tmp_path / "below" / within.format(name, folder)
            tree(path.parent, 2 + split, 1000 * place + 100 * split, (path.name,))
    manifest = prepared(tmp_path / "below")
    assert manifest.classes == ["ant", "bee"]
    splits = ["train", "test"] if len(names) == 2 else ["train", "validation", "test"]
    assert {split: of.counts for split, of in manifest.splits.items()} == {
        split: [2 + place] * 2 for place, split in enumerate(splits)
    }
    assert any("each class has the splits in it" in note for note in manifest.notes)
    assert prepared(tmp_path / "below", splits="none").splits.keys() == {"train", "test"}, "drawn from all"


def test_a_class_may_lack_a_test_folder_which_is_noted(tmp_path: Path) -> None:
    tree(tmp_path / "below" / "ant", 3, 0, ("train", "test"))
    tree(tmp_path / "below" / "bee", 3, 500, ("train",))
    manifest = prepared(tmp_path / "below")
    assert manifest.splits["test"].counts == [3, 0]
    assert "test has no picture of bee" in manifest.notes


def test_folders_of_the_same_names_are_asked_for_and_each_answer_works(tmp_path: Path) -> None:
    for place, name in enumerate(("ant", "bee")):
        tree(tmp_path / "years" / name, 4, 1000 * place, ("2019", "2020", "2021"))
    with pytest.raises(DataError, match="are they splits") as refused:
        prepared(tmp_path / "years")
    for answer in ('["train=ant", "test=bee"];', 'splits="none";', 'splits in it, splits=["train=2019", "test=2020"]'):
        assert answer in str(refused.value)
    as_splits = prepared(tmp_path / "years", splits={"train": "ant", "test": "bee"})
    assert (as_splits.classes, counts(as_splits)) == (["2019", "2020", "2021"], {"train": 12, "test": 12})
    as_classes = prepared(tmp_path / "years", splits="none", test_fraction=0.25)
    assert (as_classes.classes, counts(as_classes)) == (["ant", "bee"], {"train": 18, "test": 6})
    by_year = prepared(tmp_path / "years", splits={"train": "2019", "test": "2021"})
    assert (by_year.classes, counts(by_year)) == (["ant", "bee"], {"train": 8, "test": 8})
    assert {left.what for left in by_year.left_out} == {"ant/2020", "bee/2020"}
    together = prepared(tmp_path / "years", splits={"train": ["2019", "2020"], "test": "2021"})
    assert {split: of.counts for split, of in together.splits.items()} == {"train": [8, 8], "test": [4, 4]}


def test_splits_in_some_classes_alone_are_refused_with_a_remedy_that_works(tmp_path: Path) -> None:
    tree(tmp_path / "below" / "ant", 3, 0, ("train", "test"))
    tree(tmp_path / "below" / "bee", 3, 500, ("train", "test"))
    (tmp_path / "below" / "ant" / "loose.png").write_bytes(png(999))
    text = r"a class folder holds splits\n(.|\n)*if each class has its own, splits=\[\"test=test\", \"train=train\"\]"
    with pytest.raises(DataError, match=text):
        prepared(tmp_path / "below")
    manifest = prepared(tmp_path / "below", splits=read_splits(["test=test", "train=train"]))
    assert counts(manifest) == {"train": 6, "test": 6}
    assert manifest.left_out == (LeftOut("pictures in ant", "in no class folder", 1),)
    for split in ("train", "test"):
        tree(tmp_path / "categories" / "bottle" / split, 2, 0, ("good", "broken"))
        tree(tmp_path / "categories" / "cable" / split, 2, 0, ("good", "broken"))
    with pytest.raises(DataError, match=r"if they hold the classes, ffdist data prepare .*bottle"):
        prepared(tmp_path / "categories")
    assert prepared(tmp_path / "categories" / "bottle").classes == ["broken", "good"]


def test_flat_class_names_that_speak_of_splits_are_refused(tmp_path: Path) -> None:
    tree(tmp_path / "names", 3, 0, ("cats_train", "cats_test", "dogs_train"))
    with pytest.raises(DataError, match=r"names of class folders speak of splits(.|\n)*splits=\"none\""):
        prepared(tmp_path / "names")


def test_a_railway_may_have_trains(tmp_path: Path) -> None:
    vehicles = ("bus", "train", "car")
    tree(tmp_path / "rails" / "train", 4, 0, vehicles)
    tree(tmp_path / "rails" / "test", 2, 1000, vehicles)
    assert prepared(tmp_path / "rails").classes == ["bus", "car", "train"]
    tree(tmp_path / "flat", 4, 0, ("bus", "bullet_train"))
    assert prepared(tmp_path / "flat").classes == ["bullet_train", "bus"]


def test_pictures_in_no_class_folder_are_refused_or_left_out_as_set(tmp_path: Path) -> None:
    tree(tmp_path / "kaggle" / "train", 5, 0)
    (tmp_path / "kaggle" / "test").mkdir()
    for i in range(4):
        (tmp_path / "kaggle" / "test" / f"{i}.png").write_bytes(png(1000 + i))
    with pytest.raises(
        DataError, match=r"4 pictures lie in no class folder\n  where: .*test(.|\n)*ignore=\[\"test\"\]"
    ):
        prepared(tmp_path / "kaggle")
    manifest = prepared(tmp_path / "kaggle", ignore="test")
    assert counts(manifest) == {"train": 12, "test": 3}
    assert LeftOut("test", "left out by `ignore`") in manifest.left_out
    with pytest.raises(DataError, match=r"4 pictures lie in no class folder"):
        prepared(tmp_path / "kaggle" / "test")


@pytest.mark.parametrize(
    ("files", "message", "settings"),
    [
        (
            ("train", "test", "extra"),
            r"got: extra.parquet\n(.|\n)*ignore=\[\"extra.parquet\"\]",
            {"ignore": "extra.parquet"},
        ),
        (("train", "test", "eval"), r"different names are called like the test split", {"ignore": "eval*"}),
        (
            ("a/train", "b/train"),
            r"different names(.|\n)*splits=\[\"train=a/train.parquet\"\]",
            {"splits": {"train": "a"}},
        ),
        (("dev", "test"), r"there is no training split", {"splits": {"train": "dev*", "test": "test*"}}),
    ],
)
def test_files_that_are_not_understood_beside_splits_are_refused(
    tmp_path: Path, files: tuple[str, ...], message: str, settings: dict
) -> None:
    for place, name in enumerate(files):
        table(tmp_path / "pets" / f"{name}.parquet", 6, 1000 * place)
    with pytest.raises(DataError, match=message):
        prepared(tmp_path / "pets")
    prepared(tmp_path / "pets", **settings)


def test_caches_that_save_to_disk_leaves_are_no_rows(tmp_path: Path) -> None:
    for name, count in (("train", 10), ("test", 4)):
        folder = tmp_path / "saved" / name
        folder.mkdir(parents=True)
        for file, rows in (("data-00000-of-00001.arrow", count), ("cache-5d2a.arrow", count)):
            data = pa.table(
                {"image": [png(i + 100 * count) for i in range(rows)], "label": [i % 2 for i in range(rows)]}
            )
            with pa.OSFile(str(folder / file), "wb") as sink, pa.ipc.new_stream(sink, data.schema) as writer:
                writer.write_table(data)
        (folder / "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
    manifest = prepared(tmp_path / "saved")
    assert counts(manifest) == {"train": 10, "test": 4}
    assert LeftOut("train/cache-5d2a.arrow", "not listed in state.json beside it") in manifest.left_out


def test_all_of_a_set_may_be_its_test_split(tmp_path: Path) -> None:
    tree(tmp_path / "pets", 3, 0)
    manifest = prepared(tmp_path / "pets", test_fraction=1)
    assert counts(manifest) == {"test": 9}
    images = open_data(tmp_path / "out0")
    assert (len(images.train), images.pixels, len(images.test or ())) == (0, True, 9)
    assert images.test is not None
    assert np.allclose(images.mean, images.test.take(np.arange(9)).mean((0, 1, 2)) / 255)
    tree(tmp_path / "only" / "test", 3, 0)
    assert counts(prepared(tmp_path / "only")) == {"test": 9}


def test_a_share_is_not_drawn_where_the_source_has_a_test_split(tmp_path: Path) -> None:
    tree(tmp_path / "pets" / "train", 4, 0)
    tree(tmp_path / "pets" / "test", 2, 1000)
    with pytest.raises(ConfigError, match=r"a test split of its own\n  where: test_fraction"):
        prepared(tmp_path / "pets", test_fraction=0.5)
    assert counts(prepared(tmp_path / "pets", test_fraction=0)) == {"train": 12, "test": 6}
    with pytest.raises(ConfigError, match="no sample is left to train on"):
        prepared(tmp_path / "pets", ignore="test", test_fraction=0.99)


def test_choices_that_name_nothing_are_refused(tmp_path: Path) -> None:
    tree(tmp_path / "pets", 3, 0)
    for settings in ({"ignore": "antt"}, {"splits": {"train": "a*", "test": "none_such"}}):
        with pytest.raises(ConfigError, match="nothing in the source is called so"):
            prepared(tmp_path / "pets", **settings)
    with pytest.raises(ConfigError, match=r"not a split\n(.|\n)*got: trane"):
        prepared(tmp_path / "pets", splits={"trane": "a"})
    assert read_splits(["train=a", "test=b", "test=c"]) == {"train": ["a"], "test": ["b", "c"]}
    assert read_splits(["none"]) == "none"
    for text in ("train", "train=", "nothing"):
        with pytest.raises(ConfigError, match=rf"got: {text}"):
            read_splits([text])


def test_classes_that_differ_between_splits_are_named(tmp_path: Path) -> None:
    tree(tmp_path / "case" / "train", 3, 0, ("Cat", "dog"))
    tree(tmp_path / "case" / "test", 3, 1000, ("cat", "dog"))
    with pytest.raises(DataError, match=r"only in the test split(.|\n)*rename cat for Cat"):
        prepared(tmp_path / "case")
    tree(tmp_path / "forms" / "train", 3, 0, ("caf\u00e9", "dog"))
    tree(tmp_path / "forms" / "test", 3, 1000, ("cafe\u0301", "dog"))
    assert prepared(tmp_path / "forms").classes == ["caf\u00e9", "dog"]
    tree(tmp_path / "letters", 3, 0, ("A", "a"))
    assert prepared(tmp_path / "letters").classes == ["A", "a"]
    tree(tmp_path / "lacking" / "train", 3, 0)
    tree(tmp_path / "lacking" / "test", 3, 1000, ("ant", "bee"))
    assert prepared(tmp_path / "lacking").notes == ("test has no picture of cat",)


def test_a_split_without_pictures_or_with_strange_classes_says_how_to_leave_it_out(tmp_path: Path) -> None:
    pets = tmp_path / "pets"
    tree(pets / "train", 3, 0)
    for name in CLASSES:
        (pets / "val" / name).mkdir(parents=True)
    tree(pets / "test", 3, 1000, ("unknown",))
    with pytest.raises(DataError, match=r"only in the test split(.|\n)*leave it out: ignore=\[\"test\"\]$"):
        prepared(pets)
    with pytest.raises(DataError, match=r"validation split has no pictures(.|\n)*leave them out: ignore=\[\"val\"\]$"):
        prepared(pets, ignore="test")
    assert counts(prepared(pets, ignore=("test", "val"), test_fraction=0)) == {"train": 9}
    tree(pets / "test", 3, 1000)
    with pytest.raises(DataError, match=r"only in the test split(.|\n)*leave it out: ignore=\[\"test/unknown\"\]$"):
        prepared(pets, ignore="val")
    assert counts(prepared(pets, ignore=("val", "test/unknown"))) == {"train": 9, "test": 9}
    with pytest.raises(ConfigError, match="there is no table in the source"):
        prepared(pets, ignore=("val", "test/unknown"), label_column="breed")


def test_files_without_rows_are_left_out_and_files_of_other_names_taken_together_are_noted(tmp_path: Path) -> None:
    table(tmp_path / "parts" / "part-0.parquet", 10, 0)
    table(tmp_path / "parts" / "part-1.parquet", 0, 0)
    manifest = prepared(tmp_path / "parts", test_fraction=0)
    assert counts(manifest) == {"train": 10}
    assert manifest.left_out == (LeftOut("part-1.parquet", "without rows"),)
    assert manifest.notes == ()
    table(tmp_path / "parts" / "more.parquet", 4, 100)
    manifest = prepared(tmp_path / "parts", test_fraction=0)
    assert counts(manifest) == {"train": 14}
    assert "taken together: more.parquet, part-0.parquet, part-1.parquet" in manifest.notes
    table(tmp_path / "split" / "train.parquet", 10, 0)
    table(tmp_path / "split" / "test.parquet", 0, 0)
    with pytest.raises(DataError, match=r"no rows\n  where: .*test.parquet(.|\n)*ignore=\[\"test.parquet\"\]$"):
        prepared(tmp_path / "split")
    assert counts(prepared(tmp_path / "split", ignore="test.parquet", test_fraction=0)) == {"train": 10}


def test_links_are_followed_and_loops_are_refused(tmp_path: Path) -> None:
    tree(tmp_path / "pets", 3, 0)
    tree(tmp_path / "else", 4, 1000, ("more",))
    (tmp_path / "pets" / "ant" / "more").symlink_to(tmp_path / "else" / "more")
    (tmp_path / "pets" / "dog").symlink_to(tmp_path / "else")
    manifest = prepared(tmp_path / "pets", test_fraction=0)
    assert dict(zip(manifest.classes, manifest.splits["train"].counts, strict=True)) == {
        "ant": 7,
        "bee": 3,
        "cat": 3,
        "dog": 4,
    }
    (tmp_path / "pets" / "bee" / "up").symlink_to("..")
    with pytest.raises(DataError, match=r"cannot be looked into\n  where: .*a link to a folder that it lies in"):
        prepared(tmp_path / "pets")
    assert prepared(tmp_path / "pets", ignore="up").splits["train"].rows == 14


def test_what_pillow_reads_is_taken_whatever_its_ending_and_the_rest_is_counted(tmp_path: Path) -> None:
    tree(tmp_path / "pets", 2, 0)
    image = Image.open(io.BytesIO(png(50)))
    for name, kind in (("a.jfif", "jpeg"), ("b.jpe", "jpeg"), ("c.JP2", "jpeg2000"), ("d", "png"), ("e.happy", "png")):
        image.save(tmp_path / "pets" / "ant" / name, kind)
    for name in ("f.heix", "g.mp4", "h.mp4", "Thumbs.db", ".DS_Store"):
        (tmp_path / "pets" / "bee" / name).write_bytes(b"none")
    (tmp_path / "pets" / "__MACOSX").mkdir()
    (tmp_path / "pets" / "logo.png").write_bytes(png(60))
    manifest = prepared(tmp_path / "pets", test_fraction=0)
    assert manifest.splits["train"].counts == [7, 2, 2]
    left_out = {entry.what: entry.count for entry in manifest.left_out}
    assert left_out == {"*.heix": 1, "*.mp4": 2, "system files": 3, "pictures in pets": 1}


def broken_tree(root: Path) -> set[str]:
    """Pictures of which some cannot be read, each for a reason of its own; their names."""
    tree(root, 4, 0)
    (root / "ant" / "half.png").write_bytes(png(1)[:40])
    (root / "bee" / "empty.png").write_bytes(b"")
    (root / "bee" / "dead.png").symlink_to("nothing")
    (root / "cat" / "dead").symlink_to("nothing")
    os.mkfifo(root / "cat" / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(root / "cat")  # the path of a socket is short
        try:
            listener.bind("socket.png")
        finally:
            os.chdir(here)
    return {"half.png", "empty.png", "dead.png", "dead", "pipe.png", "socket.png"}


def test_all_broken_pictures_are_named_at_once(tmp_path: Path) -> None:
    names = broken_tree(tmp_path / "pets")
    with pytest.raises(DataError, match="6 pictures cannot be read") as caught:
        prepared(tmp_path / "pets")
    assert all(f"/{name}: " in str(caught.value) for name in names)
    assert "skip_broken=True" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["pets"]
    for i in range(30):
        (tmp_path / "pets" / "ant" / f"b{i}.png").write_bytes(b"none")
    with pytest.raises(DataError, match=r"36 pictures cannot be read(.|\n)*the first 20(.|\n)*and 16 more"):
        prepared(tmp_path / "pets")


def test_broken_pictures_are_skipped_if_asked_and_listed(tmp_path: Path) -> None:
    names = broken_tree(tmp_path / "pets")
    manifest = prepared(tmp_path / "pets", skip_broken=True, test_fraction=0)
    assert manifest.splits["train"].counts == [4, 4, 4]
    assert {Path(entry.what).name for entry in manifest.left_out} == names
    for path in (tmp_path / "pets" / "ant").iterdir():
        path.write_bytes(b"none")
    with pytest.raises(DataError, match=r"no picture of a class can be read\n  where: ant in train"):
        prepared(tmp_path / "pets", skip_broken=True, test_fraction=0)


UNPRIVILEGED = """
import os, PIL.Image
from pathlib import Path
from ffdist.data.sources.tree import Tree
PIL.Image.init()
if os.geteuid() == 0:
    os.setuid(65534)  # root may look into every folder
try:
    Tree(Path("pets"))
except ValueError as error:
    print(error)
"""


def test_folders_that_cannot_be_looked_into_are_named_all_at_once(tmp_path: Path) -> None:
    tree(tmp_path / "pets", 3, 0)
    for name in ("ant", "bee"):
        (tmp_path / "pets" / name / "closed").mkdir()
        (tmp_path / "pets" / name / "closed").chmod(0)
    tmp_path.chmod(0o755)
    done = run([sys.executable, "-c", UNPRIVILEGED], cwd=tmp_path)
    assert "folders cannot be looked into" in done.stdout, done.stderr
    assert "ant/closed: Permission denied" in done.stdout
    assert "bee/closed: Permission denied" in done.stdout


def test_pictures_in_two_splits_and_under_two_names_are_noted(tmp_path: Path) -> None:
    tree(tmp_path / "pets" / "train", 4, 0)
    tree(tmp_path / "pets" / "test", 2, 1000)
    (tmp_path / "pets" / "test" / "ant" / "again.png").write_bytes(png(0))
    os.link(tmp_path / "pets" / "train" / "bee" / "0.png", tmp_path / "pets" / "train" / "cat" / "too.png")
    text = prepared(tmp_path / "pets").notes
    assert text[0].startswith("1 of 7 pictures of test are also in train")
    assert text[1].startswith("1 pictures are in several classes")


def test_a_manifest_of_before_is_read_and_the_new_one_says_who_made_the_split(tmp_path: Path) -> None:
    tree(tmp_path / "pets", 5, 0)
    manifest = prepared(tmp_path / "pets", seed=7, test_fraction=0.4)
    assert manifest.held_out == HeldOut(0.4, 7)
    path = tmp_path / "out0" / "manifest.json"
    fields = json.loads(path.read_text())
    for name in ("held_out", "left_out", "notes", "decoding", "digest"):
        del fields[name]
    path.write_text(json.dumps(fields))
    before = read_manifest(tmp_path / "out0")
    assert (before.held_out, before.left_out, before.notes) == (None, (), ())
    assert before.splits == manifest.splits


def test_rows_are_in_the_split_that_a_column_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    column = ["train", "Test", "train", "val", "train"] * 4
    table(tmp_path / "pets.parquet", 20, 0, split=column, caption=[f"picture {i}" for i in range(20)])
    manifest = prepared(tmp_path / "pets.parquet")
    assert counts(manifest) == {"train": 12, "validation": 4, "test": 4}
    assert "by the column 'split'" in capsys.readouterr().err
    images = open_data(tmp_path / "out0")
    for name, split in (("train", images.train), ("val", images.validation), ("Test", images.test)):
        rows = [i for i, said in enumerate(column) if said == name]
        expected = np.stack([np.asarray(Image.open(io.BytesIO(png(i)))) for i in rows])
        assert split is not None
        assert np.array_equal(split.take(np.arange(len(rows))), expected)
        assert split.labels.tolist() == [i % 2 for i in rows]
    assert counts(prepared(tmp_path / "pets.parquet", splits="none")) == {"train": 16, "test": 4}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"split": ["train", "test", "unlabeled"] * 2}, r"a row is in no split\n(.|\n)*got: unlabeled"),
        (
            {"split": ["train", "test"] * 3, "usage": ["training", "test"] * 3},
            r"several columns(.|\n)*split, usage",
        ),
        ({"is_train": [True, False] * 3}, r"truth values is called like a split(.|\n)*got: is_train"),
        ({"is_valid": ["True", "False"] * 3}, r"truth values is called like a split(.|\n)*got: is_valid, with False"),
        ({"isTest": [0, 1] * 3}, r"truth values is called like a split(.|\n)*got: isTest, with 0, 1"),
        ({"test": ["no", "yes"] * 3}, "truth values is called like a split"),
        ({"partition": [0, 1, 2] * 2}, r"numbers is called like a split(.|\n)*got: partition, with 0, 1, 2"),
        ({"subset": ["train"] * 5 + ["test"], "label": ["ant"] * 3 + ["bee"] * 2 + ["cat"]}, r"in no training row"),
    ],
)
def test_columns_of_splits_that_are_not_understood_are_refused(tmp_path: Path, columns: dict, message: str) -> None:
    table(tmp_path / "pets.parquet", 6, 0, **columns)
    with pytest.raises(DataError, match=message):
        prepared(tmp_path / "pets.parquet")
    prepared(tmp_path / "pets.parquet", splits="none")


def test_ordinary_columns_say_nothing_of_splits(tmp_path: Path) -> None:
    others = {"test_result": [0, 1] * 5, "val": [0.5 * i for i in range(10)], "split": [i % 4 for i in range(10)]}
    table(tmp_path / "pets.parquet", 10, 0, caption=["a test"] * 10, place=["valley", "train"] * 5, **others)
    assert prepared(tmp_path / "pets.parquet").held_out is not None


def test_a_table_of_numbers_does_not_learn_whether_a_row_is_for_training(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,is_train,label\n" + "".join(f"{i},{i % 2},{i % 3}\n" for i in range(30)))
    with pytest.raises(DataError, match=r"truth values is called like a split(.|\n)*is_train, with 0, 1"):
        open_data(tmp_path / "t.csv")


def test_a_path_that_no_file_can_have_is_told_with_its_row(tmp_path: Path) -> None:
    tree(tmp_path / "pets", 2, 0)
    (tmp_path / "pets.csv").write_bytes(b"image,label\npets/ant/0.png,ant\npets/b\0ee/0.png,bee\n")
    with pytest.raises(DataError, match=r"a zero byte in it\n  where: .*pets\.csv, row 1"):
        prepared(tmp_path / "pets.csv")


def test_a_class_folder_has_a_name_that_is_text(tmp_path: Path) -> None:
    tree(tmp_path / "pets", 2, 0)
    (tmp_path / "pets" / "ant").rename(os.fsdecode(os.fsencode(tmp_path / "pets") + b"/\xff\xfe"))
    with pytest.raises(DataError, match=r"no text\n(.|\n)*got: b'.xff.xfe'"):
        prepared(tmp_path / "pets")


def test_one_file_may_be_said_to_be_a_split(tmp_path: Path) -> None:
    table(tmp_path / "mnist_test.parquet", 10, 0)
    assert counts(prepared(tmp_path / "mnist_test.parquet")) == {"train": 8, "test": 2}
    assert counts(prepared(tmp_path / "mnist_test.parquet", splits={"test": "mnist_test.parquet"})) == {"test": 10}
    with pytest.raises(ConfigError, match="called so"):
        prepared(tmp_path / "mnist_test.parquet", ignore="other")


def test_an_error_for_pictures_beside_a_table_of_their_names_says_how(tmp_path: Path) -> None:
    (tmp_path / "pets" / "img").mkdir(parents=True)
    (tmp_path / "pets" / "img" / "0.png").write_bytes(png(0))
    (tmp_path / "pets" / "labels.csv").write_text("file,label\nimg/0.png,ant\n")
    with pytest.raises(DataError, match=r"one class only(.|\n)*ffdist data prepare .*labels.csv --image-column"):
        prepared(tmp_path / "pets")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_prepare_that_is_asked_to_stop_leaves_nothing_and_a_killed_one_is_swept_up(
    tmp_path: Path, number: signal.Signals
) -> None:
    tree(tmp_path / "pets", 3, 0)
    os.mkfifo(tmp_path / "started")
    code = f"""
import signal, sys
import ffdist.data.prepare, ffdist.cli
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests run below
write = sys.modules["ffdist.data.prepare"].write
def slow(*args, **kept):
    open({str(tmp_path / "started")!r}, "w").close()
    import time
    for _ in range(600):  # a signal that comes just before a sleep is handled after it
        time.sleep(0.1)
sys.modules["ffdist.data.prepare"].write = slow
ffdist.cli.main(["data", "prepare", {str(tmp_path / "pets")!r}, "--out", {str(tmp_path / "new" / "out")!r}])
"""
    with Forked([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as running:
        (tmp_path / "started").open().close()  # waits until it is written to
        running.send_signal(number)
        assert running.wait(60) in (128 + number, -number)
        assert running.stderr is not None
        assert "Traceback" not in running.stderr.read()
    if number != signal.SIGKILL:
        assert not (tmp_path / "new").exists()
    else:
        assert len(list((tmp_path / "new").glob(".out.*.partial"))) == 1
        prepare(tmp_path / "pets", tmp_path / "new" / "other")
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["other"]


@pytest.mark.parametrize("remote", [False, True])
def test_what_killed_processes_have_left_goes_and_what_others_hold_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, remote: bool
) -> None:
    tree(tmp_path / "pets", 3, 0)
    place = tmp_path / "place"
    names = [".old.0123abcd.partial", ".held.0123abcd.partial", ".partial", ".mine.partial", "x.0123abcd.partial"]
    for name in names:
        (place / name / "inside").mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    held = os.open(place / names[1], os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    prepare(tmp_path / "pets", f"file://{tmp_path}/far/out" if remote else place / "out")
    os.close(held)
    assert {path.name for path in place.iterdir()} == {*names[1:], *(() if remote else ("out",))}


def texts(folder: Path, **rows: list[str]) -> None:
    """Files of text by name, and pictures beside them in img."""
    (folder / "img").mkdir(parents=True)
    for i in range(12):
        (folder / "img" / f"{i}.png").write_bytes(png(i))
    for name, lines in rows.items():
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")


def test_files_of_text_say_splits_and_classes_of_the_pictures_beside_them(tmp_path: Path) -> None:
    train = ["image,label", *(f"img/{i}.png,{'cat' if i % 2 else 'ant'}" for i in range(8))]
    test = ["image,label", *(f"img/{i}.png,{'cat' if i % 2 else 'ant'}" for i in range(8, 12))]
    texts(tmp_path / "a", train=train, test=test, notes=["what,why", "x,y"])
    manifest = prepared(tmp_path / "a")
    assert {split: of.counts for split, of in manifest.splits.items()} == {"train": [4, 4], "test": [2, 2]}
    assert manifest.classes == ["ant", "cat"]
    assert "pictures and classes are those of train.csv, test.csv" in manifest.notes
    assert manifest.left_out == (LeftOut("notes.csv", "no column image, label", 1),)
    chosen = prepared(tmp_path / "a", splits={"train": "test.csv", "test": "train.csv"})
    assert counts(chosen) == {"train": 4, "test": 8}
    texts(tmp_path / "one", labels=train)
    assert sum(counts(prepared(tmp_path / "one")).values()) == 8
    tree(tmp_path / "classes", 3, 0)
    (tmp_path / "classes" / "labels.csv").write_text("\n".join(train))
    assert prepared(tmp_path / "classes").classes == ["ant", "bee", "cat"], "folders of classes come first"


def test_files_of_text_in_other_ways_are_refused_with_what_to_do(tmp_path: Path) -> None:
    train = ["id,label", *(f"{i}.png,{'cat' if i % 2 else 'ant'}" for i in range(8))]
    texts(tmp_path / "a", train=train, test=["id", "8.png"], sample_submission=["id,label", "8.png,ant"])
    with pytest.raises(DataError, match=r"ffdist data prepare \S*train.csv --image-column id --label-column label"):
        prepared(tmp_path / "a")
    with pytest.raises(DataError, match=r"ignore=\[\"sample_submission.csv\"\]"):
        prepared(tmp_path / "a", image_column="id")
    with pytest.raises(DataError, match=r"file is not there(.|\n)*remedy: write the paths as img/0.png"):
        prepared(tmp_path / "a", image_column="id", ignore="sample_submission.csv")


def test_files_of_numbers_are_refused_with_a_command_that_reads_them(tmp_path: Path) -> None:
    numbers = ["label," + ",".join(f"pixel{i}" for i in range(16)), *(f"{i % 2}," + "7," * 15 + "9" for i in range(6))]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "train.csv").write_text("\n".join(numbers))
    for source in (tmp_path / "b", tmp_path / "b" / "train.csv"):
        with pytest.raises(DataError, match="plain numbers are read as they are") as refused:
            prepared(source)
        remedy = re.search(r"ffdist train --data (\S+) --model mlp", str(refused.value))
        assert remedy
        assert open_data(remedy[1]).shape == (16,)


@pytest.mark.parametrize(("first", "last", "label"), [("1.5", "red", "b"), ("1.5", "0", "b"), ("3", "0", "a")])
def test_the_command_for_numbers_names_the_likely_labels(tmp_path: Path, first: str, last: str, label: str) -> None:
    rows = [f"a,{','.join('cdefghij')},b", *[f"{first},{','.join('01234567')},{last}"] * 2]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    with pytest.raises(DataError, match=f"--data-args label_column={label}$"):
        prepared(tmp_path / "t.csv")


def test_formats_that_a_package_teaches_are_named(tmp_path: Path) -> None:
    assert "JXL" not in formats(), "the test needs a format that nobody reads here"
    tree(tmp_path / "tree", 2, 0, ("ant", "bee"))
    for name in ("ant", "bee"):
        for file in ("x.jxl", "y"):
            (tmp_path / "tree" / name / file).write_bytes(b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40))
    need = "JPEG XL needs a package: pip install pillow-jxl-plugin"
    assert {left.why for left in prepared(tmp_path / "tree").left_out} == {need}
    with pytest.raises(DataError, match=need):
        decode(tmp_path / "tree" / "ant" / "x.jxl", "here")
    for path in (tmp_path / "tree").rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match=rf"have no pictures\n(.|\n)*got: 2 \*\.jxl: {need}"):
        prepared(tmp_path / "tree")


def test_feather_of_the_first_version_is_refused_with_what_rewrites_it(tmp_path: Path) -> None:
    (tmp_path / "old.feather").write_bytes(b"FEA1" + bytes(60))
    with pytest.raises(DataError, match=r"Feather of version 1.*\n  remedy: pandas.read_feather\('.*old.feather'\)"):
        prepared(tmp_path / "old.feather")


CARD = """---
license: mit
configs:
- config_name: default
  data_files:
  - split: train
    path: ["files/first/*", "./files/**/second.parquet"]
  - split: test
    path: files/last
  - split: unsupervised
    path: files/others/*
---
# About
"""


def test_a_repository_s_card_says_its_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub = tmp_path / "hub"
    for name, rows in (("first/a", 6), ("first/b", 4), ("x/second", 3), ("last/c", 5), ("others/d", 7)):
        table(hub / "files" / f"{name}.parquet", rows, 100 * rows)
    with pytest.raises(DataError, match="files of several folders"):
        prepared(hub)
    (hub / "README.md").write_text(CARD)
    assert counts(prepared(hub)) == {"train": 13, "test": 5}
    text = capsys.readouterr().err
    assert "train=files/first 'train=files/*second.parquet'" in text or "train='files/*second.parquet'" in text
    assert "left out: unsupervised" in text
    assert counts(prepared(hub, splits={"train": "files/first", "test": "files/others"})) == {"train": 10, "test": 7}
    (hub / "README.md").write_text(CARD.replace("files/last", "files/lost"))
    with pytest.raises(DataError, match=r"test split are not there(.|\n)*fetch all of the repository"):
        prepared(hub)
    (hub / "README.md").write_text(
        CARD.replace("default\n", "small\n").replace("---\n#", "- config_name: large\n  data_dir: x\n---\n#")
    )
    with pytest.raises(DataError, match=r"several configurations(.|\n)*got: small, large\n.*train=files/first"):
        prepared(hub)
    (hub / "README.md").write_text("---\nconfigs: [\nconfigs:\n---\n")
    with pytest.raises(DataError, match="a repository's card cannot be read"):
        prepared(hub)


def test_a_card_may_name_folders_of_pictures(tmp_path: Path) -> None:
    tree(tmp_path / "hub" / "one", 4, 0)
    tree(tmp_path / "hub" / "two", 2, 50)
    (tmp_path / "hub" / "README.md").write_text(
        "---\nconfigs:\n- data_files:\n  - {split: train, path: one/**}\n  - {split: validation, path: two/**}\n---\n"
    )
    made = prepared(tmp_path / "hub")
    assert counts(made)["validation"] == 6
    assert "train" in counts(made)
