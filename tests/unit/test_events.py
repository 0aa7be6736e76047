"""Events of a run: their order, their JSON form, and who listens."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jobs import DigitsJob, cut_power_at, fingerprint

from ffdist import events
from ffdist.errors import DataError
from ffdist.events import (
    EVENTS,
    EpochEnded,
    Observers,
    ProgressMade,
    PulseReported,
    RunEvent,
    RunStarted,
    RunStopped,
    SnapshotCommitted,
    StopRun,
    from_json,
)
from ffdist.notes import QUIET
from ffdist.report.log import RUN_LOG, read_pulses
from ffdist.runtime.threads import run_threads

VALUES = {
    "int": st.integers(0, 10**9),
    "float | None": st.none() | st.floats(0, 1e9),
    "str": st.text(),
    "list[str]": st.lists(st.text()),
    "dict[str, Any]": st.dictionaries(st.text(), st.floats(0, 1)),
    "list[dict[str, Any]]": st.lists(st.dictionaries(st.text(), st.integers())),
    "dict[str, Any] | None": st.none() | st.dictionaries(st.text(), st.text()),
}
any_event = st.one_of(
    [st.builds(kind, **{f.name: VALUES[str(f.type)] for f in fields(kind)}) for kind in EVENTS.values()]
)


@given(any_event)
def test_each_event_comes_back_from_its_json_form(event: RunEvent) -> None:
    as_json = json.loads(json.dumps(event.to_json()))
    assert as_json["event"] == event.name
    assert as_json["schema"] == events.SCHEMA
    assert from_json(as_json) == event
    assert from_json(as_json | {"of a later version": 1}) == event


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"event": "progress", "schema": 1},
        {"event": "??", "schema": 1},
        {"event": "progress", "step": 1},
        {"event": "progress", "step": 1, "schema": "1"},
        {"event": [], "schema": 1},
        {"event": "progress", "step": 1, "schema": events.SCHEMA + 1},
    ],
)
def test_what_is_no_event_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="event"):
        from_json(options)


def test_a_run_tells_its_events_in_order_and_its_log_has_each_epoch(tmp_path: Path) -> None:
    heard = list[RunEvent]()
    job = DigitsJob(tmp_path, epochs=2, settings={"stages": 2, "report_every": 0.0, "validation": 0.2})()
    run_threads(job, heard.append)
    kinds = [type(event) for event in heard]
    assert kinds[0] is RunStarted
    assert kinds[-1] is RunStopped
    assert [kind for kind in kinds if kind in (EpochEnded, SnapshotCommitted)] == [EpochEnded, SnapshotCommitted] * 2
    steps = [event.step for event in heard if isinstance(event, ProgressMade)]
    assert steps == list(range(1, len(steps) + 1))
    epochs = [event.record for event in heard if isinstance(event, EpochEnded)]
    assert [record["step"] for record in epochs] == [steps[-1] // 2, steps[-1]]
    lines = [json.loads(line) for line in (tmp_path / RUN_LOG).read_text().splitlines()]
    assert [line["schema"] for line in lines] == [events.SCHEMA] * 3
    assert [line["epoch"] for line in lines[:2]] == [1, 2]
    assert lines[0]["time"] <= lines[1]["time"] <= lines[2]["time"]


@pytest.mark.parametrize("plan", ["* @ 0", "0 @ 0:0, 1:1 | 1-2 @ 1"])
def test_reports_within_an_epoch_change_no_bit_and_tell_of_every_worker(tmp_path: Path, plan: str) -> None:
    of = {"lanes": 2, "microbatches": 2, "samples": 320}
    quiet = DigitsJob(tmp_path / "quiet", epochs=1, settings=of | {"log_every": 0, "replicas": 1})()
    names = quiet.names
    text = plan.replace("1-2", f"{names[1]}, {names[2]}").replace("0 @", f"{names[0]} @", 1) if "|" in plan else plan
    run_threads(quiet, lambda event: None)
    heard = list[RunEvent]()
    run_threads(DigitsJob(tmp_path / "told", epochs=1, settings=of | {"log_every": 1, "plan": text})(), heard.append)
    assert fingerprint(tmp_path / "told") == fingerprint(tmp_path / "quiet")
    reports = [event for event in heard if isinstance(event, PulseReported)]
    (end,) = (event.record for event in heard if isinstance(event, EpochEnded))
    assert [report.step for report in reports] == list(range(1, end["step"])), "the last one is the epoch's own"
    places = [(stage["stage"], stage["worker"]) for stage in end["stages"]]
    for report in reports:
        assert [(stage["stage"], stage["worker"]) for stage in report.stages] == places
        for stage in report.stages:
            assert all(block["loss"] > 0 for block in stage["blocks"])
            assert 0 <= stage["busy"] <= stage["seconds"] * (1 + 1e-6)
    assert [pulse["step"] for pulse in read_pulses(tmp_path / "told")] == [report.step for report in reports]
    assert not read_pulses(tmp_path / "quiet")


def test_an_observer_that_fails_is_reported_and_left_out_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    called, closed = list[str](), list[str]()

    class Listener:
        def __init__(self, name: str, fails: bool = False) -> None:
            self.name = name
            self.fails = fails

        def __call__(self, event: RunEvent) -> None:
            called.append(self.name)
            if self.fails:
                raise ValueError("too much")

        def close(self) -> None:
            closed.append(self.name)

    monkeypatch.setenv(QUIET, "1")  # which silences what was guessed, and no failure
    observers = Observers([Listener("first"), Listener("broken", fails=True), Listener("last")])
    result = run_threads(DigitsJob(tmp_path, epochs=1)(), observers)
    observers.close()
    assert result.reason == "finished"
    assert called[:5] == ["first", "broken", "last", "first", "last"]
    assert called.count("broken") == 1
    assert closed == ["broken", "last", "first"]
    assert capsys.readouterr().err.count("an observer has failed, and gets no further events: ") == 1


def test_an_observer_can_end_the_run_after_a_snapshot(tmp_path: Path) -> None:
    def enough(event: RunEvent) -> None:
        if isinstance(event, ProgressMade) and event.step >= 3:
            raise StopRun

    after = list[RunEvent]()
    job = DigitsJob(tmp_path, epochs=3, settings={"report_every": 0.0, "queue": 1})()
    result = run_threads(job, Observers([enough, after.append]))
    assert result.reason == "interrupted"
    assert isinstance(after[-1], RunStopped)
    committed = [event.step for event in after if isinstance(event, SnapshotCommitted)]
    assert len(committed) == 1
    assert 3 <= committed[0] < 20


def test_a_run_that_goes_on_within_an_epoch_has_each_of_its_pulses_once(tmp_path: Path) -> None:
    options = {"samples": 640, "log_every": 1, "snapshot_every": 3}
    make = DigitsJob(tmp_path, epochs=1, settings=options)
    cut_power_at(5, make)
    run_threads(replace(make, settings=options | {"resume": True})(), lambda event: None)
    assert [pulse["step"] for pulse in read_pulses(tmp_path)] == list(range(1, 8))


@pytest.mark.parametrize("plan", ["* @ 0", "* @ 0,1"])
def test_reports_come_by_time_too_and_all_who_share_a_batch_send_them_after_the_same_one(
    tmp_path: Path, plan: str
) -> None:
    heard = list[RunEvent]()
    options = {"lanes": 2, "samples": 640, "plan": plan, "log_every": "0.000001s"}
    run_threads(DigitsJob(tmp_path, epochs=2, settings=options)(), heard.append)
    steps = [event.step for event in heard if isinstance(event, PulseReported)]
    ends = [event.record["step"] for event in heard if isinstance(event, EpochEnded)]
    assert len(ends) == 2
    assert steps == sorted(set(steps))
    assert 3 <= len(steps) < ends[-1], "as often as batches are exchanged, at most"
    assert not set(ends) & set(steps), "the last one is the epoch's own"
    rare = list[RunEvent]()
    run_threads(DigitsJob(epochs=1, settings=options | {"log_every": "1h"})(), rare.append)
    assert not [event for event in rare if isinstance(event, PulseReported)]
