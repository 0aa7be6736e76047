"""What names of files say: whose a picture is, and where tables below a folder have their pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ffdist.data import open_data, prepare
from ffdist.data.manifest import read_manifest
from ffdist.errors import ConfigError, DataError

PATIENTS, EACH = 10, 4


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FFDIST_CACHE", str(tmp_path / "cache"))


def picture(path: str, patient: int, number: int) -> None:
    """One that says whose it is."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((4, 4, 3), number, np.uint8)
    pixels[..., 0] = patient
    Image.fromarray(pixels).save(file)


def tree(name: str) -> None:
    """A patient's pictures are in both classes. name: of the file, and folders below the class's."""
    for label, known in enumerate(("ill", "well")):
        for patient in range(PATIENTS):
            for i in range(EACH):
                picture(f"source/{known}/{name.format(patient=patient, i=i)}.png", patient, 10 * label + i)


def patients(folder: str, **options: object) -> dict[str, set[int]]:
    images = open_data(prepare("source", folder, **options))  # pyright: ignore[reportArgumentType]
    return {split: {*of.take(np.arange(len(of)))[:, 0, 0, 0].tolist()} for split, of in images.splits.items()}


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("patient{patient:02d}_{i}", "patient[0-9]+"),
        ("scan-{i}-of-{patient}", "of-([0-9]+)"),
        ("p{patient}/{i}", "^[^/]+"),
        ("{i}_{patient}_left", r"(?<=_)\d+(?=_)"),
    ],
)
def test_no_patient_is_in_two_splits(name: str, pattern: str) -> None:
    tree(name)
    found = patients("out", group_pattern=pattern, splits="none", test_fraction=0.2, validation_fraction=0.3)
    assert {split: len(of) for split, of in found.items()} == {"train": 5, "validation": 3, "test": 2}
    assert set.union(*found.values()) == {*range(PATIENTS)}, "so none is in two"
    held_out = read_manifest(Path("out")).held_out
    assert held_out
    assert held_out.groups == f"names like '{pattern}'"


def test_a_share_by_names_on_the_way_to_a_run_and_what_training_does_is_noted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tree("{patient}x{i}")
    images = open_data("source", group_pattern="^[0-9]+")
    assert len(images.test or ()) == 2 * 2 * EACH
    assert "validation_fraction=0.1" in " ".join(capsys.readouterr().err.split())


def test_patterns_that_do_not_fit_are_refused() -> None:
    tree("patient{patient}_{i}")
    picture("source/ill/unknown.png", 99, 99)
    for pattern, kind, said in (
        ("patient[0-9]+", DataError, r"nothing in 1 of 81 names(.|\n)*got: unknown.png"),
        ("[", ConfigError, "no regular expression"),
        ("", ConfigError, "is empty"),
        (r"\.png", DataError, "one group only"),
    ):
        with pytest.raises(kind, match=said):
            prepare("source", "out", group_pattern=pattern)
    with pytest.raises(ConfigError, match="has its own splits"):
        prepare("mnist", "out", group_pattern="x", download=False)
    np.savez("set.npz", image=np.zeros((8, 4, 4), np.uint8), label=np.arange(8) % 2)
    with pytest.raises(ConfigError, match="no names that tell groups"):
        prepare("set.npz", "out", group_pattern="x")


def test_a_table_of_paths_has_groups_by_names_and_another_by_its_column_alone() -> None:
    rows = ["file,label,who"]
    for patient in range(PATIENTS):
        for i in range(EACH):
            picture(f"source/pictures/{patient}_{i}.png", patient, i)
            rows.append(f"pictures/{patient}_{i}.png,{'ab'[i % 2]},{patient}")
    Path("source/list.csv").write_text("\n".join(rows) + "\n")
    found = patients("out", group_pattern=r"(\d+)_", test_fraction=0.2)
    assert {split: len(of) for split, of in found.items()} == {"train": 8, "test": 2}
    with pytest.raises(ConfigError, match="groups are given by a column"):
        prepare("source", "other", group_pattern=r"(\d+)_", group_column="who")


def rows_of(split: str, count: int, folder: str, named: str) -> Iterator[tuple[str, str]]:
    for i in range(count):
        picture(f"{folder}/{split}{i}.png", i, i)
        yield named.format(f"{split}{i}.png"), "ab"[i % 2]


@pytest.mark.parametrize("card", [False, True])
@pytest.mark.parametrize(
    ("table", "folder", "named"),
    [
        ("hub/{split}/metadata.csv", "hub/{split}", "{}"),
        ("hub/data/{split}.csv", "hub/images", "images/{}"),
        ("hub/data/{split}.csv", "hub/data/images", "images/{}"),
        ("hub/lists/of/{split}.tsv", "hub/lists/all", "all/{}"),
        ("hub/data/{split}.jsonl", "hub/data", "{}"),
    ],
)
def test_tables_in_a_repository_s_folders_name_pictures_from_there_or_from_above(
    table: str, folder: str, named: str, *, card: bool
) -> None:
    lines = ["---", "configs:", "- config_name: default", "  data_files:"]
    for split, count in (("train", 6), ("test", 4)):
        rows = list(rows_of(split, count, folder.format(split=split), named))
        path = Path(table.format(split=split))
        path.parent.mkdir(parents=True, exist_ok=True)
        between = "\t" if path.suffix == ".tsv" else ","
        objects = [json.dumps({"file_name": file, "label": label}) for file, label in rows]
        text = objects if path.suffix == ".jsonl" else [between.join(row) for row in (("file_name", "label"), *rows)]
        path.write_text("\n".join(text) + "\n")
        lines += [f"  - split: {split}", f"    path: {path.relative_to('hub').as_posix()}"]
    if card:
        Path("hub/README.md").write_text("\n".join([*lines, "---", ""]))
    images = open_data(prepare("hub", "out"))
    assert {split: len(of) for split, of in images.splits.items()} == {"train": 6, "test": 4}
    assert images.train.take(np.arange(6))[:, 0, 0, 0].tolist() == [*range(6)]
    assert images.classes == ["a", "b"]


def test_a_tree_of_classes_stays_one_whatever_lists_lie_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    tree("{patient}_{i}")
    Path("source/ill/list.csv").write_text("file,label\n0_0.png,other\n0_1.png,another\n")
    assert open_data(prepare("source", "out")).classes == ["ill", "well"]
    for path in Path("source/well").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="a class has no pictures"):
        prepare("source", "again")
    assert not re.search("list.csv", capsys.readouterr().err)
