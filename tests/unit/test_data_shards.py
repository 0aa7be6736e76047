from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ffdist.data import list_data, open_data, verify, watch
from ffdist.data.arrow_file import write_arrow_file
from ffdist.data.images import Moments
from ffdist.data.manifest import MANIFEST, DataManifest, read_manifest
from ffdist.data.row_digests import digests_of, write_digests
from ffdist.data.shard_files import ShardWriter, shard_schema
from ffdist.digests import with_digest, without_digest
from ffdist.errors import DataError

PICTURES = np.random.default_rng(0).integers(0, 256, (50, 6, 5, 3), np.uint8)
LABELS = np.arange(50) % 4
ROWS = 16
"""Of a shard; the last has fewer."""


def prepared(folder: Path) -> Path:
    """A prepared folder of four training shards and one test shard."""
    folder.mkdir()
    splits = {}
    for name, rows in (("train", slice(None)), ("test", slice(0, 10))):
        writer = ShardWriter(folder, name, (3, 6, 5), 4, shard_bytes=ROWS * 90)
        for start in range(0, 50, 7):
            part = slice(start, start + 7)
            writer.add(PICTURES[rows][part], LABELS[rows][part])
        splits[name] = writer.finish()
    mean, std = Moments(3).add(PICTURES).result()
    DataManifest("made", list("abcd"), (3, 6, 5), mean, std, splits).write(folder)
    return folder


def edit(folder: Path, **fields: object) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps(with_digest(without_digest(json.loads(path.read_text())) | fields)))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    images = open_data(str(prepared(tmp_path / "made")))
    assert (images.name, images.classes, images.shape) == ("made", list("abcd"), (3, 6, 5))
    assert np.allclose(images.mean, PICTURES.mean((0, 1, 2)) / 255)
    assert np.array_equal(images.train.take(np.arange(50)), PICTURES)
    assert np.array_equal(images.train.labels, LABELS)
    assert images.test is not None
    assert np.array_equal(images.test.take(np.arange(10)), PICTURES[:10])


@given(indices=st.lists(st.integers(0, 49), max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_indices_in_any_order_are_gathered_across_shards(tmp_path: Path, indices: list[int]) -> None:
    folder = tmp_path / "made"
    images = open_data(str(folder if folder.exists() else prepared(folder)))
    rows = np.array(indices, np.int64)
    assert np.array_equal(images.train.take(rows), PICTURES[rows])


def test_shards_have_their_rows_and_the_manifest_its_counts(tmp_path: Path) -> None:
    manifest = read_manifest(prepared(tmp_path / "made"))
    assert [shard.rows for shard in manifest.splits["train"].files] == [16, 16, 16, 2]
    assert manifest.splits["train"].counts == np.bincount(LABELS).tolist()


def test_a_folder_of_an_older_version_has_a_column_of_superclasses_and_is_read(tmp_path: Path) -> None:
    folder, superclass = prepared(tmp_path / "made"), np.array([1, 0, 1, 0], np.int32)
    manifest = json.loads((folder / MANIFEST).read_text())
    for split in manifest["splits"].values():
        for shard in split["files"]:
            with pa.ipc.open_file(pa.BufferReader((folder / shard["file"]).read_bytes())) as file:
                pixels, labels = file.get_batch(0).columns
            columns = [pixels, labels, pa.array(superclass[labels.to_numpy()])]
            batch = pa.record_batch(columns, schema=shard_schema((3, 6, 5), coarse=True))
            shard |= asdict(write_arrow_file(folder / shard["file"], batch))
    edit(folder, splits=manifest["splits"], superclass=superclass.tolist())
    verify(folder)
    images = open_data(str(folder))
    assert np.array_equal(images.train.take(np.arange(50)), PICTURES)
    assert np.array_equal(images.train.labels, LABELS)


def test_a_taken_batch_is_a_copy(tmp_path: Path) -> None:
    split = open_data(str(prepared(tmp_path / "made"))).train
    split.take(np.arange(50))[:] = 0
    assert np.array_equal(split.take(np.arange(50)), PICTURES)


def test_another_process_opens_the_files_itself(tmp_path: Path) -> None:
    data = pickle.dumps(open_data(str(prepared(tmp_path / "made"))))
    assert len(data) < PICTURES.nbytes
    assert np.array_equal(pickle.loads(data).train.take(np.arange(50)), PICTURES)


def test_opening_a_folder_holds_no_file_open(tmp_path: Path) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("needs /proc, to count open files")
    before = len(list(descriptors.iterdir()))
    images = open_data(str(prepared(tmp_path / "made")))
    assert len(list(descriptors.iterdir())) == before
    assert len(images.train) == 50


def test_a_whole_folder_verifies(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "made")
    assert verify(folder) == read_manifest(folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "made")
    (folder / "train-00002.arrow").unlink()
    for check in (open_data, verify):
        with pytest.raises(DataError, match=r"missing\n  where: .*train-00002.arrow\n  expected: \d+ bytes"):
            check(folder)


def test_a_shortened_shard_is_named(tmp_path: Path) -> None:
    path = prepared(tmp_path / "made") / "train-00001.arrow"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"another size\n  where: .*train-00001.arrow\n.*\n  got: \d+ bytes\n  remedy"):
        open_data(str(path.parent))


def test_changed_pixels_are_found_at_opening_with_their_time_set_back_and_by_verify(tmp_path: Path) -> None:
    path = prepared(tmp_path / "made") / "train-00001.arrow"
    pixels = PICTURES[20].tobytes()
    times = path.stat()
    path.write_bytes(path.read_bytes().replace(pixels, bytes(len(pixels))))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(DataError, match=r"other bytes than its manifest says\n  where: .*train-00001.arrow"):
        open_data(str(path.parent))
    with pytest.raises(
        DataError, match=r"corrupt\n  where: .*train-00001.arrow\n  expected: sha256 \w+\n  got: sha256"
    ):
        verify(path.parent)


def test_a_split_that_met_an_error_gives_what_was_written_once_the_shard_is_restored(tmp_path: Path) -> None:
    """What was read before the error is not lost, and nothing else stands in its place."""
    folder = prepared(tmp_path / "made")
    split, path = open_data(str(folder)).train, folder / "train-00002.arrow"
    written = path.read_bytes()
    path.unlink()
    for _ in range(2):
        with pytest.raises(DataError, match=r"cannot be read any more\n  where: .*train-00002.arrow"):
            split.take(np.arange(50))
    path.write_bytes(written)
    assert np.array_equal(split.take(np.arange(50)), PICTURES)


def test_what_is_newer_than_its_manifest_and_the_same_is_read_and_only_what_is_large_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = prepared(tmp_path / "made")
    for path in folder.glob("train-0*"):
        path.touch()
    assert np.array_equal(open_data(str(folder)).train.take(np.arange(50)), PICTURES)
    assert not capsys.readouterr().err
    watch.bytes_read.clear()
    monkeypatch.setattr(watch, "LARGE", 5000)  # the third shard's
    assert np.array_equal(open_data(str(folder)).train.take(np.arange(50)), PICTURES)
    assert capsys.readouterr().err.count("as after a copy") == 1
    watch.bytes_read.clear()
    while any(watch.is_newer(path, folder / MANIFEST) for path in folder.glob("*.arrow")):
        (folder / MANIFEST).touch()  # until the clock of the file system ticks
    open_data(str(folder))
    assert not watch.bytes_read


@given(place=st.integers(0, 10**6), change=st.integers(1, 255))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_changed_byte_is_found_by_verify_and_never_crashes_open(tmp_path: Path, place: int, change: int) -> None:
    folder = tmp_path / "made"
    path = (folder if folder.exists() else prepared(folder)) / "train-00003.arrow"
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[place % len(whole)] ^= change
    path.write_bytes(damaged)
    try:
        with pytest.raises(DataError, match=r"where: .*train-00003.arrow"):
            verify(folder)
        with suppress(DataError):
            open_data(str(folder)).train.take(np.arange(50))
    finally:
        path.write_bytes(whole)


def test_digests_of_other_samples_are_found_by_verify(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "made")
    manifest = without_digest(json.loads((folder / MANIFEST).read_text()))
    for labels, rows, message in ((LABELS, PICTURES[::-1], "row 0"), (LABELS[::-1], PICTURES, "labels are not those")):
        manifest["splits"]["train"]["digests"] = asdict(write_digests(folder, "train", labels, digests_of([*rows])))
        (folder / MANIFEST).write_text(json.dumps(with_digest(manifest)))
        with pytest.raises(DataError, match=message) as raised:
            verify(folder)
        assert "train-digests.arrow" in str(raised.value)


def test_a_label_out_of_range_is_named_with_its_row(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "made")
    edit(folder, classes=list("abc"))
    message = r"out of range\n  where: .*train-00000.arrow, row 3\n  expected: 0\.\.2\n  got: 3"
    with pytest.raises(DataError, match=message):
        open_data(str(folder))


def test_a_shard_of_another_shape_is_refused(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "made")
    edit(folder, shape=[3, 5, 6])
    with pytest.raises(DataError, match=r"where: .*train-00000.arrow\n  .*\n  got: columns image"):
        open_data(str(folder))


def test_a_shard_with_other_rows_is_refused(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "made")
    splits = json.loads((folder / MANIFEST).read_text())["splits"]
    splits["train"]["files"][1]["rows"] = 15
    splits["train"]["digests"]["rows"] -= 1
    edit(folder, splits=splits)
    with pytest.raises(DataError, match=r"where: .*train-00001.arrow\n  expected: .* with 15 rows\n  got: 16 rows"):
        open_data(str(folder))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"version": 2}, "not ffdist-data version 1"),
        ({"format": "other"}, "not ffdist-data"),
        ({"mean": [0.5]}, "1 means"),
        ({"shape": 3}, "manifest"),
        ({"surprise": 1}, "surprise"),
        ({"splits": {"train": {}}}, "got: 'files'"),
        ({"splits": None}, "manifest"),
        ({"splits": {}}, "no training"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused(tmp_path: Path, fields: dict, message: str) -> None:
    folder = prepared(tmp_path / "made")
    edit(folder, **fields)
    with pytest.raises(DataError, match=message):
        open_data(str(folder))


def test_a_folder_without_a_manifest_and_half_a_manifest_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no class folder\n.*\n  expected: FOLDER/CLASS/picture"):
        open_data(str(tmp_path))
    (tmp_path / MANIFEST).write_text('{"format": "ffdist-data",')
    with pytest.raises(DataError, match="the manifest cannot be used"):
        open_data(str(tmp_path))


def test_an_unknown_name_gets_the_nearest_and_how_to_prepare_it() -> None:
    with pytest.raises(DataError, match=r"unknown data set\n.*\n  got: cifar11\n  remedy: did you mean cifar10"):
        open_data("cifar11")
    with pytest.raises(DataError, match="did you mean digits"):
        open_data("digit")


def test_what_is_prepared_is_listed_with_what_can_be(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "made")
    (tmp_path / MANIFEST).write_text("{}")
    edit(prepared(tmp_path / "old"), version=0)
    entries = {entry.name: entry for entry in list_data(tmp_path)}
    assert entries["digits"].state == "embedded"
    assert entries["cifar100"].num_classes == 100
    made = entries["made"]
    assert (made.state, made.shape, made.num_classes, made.folder) == ("prepared", (3, 6, 5), 4, folder)
    assert made.counts == {"train": 50, "test": 10}
    assert [entry.name for entry in entries.values() if entry.state == "damaged"] == ["old"]


def changed(folder: Path, change: Callable[[dict], object]) -> Path:
    """The folder, its manifest changed in place."""
    fields = without_digest(json.loads((folder / MANIFEST).read_text()))
    change(fields)
    (folder / MANIFEST).write_text(json.dumps(with_digest(fields)))
    return folder


def test_a_manifest_that_was_changed_is_noticed_and_an_older_one_without_a_digest_is_read(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "made")
    path = folder / MANIFEST
    whole = path.read_text()
    (mean,) = re.findall(r'"mean": \[\s*([\d.]+)', whole)
    path.write_text(whole.replace(mean, f"{float(mean) + 0.125}", 1))
    with pytest.raises(DataError, match=r'does not have its digest\n  remedy: .* take its "digest" out'):
        read_manifest(folder)
    path.write_text(json.dumps(without_digest(json.loads(whole))))
    assert read_manifest(folder).mean[0] == float(mean)


LONG_NUMBER = '{"format": "ffdist-data", "version": ' + "9" * 5000


@pytest.mark.parametrize("text", ["null", "[]", '"x"', "[" * 10**5, '{"a":' * 5000, LONG_NUMBER + "}"])
def test_json_that_is_no_manifest_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(DataError, match=r"the manifest cannot be used\n  where: .*manifest.json"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("shape", [3, 2147483648, 8]),
        ("shape", [3, 6.0, 5]),
        ("shape", [3, 0, 5]),
        ("std", [None, 1, 1]),
        ("std", [0, 1, 1]),
        ("std", [float("nan"), 1, 1]),
        ("mean", [True, 0, 0]),
        ("classes", ["a", "a", "b", "c"]),
        ("classes", [1, 2, 3, 4]),
        ("name", 5),
        ("superclass", [1]),
        ("decoding", [1]),
        ("notes", [1]),
        ("left_out", [{"what": 1, "why": "x"}]),
        ("held_out", {"test_fraction": "x", "seed": 1}),
        ("splits/train/files", [0]),
        ("splits/train/counts", ["a"]),
        ("splits/train/files/0/rows", -1),
        ("splits/train/files/0/file", "../train-00000.arrow"),
        ("splits/train/files/0/file", "/etc/passwd"),
        ("splits/train/files/0/file", ".."),
        ("splits/train/files/0/file", "a\0b"),
        ("splits/train/files/0/file", None),
        ("splits/train/files/0/file", "train-00001.arrow"),
        ("splits/train/files/0/file", "test-00000.arrow"),
        ("splits/holdout", {}),
        ("superclass", [0, 1, -1, 0]),
        ("splits/train/counts", [51, -1, 0, 0]),
    ],
)
def test_values_that_no_manifest_has_are_one_error(tmp_path: Path, path: str, value: object) -> None:
    def change(fields: dict) -> None:
        *parents, last = path.split("/")
        for key in parents:
            fields = fields[int(key) if key.isdigit() else key]  # pyright: ignore
        fields[last] = value

    folder = changed(prepared(tmp_path / "made"), change)
    for check in (open_data, verify, read_manifest):
        with pytest.raises(DataError, match=r"the manifest cannot be used\n  where: .*manifest.json"):
            check(folder)
    assert [entry.state for entry in list_data(tmp_path) if entry.folder] == ["damaged"]


def test_what_the_manifest_says_of_labels_and_pixels_is_compared_with_them(tmp_path: Path) -> None:
    folder = changed(prepared(tmp_path / "counts"), lambda fields: fields["splits"]["test"].update(counts=[4, 2, 2, 2]))
    for check in (open_data, verify):
        with pytest.raises(DataError, match=r"labels are not those(.|\n)*got: \[3, 3, 2, 2\]"):
            check(folder)
    folder = changed(prepared(tmp_path / "classes"), lambda fields: fields.update(classes=[*"abcde"]))
    for check in (open_data, verify):
        with pytest.raises(DataError, match=r"labels are not those(.|\n)*got: \[13, 13, 12, 12, 0\]"):
            check(folder)
    folder = changed(prepared(tmp_path / "mean"), lambda fields: fields.update(mean=[0.5, 0.5, 0.5]))
    with pytest.raises(DataError, match=r"mean in the manifest is not that of the train pixels"):
        verify(folder)
    folder = changed(prepared(tmp_path / "std"), lambda fields: fields.update(std=[0.5, 0.5, 0.5]))
    with pytest.raises(DataError, match=r"std in the manifest is not that of the train pixels"):
        verify(folder)


def test_files_that_no_manifest_lists_are_noted(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "made")
    (folder / ".DS_Store").write_text("a system's own")
    verify(folder)
    (folder / "train-00009.arrow").write_text("left over")
    with pytest.raises(DataError, match=r"does not list\n(.|\n)*got: train-00009.arrow"):
        verify(folder)


def test_a_manifest_that_may_not_be_read_is_one_error_and_no_end_of_a_list(tmp_path: Path) -> None:
    (tmp_path / "closed" / MANIFEST).mkdir(parents=True)  # also for root unreadable as a file
    prepared(tmp_path / "made")
    for check in (open_data, verify):
        with pytest.raises(DataError, match=r"the manifest cannot be read\n  where: .*closed"):
            check(tmp_path / "closed")
    states = {entry.name: entry.state for entry in list_data(tmp_path) if entry.folder}
    assert states == {"closed": "damaged", "made": "prepared"}
