"""Files that say what is not so, or change in the middle: one error with file and row, and nothing left behind."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ffdist.data import prepare
from ffdist.data.cached import open_files
from ffdist.data.column_names import Columns
from ffdist.data.preparation import Preparation
from ffdist.data.sources.array_files import ArrayFiles
from ffdist.errors import DataError

ROWS = 60


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 255 - shade)).save(file, "PNG")
    return file.getvalue()


PNGS = [png(row) for row in range(ROWS)]


def csv(path: Path, cell: Callable[[int], object]) -> Path:
    for row, data in enumerate(PNGS):
        path.with_name(f"{row}.png").write_bytes(data)
    path.write_text("image,label\n" + "".join(f"{row}.png,{cell(row)}\n" for row in range(ROWS)))
    return path


def refused(path: Path, message: str) -> None:
    before = sorted(path.parent.iterdir())
    with pytest.raises(DataError) as caught:
        prepare(path, path.parent / "out")
    assert re.search(message, str(caught.value)), caught.value
    assert sorted(path.parent.iterdir()) == before


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (
            lambda row: row % 2 if row < 40 else "cat",
            "unlike kinds\n.*, row 40\n  expected: a number, as 0.*\n  got: cat",
        ),
        (
            lambda row: "cat" if row < 40 else row % 2,
            "unlike kinds\n.*, row 40\n  expected: a name, as cat.*\n  got: 0",
        ),
        (lambda row: row % 2 if row != 9 else 0.5, "row 9\n  expected: whole numbers.*\n  got: 0.5"),
        (lambda row: row % 2 if row != 9 else -1, "out of range\n.*, row 9\n  expected: 0 or more"),
        (lambda row: row % 2 if row != 9 else "NaN", "unlike kinds\n.*, row 9"),
        (lambda row: row % 2 if row != 9 else "", "missing\n.*, row 9"),
        (lambda row: row % 2 if row != 9 else "1,2", "line 11\n"),
    ],
)
def test_a_label_of_another_kind_in_a_text_file_is_named_by_its_row(
    cell: Callable[[int], object], message: str, tmp_path: Path
) -> None:
    refused(csv(tmp_path / "labels.csv", cell), message)


@pytest.mark.parametrize(
    ("cell", "classes"),
    [
        (lambda row: "0123456789ABCDEF"[row % 16], [*"0123456789ABCDEF"]),
        (lambda row: row % 2 * 2 - 1, ["-1", "1"]),
        (lambda row: f"{row % 2}.0", ["0", "1"]),
        (lambda row: f"v{row % 2}", ["v0", "v1"]),
    ],
)
def test_digits_beside_letters_and_two_signs_are_classes(
    cell: Callable[[int], object], classes: list[str], tmp_path: Path
) -> None:
    out = Path(prepare(csv(tmp_path / "labels.csv", cell), tmp_path / "out", notify=lambda text: None))
    assert json.loads((out / "manifest.json").read_text())["classes"] == classes


def test_a_type_that_changes_after_the_first_mebibyte_of_lines_is_named_by_its_row(tmp_path: Path) -> None:
    lines = [json.dumps({"image": "0.png", "label": row % 2, "note": "." * 200}) for row in range(9000)]
    lines[8000] = json.dumps({"image": "0.png", "label": "cat"})
    (tmp_path / "0.png").write_bytes(PNGS[0])
    path = tmp_path / "labels.jsonl"
    path.write_text("\n".join(lines))
    refused(path, r"labels.jsonl, row 8000\n  expected: one type in a column\n.*from number to string\n")
    path.write_text("\n".join([*lines[:7000], '{"image": "0.pn']))
    refused(path, r"labels.jsonl, row 7000\n")


def test_an_error_for_a_file_that_is_cut_off_or_lies_says_to_fetch_it_again(tmp_path: Path) -> None:
    table = pa.table({"image": PNGS, "label": [row % 2 for row in range(ROWS)]})
    for name, compression in (("a.parquet", "NONE"), ("b.arrow", None)):
        (folder := tmp_path / name[0]).mkdir()
        path = folder / name
        if compression:
            pq.write_table(table, path, row_group_size=20, compression=compression)
        else:
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
                file.write_table(table, 20)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        refused(path, "expected: a whole (Parquet|Arrow) file\n(.*\n)*  remedy: it is damaged or cut off: fetch or")
        lie = whole.replace((20).to_bytes(8, "little"), (10**12).to_bytes(8, "little"))
        path.write_bytes(lie if name == "b.arrow" else whole.replace(whole[900:1500], bytes(600)))
        refused(path, "cannot be read")


def test_numpy_headers_that_claim_too_much_are_refused_in_bounded_memory(tmp_path: Path) -> None:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 28, 28), }"
    header += b" " * (117 - len(header)) + b"\n"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(1000))
    np.save(tmp_path / "y.npy", np.arange(ROWS) % 2)
    refused(tmp_path, "x.npy")


@pytest.mark.parametrize("kind", ["npy", "arrow", "stream"])
def test_a_file_that_is_cut_off_while_it_is_read_is_one_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "data.arrow"
    if kind == "npy":
        np.save(tmp_path / "y.npy", np.arange(3000) % 2)
        np.save(tmp_path / "x.npy", np.zeros((3000, 8, 8, 3), np.uint8))
        path = tmp_path / "x.npy"
    else:
        pictures = pa.array([data + bytes(1000) for data in PNGS])
        table = pa.table({"image": pictures, "label": [row % 2 for row in range(ROWS)]})
        make = pa.ipc.new_file if kind == "arrow" else pa.ipc.new_stream
        with make(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=10)
    place = tmp_path if kind == "npy" else path
    source = open_files(str(place), place, Preparation())
    items = source.items()
    next(items)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(DataError, match=r"changed while it was read(.|\n)*row 1\d\d\d|cannot be read(.|\n)*row [123]0"):
        list(items)


@pytest.mark.parametrize("listed", [False, True])
def test_a_picture_that_is_written_anew_while_a_folder_is_prepared_is_one_error(tmp_path: Path, listed: bool) -> None:
    """In its place, of the same size, and with its time set back: in a folder, or beside a table that names it."""
    for row in range(20):
        path = tmp_path / "pictures" / str(row % 2) / f"{row}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), row, np.uint8)).save(path)
    changed = tmp_path / "pictures/0/0.bmp"
    source = tmp_path / "pictures"
    if listed:
        source = tmp_path / "table.csv"
        rows = [f"{path},{path.parent.name}" for path in sorted((tmp_path / "pictures").glob("*/*.bmp"))]
        source.write_text("\n".join(["image,label", *rows]))

    def write_anew(done: int, total: int) -> None:
        times = changed.stat()
        changed.write_bytes(changed.read_bytes()[:-64] + bytes([200]) * 64)
        os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns))

    with pytest.raises(DataError, match="the source changed while it was read"):
        prepare(source, tmp_path / "out", progress=write_anew)
    assert not (tmp_path / "out").exists()
    prepare(source, tmp_path / "out")


def test_numbers_cut_off_between_opening_and_reading_are_one_error(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", np.arange(3000) % 2)
    np.save(tmp_path / "x.npy", np.ones((3000, 16), np.float32))
    source = ArrayFiles(tmp_path, columns=Columns(), holding=Preparation().holding)
    assert (source.floats("train") == 1).all()
    os.truncate(tmp_path / "x.npy", 128 + 64 * 100)
    with pytest.raises(DataError, match="ends in row 100"):
        source.floats("train")


def test_foreign_bytes_are_called_so_without_numpys_advice_to_unpickle_them(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(bytes(100))
    with pytest.raises(DataError) as error:
        prepare(str(tmp_path / "x.npz"), tmp_path / "out")
    assert error.value.got == "neither an array nor a zip of such"
