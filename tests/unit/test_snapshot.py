"""Snapshots: all or nothing, checked when read, the last few kept."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import QUIET, DigitsJob

from ffdist.errors import DamagedSnapshotError, Interrupted, SnapshotError
from ffdist.pipeline.message import Snapshot
from ffdist.runtime.interrupts import handle_signals, signals_restored, unwind
from ffdist.runtime.threads import run_threads
from ffdist.snapshot import Manifest, SnapshotStore, committed, latest, newest, read_manifest, use_snapshot
from ffdist.snapshot.chosen import BEST, write_mark
from ffdist.snapshot.files import BlockCopy, read_block, write_durably, write_of_snapshot
from ffdist.snapshot.manifest import MANIFEST, commit, discard_others, snapshot_folder


def written(path: Path, tensors: dict[str, torch.Tensor], fields: dict[str, Any]) -> dict[str, Any]:
    return BlockCopy(tensors, fields).write(path, Path(path.anchor))


def snapshot(run: Path, step: int, *, committed: bool = True, keep: int = 2) -> Path:
    folder = snapshot_folder(run, step, 0)
    entry = written(folder / "block-000-a.safetensors", {"w": torch.full((3,), float(step))}, {"step": step})
    if committed:
        manifest = Manifest(step, 0, step, ["a"], [entry])
        commit(run, manifest)
        discard_others(run, manifest, keep=keep)
    return folder


def test_a_block_reads_back_as_it_was_written_in_every_dtype(tmp_path: Path) -> None:
    tensors = {
        str(d): torch.arange(6).reshape(2, 3).to(d) for d in (torch.float32, torch.bfloat16, torch.int64, torch.bool)
    }
    tensors["channels-last"] = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    entry = written(tmp_path / "b.safetensors", tensors, {"lr": 0.1, "nested": [1, {"x": None}]})
    read, fields = read_block(tmp_path / "b.safetensors", entry)
    os.truncate(tmp_path / "b.safetensors", 0)  # a tensor that were still the file's own would end this process
    assert fields == {"lr": 0.1, "nested": [1, {"x": None}]}
    assert all(torch.equal(read[name], value) and read[name].dtype == value.dtype for name, value in tensors.items())


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    entries = [
        written(tmp_path / f"{i}.safetensors", {"w": torch.ones(4), "a": torch.zeros(2)}, {"x": 1, "y": [2]})
        for i in range(5)
    ]
    assert len({entry["sha256"] for entry in entries}) == 1


def test_a_snapshot_without_its_manifest_is_none(tmp_path: Path) -> None:
    snapshot(tmp_path, 5)
    snapshot(tmp_path, 10, committed=False)
    manifest = latest(tmp_path)
    assert manifest is not None
    assert manifest.step == 5


def test_the_last_k_are_kept_and_what_is_being_written_is_not_touched(tmp_path: Path) -> None:
    snapshot(tmp_path, 7, committed=False)
    coming = snapshot(tmp_path, 99, committed=False)
    for step in (10, 20, 30):
        snapshot(tmp_path, step, keep=2)
    assert sorted(path.name for path in (tmp_path / "snapshots").iterdir()) == [
        snapshot_folder(tmp_path, 20, 0).name,
        snapshot_folder(tmp_path, 30, 0).name,
        coming.name,
    ]


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_file_is_named_with_a_remedy(damage: str, tmp_path: Path) -> None:
    folder = snapshot(tmp_path, 5)
    path = folder / "block-000-a.safetensors"
    data = bytearray(path.read_bytes())
    match damage:
        case "flip":
            data[-1] ^= 1
            path.write_bytes(data)
        case "cut":
            path.write_bytes(data[:-4])
        case "remove":
            path.unlink()
    with pytest.raises(SnapshotError, match=r"block-000-a(.|\n)*remedy"):
        read_block(path, read_manifest(folder).files[0])


@pytest.mark.parametrize("text", ["", "{", '{"format": 99}', '{"format": 1}', "[]"])
def test_a_manifest_that_is_not_whole_is_refused(text: str, tmp_path: Path) -> None:
    folder = snapshot(tmp_path, 5)
    (folder / MANIFEST).write_text(text)
    with pytest.raises(SnapshotError, match=r"manifest\.json"):
        latest(tmp_path)


def test_of_a_damaged_newest_snapshot_the_one_before_is_taken_and_both_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, last = snapshot(tmp_path, 5), snapshot(tmp_path, 10)
    (last / "block-000-a.safetensors").write_bytes(b"")
    manifest = latest(tmp_path)
    assert manifest is not None
    assert manifest.folder == before
    said = capsys.readouterr().err
    assert "step-000000010-epoch-00000/block-000-a.safetensors: a snapshot file is corrupt" in said
    assert "of step 5" in said
    (before / MANIFEST).write_text("null")
    with pytest.raises(
        SnapshotError, match=r"no snapshot of the run is whole(.|\n)*step-000000010(.|\n)*step-000000005"
    ):
        latest(tmp_path)


def test_any_changed_byte_of_a_manifest_is_noticed(tmp_path: Path) -> None:
    path = snapshot(tmp_path, 5) / MANIFEST
    written = path.read_bytes()
    meant = json.loads(written)
    for place in range(len(written)):
        changed = bytearray(written)
        changed[place] ^= 1
        path.write_bytes(changed)
        try:
            if json.loads(changed.decode()) == meant:
                continue  # a space between two words
        except ValueError:
            pass
        with pytest.raises(SnapshotError):
            read_manifest(path.parent)


@pytest.mark.parametrize(
    "change",
    [
        {"step": 6},
        {"epoch": 1},
        {"step": True},
        {"batch": 10**400},
        {"batch": -1},
        {"files": [0]},
        {"blocks": [1]},
        {"blocks": "a"},
        {"records": [7]},
        {"records": [{"epoch": 0, "train": None}]},
        {"records": [{"epoch": 0, "train": {"blocks": []}, "validation": {"accuracy": {"mean": 0}, "weights": "x"}}]},
        {"extra_files": [{}]},
        {"other": 1},
    ],
)
def test_an_older_manifest_without_a_digest_is_held_to_its_folder_and_types(
    change: dict[str, object], tmp_path: Path
) -> None:
    path = snapshot(tmp_path, 5) / MANIFEST
    values = json.loads(path.read_text()) | {"format": 1}
    del values["digest"]
    path.write_text(json.dumps(values))
    assert read_manifest(path.parent).step == 5
    path.write_text(json.dumps(values | change))
    with pytest.raises(SnapshotError, match="a manifest cannot be read"):
        read_manifest(path.parent)


@pytest.mark.parametrize("text", ["[" * 100_000, "null", "7", '{"format": ' + "9" * 400 + "}"])
def test_json_of_another_kind_is_no_manifest(text: str, tmp_path: Path) -> None:
    folder = snapshot(tmp_path, 5)
    (folder / MANIFEST).write_text(text)
    with pytest.raises(SnapshotError, match="a manifest cannot be read"):
        read_manifest(folder)


def test_a_file_of_a_manifest_lies_beside_it(tmp_path: Path) -> None:
    folder = snapshot(tmp_path, 5)
    manifest = read_manifest(folder)
    manifest.files[0]["file"] = "../x"
    commit(tmp_path, manifest)
    with pytest.raises(SnapshotError, match="no file of a snapshot"):
        read_manifest(folder)


def test_reading_while_training_goes_on_takes_what_is_newest_then(tmp_path: Path) -> None:
    """The snapshot that is being read is discarded for the next, as with --keep 1."""
    snapshot(tmp_path, 5, keep=1)
    read: list[int] = []

    def slow(manifest: Manifest) -> int:
        read.append(manifest.step)
        if len(read) < 3:
            snapshot(tmp_path, manifest.step + 1, keep=1)
        return int(read_block(manifest.folder / manifest.files[0]["file"], manifest.files[0])[1]["step"])

    assert newest(tmp_path, slow) == 7
    assert read == [5, 6, 7]


def test_the_best_that_is_read_while_another_takes_its_place_is_the_other(tmp_path: Path) -> None:
    write_mark(tmp_path, {"snapshot": snapshot(tmp_path, 5).name, "accuracy": 0.5})
    read: list[int] = []

    def slow(manifest: Manifest) -> int:
        read.append(manifest.step)
        if len(read) == 1:
            write_mark(tmp_path, {"snapshot": snapshot(tmp_path, 6, keep=1).name, "accuracy": 0.6})
        return int(read_block(manifest.folder / manifest.files[0]["file"], manifest.files[0])[1]["step"])

    assert use_snapshot(tmp_path, BEST, slow) == 6
    assert read == [5, 6]
    (committed(tmp_path)[0] / "block-000-a.safetensors").unlink()
    with pytest.raises(DamagedSnapshotError, match="a snapshot file is missing"):
        use_snapshot(tmp_path, BEST, slow)


COME_AND_GO = """
import os, sys
path, away = sys.argv[1:]
while os.getppid() != 1:
    os.rename(path, away)
    os.rename(away, path)
"""


def test_a_file_that_goes_at_any_moment_while_it_is_read_is_missing_and_nothing_else(tmp_path: Path) -> None:
    """safetensors opens it twice, and raises something else for the second time."""
    path, missed = tmp_path / "block.safetensors", list[str]()
    entry = BlockCopy({"weight": torch.ones(3)}, {"step": 1}).write(path)
    with subprocess.Popen([sys.executable, "-S", "-c", COME_AND_GO, path, tmp_path / "away"]) as going:
        try:
            while len(missed) < 600 and going.poll() is None:
                try:
                    read_block(path, entry)
                except DamagedSnapshotError as error:
                    missed.append(error.what)
        finally:
            going.kill()
    assert set(missed) == {"a snapshot file is missing"}


def test_a_full_disk_is_an_error_and_leaves_the_last_snapshot_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = snapshot(tmp_path, 5)

    def no_room(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(SnapshotError, match="no room on the disk"):
        snapshot(tmp_path, 10)
    monkeypatch.undo()
    manifest = latest(tmp_path)
    assert manifest is not None
    assert manifest.folder == folder
    assert not list((tmp_path / "snapshots").rglob("*.partial"))


def test_a_run_folder_that_is_renamed_while_an_old_snapshot_goes_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, away = tmp_path / "run", tmp_path / "away"
    snapshot(run, 5)
    store = SnapshotStore(run, ["a"], keep=1)
    manifest = read_manifest(snapshot(run, 10, keep=2))
    remove = shutil.rmtree

    def renamed_before(path: Path) -> None:
        run.rename(away)
        remove(path)

    monkeypatch.setattr(shutil, "rmtree", renamed_before)
    with pytest.raises(SnapshotError, match="the run folder is gone"):
        store._discard_others(run, manifest, None)
    with pytest.raises(SnapshotError, match="the run folder is gone"), store.in_its_folder(run):
        os.unlink(run / "a file of it")
    assert latest(away)


@pytest.mark.parametrize("name", ["config.toml", "data.json"])
def test_a_run_whose_own_files_are_taken_away_is_an_error_at_its_next_snapshot(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    store = SnapshotStore(tmp_path, ["a"])
    store.check_there(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(SnapshotError, match="a file of the run is gone") as error:
        store.check_there(tmp_path)
    assert error.value.where == tmp_path / name


def test_nothing_makes_a_runs_folder_again_that_was_taken_away(tmp_path: Path) -> None:
    """It would stand where the folder is to be put back."""
    run = tmp_path / "run"
    for path in (run / "snapshots" / "step-1" / "a.safetensors", run / "best.json"):
        with pytest.raises(SnapshotError, match="let nothing remove a run's files"):
            write_of_snapshot(path, b"x", run if path.parent != run else None)
    assert list(tmp_path.iterdir()) == []
    run.mkdir()
    write_of_snapshot(run / "snapshots" / "step-1" / "a.safetensors", b"x", run)
    assert (run / "snapshots" / "step-1" / "a.safetensors").read_bytes() == b"x"


def test_an_old_snapshot_that_cannot_be_removed_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where a network's file system keeps a file that somebody reads."""
    store = SnapshotStore(tmp_path, ["a"], keep=1)
    old = snapshot(tmp_path, 5)
    manifest = read_manifest(snapshot(tmp_path, 10, keep=2))

    def kept(path: Path) -> None:
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path))

    monkeypatch.setattr(shutil, "rmtree", kept)
    for _ in range(2):
        store._discard_others(tmp_path, manifest, None)
    monkeypatch.undo()
    assert capsys.readouterr().err.count("an old snapshot cannot be removed") == 1
    assert latest(tmp_path) == manifest
    store._discard_others(tmp_path, manifest, None)
    assert not old.exists()


def test_the_names_of_new_folders_are_on_disk_before_what_is_written_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, synced = os.fsync, []

    def watched(descriptor: int) -> None:
        fsync(descriptor)
        synced.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", watched)
    folder = snapshot(tmp_path / "runs" / "a", 5, committed=False)
    on_the_way = [tmp_path, tmp_path / "runs", tmp_path / "runs" / "a", folder.parent, folder]
    assert {path.stat().st_ino for path in on_the_way} <= set(synced)


def test_an_older_file_survives_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    write_of_snapshot(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "broken disk")))
    with pytest.raises(SnapshotError, match="cannot be written"):
        write_of_snapshot(path, b"new")
    assert path.read_bytes() == b"old"


def test_a_write_that_a_signal_interrupts_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    write_durably(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda _: signal.raise_signal(signal.SIGTERM))
    with signals_restored():
        handle_signals(unwind)
        with pytest.raises(Interrupted):
            write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [path]


def test_a_snapshot_of_another_model_is_refused(tmp_path: Path) -> None:
    run_threads(DigitsJob(tmp_path, epochs=1)(), QUIET)
    other = DigitsJob(tmp_path, noisy=True, settings={"resume": True})
    with pytest.raises(SnapshotError, match="of another model"):
        run_threads(other(), QUIET)


def test_a_snapshot_of_the_same_blocks_with_other_shapes_is_refused(tmp_path: Path) -> None:
    make = DigitsJob(tmp_path, epochs=1)
    run_threads(make(), QUIET)
    manifest = latest(tmp_path)
    assert manifest is not None
    path = manifest.folder / manifest.files[2]["file"]
    tensors, fields = read_block(path, manifest.files[2])
    tensors["module.0.weight"] = tensors["module.0.weight"][:3]
    manifest.files[2].update(written(path, tensors, fields))
    names = ("step", "epoch", "batch", "blocks", "files", "records")
    values = {"format": 1} | {name: getattr(manifest, name) for name in names}
    (manifest.folder / MANIFEST).write_text(json.dumps(values))
    with pytest.raises(SnapshotError, match=r"module\.0\.weight"):
        run_threads(replace(make, settings={"resume": True})(), QUIET)


def test_nothing_is_committed_into_another_folder_of_the_runs_name(tmp_path: Path) -> None:
    """Where the run's own was renamed, and one that looks alike was made."""
    run = tmp_path / "run"
    run.mkdir()
    store = SnapshotStore(run, [])
    run.rename(tmp_path / "away")
    folder = snapshot_folder(run, 1, 0)
    folder.mkdir(parents=True)
    with pytest.raises(SnapshotError, match="another is in its place"):
        store.commit(Snapshot(1, 0, 1), [])
    assert list(folder.iterdir()) == []
