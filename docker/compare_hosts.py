#!/usr/bin/env python3
"""ffdist's pipeline against DDP across hosts: torchrun starts this on each of them, one rank a host.

The sides take turns (ours, theirs, ours, ...) with the same network, data, precision and batch in all; DDP is the
fastest of its variants. Every host knows all orders beforehand, so nothing but the training itself uses the link.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import torch.distributed as dist
from rich.console import Console

from ffdist.baselines.known import family
from ffdist.bench.baseline_side import BaselineMain, KeepOrder, RunOrder
from ffdist.bench.harness.record import write_record
from ffdist.bench.harness.result import BenchResult
from ffdist.bench.harness.summary import Summary, ratios
from ffdist.bench.harness.table import SIDES, ResultTable
from ffdist.bench.harness.window import Window, WindowRate
from ffdist.bench.harness.worker_pool import PoolMember, WorkerMain
from ffdist.bench.pipeline_side import PipelineMain
from ffdist.bench.settings import BenchSettings
from ffdist.cli.parsing import parsed
from ffdist.runtime.agree import agree
from ffdist.runtime.torchrun import Rendezvous, meet
from ffdist.runtime.world import World

START_TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class CompareHosts:
    """ffdist's pipeline against DDP across hosts."""

    batches: int = 20
    """Batches that are timed in a turn."""
    settings: BenchSettings = field(default_factory=BenchSettings)


class HostMember(PoolMember):
    """A member whose orders are known beforehand, and whose members meet at torchrun's store instead of at a file."""

    def __init__(self, world: World, store: dist.Store, orders: Sequence[Any]) -> None:
        self.world = world
        self.meeting_store = store
        self.orders = iter(orders)
        self.measured = list[WindowRate]()

    def store(self) -> dist.Store:
        return self.meeting_store

    def next_order(self) -> Any:
        return next(self.orders, None)

    def answer(self, value: Any) -> None:
        if isinstance(value, WindowRate):
            self.measured.append(value)


@dataclass
class Turns:
    """Lives lived one after the other, in the same place on every host."""

    meeting: Rendezvous
    count: int = 0

    def take(self, main: WorkerMain, *orders: Any, reported_by: int) -> list[WindowRate]:
        """Live once. Returns, on every host, what rank `reported_by` measured."""
        self.count += 1
        store, world = dist.PrefixStore(f"turn/{self.count}", self.meeting.store), self.meeting.world
        member = HostMember(world, store, orders)
        main(member)
        if dist.is_initialized():
            dist.destroy_process_group()
        if world.rank == reported_by:
            store.set("measured", json.dumps(member.measured))
        return [WindowRate(*each) for each in json.loads(store.get("measured"))]


def main() -> None:
    compare, world = parsed(CompareHosts, sys.argv[1:], "compare_hosts.py", made=CompareHosts()), World.from_env()
    assert world, "torchrun starts this"
    settings, turns = compare.settings, Turns(meet(world, START_TIMEOUT))
    window = Window(settings.compare.warmup_batches, compare.batches, settings.train.plan.queue + 1)
    trial = window._replace(batches=max(3, compare.batches // 4))
    theirs = BaselineMain(settings.job(1))
    ours = PipelineMain(settings.job(world.size))

    names = family(settings.compare.against[0])
    measured = turns.take(theirs, KeepOrder(names), *(RunOrder(name, trial) for name in names), reported_by=0)
    variants = {name: each.rate for name, each in zip(names, measured, strict=True)}
    best = max(variants, key=lambda name: variants[name])
    rates: dict[str, list[float]] = {"ours": [], best: []}
    for _ in range(settings.compare.rounds):
        rates["ours"] += [each.rate for each in turns.take(ours, window, reported_by=world.size - 1)]
        rates[best] += [
            each.rate for each in turns.take(theirs, KeepOrder((best,)), RunOrder(best, window), reported_by=0)
        ]
    agree(turns.meeting.store, world, "end", lambda: report(settings, world, variants, rates), START_TIMEOUT)


def report(settings: BenchSettings, world: World, variants: dict[str, float], rates: dict[str, list[float]]) -> None:
    """The table, and the record where one is wanted."""
    ours, (best, theirs) = rates["ours"], list(rates.items())[1]
    ratio, link = ratios(ours, theirs), os.environ.get("LINK") or "unlimited"
    summary = {
        "model": settings.model,
        "hosts": world.size,
        "link": link,
        "precision": settings.precision,
        "batch": settings.batch_size,
        "variant": best,
        "ours": median(ours),
        "theirs": median(theirs),
        "ratio": ratio.median,
        "ratio_min": ratio.min,
        "ratio_max": ratio.max,
        "n": ratio.n,
        "qualifying": variants,
    }
    title = f"{settings.model}, {world.size} hosts, link {link}, {settings.precision}, batch {settings.batch_size}"
    made = ResultTable("hosts", title, SIDES, {"throughput": "samples/s", "ratio": ""})
    for name, values in rates.items():
        made.add(side=name, throughput=Summary.of(values), ratio=None if name == "ours" else ratio)
    tried = ResultTable("qualifying", "", {}, {"throughput": "samples/s"})
    for name, rate in variants.items():
        tried.add(side=name, throughput=rate)
    note = f"ours / DDP {ratio}, pair by pair; no probe of the machine: hosts that share one also share its noise"
    finding = BenchResult("hosts", summary, [made, tried], [note])
    Console().print(made.rich(), note)
    if settings.compare.record:
        words = [Path(sys.argv[0]).name, *sys.argv[1:]]
        write_record(
            finding,
            settings.compare.record,
            words,
            asdict(settings),
            network=settings.network,
            rule=settings.train.rule.objective,
        )


if __name__ == "__main__":
    main()
