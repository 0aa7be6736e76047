"""Snapshots are written in the background: what is written is of one batch, and a commit waits for all of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import QUIET, DigitsJob, fingerprint

from ffdist.errors import SnapshotError
from ffdist.events import RunEvent, SnapshotCommitted
from ffdist.pipeline.edge import FromEdge, ToEdge
from ffdist.pipeline.message import EndOfSplit, Message, Pulse, Snapshot, Stop, TrainBatch, Written
from ffdist.pipeline.plan import build_block
from ffdist.pipeline.route import FanIn, FanOut
from ffdist.pipeline.sink import Sink
from ffdist.pipeline.stage import Stage
from ffdist.runtime.threads import run_threads
from ffdist.snapshot import SnapshotStore, committed
from ffdist.snapshot.files import block_file, read_block
from ffdist.snapshot.manifest import snapshot_folder
from ffdist.transport.base import Edge
from ffdist.transport.local import open_local

NAMES = ["block-000-a.safetensors", "block-001-b.safetensors"]


class Kept:
    """An outbox that keeps what it gets."""

    waited = 0.0

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def send(self, message: Message) -> None:
        self.messages.append(message)

    def kinds(self) -> list[str]:
        return [type(message).__name__ for message in self.messages]


def entry(name: str) -> dict[str, Any]:
    return {"file": name, "bytes": 1, "sha256": "0"}


def a_stage(files: dict[str, Future[dict[str, Any]]]) -> Stage:
    job = DigitsJob()()
    config = job.block_config(torch.device("cpu"), 10)
    return Stage(
        0, [build_block(job.chain, spec, job.objective, config) for spec in job.block_specs()], lambda *_: files
    )


def batch(step: int) -> TrainBatch:
    return TrainBatch(step, torch.randn(8, 1, 8, 8), torch.arange(8) % 10)


def test_a_stage_learns_on_while_its_files_are_written_and_then_says_so_once() -> None:
    file: Future[dict[str, Any]] = Future()
    stage, out = a_stage({NAMES[0]: file}), Kept()
    stage.handle(Snapshot(1, 0, 1), out)
    stage.handle(batch(2), out)
    stage.handle(Pulse(2, 0), out)
    assert out.kinds() == ["Snapshot", "TrainBatch", "Pulse"]
    assert out.messages[0] == Snapshot(1, 0, 1, awaited=[NAMES[0]])
    file.set_result(entry(NAMES[0]))
    stage.handle(batch(3), out)
    stage.handle(Stop(), out)
    assert out.kinds()[3:] == ["Written", "TrainBatch", "Stop"]
    assert out.messages[3] == Written(1, 0, [entry(NAMES[0])])


@pytest.mark.parametrize("marker", [Snapshot(9, 0, 9), EndOfSplit("train", 0), Stop()])
def test_markers_wait_until_the_snapshot_before_them_is_on_disk(marker: Message) -> None:
    file: Future[dict[str, Any]] = Future()
    stage, out = a_stage({NAMES[0]: file}), Kept()
    stage.handle(Snapshot(1, 0, 1), out)
    later = threading.Timer(0.05, file.set_result, [entry(NAMES[0])])
    later.start()
    stage.handle(marker, out)
    assert out.kinds() == ["Snapshot", "Written", type(marker).__name__]
    later.join()


def test_what_fails_in_the_background_fails_the_stage() -> None:
    file: Future[dict[str, Any]] = Future()
    stage, out = a_stage({NAMES[0]: file}), Kept()
    stage.handle(Snapshot(1, 0, 1), out)
    file.set_exception(SnapshotError("no room on the disk for a snapshot"))
    with pytest.raises(SnapshotError, match="no room"):
        stage.handle(batch(2), out)


def test_a_commit_waits_for_every_stages_word() -> None:
    commits: list[list[str]] = []
    events: list[RunEvent] = []
    sink = Sink(
        commit=lambda marker, _: commits.append([each["file"] for each in marker.files]),
        publish=lambda *_: None,
        observer=events.append,
        report_every=1e9,
    )
    sink.send(Snapshot(1, 0, 1, awaited=NAMES))
    sink.send(Written(1, 0, [entry(NAMES[1])]))
    assert (commits, events) == ([], [])
    sink.send(Written(1, 0, [entry(NAMES[0])]))
    assert commits == [NAMES]
    assert events == [SnapshotCommitted(1, 0)]
    sink.send(Snapshot(2, 0, 2))
    assert commits == [NAMES, []]


def test_a_word_comes_by_one_way_between_any_two_messages_and_before_the_markers_after_it() -> None:
    """Of a stage of two workers: each has a lane, the first has written."""
    edges = [open_local(Edge(str(number), 9, timedelta(seconds=9))) for number in range(2)]
    ways = [ToEdge(sender) for sender, _ in edges]
    word = Written(1, 0, [entry(NAMES[0])])
    for lane, way in enumerate(ways):
        way.send(Snapshot(1, 0, 1, awaited=[NAMES[0]] * (lane == 0)))
        way.send(replace(batch(2), lane=lane))
    out = FanOut([{0: ways[1], 1: ways[0]}])
    out.send(word)
    out.send(Stop())

    def all_of_them() -> Iterator[Message]:
        for message in FanIn([{lane: FromEdge(receiver) for lane, (_, receiver) in enumerate(edges)}]):
            yield message
            if isinstance(message, Stop):
                return

    found = list(all_of_them())
    assert [type(each).__name__ for each in found] == ["Snapshot", "TrainBatch", "TrainBatch", "Written", "Stop"]
    assert found[0] == Snapshot(1, 0, 1, awaited=[NAMES[0]])
    assert found[3] == word


def test_what_is_written_is_the_block_as_it_was_whatever_it_learns_meanwhile(tmp_path: Path) -> None:
    stage = a_stage({})
    store = SnapshotStore(tmp_path, [block.spec.name for block in stage.blocks])
    block, marker = stage.blocks[0], Snapshot(1, 0, 1)
    stage.handle(batch(1), Kept())
    then = {name: value.clone() for name, value in block.state()[0].items()}
    with store.writing:  # as a slow disk
        files = store.save([block], marker)
        stage.handle(batch(2), Kept())
        assert not any(file.done() for file in files.values())
    name = block_file(block.spec.index, block.spec.name)
    read, _ = read_block(snapshot_folder(tmp_path, 1, 0) / name, files[name].result(10))
    assert all(torch.equal(read[key], value) for key, value in then.items())
    assert any(not torch.equal(value, then[key]) for key, value in block.state()[0].items())
    assert committed(tmp_path) == []


@pytest.mark.parametrize("plan", ["conv1 conv2 @ 0 | conv3 @ 1", "conv1 @ 0:0, 1:1 | conv2 conv3 @ 0:0, 1:1"])
def test_each_due_snapshot_is_committed_in_order_whatever_the_plan(plan: str, tmp_path: Path) -> None:
    lanes = 2 if ":" in plan else 1
    options = {"snapshot_every": 4, "plan": plan, "lanes": lanes, "keep": 99}
    committed_at: list[tuple[int, int]] = []

    def hear(event: RunEvent) -> None:
        if isinstance(event, SnapshotCommitted):
            committed_at.append((event.step, event.epoch))

    run_threads(DigitsJob(tmp_path / "planned", epochs=1, settings=options)(), hear)
    assert committed_at == [(4, 0), (8, 0), (12, 0), (16, 0), (17, 1)]
    run_threads(DigitsJob(tmp_path / "alone", epochs=1, settings={"lanes": lanes})(), QUIET)
    assert fingerprint(tmp_path / "planned") == fingerprint(tmp_path / "alone")
