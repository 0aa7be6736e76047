"""The seconds that the search for a plan takes, on networks and clusters that are made up.

    python -m benchmarks.search_times --repeats 5 --record benchmarks/records

Seconds of computing by one process. Profiles are synthetic: what is measured is the search, no network.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import tyro

from benchmarks.report import report
from ffdist.bench.harness.result import BenchResult
from ffdist.bench.harness.summary import Summary
from ffdist.bench.harness.table import ResultTable
from ffdist.errors import ConfigError
from ffdist.planner import Cluster, NetworkLink, Profile
from ffdist.planner.forecast import fastest
from ffdist.planner.profile import BlockProfile, SampleCurve
from ffdist.planner.search import best_price

BATCH = 512
HOST = NetworkLink(5e9, 2e-5, 1 / 5e9, wired=False, message=1e-4)
LINK = NetworkLink(1.25e9, 5e-5, 4e-10, 4e-10, message=1e-4)
TWO_SPEEDS = (1.0,) * 8 + (0.25,) * 8

COLUMNS = {
    "blocks": "blocks",
    "devices": "devices",
    "lanes": "lanes",
    "plan's lanes": "chosen:.0f",
    "search, s": "search:.3f",
    "at least": "search.min:.3f",
    "at most": "search.max:.3f",
    "exact": "exact",
}


class Case(NamedTuple):
    """A question to the search."""

    blocks: int
    devices: str
    cluster: Cluster
    lanes: int | None = None
    """None: chosen by the search."""
    megabytes: float = 0.1
    """The weights of the smallest block."""


class Found(NamedTuple):
    """The answer to a question."""

    lanes: int
    """0 where no plan fits."""
    exact: bool


CASES = (
    *(Case(64, "64", Cluster(64), lanes) for lanes in (1, 2, 4, 8, 16, 64, None)),
    Case(64, "64, heavy weights", Cluster(64), None, 1.0),
    Case(64, "64, 10 Gbit/s", Cluster(64, LINK)),
    Case(64, "64, 10 Gbit/s", Cluster(64, LINK), 4),
    Case(64, "64, 32 MB each", Cluster(64, memory_limit=3.2e7)),
    Case(64, "64, 1 MB each: none fits", Cluster(64, memory_limit=1e6)),
    Case(64, "64 of two speeds", Cluster(64, speeds=TWO_SPEEDS * 4)),
    Case(64, "16 of two speeds", Cluster(16, speeds=TWO_SPEEDS)),
    Case(30, "16 of two speeds", Cluster(16, speeds=TWO_SPEEDS)),
    Case(30, "16 of two speeds", Cluster(16, speeds=TWO_SPEEDS), 4),
    Case(64, "8 on 2 cores", Cluster(8, HOST, cores=2)),
    Case(30, "8 on 2 cores", Cluster(8, HOST, cores=2), 4),
    Case(16, "64", Cluster(64)),
    Case(3, "64", Cluster(64)),
)


def uneven(blocks: int, megabytes: float) -> Profile:
    """Blocks of which the slowest takes seven times as long as the fastest; messages shrink along them."""
    each = [
        uneven_block(n, 0.02 + 0.013 * (n * 37 % 11), megabytes * (1 + n % 5), 2e4 / (1 + n // 8))
        for n in range(blocks)
    ]
    source = SampleCurve.proportional(BATCH, 1e-4)
    return Profile("made up", "rule", BATCH, 1, "fp32", "a CPU", True, 1, {}, tuple(each), source, sliced=True)


def uneven_block(
    n: int, seconds: float, megabytes: float, sent: float, step: float = 1e-4, batch: int = BATCH
) -> BlockProfile:
    """The n-th; a quarter of a batch takes 0.3 of its time, as smaller messages cost more a sample."""
    sizes = (batch // 4, batch)
    weights = int(megabytes * 1e6)
    return BlockProfile(
        f"block{n}",
        SampleCurve(sizes, ((0.3 * seconds / 3,), (seconds / 3,))),
        SampleCurve(sizes, ((0.3 * seconds * 2 / 3,), (seconds * 2 / 3,))),
        step,
        step / 2,
        weights // 4,
        weights,
        weights,
        2 * weights,
        sent,
        SampleCurve.proportional(batch, 1e7 * seconds + 1),
        lane=step / 3,
        lanes=step / 4,
        exchange=step / 5,
        handover=step / 2,
    )


def main(repeats: int = 5, forecast: bool = True, cases: int = len(CASES), record: Path | None = None) -> None:
    """Search, print, record.

    Args:
        repeats: How often each question is asked.
        forecast: Also ask all that `ffdist train --devices` does: plans of several numbers of lanes, simulated.
        cases: Only the first so many questions.
        record: Folder for the record.
    """
    made = [table("search", "The search for the plan of the least price", CASES[:cases], repeats, least_price)]
    if forecast:
        chosen = [case for case in CASES[:cases] if case.lanes is None]
        title = "The same, with the best plans simulated"
        made.append(table("simulated", title, chosen, repeats, simulated))
    notes = [
        "Seconds of computing, medians; at least, at most: of all repeats. Lanes: given, or chosen by the search.",
        "exact: no plan of those that the search promises was left out.",
        "Simulated: profiles are made up.",
    ]
    report(BenchResult("search-times", {"repeats": repeats}, made, notes), record)


def table(
    part: str, title: str, cases: tuple[Case, ...] | list[Case], repeats: int, search: Callable[[Case, Profile], Found]
) -> ResultTable:
    """A row a question."""
    made = ResultTable(part, title, COLUMNS, {"search": "s", "chosen": ""})
    for case in cases:
        seconds, found = [], Found(0, False)
        for _ in range(repeats):
            profile = uneven(case.blocks, case.megabytes)  # a new one keeps nothing of the last search
            begun = time.process_time()
            found = search(case, profile)
            seconds.append(time.process_time() - begun)
        made.add(
            blocks=case.blocks,
            devices=case.devices,
            lanes=case.lanes or "chosen",
            exact="yes" if found.exact else "no",
            chosen=found.lanes,
            search=Summary.of(seconds),
        )
    return made


def least_price(case: Case, profile: Profile) -> Found:
    """The plan with the least price."""
    try:
        found = best_price(profile, case.cluster, lanes=case.lanes)
    except ConfigError:
        return Found(0, exact=True)
    return Found(found.plan.lanes, not found.bounded)


def simulated(case: Case, profile: Profile) -> Found:
    """The plan that is simulated as the fastest."""
    try:
        found, _ = fastest(profile, case.cluster, case.lanes)
    except ConfigError:
        return Found(0, exact=True)
    return Found(found.plan.lanes, not found.bounded)


if __name__ == "__main__":
    tyro.cli(main)
