from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ffdist.data import open_data, prepare, verify
from ffdist.data.ahead import in_order
from ffdist.data.atomic_folder import check_room
from ffdist.errors import ConfigError, DataError

CLASSES = ["ant", "bee", "cat"]


def picture(seed: int, size: tuple[int, int] = (9, 7)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png")
    return buffer.getvalue()


def tree(root: Path, per_class: int = 10, first: int = 0) -> Path:
    """Pictures `first`, `first` + 1, ... in a folder for each class."""
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            seed = first + label * per_class + i
            (root / name / f"{seed:03d}.png").write_bytes(png(picture(seed)))
    return root


def rows(count: int, first: int = 0) -> dict:
    return {"image": [png(picture(first + i)) for i in range(count)], "label": [CLASSES[i % 3] for i in range(count)]}


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("test", ["test", "Testing"])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_tree_with_splits_keeps_them(tmp_path: Path, test: str, workers: int) -> None:
    tree(tmp_path / "pets" / "train")
    tree(tmp_path / "pets" / test, per_class=4, first=30)
    (tmp_path / "pets" / "train" / "ant" / "notes.txt").write_text("not a picture")
    images = open_data(prepare(str(tmp_path / "pets"), tmp_path / "out", workers=workers))
    assert (images.name, images.classes, images.shape) == ("pets", CLASSES, (3, 9, 7))
    assert np.array_equal(images.train.take(np.arange(30)), np.stack([picture(i) for i in range(30)]))
    assert np.array_equal(images.train.labels, np.repeat([0, 1, 2], 10))
    assert images.test is not None
    assert np.array_equal(images.test.take(np.arange(12)), np.stack([picture(30 + i) for i in range(12)]))
    assert np.allclose(images.mean, np.stack([picture(i) for i in range(30)]).mean((0, 1, 2)) / 255)
    verify(tmp_path / "out")


def test_a_tree_without_splits_gets_a_stratified_test_share(tmp_path: Path) -> None:
    source = str(tree(tmp_path / "pets"))
    made = [prepare(source, tmp_path / f"out{i}", seed=seed) for i, seed in enumerate((1, 1, 2))]
    first, again, other = (open_data(folder) for folder in made)
    assert first.test is not None
    assert again.test is not None
    assert other.test is not None
    assert np.bincount(first.train.labels).tolist() == [8, 8, 8]
    assert np.bincount(first.test.labels).tolist() == [2, 2, 2]
    pixels = [images.test.take(np.arange(6)) for images in (first, again, other) if images.test]
    assert np.array_equal(pixels[0], pixels[1])
    assert not np.array_equal(pixels[0], pixels[2])
    both = np.concatenate([first.train.take(np.arange(24)), pixels[0]])
    assert {p.tobytes() for p in both} == {picture(i).tobytes() for i in range(30)}


def test_no_test_share_is_no_test_split(tmp_path: Path) -> None:
    assert open_data(prepare(str(tree(tmp_path / "pets")), tmp_path / "out", test_fraction=0)).test is None


def test_pictures_of_any_size_and_mode_become_one_shape(tmp_path: Path) -> None:
    root = tree(tmp_path / "pets", per_class=2)
    Image.fromarray(picture(1, (30, 20))).convert("L").save(root / "ant" / "x.jpg")
    Image.fromarray(picture(2, (5, 50))).convert("RGBA").save(root / "bee" / "y.webp")
    (root / "cat" / "deep").mkdir()
    Image.fromarray(picture(3, (8, 8))).convert("P").save(root / "cat" / "deep" / "z.GIF")
    assert open_data(prepare(str(root), tmp_path / "rgb", size=6, mode="rgb")).shape == (3, 6, 6)
    images = open_data(prepare(str(root), tmp_path / "grey", size=(4, 6), mode="grey"))
    assert images.shape == (1, 4, 6)
    assert len(images.train) + len(images.test or ()) == 9


def test_pictures_of_different_shapes_are_refused_by_name(tmp_path: Path) -> None:
    root = tree(tmp_path / "pets")
    (root / "bee" / "012.png").write_bytes(png(picture(0, (5, 5))))
    message = r"where: .*000.png and .*012.png\n  expected: \(9, 7, 3\)\n  got: \(5, 5, 3\)\n  remedy: give a size"
    with pytest.raises(DataError, match=message):
        prepare(str(root), tmp_path / "out")
    assert left_behind(tmp_path) == ["pets"]


def test_a_broken_picture_is_named_and_nothing_is_left_behind(tmp_path: Path) -> None:
    root = tree(tmp_path / "pets")
    path = root / "cat" / "025.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=r"cannot be read\n  where: .*025.png"):
        prepare(str(root), tmp_path / "out")
    assert left_behind(tmp_path) == ["pets"]


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        assert left_behind(tmp_path) != ["pets"]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(str(tree(tmp_path / "pets")), tmp_path / "out", progress=interrupt)
    assert left_behind(tmp_path) == ["pets"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ffdist-decode")]


def test_the_folder_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def watch(done: int, total: int) -> None:
        assert not (tmp_path / "out").exists()
        seen.append((done, total))

    prepare(str(tree(tmp_path / "pets")), tmp_path / "out", progress=watch)
    assert left_behind(tmp_path) == ["out", "pets"]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (30, 30)


def test_a_folder_that_exists_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=r"the folder exists, and nothing is overwritten\n  where: .*out"):
        prepare(str(tree(tmp_path / "pets")), tmp_path / "out")
    assert not left_behind(tmp_path / "out")


def test_no_room_is_found_out_before_anything_is_written(tmp_path: Path) -> None:
    check_room(tmp_path, 1)
    with pytest.raises(DataError, match=r"no room on the disk\n.*\n  expected: \d+ MiB\n  got: \d+ MiB free"):
        check_room(tmp_path, 2**70)


def test_a_full_disk_is_one_error(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs a device that is always full")
    os.symlink(full, tmp_path / "disk")

    def fill(done: int, total: int) -> None:
        (tmp_path / "disk").write_bytes(b"x")

    with pytest.raises(DataError, match="no room on the disk"):
        prepare(str(tree(tmp_path / "pets")), tmp_path / "out", progress=fill)
    assert left_behind(tmp_path) == ["disk", "pets"]


def write(table: pa.Table, path: Path) -> Path:
    """As its suffix says; `.stream.arrow` is the form that Hugging Face keeps."""
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=7)
    elif path.suffix == ".feather":
        pyarrow.feather.write_feather(table, str(path))
    elif ".stream" in path.suffixes:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as file:
            file.write_table(table, max_chunksize=11)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
            file.write_table(table, max_chunksize=11)
    return path


@pytest.mark.parametrize("name", ["pets.parquet", "pets.feather", "pets.arrow", "pets.stream.arrow"])
def test_a_table_of_any_kind_becomes_the_same_data(tmp_path: Path, name: str) -> None:
    path = write(pa.table(rows(30)), tmp_path / name)
    images = open_data(prepare(str(path), tmp_path / "out", test_fraction=0))
    assert images.classes == CLASSES
    assert np.array_equal(images.train.take(np.arange(30)), np.stack([picture(i) for i in range(30)]))
    assert images.train.labels.tolist() == [i % 3 for i in range(30)]


def test_a_folder_of_tables_keeps_its_splits_and_the_order_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "pets").mkdir()
    for i in range(3):
        write(pa.table(rows(6, first=6 * i)), tmp_path / "pets" / f"train-{i}.parquet")
    write(pa.table(rows(5, first=18)), tmp_path / "pets" / "test-0.parquet")
    images = open_data(prepare(str(tmp_path / "pets"), tmp_path / "out"))
    assert np.array_equal(images.train.take(np.arange(18)), np.stack([picture(i) for i in range(18)]))
    assert images.test is not None
    assert np.array_equal(images.test.take(np.arange(5)), np.stack([picture(18 + i) for i in range(5)]))


def test_a_table_without_splits_gets_a_stratified_test_share(tmp_path: Path) -> None:
    images = open_data(prepare(str(write(pa.table(rows(30)), tmp_path / "pets.parquet")), tmp_path / "out"))
    assert np.bincount(images.train.labels).tolist() == [8, 8, 8]
    assert np.bincount(images.test.labels if images.test else []).tolist() == [2, 2, 2]


def test_columns_have_names_and_arrays_are_pictures_too(tmp_path: Path) -> None:
    pixels = np.stack([picture(i) for i in range(6)])
    table = pa.table({"pixels": pixels.tolist(), "kind": [5, 9, 5, 9, 5, 9]})
    folder = prepare(
        str(write(table, tmp_path / "a.parquet")),
        tmp_path / "out",
        image_column="pixels",
        label_column="kind",
        test_fraction=0,
    )
    images = open_data(folder)
    assert np.array_equal(images.train.take(np.arange(6)), pixels)
    assert images.classes == ["5", "9"]


def test_class_names_in_the_metadata_are_used(tmp_path: Path) -> None:
    metadata = {"huggingface": '{"info": {"features": {"label": {"names": ["ant", "bee", "cat", "dog"]}}}}'}
    columns = {"image": rows(4)["image"], "label": [0, 2, 3, 0]}
    path = write(pa.table(columns).replace_schema_metadata(metadata), tmp_path / "a.parquet")
    images = open_data(prepare(str(path), tmp_path / "out", test_fraction=0))
    assert images.classes == ["ant", "bee", "cat", "dog"]
    assert images.train.labels.tolist() == [0, 2, 3, 0]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": [b"x"]}, r"lacks a column\n  where: .*a.parquet\n  expected: label\n  got: image\n  remedy"),
        (
            {"image": [None, b"x"], "label": [0, 1]},
            r"2 pictures cannot be read\n  where: .*a.parquet, row 0: it is missing(.|\n)*row 1: no known format",
        ),
        ({"image": [b"x", b"x"], "label": [0, None]}, r"label is missing\n  where: .*a.parquet, row 1"),
        ({"image": [b"x", b"x"], "label": [0, -1]}, r"out of range\n  where: .*a.parquet, row 1\n  .*\n  got: -1"),
        ({"image": [b"broken", b"x"], "label": [0, 1]}, r"cannot be read\n  where: .*a.parquet, row 0"),
        (
            {"image": [[0.5], [1.5]], "label": [0, 1]},
            r"float64 \[1\] is not a picture.*\n  where: .*a.parquet, row 0(.|\n)*ffdist.from_arrow",
        ),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_by_row(tmp_path: Path, columns: dict, message: str) -> None:
    path = write(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=message):
        prepare(str(path), tmp_path / "out", test_fraction=0)
    assert left_behind(tmp_path) == ["a.parquet"]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather"])
@pytest.mark.parametrize("content", [b"", b"not a table at all"])
def test_a_file_that_is_no_table_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"a table cannot be read\n  where: .*{name}"):
        prepare(str(tmp_path / name), tmp_path / "out")


def test_trees_that_hold_no_classes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no class folder\n  where: .*empty"):
        prepare(str(tmp_path / "empty"), tmp_path / "out")
    (tree(tmp_path / "pets") / "dog").mkdir()
    with pytest.raises(DataError, match=r"no pictures\n  where: .*dog"):
        prepare(str(tmp_path / "pets"), tmp_path / "out")
    tree(tmp_path / "split" / "train")
    tree(tmp_path / "split" / "test" / "more")
    with pytest.raises(DataError, match=r"only in the test split\n  where: .*more"):
        prepare(str(tmp_path / "split"), tmp_path / "out")


def test_a_source_that_is_nothing_gets_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"unknown source of data\n.*\n  got: cifar-10\n.*did you mean cifar10\?"):
        prepare("cifar-10", tmp_path / "out")
    with pytest.raises(DataError, match="unknown source of data"):
        prepare(str(tmp_path / "none.parquet"), tmp_path / "out")


@pytest.mark.parametrize("name", ["d.txt", "d"])
def test_an_error_for_a_file_of_another_kind_says_which_kinds_there_are(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"label,pixel\n1,2\n")
    with pytest.raises(DataError, match=rf"{name}\n  expected: \.parquet or \.arrow or .*\n  got: .*\n  remedy: save"):
        prepare(str(tmp_path / name), tmp_path / "out")


def test_one_class_alone_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    root = tree(tmp_path / "pets", per_class=2)
    write(pa.table(rows(4) | {"label": ["ant"] * 4}), tmp_path / "ants.parquet")
    (root / "ant" / "all").mkdir()
    (root / "ant" / "000.png").rename(root / "ant" / "all" / "000.png")
    for source, name in ((root / "ant", "all"), (tmp_path / "ants.parquet", "ant")):
        with pytest.raises(DataError, match=rf"one class only(.|\n)*got: {name}\n  remedy"):
            prepare(str(source), tmp_path / "out")
    assert left_behind(tmp_path) == ["ants.parquet", "pets"]


def test_a_file_in_the_way_of_the_new_folder_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "afile").write_text("")
    source = str(tree(tmp_path / "pets", per_class=2))
    for out in ("afile/x", "afile/x/y", "a" * 300):
        with pytest.raises(DataError, match=r"cannot be made\n  where: .*\n(.|\n)*another folder with out"):
            prepare(source, tmp_path / out)
    assert left_behind(tmp_path) == ["afile", "pets"]


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    source = str(tree(tmp_path / "pets", per_class=2))
    for fraction in (1.5, -0.1, float("nan")):
        with pytest.raises(ConfigError, match=r"where: test_fraction\n  expected: 0 <= x <= 1"):
            prepare(source, tmp_path / "out", test_fraction=fraction)
    with pytest.raises(ConfigError, match="leave out from_dir"):
        prepare(source, tmp_path / "out", from_dir=tmp_path)
    with pytest.raises(ConfigError, match="picture mode"):
        prepare(source, tmp_path / "out", mode="blue")


def test_a_pool_works_in_order_and_never_far_ahead() -> None:
    drawn, lock = 0, threading.Lock()

    def jobs() -> Iterator[int]:
        nonlocal drawn
        for job in range(100):
            with lock:
                drawn += 1
            yield job

    results = in_order(lambda job: job * job, jobs(), threads=3, ahead=5, name="test")
    for taken, result in enumerate(results):
        assert result == taken * taken
        assert drawn <= taken + 1 + 5


def test_a_folder_here_is_taken_and_not_what_was_prepared_of_it_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may have changed since; what is nowhere here is looked for in data/."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FFDIST_CACHE", str(tmp_path / "cache"))
    prepare(tree(tmp_path / "pets"), tmp_path / "data/pets")
    (tmp_path / "pets/ant/000.png").unlink()
    assert [len(open_data(name, test_fraction=0).train) for name in ("pets", "pets/")] == [29, 29]
    assert 'pets is taken as it is here, and not as it was prepared: data="data/pets"' in capsys.readouterr().err
    assert len(open_data("data/pets").train) + len(open_data("data/pets").test or ()) == 30
    (tmp_path / "pets").rename(tmp_path / "elsewhere")
    assert open_data("pets").name == "pets"
