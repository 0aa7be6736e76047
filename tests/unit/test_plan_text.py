"""A plan as text and file, and what is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ffdist.digests import with_digest
from ffdist.errors import ConfigError
from ffdist.plan import Plan, PlanStage, Share, read_plan, spread
from ffdist.plan.names import spelled
from ffdist.plan.text import stages_of

NAMES = ["conv1", "conv2", "conv3"]


def test_a_heavy_block_is_shared() -> None:
    plan = Plan.parse("conv1@0 | conv2@0:0,1:1-3 | conv3@1", NAMES)
    assert plan.lanes == 4
    assert plan.workers == 2
    assert plan.stages[1] == PlanStage(("conv2",), (Share(0, range(1)), Share(1, range(1, 4))))
    assert plan.routes(0) == [(0, 0), (0, 1)]
    assert plan.routes(1) == [(0, 1), (1, 1)]
    assert plan.stages_of(0) == [0, 1]
    assert not plan.is_pipeline


@pytest.mark.parametrize(
    ("short", "whole"),
    [
        ("* @ 0-1", "conv1 conv2 conv3 @ 0:0, 1:1"),
        ("conv1..conv2@0 | conv3@1", "conv1 conv2 @ 0 | conv3 @ 1"),
        ("conv1,conv2@0|conv3@1", "conv1 conv2 @ 0 | conv3 @ 1"),
        ("*@1:1,0:0", "conv1 conv2 conv3 @ 0:0, 1:1"),
    ],
)
def test_short_forms(short: str, whole: str) -> None:
    assert str(Plan.parse(short, NAMES)) == whole


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("conv1", "is none"),
        ("", "is none"),
        ("conv1 @ 0 @ 1 | conv2 conv3 @ 1", "is none"),
        ("@ 0 | * @ 1", "without blocks"),
        ("conv1 @ | conv2 conv3 @ 0", "without workers"),
        ("conv1 @ 0 | conv2 @ 1", "leaves blocks out"),
        ("conv1 conv1 @ 0 | conv2 conv3 @ 1", "a block twice"),
        ("conv1 convX @ 0 | conv2 conv3 @ 1", "unknown block"),
        ("conv2 @ 0 | conv1 conv3 @ 1", "goes backwards"),
        ("conv3..conv1 @ 0", "goes backwards"),
        ("* @ 0:0, 1:2", "leaves lanes out"),
        ("* @ 0:0-1, 1:1-2", "twice"),
        ("* @ 0:0, 0:1", "a worker twice"),
        ("* @ one", "names no workers"),
        ("* @ 1-0", "names no workers"),
        ("* @ 0:0, 1", "names no worker with its lanes"),
        ("* @ 0:1-0", "names no worker with its lanes"),
        ("* @ " + "9" * 5000, "names no workers"),
        ("* @ 0:" + "9" * 5000, "names no worker with its lanes"),
        ("* @ \u0660", "names no workers"),
        ("conv1 @ 0 | conv2 conv3 @ 2", "leaves workers out"),
        ('conv1 "conv2 @ 0 | conv3 @ 1', "in quotes that is none"),
        (r'conv1 "conv2\q" conv3 @ 0', "in quotes that is none"),
    ],
)
def test_what_is_no_plan_is_refused(text: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        Plan.parse(text, NAMES)


def test_lanes_that_are_set() -> None:
    assert Plan.parse("* @ 0", NAMES, lanes=4).lanes == 4
    with pytest.raises(ConfigError, match="more workers at a stage than lanes"):
        Plan.parse("* @ 0,1,2", NAMES, lanes=2)
    with pytest.raises(ConfigError, match="leaves lanes out"):
        Plan.parse("* @ 0:0, 1:1", NAMES, lanes=3)
    with pytest.raises(ConfigError, match="lanes that there are not"):
        Plan.parse("* @ 0:0, 1:1-2", NAMES, lanes=2)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    lanes = draw(st.integers(1, 6))
    cut = draw(st.sampled_from([[3], [1, 2], [2, 1], [1, 1, 1]]))
    stages, first, workers = [], 0, 0
    for size in cut:
        count = draw(st.integers(1, lanes))
        ends = sorted(
            draw(st.sets(st.integers(1, lanes - 1), min_size=count - 1, max_size=count - 1)) if lanes > 1 else []
        )
        parts = [range(a, b) for a, b in zip([0, *ends], [*ends, lanes], strict=True)]
        chosen: list[int] = []
        for _ in parts:
            worker = draw(st.integers(0, workers).filter(lambda w, had=tuple(chosen): w not in had))
            workers = max(workers, worker + 1)
            chosen.append(worker)
        stages.append(PlanStage(tuple(NAMES[first : first + size]), tuple(map(Share, chosen, parts))))
        first += size
    return Plan(lanes, tuple(stages))


@given(plans())
def test_a_plan_is_the_same_after_its_text_and_its_file(plan: Plan) -> None:
    plan.check(NAMES)
    assert Plan.parse(str(plan), NAMES, plan.lanes) == plan
    assert Plan.from_json(json.loads(json.dumps(plan.as_json()))) == plan


names = st.one_of(
    st.text(min_size=1), st.sampled_from(["*", "a..b", "0:0-1", 'say "it"', "conv 1", "x|y", "a@b", "\\"])
)


@given(st.lists(names, min_size=1, max_size=4, unique=True), st.data())
def test_any_name_of_a_block_comes_back_from_the_text(blocks: list[str], data: st.DataObject) -> None:
    ends = sorted(data.draw(st.sets(st.integers(1, len(blocks) - 1)))) if len(blocks) > 1 else []
    plan = Plan.pipeline(blocks, [b - a for a, b in zip([0, *ends], [*ends, len(blocks)], strict=True)])
    assert Plan.parse(str(plan), blocks) == plan
    assume(f"{blocks[0]}..{blocks[-1]}" not in blocks)
    assert Plan.parse(f"{spelled(blocks[0])}..{spelled(blocks[-1])} @ 0", blocks) == Plan.parse("* @ 0", blocks)
    assert len(stages_of(str(plan))) == len(plan.stages)


def test_plain_names_stand_without_quotes() -> None:
    assert str(Plan.pipeline(["conv1", "layer-2.0", "größe*2"], [1, 2])) == "conv1 @ 0 | layer-2.0 größe*2 @ 1"
    assert str(Plan.pipeline(["conv 1", "*"], [2])) == '"conv 1" "*" @ 0'


@given(plans(), st.data())
def test_renumbered_workers_keep_their_work(plan: Plan, data: st.DataObject) -> None:
    numbers = data.draw(st.permutations(range(plan.workers)))
    other = plan.renumbered(numbers)
    other.check(NAMES)
    for worker, number in enumerate(numbers):
        assert other.stages_of(number) == plan.stages_of(worker)
        for stage in plan.stages_of(worker):
            assert other.stages[stage].lanes_of(number) == plan.stages[stage].lanes_of(worker)


@given(st.integers(1, 9), st.integers(0, 40))
def test_lanes_are_spread_evenly(workers: int, more: int) -> None:
    shares = spread(range(workers), workers + more)
    assert [lane for share in shares for lane in share.lanes] == list(range(workers + more))
    assert {len(share.lanes) for share in shares} <= {(workers + more) // workers, -(-(workers + more) // workers)}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "lanes": 1, "stages": [{}]}', "null"])
def test_a_file_that_is_no_plan_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="plan"):
        read_plan(path)


def test_a_file_is_read(tmp_path: Path) -> None:
    plan = Plan.pipeline(NAMES, [1, 2], lanes=2)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"plan": plan.as_json(), "text": str(plan), "beside": 1}), "utf-8-sig")
    assert read_plan(path) == plan
    path.write_text(json.dumps({"plan": plan.as_json(), "text": "* @ 0"}))
    with pytest.raises(ConfigError, match="text is another plan than its plan"):
        read_plan(path)


def test_a_runs_own_file_is_read_where_it_is_as_it_was_written(tmp_path: Path) -> None:
    plan, path = Plan.pipeline(NAMES, [1, 2], lanes=2), tmp_path / "plan.json"
    value = with_digest(plan.as_json())
    path.write_text(json.dumps(value))
    assert read_plan(path) == plan
    path.write_text(json.dumps(value | {"lanes": 3}))
    with pytest.raises(ConfigError, match=r"(?s)cannot be read.*does not have its digest"):
        read_plan(path)


def test_workers_of_a_file_may_stand_in_any_order() -> None:
    plan = Plan.parse("conv1 @ 2 | conv2 conv3 @ 1:0, 0:1-3", NAMES)
    value = plan.as_json()
    value["stages"][1]["workers"].reverse()
    assert Plan.from_json(value) == plan
    turns = Plan.parse("* @ 1, 0 by batch", NAMES)
    assert [share.worker for share in Plan.from_json(turns.as_json()).stages[0].shares] == [1, 0]


def test_a_plan_of_more_or_fewer_workers_than_ranks_says_how_many_of_each() -> None:
    plan = Plan.pipeline(NAMES, [1, 2])
    plan.check_ranks(2, "torchrun")
    for ranks in (1, 3):
        says = rf"(?s)expected: {ranks} workers, one a rank \(torchrun\).*got: 2.*remedy: 2 ranks.*--devices {ranks}`"
        with pytest.raises(ConfigError, match=says):
            plan.check_ranks(ranks, "torchrun")
