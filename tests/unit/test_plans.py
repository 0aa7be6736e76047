"""The plan changes nothing: workers as threads, by plans drawn at random, against one worker with the same lanes."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jobs import NEEDS_MUON, QUIET, DigitsJob, cut_power_at, fingerprint, learned

from ffdist.errors import ConfigError, FfdistError, NetworkError, StageError
from ffdist.events import ProgressMade, RunEvent
from ffdist.models import mlp
from ffdist.objectives import SCFF, SFF, Hinton, Local
from ffdist.pipeline.block import LearningBlock, learn
from ffdist.pipeline.by_batch import frames_of
from ffdist.pipeline.edge import ToEdge
from ffdist.pipeline.flat import ALIGNMENT, FlatParameters, in_memory
from ffdist.pipeline.halving import Halving, halves_pay
from ffdist.pipeline.message import Message, Stop, TrainBatch, Written, from_frame
from ffdist.pipeline.plan import build_block
from ffdist.pipeline.reduce import Reduction, slices_pay
from ffdist.pipeline.route import FanOut
from ffdist.pipeline.running import in_order
from ffdist.pipeline.slices import OwnSlice
from ffdist.pipeline.stage_group import StageGroup
from ffdist.pipeline.tree import PartialSum, added_up, halves, nodes_of, total
from ffdist.plan import Plan, PlanStage, Share, spread
from ffdist.runtime.job import Job
from ffdist.runtime.planning import given_plan, saved_plan, settled_plan
from ffdist.runtime.routes import routes_of
from ffdist.runtime.run import read_settings, write_settings
from ffdist.runtime.threads import run_threads
from ffdist.settings import Settings
from ffdist.snapshot import latest
from ffdist.transport.base import Frame
from ffdist.transport.shared_memory import MAX_DEPTH

LANES = 4
SMALL: dict[str, Any] = {"samples": 100, "batch_size": 16, "lanes": LANES}
UNEVEN = SMALL | {"samples": 50, "batch_size": 7}
"""Batches of an epoch: 7, 7, 7, 7, 7, 5."""
JOBS = {
    "batch norm": DigitsJob(settings=SMALL),
    "dropout in microbatches": DigitsJob(noisy=True, settings=SMALL | {"microbatches": 2}),
    "all at once": DigitsJob(
        objective=Hinton(predict="linear", peer=0.03, hard=True, lag=48),  # as many batches as any plan can hold
        noisy=True,
        settings=SMALL
        | {
            "fusion": True,
            "microbatches": 2,
            "precision": "bf16",
            "ema": 0.9,
            "clip": 0.1,
            "no_decay": ("bias",),
            "windows": ((0, 1), (0, 2), (1, 2)),
        },
    ),
    "plateau": DigitsJob(settings=SMALL | {"schedule": "plateau", "patience": 0}, epochs=3),
    "fp16": DigitsJob(noisy=True, settings=SMALL | {"precision": "fp16"}),
    "gradients in bf16": DigitsJob(settings=SMALL | {"exchange_dtype": "bf16"}),
    "synchronised norms": DigitsJob(objective=SCFF(peer=0.03), settings=SMALL | {"sync_norms": True, "ema": 0.9}),
    "synchronised norms, uneven": DigitsJob(settings=UNEVEN | {"sync_norms": True, "optimizer": "sgd"}),
    "uneven": DigitsJob(settings=UNEVEN),
    "fewer samples than lanes": DigitsJob(settings=SMALL | {"samples": 4}),
    "stops early": DigitsJob(epochs=6, settings=SMALL | {"early_stop": 1, "lr": 1e-9}),
    "sgd": DigitsJob(settings=SMALL | {"optimizer": "sgd", "lr": 0.05, "momentum": 0.9, "warmup": 0.2}),
}
FEW = settings(max_examples=3, deadline=None, derandomize=True)


@st.composite
def plans(draw: st.DrawFn, names: list[str]) -> Plan:
    """Any stages, with any workers, who may serve in several, and have any numbers."""
    ends = sorted(draw(st.sets(st.integers(1, len(names) - 1))))
    stages, workers = [], 0
    for first, behind in zip([0, *ends], [*ends, len(names)], strict=True):
        parts = sorted(draw(st.sets(st.integers(1, LANES - 1), max_size=3)))
        by_batch = bool(parts) and draw(st.booleans())
        shares: list[Share] = []
        for a, b in zip([0, *parts], [*parts, LANES], strict=True):
            had = {share.worker for share in shares}
            worker = draw(st.sampled_from([w for w in range(workers + 1) if w not in had]))
            workers = max(workers, worker + 1)
            shares.append(Share(worker, range(LANES) if by_batch else range(a, b)))
        stages.append(PlanStage(tuple(names[first:behind]), tuple(shares), by_batch=by_batch))
    return Plan(LANES, tuple(stages)).renumbered(draw(st.permutations(range(workers))))


def run(make: DigitsJob, plan: Plan | str, folder: Path, **more: Any) -> tuple[Any, ...]:
    """What a run has learned and said."""
    job = replace(make, run=folder, settings=make.settings | {"plan": str(plan), **more})()
    result = run_threads(job, QUIET)
    return fingerprint(folder), learned(result.records), result.test


ALONE: dict[str, tuple[Any, ...]] = {}


def alone(name: str) -> tuple[Any, ...]:
    """By one worker."""
    if name not in ALONE:
        with TemporaryDirectory() as folder:
            ALONE[name] = run(JOBS[name], "* @ 0", Path(folder))
    return ALONE[name]


@pytest.mark.parametrize("name", JOBS)
@FEW
@given(data=st.data())
def test_any_plan_learns_the_bits_of_one_worker(name: str, data: st.DataObject) -> None:
    plan = data.draw(plans(JOBS[name]().names))
    with TemporaryDirectory() as folder:
        exchange = data.draw(st.sampled_from(["slices", "whole", "halves"]))
        assert run(JOBS[name], plan, Path(folder), exchange=exchange) == alone(name)
        assert saved_plan(Path(folder)) == plan


@pytest.mark.parametrize(
    ("name", "exchange"), [*((name, "halves") for name in JOBS), ("batch norm", "slices"), ("all at once", "slices")]
)
def test_blocks_that_all_travel_together_learn_the_same_bits(
    name: str, exchange: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of very many workers do."""
    monkeypatch.setattr("ffdist.pipeline.bucket.MIN_SLICES", 4)
    assert run(JOBS[name], f"* @ 0-{LANES - 1}", tmp_path, exchange=exchange) == alone(name)


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"clip": 0.1, "ema": 0.9},
        {"exchange_dtype": "bf16"},
        pytest.param({"optimizer": "muon", "lr": 0.02, "muon_rest": "adamw"}, marks=NEEDS_MUON),
    ],
    ids=["slices", "clipped", "bf16", "muon"],
)
def test_sixteen_workers_learn_the_bits_of_one_by_halves(told: dict[str, Any], tmp_path: Path) -> None:
    """Beside a stage of another number of them; the last batch has fewer samples than lanes."""
    small = {"samples": 90, "lanes": 16, "batch_size": 32, "snapshot_every": 2}
    make = DigitsJob(epochs=1, settings=small | told)
    num_bytes = sum(p.nbytes for p in make().chain.build(1, 0).parameters())
    assert [halves_pay(many, 16, num_bytes) for many in (8, 16)] == [False, True]
    assert halves_pay(16, 16, 2**26)
    assert not halves_pay(16, 16, 2**26 + 16)
    assert not halves_pay(24, 24, num_bytes)
    plan = "conv1 @ 8-15 | conv2 conv3 @ 0-15"
    assert run(make, plan, tmp_path / "sixteen") == run(make, "* @ 0", tmp_path / "one")


@pytest.mark.parametrize("workers", [2, 4, 16])
def test_halves_are_of_siblings_and_come_together_again(workers: int) -> None:
    flat = FlatParameters([torch.nn.Parameter(torch.zeros(64 * 21 + 5))], "")
    all_of_them = [Halving(flat, place, workers) for place in range(workers)]
    ends = sorted((part.start, part.stop) for part in all_of_them[0].slices())
    assert [a for a, _ in ends] == [0, *(b for _, b in ends[:-1])]
    assert ends[-1][1] == flat.size
    for mine in all_of_them:
        for level in range(mine.levels):
            other = all_of_them[mine.other(level)]
            part = mine.part(mine.place, level)
            assert part == other.part(other.place, level)
            both = sorted((half.start, half.stop) for half in (mine.half(each.place, level) for each in (mine, other)))
            assert [both[0][0], both[0][1], both[1][1]] == [0, both[1][0], part.stop - part.start]
            assert halves(mine.node(level + 1)) == tuple(sorted([mine.node(level), other.node(level)]))
    assert {each.node(each.levels) for each in all_of_them} == {(0, workers)}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("* @ 0:0-1, 1:2-3", "noisy1 @ 0 | noisy2 @ 0:0, 1:1-3 | noisy3 @ 1"),
        ("noisy1 @ 0 | noisy2 noisy3 @ 1", "* @ 0-3"),
        ("noisy1 noisy2 @ 3:0, 1:1, 2:2, 0:3 | noisy3 @ 2", "noisy1 @ 0 | noisy2 noisy3 @ 1"),
        ("noisy1 noisy2 @ 0:0-2, 1:3 | noisy3 @ 2", "* @ 0"),
        ("* @ 0-2 by batch", "noisy1 @ 0 | noisy2 noisy3 @ 1, 0 by batch"),
        ("noisy1 @ 0:0-1, 1:2-3 | noisy2 noisy3 @ 2, 1, 0 by batch", "* @ 1, 0 by batch"),
    ],
)
def test_a_run_goes_on_by_another_plan(before: str, after: str, tmp_path: Path) -> None:
    """Four workers add up by halves, others by slices."""
    name = "dropout in microbatches"
    told = {"plan": before, "snapshot_every": 2, "exchange": "halves"}
    cut = replace(JOBS[name], run=tmp_path, settings=JOBS[name].settings | told)
    cut_power_at(5, cut)
    manifest = latest(tmp_path)
    assert manifest
    assert manifest.batch, "in the middle of an epoch"
    assert run(JOBS[name], after, tmp_path, resume=True, snapshot_every=2, exchange="halves") == alone(name)
    assert "ffdist stop" not in [thread.name for thread in threading.enumerate()], "also where worker 1 has the source"


@pytest.mark.parametrize(
    "plan",
    [
        "conv1 @ 2:0, 1:1, 0:2-3 | conv2 @ 3, 1, 2 by batch | conv3 @ 0, 3, 4 by batch",
        "conv1 @ 0, 1 by batch | conv2 conv3 @ 2, 3 by batch",
    ],
)
def test_snapshots_as_often_as_can_be_let_nobody_wait_in_a_circle(plan: str, tmp_path: Path) -> None:
    """What tells of files on disk takes no room out of the stream's order."""
    assert run(JOBS["batch norm"], plan, tmp_path, snapshot_every=1) == alone("batch norm")


def test_words_of_files_on_disk_go_as_one_in_front_of_the_next_message() -> None:
    sent: list[list[Message]] = [[], []]

    @dataclass
    class Kept:
        to: list[Message]
        waited: float = 0.0

        def send(self, frame: Frame) -> None:
            self.to.append(from_frame(frame))

    ways = [ToEdge(Kept(to)) for to in sent]  # pyright: ignore[reportArgumentType]
    out = FanOut([{0: way} for way in ways])
    for file in ("a", "b"):
        out.send(Written(3, 0, [{"file": file}]))
    assert sent == [[], []]
    out.send(TrainBatch(4, torch.zeros(1), torch.zeros(1, dtype=torch.int64), order=1))
    word, batch = sent[1]
    assert isinstance(batch, TrainBatch)
    assert word == Written(3, 0, [{"file": "a"}, {"file": "b"}])
    assert not sent[0]
    out.send(Written(4, 0))
    out.send(Stop("finished"))
    assert sent[0] == [Written(4, 0), Stop("finished")]
    assert sent[1][2:] == [Stop("finished")]


def digits_block(**told: Any) -> LearningBlock:
    """The second of the small network, as a worker has it."""
    job = DigitsJob(settings=SMALL | {"plan": "* @ 0-2"} | told)()
    return build_block(job.chain, job.block_specs()[1], job.objective, job.block_config(torch.device("cpu"), 10))


@pytest.mark.parametrize(("workers", "told", "sliced"), [(3, {}, True), (3, {"clip": 1.0}, False), (2, {}, False)])
def test_a_worker_keeps_the_moments_of_its_slice_alone(workers: int, told: dict[str, Any], *, sliced: bool) -> None:
    block = digits_block(**told)
    team = StageGroup(1, spread(range(workers), LANES), {}, {})
    reduction = Reduction(block, range(1, 2), LANES, team, sliced=slices_pay(workers))
    assert (reduction.own is not None) == sliced
    if reduction.own is None:
        return
    learn([block], torch.rand(6, *block.spec.input_shape), torch.arange(6), 1)
    before, _ = block.state()
    reduction.begin_run()
    held = sum(value.numel() for value in reduction.own.moments().values() if value.dim())
    assert held <= 2 * reduction.flat.size / workers + 2 * ALIGNMENT
    others = [OwnSlice(digits_block(**told), reduction.flat, reduction.slices, place) for place in range(workers)]
    assert {piece for other in others for piece in other.own} == {piece for part in others[0].pieces for piece in part}
    slices = [
        of_moments(before, other) if place != 1 else reduction.own.moments() for place, other in enumerate(others)
    ]
    with reduction.whole(slices):
        after, _ = block.state()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def of_moments(tensors: dict[str, torch.Tensor], own: OwnSlice) -> dict[str, torch.Tensor]:
    """What a worker with that slice would have of a block's state."""
    found = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, number, slot = name.split(".")
            for piece in (piece for piece in own.own if piece.number == int(number)):
                part = value if slot == "step" else in_memory(value)[piece.first : piece.end]
                found[f"{number} {slot}"] = part
    return found


def test_one_lane_is_what_a_batch_was_before() -> None:
    with TemporaryDirectory() as one, TemporaryDirectory() as other:
        make = DigitsJob(noisy=True, settings=SMALL | {"lanes": 1, "microbatches": 2})
        none = replace(make, settings={k: v for k, v in make.settings.items() if k != "lanes"})
        by_stages = replace(none, run=Path(other), settings=none.settings | {"stages": 2})
        result = run_threads(by_stages(), QUIET)
        assert run(make, "* @ 0", Path(one)) == (fingerprint(Path(other)), learned(result.records), result.test)


def test_lanes_are_part_of_what_is_learned_and_stay(tmp_path: Path) -> None:
    make = DigitsJob(tmp_path, epochs=1, settings={"samples": 100, "batch_size": 16, "replicas": 2})
    job = make()
    write_settings(tmp_path, job.settings)
    run_threads(job, QUIET)
    assert read_settings(tmp_path).training.lanes == 2
    four = replace(make, epochs=2, settings=make.settings | {"replicas": 4, "resume": True})
    with pytest.raises(ConfigError, match=r"training\.lanes cannot change"):
        run_threads(four(), QUIET)


@pytest.mark.parametrize(
    ("told", "match"),
    [
        ({"replicas": 4, "lanes": 2}, "more replicas than lanes"),
        ({"replicas": 2, "stages": 2}, "exclude one another"),
        ({"plan": "conv1 @ 0", "lanes": 1}, "leaves blocks out"),
        ({"plan": "nowhere.json"}, "there is no such plan"),
        ({"plan": " "}, "is empty"),
        ({"lanes": 5, "microbatches": 4, "batch_size": 16}, "more than a batch holds"),
    ],
)
def test_what_does_not_go_together_is_refused(told: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        DigitsJob(settings=told)()


def test_a_plan_that_is_longer_than_a_files_name_may_be_is_a_text() -> None:
    plan = Plan.replicated(["conv1", "conv2", "conv3"], 64, 64)
    assert len(str(plan)) > 255
    assert given_plan(str(plan), plan.blocks, None) == plan
    told = Settings().changed(plan=str(plan))
    assert settled_plan(told) == told


class Unruly(SFF):
    """A user's rule that writes to weights by itself, and not by the seeds it gets."""

    def local(self, head: torch.nn.Module, out: torch.Tensor, labels: torch.Tensor | None) -> Local:
        if head.training:
            with torch.no_grad():
                for parameter in head.parameters():
                    parameter.flatten()[0] += random.SystemRandom().random()
        return super().local(head, out, labels)


def test_plans_by_batch_are_written_and_read() -> None:
    names = ["conv1", "conv2", "conv3"]
    plan = Plan.parse("conv1 @ 2 | conv2..conv3 @ 1, 0  by  batch", names)
    assert plan.lanes == 1
    assert str(plan) == "conv1 @ 2 | conv2 conv3 @ 1, 0 by batch"
    assert Plan.parse(str(plan), names) == plan == Plan.from_json(plan.as_json())
    assert [plan.stages[1].worker_of(0, order) for order in range(4)] == [1, 0, 1, 0]
    assert plan.routes(0) == [(2, 1), (2, 0)]
    assert Plan.parse("* @ 0-3 by batch", names, lanes=2).stages[0].lanes_of(3) == range(2)
    assert not Plan.parse("* @ 0-1", names).stages[0].by_batch


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("* @ 0 by batch", "shares out no batches"),
        ("* @ 0, 0 by batch", "a worker twice"),
        ("* @ 0:0, 1:1 by batch", "names no workers"),
        ("* @ 0, 2 by batch", "leaves workers out"),
        ("* @ by batch", "names no workers"),
        ("* @ 0, 1 by batches", r"(?s)names no workers.*0,1 by batch"),
        ("* @ 0, 1 bybatch", r"(?s)names no workers.*0,1 by batch"),
    ],
)
def test_what_is_no_plan_by_batch_is_refused(text: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Plan.parse(text, ["conv1", "conv2"])


@pytest.mark.parametrize(
    "change",
    [
        {"by_batch": 1},
        {"by_batch": "yes"},
        {"by_batch": None},
        {"by_batches": True},
        {"blocks": "conv1"},
        {"blocks": [1]},
        {"workers": {}},
        {"workers": [{"worker": 0, "lanes": [0, 0, 0]}, {"worker": 1, "lanes": [0, 0]}]},
        {"workers": [{"worker": 0, "lanes": "00"}, {"worker": 1, "lanes": [0, 0]}]},
    ],
)
def test_a_file_that_is_no_plan_by_batch_is_refused(change: dict[str, Any]) -> None:
    value = Plan.parse("* @ 0, 1 by batch", ["conv1"]).as_json()
    value["stages"][0] |= change
    with pytest.raises(ConfigError, match="the file is not a plan"):
        Plan.from_json(value)


@pytest.mark.parametrize("workers", [2, 3, 4])
@pytest.mark.parametrize("stop_at", [1, 4])
def test_batches_in_turn_end_after_the_same_one_when_asked_to_stop(workers: int, stop_at: int, tmp_path: Path) -> None:
    make = DigitsJob(tmp_path, epochs=1, settings=SMALL | {"lanes": 1, "samples": 200, "batch_size": 8})
    sent = list[int]()  # one signal: a second one, a while later, would end the run at once

    def interrupt(event: RunEvent) -> None:
        if isinstance(event, ProgressMade) and event.step >= stop_at and not sent:
            sent.append(event.step)
            os.kill(os.getpid(), signal.SIGINT)

    order = range(workers) if stop_at == 1 else reversed(range(workers))  # the first of them has the source that leads
    plan = f"* @ {', '.join(map(str, order))} by batch"
    job = replace(make, settings=make.settings | {"plan": plan, "report_every": 0.0})()
    assert run_threads(job, interrupt).reason == "interrupted"
    manifest = latest(tmp_path)
    assert manifest
    assert manifest.batch, "in the middle of an epoch"
    whole = tmp_path / "whole"
    assert run(make, plan, tmp_path, resume=True) == run(make, "* @ 0", whole)


@dataclass(frozen=True)
class DeepJob(DigitsJob):
    """A network of more blocks than an edge in shared memory has slots."""

    def __call__(self) -> Job:
        job = super().__call__()
        chain = mlp(job.images.shape, job.images.num_classes, (8,) * (MAX_DEPTH + 1))
        return replace(job, chain=chain)


def test_states_of_very_many_blocks_travel_together(tmp_path: Path) -> None:
    told: dict[str, Any] = {"samples": 16, "batch_size": 8, "lanes": 1}
    make = DeepJob(epochs=1, settings=told)
    assert run(make, "* @ 0, 1 by batch", tmp_path / "two") == run(make, "* @ 0", tmp_path / "one")
    for blocks in (1, 3, MAX_DEPTH, MAX_DEPTH + 1, 1000):
        parts = frames_of(blocks)
        assert [number for numbers in parts for number in numbers] == list(range(blocks))
        plan = Plan.parse("* @ 0-2 by batch", [f"block{i}" for i in range(blocks)])
        within = [route for route in routes_of(plan, 2) if route.purpose == "gradients"]
        assert all(len(parts) < route.depth <= MAX_DEPTH for route in within)


class Forgetful(torch.optim.SGD):
    """A user's optimiser that keeps a number of Python's, and puts new tensors in place of old ones."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                kept = self.state[parameter]
                kept["count"] = kept.get("count", 0) + 1
                kept["mean"] = 0.9 * kept.get("mean", torch.zeros_like(parameter)) + parameter.grad
                parameter.sub_(kept["mean"] / float(kept["count"]), alpha=group["lr"])


@pytest.mark.parametrize(
    "told",
    [
        {"optimizer": f"{__name__}:Forgetful", "lr": 0.01},
        {"optimizer": "muon", "lr": 0.02, "muon_rest": "adamw"},
        {"optimizer": "sgd", "lr": 0.05, "momentum": 0.0},
        {"on_nan": "skip", "schedule": "one-cycle", "warmup": 0.3},
    ],
    ids=["a user's", "muon", "no momentum", "skip"],
)
def test_whatever_an_optimiser_keeps_goes_with_the_batches(told: dict[str, Any], tmp_path: Path) -> None:
    if told.get("optimizer") == "muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("needs torch's Muon")
    make = DigitsJob(epochs=1, settings=SMALL | {"lanes": 1} | told)
    assert run(make, "* @ 0-2 by batch", tmp_path / "three") == run(make, "* @ 0", tmp_path / "one")


def test_workers_that_come_to_hold_other_weights_are_an_error(tmp_path: Path) -> None:
    """Where each updates all; of slices, each number is written by one worker alone."""
    job = DigitsJob(objective=Unruly(), settings=SMALL)
    with pytest.raises(StageError, match=r"(?s)two workers hold different weights.*block conv1.*workers [01] and [01]"):
        run(job, "* @ 0-1", tmp_path, exchange="whole")


class Failing(SFF):
    """A rule that does not do in its third batch."""

    def local(self, head: torch.nn.Module, out: torch.Tensor, labels: torch.Tensor | None) -> Local:
        if head.training and next(COUNT) > 8:
            raise ValueError("of its own")
        return super().local(head, out, labels)


COUNT = itertools.count()


def test_a_worker_that_fails_in_one_of_its_stages_leaves_no_thread_behind(tmp_path: Path) -> None:
    with pytest.raises(FfdistError, match="of its own"):
        run(DigitsJob(objective=Failing(), settings=SMALL), "conv1 @ 0:0-1, 1:2-3 | conv2 conv3 @ 1:0, 0:1-3", tmp_path)
    assert not [thread.name for thread in threading.enumerate() if thread.name == "ffdist part"]


def test_weights_of_two_types_in_a_block_need_one_lane() -> None:
    class Mixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = torch.nn.Linear(2, 2)
            self.two = torch.nn.Linear(2, 2).double()

    with pytest.raises(NetworkError, match="weights of one type"):
        FlatParameters(list(Mixed().parameters()), "a block")


@given(st.integers(1, 9), st.data())
def test_a_tree_is_the_same_whoever_adds_it_up(lanes: int, data: st.DataObject) -> None:
    there = data.draw(st.lists(st.booleans(), min_size=lanes, max_size=lanes))
    values = [torch.randn(3) if here else None for here in there]
    middle = data.draw(st.integers(0, lanes))
    parts = [PartialSum(range(middle), lanes), PartialSum(range(middle, lanes), lanes)]
    for lane, value in enumerate(values):
        parts[lane >= middle].put(lane, value)
    found = total({**parts[0].take(), **parts[1].take()}, (0, lanes), torch.add)
    whole = total({(i, i + 1): v for i, v in enumerate(values) if v is not None}, (0, lanes), torch.add)
    assert (found is None) == (whole is None)
    assert found is None or whole is None or torch.equal(found, whole)


def test_the_tree_pairs_neighbours() -> None:
    assert halves((0, 4)) == ((0, 2), (2, 4))
    assert halves((0, 3)) == ((0, 2), (2, 3))
    assert nodes_of(range(1, 4), 4) == [(1, 2), (2, 4)]
    a, b, c, d = (torch.tensor(x) for x in (1e8, -1e8, 1.0, 1e-9))
    assert torch.equal(added_up([a, b, c, d]), (a + b) + (c + d))


def test_running_means_take_microbatches_in_order() -> None:
    start, means, momentum = torch.tensor([0.5]), [torch.tensor([1.0]), torch.tensor([3.0])], 0.1
    made = [(1 - momentum) * start + momentum * mean for mean in means]
    now = start
    for mean in means:
        now = (1 - momentum) * now + momentum * mean
    assert torch.allclose(in_order(start, made, momentum), now)
    assert in_order(torch.tensor(3), [torch.tensor(4), torch.tensor(4)], None) == 5
