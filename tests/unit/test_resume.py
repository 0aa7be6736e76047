"""A run resumed from a snapshot ends with the same bits as one never interrupted."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist
from jobs import QUIET, DigitsJob, cut_power_at, fingerprint, learned

from ffdist.data import Split
from ffdist.digests import with_digest
from ffdist.errors import SnapshotError, StageError
from ffdist.events import Observer, ProgressMade, RunEvent
from ffdist.objectives import SFF
from ffdist.pipeline.classifier import Classifier
from ffdist.report.log import RUN_LOG, read_run_log
from ffdist.runtime.job import Job
from ffdist.runtime.outcome import Result
from ffdist.runtime.processes import run_processes
from ffdist.runtime.threads import ThreadEdges, run_threads
from ffdist.runtime.worker import Worker
from ffdist.runtime.worker_main import TrainingMain
from ffdist.runtime.world import World
from ffdist.snapshot import Manifest, SnapshotStore, committed, latest, newest, read_manifest
from ffdist.snapshot.files import BlockCopy, read_block
from ffdist.snapshot.manifest import MANIFEST, commit

EVERY = 5


PLATEAU = {"schedule": "plateau", "patience": 0}
AVERAGED = {
    "optimizer": "sgd",
    "lr": 0.05,
    "warmup": 0.2,
    "ema": 0.9,
    "clip": 0.1,
    "no_decay": ("bias",),
    "windows": ((0, 1),) + ((0, 2),) * 2,
}
STUCK = {"lr": 1e-12, "schedule": "constant"}


@pytest.mark.parametrize(
    ("before", "after", "optim"),
    [(1, 1, PLATEAU), (2, 3, PLATEAU), (3, 1, PLATEAU), (1, 2, PLATEAU), (3, 1, AVERAGED), (1, 2, AVERAGED)],
)
def test_stop_in_mid_epoch_and_resume_with_any_number_of_stages(
    before: int, after: int, optim: dict[str, Any], tmp_path: Path
) -> None:
    make = DigitsJob(settings={**optim, "snapshot_every": EVERY})
    whole = run_threads(replace(make, run=tmp_path / "whole")(), QUIET)
    cut = replace(make, run=tmp_path / "cut")
    cut_power_at(12, replace(cut, settings=make.settings | {"stages": before}))
    manifest = latest(tmp_path / "cut")
    assert manifest is not None
    assert manifest.step >= 10
    resumed = run_threads(replace(cut, settings=make.settings | {"stages": after, "resume": True})(), QUIET)
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "whole")
    assert learned(resumed.records) == learned(whole.records)
    assert resumed.test == whole.test


def test_asked_to_stop_it_makes_a_snapshot_and_goes_on_from_there(tmp_path: Path) -> None:
    make = DigitsJob(epochs=1)
    run_threads(replace(make, run=tmp_path / "whole")(), QUIET)
    result = stopped_at(7, replace(make, run=tmp_path / "cut", settings={"report_every": 0.0}))
    manifest = latest(tmp_path / "cut")
    assert result.reason == "interrupted"
    assert manifest is not None
    assert 7 <= manifest.step < 17
    run_threads(replace(make, run=tmp_path / "cut", settings={"resume": True})(), QUIET)
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "whole")


def stopped_at(step: int, make: DigitsJob) -> Result:
    """One stage, told to stop while it works on a batch."""
    stop = Event()

    def report(event: RunEvent) -> None:
        if isinstance(event, ProgressMade) and event.step == step:
            stop.set()

    return run_alone(make, stop, report)


def run_alone(make: DigitsJob, stop: Event, report: Observer = QUIET) -> Result:
    """One stage, told to stop by `stop`."""
    result = Result()
    Worker(make(), World(), dist.HashStore(), ThreadEdges(), result.collecting(report), stop).run()
    return result


class StopBefore(Event):
    """A stop that comes just before it is looked for the `look`-th time, from 1: once when the stages are ready."""

    def __init__(self, look: int) -> None:
        super().__init__()
        self.left = look

    def is_set(self) -> bool:
        self.left -= 1
        return self.left <= 0


@pytest.mark.parametrize(
    ("schedule", "optim"), [({}, AVERAGED), ({"snapshot_every": 1}, PLATEAU), ({"early_stop": 1}, STUCK)]
)
def test_stopped_anywhere_it_goes_on_to_the_same_bits_and_leaves_every_snapshot_as_it_was(
    schedule: dict[str, Any], optim: dict[str, Any], tmp_path: Path
) -> None:
    settings = {**optim, **schedule, "samples": 120, "batch_size": 32, "keep": 99}
    make = DigitsJob(epochs=4 if "early_stop" in schedule else 2, settings=settings)
    whole = run_threads(replace(make, run=tmp_path / "whole")(), QUIET)
    with pytest.raises(StageError, match="before the stages were ready"):
        run_alone(replace(make, run=tmp_path / "early"), StopBefore(1))
    result, look = Result("interrupted"), 1
    while result.reason == "interrupted":
        look += 1
        cut = replace(make, run=tmp_path / f"cut-{look}")
        result = run_alone(cut, StopBefore(look))
        committed = contents(tmp_path / f"cut-{look}")
        resumed = run_threads(replace(cut, settings=settings | {"resume": True})(), QUIET)
        assert contents(tmp_path / f"cut-{look}").items() >= committed.items()
        assert fingerprint(tmp_path / f"cut-{look}") == fingerprint(tmp_path / "whole")
        assert learned(resumed.records) == learned(whole.records)
        assert resumed.test == whole.test
    assert look > len(whole.records) * 3


class StoppingSplit(Split):
    """One that tells a process to stop when a sample is read, once."""

    ready = False

    def __init__(self, split: Split, sample: int, process: int) -> None:
        self.split = split
        self.sample = sample
        self.process = process
        self.labels = split.labels
        self.has_signalled = False

    def take(self, indices: np.ndarray) -> np.ndarray:
        if self.sample in indices and not self.has_signalled:
            self.has_signalled = True
            os.kill(self.process, signal.SIGTERM)
            time.sleep(1)  # until it is heard: nothing is read meanwhile
        return self.split.take(indices)

    def digest(self) -> str:
        return self.split.digest()


@dataclass(frozen=True)
class StoppedInValidation(DigitsJob):
    """Told to stop when the first worker reads the fifth of a validation's ten batches."""

    process: int | None = None
    """The one that is told; None: the one that makes the job."""

    def __call__(self) -> Job:
        job = super().__call__()
        validation = job.loaders().validation
        assert validation
        assert len(validation) == 10
        split = StoppingSplit(job.images.train, int(validation.indices[4 * 16]), self.process or os.getpid())
        return replace(job, images=replace(job.images, train=split))


@pytest.mark.parametrize(
    ("plan", "launcher"),
    [
        ("* @ 0", "threads"),
        ("conv1 @ 0:0, 1:1 | conv2 conv3 @ 0:0, 1:1", "threads"),
        ("* @ 0, 1 by batch", "threads"),
        ("conv1 @ 0 | conv2 conv3 @ 1", "processes"),
    ],
)
def test_told_to_stop_in_a_validation_it_does_so_at_once_and_makes_it_again(
    plan: str, launcher: str, tmp_path: Path
) -> None:
    settings = {"samples": 800, "batch_size": 16, "lanes": 2, "plan": plan, "schedule": "plateau", "patience": 0}
    whole = run_threads(DigitsJob(tmp_path / "whole", 2, settings=settings | {"plan": "* @ 0"})(), QUIET)
    make = StoppedInValidation(tmp_path / "cut", 2, settings=settings, process=os.getpid())
    cut = run_processes(TrainingMain(make), 2, QUIET) if launcher == "processes" else run_threads(make(), QUIET)
    manifest = latest(tmp_path / "cut")
    assert manifest
    assert (cut.reason, cut.signal, cut.records) == ("interrupted", signal.SIGTERM, [])
    assert (manifest.step, manifest.epoch, manifest.batch) == (40, 0, 40)
    resumed = run_threads(DigitsJob(tmp_path / "cut", 2, settings=settings | {"resume": True})(), QUIET)
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "whole")
    assert learned(resumed.records) == learned(whole.records)
    assert resumed.test == whole.test
    records, _ = read_run_log(tmp_path / "cut")
    assert [record["epoch"] for record in records] == [1, 2]
    assert learned(records) == learned(whole.records)


def contents(run: Path) -> dict[Path, str]:
    """The sha256 of every file of every snapshot."""
    return {path: sha256(path.read_bytes()).hexdigest() for path in (run / "snapshots").rglob("*") if path.is_file()}


def test_the_run_log_of_a_resumed_run_holds_every_epoch_once(tmp_path: Path) -> None:
    make = DigitsJob(tmp_path, epochs=3)
    cut_power_at(40, make)
    run_threads(replace(make, settings={"resume": True})(), QUIET)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("epoch") for line in lines] == [1, 2, 3, None]
    assert lines[-1]["reason"] == "finished"


def test_a_run_of_a_version_that_counted_epochs_from_0_is_read_and_resumed_as_it_was_meant(tmp_path: Path) -> None:
    make = DigitsJob(epochs=4)
    whole = run_threads(replace(make, run=tmp_path / "whole")(), QUIET)
    old = replace(make, run=tmp_path / "old")
    cut_power_at(40, old)
    as_counted_from_0(tmp_path / "old")
    logged = [json.loads(line)["epoch"] for line in (tmp_path / "old" / RUN_LOG).read_text().splitlines()]
    records, end = read_run_log(tmp_path / "old")
    assert end is None
    assert logged == list(range(len(records)))
    assert [record["epoch"] for record in records] == [epoch + 1 for epoch in logged]
    resumed = run_threads(replace(old, settings={"resume": True})(), QUIET)
    assert learned(resumed.records) == learned(whole.records)
    assert fingerprint(tmp_path / "old") == fingerprint(tmp_path / "whole")
    lines = [json.loads(line) for line in (tmp_path / "old" / RUN_LOG).read_text().splitlines()]
    assert [line.get("epoch") for line in lines] == [1, 2, 3, 4, None]


def as_counted_from_0(run: Path) -> None:
    """What older versions left: the manifest's format 2, and 0 for the first epoch there and in the run log."""
    for folder in committed(run):
        values = json.loads((folder / MANIFEST).read_text())
        del values["digest"]
        values |= {"format": 2, "records": [before(record) for record in values["records"]]}
        assert values["records"]
        (folder / MANIFEST).write_text(json.dumps(with_digest(values)))
    log = run / RUN_LOG
    log.write_text("".join(json.dumps(before(json.loads(line))) + "\n" for line in log.read_text().splitlines()))


def before(record: dict[str, Any]) -> dict[str, Any]:
    return record | {"epoch": record["epoch"] - 1}


def test_early_stop_looks_at_the_epoch_before_whatever_the_cut(tmp_path: Path) -> None:
    lengths = set()
    for stages in (1, 3):
        settings = {"stages": stages, "early_stop": 2, **STUCK}
        result = run_threads(DigitsJob(epochs=30, settings=settings)(), QUIET)
        lengths.add(len(result.records))
    assert lengths == {4}


def test_resuming_where_there_is_no_snapshot_says_so(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="no snapshot to resume from"):
        run_threads(DigitsJob(tmp_path, settings={"resume": True, "stages": 2})(), QUIET)


def test_with_a_damaged_last_snapshot_a_run_goes_on_from_the_one_before_to_the_same_bits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make = DigitsJob(settings={"snapshot_every": EVERY})
    run_threads(replace(make, run=tmp_path / "whole")(), QUIET)
    cut = replace(make, run=tmp_path / "cut")
    cut_power_at(25, cut)
    last = committed(tmp_path / "cut")[-1]
    path = last / "block-001-conv2.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    run_threads(replace(cut, settings={"resume": True, "stages": 2})(), QUIET)
    assert f"{path}: a snapshot file is corrupt" in capsys.readouterr().err
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "whole")
    assert (last.parent / f"damaged-{last.name}" / path.name).exists()


def test_a_snapshot_with_nan_is_neither_learned_from_nor_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though every digest is right: the one before is measured, and learned from once this one is removed."""
    make = DigitsJob(run=tmp_path / "run", settings={"snapshot_every": EVERY})
    run_threads(make(), QUIET)
    before, last = (read_manifest(folder) for folder in committed(tmp_path / "run")[-2:])
    path = last.folder / last.files[0]["file"]
    tensors, fields = read_block(path, last.files[0])
    next(tensor for name, tensor in tensors.items() if name.endswith("weight")).view(-1)[0] = float("nan")
    entry = BlockCopy(tensors, fields).write(path)
    commit(tmp_path / "run", replace(last, files=[entry, *last.files[1:]]))
    store = SnapshotStore(tmp_path / "run", last.blocks)
    classifier = Classifier(make().chain, SFF())

    def load(manifest: Manifest) -> int:
        store.load_weights(classifier, manifest)
        return manifest.step

    assert newest(tmp_path / "run", load) == before.step
    assert "a snapshot holds NaN" in capsys.readouterr().err
    with pytest.raises(SnapshotError, match="remove the snapshot's folder"):
        run_threads(replace(make, epochs=3, settings={"resume": True})(), QUIET)
