"""A snapshot has the records of all epochs, and costs no more after many of them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from jobs import QUIET, DigitsJob, learned

from ffdist.digests import with_digest, without_digest
from ffdist.errors import SnapshotError
from ffdist.pipeline.message import Snapshot
from ffdist.runtime.threads import run_threads
from ffdist.snapshot import records as packing
from ffdist.snapshot.manifest import MANIFEST, committed, read_manifest, snapshot_folder
from ffdist.snapshot.newest import latest
from ffdist.snapshot.records import PACKED, RECORDS, PackedRecords, read_packed, unpacked
from ffdist.snapshot.store import SnapshotStore


def record(epoch: int) -> dict[str, Any]:
    blocks = [{"block": f"conv{number}", "loss": 1 / (epoch + number), "accuracy": 0.5} for number in range(8)]
    return {"epoch": epoch, "step": 10 * epoch, "train": {"blocks": blocks}}


def committed_run(run: Path, epochs: int, every: int = 1) -> list[dict[str, Any]]:
    """Snapshots as of a training; returns its records."""
    store, records = SnapshotStore(run, []), []
    for epoch in range(1, epochs + 1):
        records.append(record(epoch))
        if epoch % every == 0:
            marker = Snapshot(10 * epoch, epoch, 0)
            snapshot_folder(run, marker.step, marker.epoch).mkdir(parents=True)
            store.commit(marker, records)
    return records


@pytest.mark.parametrize("epochs", [1, PACKED - 1, PACKED, PACKED + 1, 2 * PACKED, 3 * PACKED + 7])
@pytest.mark.parametrize("every", [1, 50])
def test_every_snapshot_has_all_records(tmp_path: Path, epochs: int, every: int) -> None:
    records = committed_run(tmp_path, epochs, every)
    for folder in committed(tmp_path):
        manifest = read_manifest(folder)
        assert manifest.records == records[: manifest.epoch]
        assert (folder / RECORDS).exists() == (manifest.epoch > PACKED)


def test_what_a_manifest_holds_does_not_grow_with_the_epochs(tmp_path: Path) -> None:
    records = committed_run(tmp_path, 20 * PACKED, 10 * PACKED)
    short, long = committed(tmp_path)
    assert (long / MANIFEST).stat().st_size < 1.1 * (short / MANIFEST).stat().st_size
    assert (long / RECORDS).stat().st_size < 0.2 * len(json.dumps(records))
    lines = gzip.decompress((long / RECORDS).read_bytes()).decode().splitlines()  # by any program that knows gzip
    assert [json.loads(line) for line in lines] == records[: len(lines)]
    assert 1 <= len(records) - len(lines) <= PACKED


def test_a_damaged_file_of_records_has_the_snapshot_before_taken(tmp_path: Path, capsys: Any) -> None:
    committed_run(tmp_path, PACKED + 2)
    *_, before, newest = committed(tmp_path)
    whole = (newest / RECORDS).read_bytes()
    for damaged in (b"", whole[:-1], whole[:40] + bytes([whole[40] ^ 1]) + whole[41:], None):
        (newest / RECORDS).unlink()
        if damaged is not None:
            (newest / RECORDS).write_bytes(damaged)
        taken = latest(tmp_path)
        assert taken is not None
        assert taken.folder == before
        assert RECORDS in capsys.readouterr().err
        (newest / RECORDS).write_bytes(whole)


def test_a_manifest_names_no_other_file_as_its_records(tmp_path: Path) -> None:
    committed_run(tmp_path, PACKED + 1)
    path = committed(tmp_path)[-1] / MANIFEST
    values = without_digest(json.loads(path.read_text()))
    for wrong in ({"file": "../" + RECORDS}, {"file": MANIFEST}, {"bytes": "1"}, {"sha256": None}):
        path.write_text(json.dumps(with_digest(values | {"record_file": values["record_file"] | wrong})))
        with pytest.raises(SnapshotError, match="a manifest cannot be read"):
            read_manifest(path.parent)


def test_gzip_of_far_more_than_records_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(10**8))
    with pytest.raises(ValueError, match="too much"):
        unpacked(bomb)
    packed = PackedRecords()
    packed.add([record(epoch) for epoch in range(1, 2 * PACKED)])
    with pytest.raises(ValueError, match="cut off"):
        unpacked(bytes(packed.data[:-1]))
    path = tmp_path / RECORDS
    path.write_bytes(b"no gzip")
    packed.data = bytearray(b"no gzip")
    packed.digest = packing.hashlib.sha256(b"no gzip")
    with pytest.raises(SnapshotError, match="was not written by ffdist"):
        read_packed(path, packed.entry)


def test_a_run_of_many_epochs_is_gone_on_with_to_the_same_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "PACKED", 2)
    constant = {"schedule": "constant"}
    whole = run_threads(DigitsJob(tmp_path / "whole", epochs=7, settings=constant)(), QUIET)
    run_threads(DigitsJob(tmp_path / "part", epochs=4, settings=constant)(), QUIET)
    newest = committed(tmp_path / "part")[-1]
    assert (newest / RECORDS).exists()
    resumed = run_threads(DigitsJob(tmp_path / "part", epochs=7, settings=constant | {"resume": True})(), QUIET)
    assert learned(resumed.records) == learned(whole.records)
    assert learned(read_manifest(committed(tmp_path / "part")[-1]).records) == learned(whole.records)


def test_a_snapshot_whose_folder_was_removed_meanwhile_is_not_committed_without_its_files(tmp_path: Path) -> None:
    records = [record(epoch) for epoch in range(1, PACKED + 2)]
    with pytest.raises(SnapshotError, match="cannot be written"):
        SnapshotStore(tmp_path, []).commit(Snapshot(1, PACKED + 1, 0), records)
    assert committed(tmp_path) == []
