"""The trace of a run: a file that Chrome's tools read, with all workers on one clock; and torch's profiles."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from jobs import QUIET, DigitsJob, fingerprint
from traces import read

import ffdist
from ffdist.errors import ConfigError
from ffdist.page.spans import read_trace, spans_of, without_overlap
from ffdist.runtime.processes import run_processes
from ffdist.runtime.threads import run_threads
from ffdist.runtime.tracing import ClockOffset, common_clock
from ffdist.runtime.worker_main import TrainingMain
from ffdist.runtime.world import World

SHARED = "{0} @ 0:0, 1:1 | {1}, {2} @ 1"
WAYS: dict[str, Callable[[DigitsJob], object]] = {
    "threads": lambda make: run_threads(make(), QUIET),
    "processes": lambda make: run_processes(TrainingMain(make), 2, QUIET),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_trace_has_what_each_worker_did_on_one_clock_and_changes_no_bit(tmp_path: Path, way: str) -> None:
    of = {"lanes": 2, "samples": 640, "validation": 0.2}
    plain = DigitsJob(tmp_path / "plain", epochs=1, settings=of | {"replicas": 1})
    run_threads(plain(), QUIET)
    plan = SHARED.format(*plain().names)
    options = of | {"plan": plan, "trace": True, "trace_from": 2, "trace_steps": 4, "profile": 2 * (way == "threads")}
    WAYS[way](DigitsJob(tmp_path / "traced", epochs=1, settings=options))
    assert fingerprint(tmp_path / "traced") == fingerprint(tmp_path / "plain")
    spans = read(tmp_path / "traced")
    assert {span["args"]["step"] for span in spans} == {2, 3, 4, 5}
    rows = defaultdict[tuple[int, int], list[dict[str, Any]]](list)
    for span in spans:
        rows[span["pid"], span["tid"]].append(span)
    assert set(rows) == {(0, 0), (1, 0), (1, 2)}, "of each worker, and of each of its stages"
    first = {span["cat"] for span in rows[0, 0]}
    assert {"compute", "no_data", "send", "exchange"} <= first
    assert {"no_gradients"} & {span["cat"] for row in rows.values() for span in row}
    assert {"compute", "receive"} <= {span["cat"] for span in rows[1, 2]}
    for name in plain().names[1:]:
        assert {f"{name} forward", f"{name} learn"} <= {span["name"] for span in rows[1, 2]}
    for row in rows.values():
        within_one_another(row)
    for step in (2, 3, 4, 5):  # cause before effect, over the borders of processes
        sent = min(s["ts"] for s in spans if s["name"] == f"send batch {step}" and s["pid"] == 0)
        computed = [s["ts"] for s in rows[1, 2] if s["args"]["step"] == step and s["cat"] == "compute"]
        assert sent < max(computed)
    for stage, worker in ((0, 0), (0, 1), (1, 1)) if way == "threads" else ():
        profile = json.loads((tmp_path / "traced" / "profile" / f"stage-{stage}-worker-{worker}.json").read_text())
        assert any("conv" in str(event.get("name")) for event in profile["traceEvents"])


def within_one_another(row: list[dict[str, Any]]) -> None:
    """Spans of one thread lie beside or within one another, as Chrome's tools want them."""
    open_ones = list[float]()
    for span in sorted(row, key=lambda each: (each["ts"], -each["dur"])):
        while open_ones and open_ones[-1] <= span["ts"] + 0.002:  # times are written to a nanosecond
            open_ones.pop()
        end = span["ts"] + span["dur"]
        assert not open_ones or end <= open_ones[-1] + 0.002, span
        open_ones.append(end)


def test_the_page_draws_a_runs_own_trace(tmp_path: Path) -> None:
    pipeline = ffdist.Pipeline("cnnb", "sff", stages=2, cut=[1, 2], threads=1, trace=True, samples=640)
    pipeline.fit("digits", out=tmp_path / "run", epochs=1, progress=False)
    rows = {span.row for span in read_trace(tmp_path / "run")}
    assert rows == {"worker 0, stage 0: conv1", "worker 1, stage 1: conv2 conv3"}
    page = ffdist.write_report(tmp_path / "run", pictures=None).read_text()
    assert "Timeline of a window" in page
    assert "conv2 forward" in page


def test_a_trace_needs_a_folder_to_lie_in() -> None:
    options: dict[str, Any]
    for options in ({"trace": True}, {"profile": 3}):
        with pytest.raises(ConfigError, match="out="):
            ffdist.Pipeline("cnnb", "sff").fit("digits", epochs=1, **options)


def test_a_run_shorter_than_where_the_window_begins_is_traced_all_the_same(tmp_path: Path) -> None:
    settings = {"trace": True, "trace_from": 1000, "trace_steps": 1000, "samples": 128, "validation": 0.0}
    run_threads(DigitsJob(tmp_path, epochs=1, settings=settings)(), QUIET)
    assert {span["args"]["step"] for span in read(tmp_path)} == {1, 2}


def test_of_spans_within_one_another_each_moment_counts_once() -> None:
    events = [
        {"ph": "X", "name": name, "cat": "compute", "ts": ts, "dur": dur, "pid": 0, "tid": 0}
        for name, ts, dur in (("all", 0, 100), ("in", 10, 20), ("deep", 15, 5), ("end", 90, 10), ("next", 100, 5))
    ]
    flat = sorted(without_overlap(spans_of(events)), key=lambda each: each.begin)
    assert [(s.name, s.begin, s.end) for s in flat] == [
        ("all", 0, 10),
        ("in", 10, 15),
        ("deep", 15, 20),
        ("in", 20, 30),
        ("all", 30, 90),
        ("end", 90, 100),
        ("next", 100, 105),
    ]


@pytest.mark.parametrize("ahead", [0, 3_600_000_000_000, -5_000_000])
def test_a_clock_of_another_host_is_found_as_exactly_as_is_said(ahead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    store, found = dist.HashStore(), dict[int, ClockOffset]()
    true = time.perf_counter_ns

    def here() -> int:
        return true() + (ahead if threading.current_thread().name == "other" else 0)

    monkeypatch.setattr(time, "perf_counter_ns", here)

    def work(rank: int) -> None:
        found[rank] = common_clock(store, World(rank, 2, rank), timedelta(seconds=10))

    other = threading.Thread(target=work, args=(1,), name="other")
    other.start()
    work(0)
    other.join()
    assert found[0] == ClockOffset(0, 0)
    if not ahead:
        assert found[1] == ClockOffset(0, 0), "one clock, read by both"
    else:
        assert abs(found[1].add + ahead) <= found[1].within < 2_000_000_000
