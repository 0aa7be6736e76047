"""Samples a second between two hosts, by the rate of the link between them."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from ffdist.bench.best import with_plan
from ffdist.bench.finding import Cell, Finding, Grid, Plot, Progress
from ffdist.bench.hosts import Hosts
from ffdist.bench.probe import Probe
from ffdist.bench.rounds import take_turns
from ffdist.bench.settings import BenchSettings
from ffdist.bench.sides import calibrated, open_pipeline, open_variants, qualify
from ffdist.runtime.planning import AUTO

VARIANTS = ("ddp-bucket-25", "ddp-bf16")
"""Those of DDP's tunings that could win on a slow link."""
LOSSY = "ddp-powersgd"
"""Sends far less, and learns otherwise: beside the others, never in their place."""


UNLIMITED = "10gbit"
"""What the planner takes an unlimited link for: the ends' cores have more to do than it."""


def bandwidth(settings: BenchSettings, progress: Progress) -> Finding:
    """A stage on each of two hosts, or with `--plan auto` the plan that is best for each link, against a DDP rank on
    each; the hosts are namespaces, the link is rate-limited."""
    searched = settings.train.plan.plan == AUTO
    here = settings.changed(devices=2, transport="gloo", warmup_batches=2)
    here = here if searched else here.changed(stages=2)
    rows: list[dict[str, Cell]] = []
    notes: list[str] = [
        "hosts are network namespaces of one machine, their link limited by tc tbf in both directions",
        "PowerSGD (rank 2, error feedback) learns otherwise than backpropagation: by speed alone",
    ]
    series: dict[str, list[tuple[Any, float, float, float]]] = {"ours": [], "ddp": [], "ddp, PowerSGD": []}
    with ExitStack() as ends:
        hosts = ends.enter_context(Hosts())
        probe = ends.enter_context(Probe(2))
        ours = None if searched else open_pipeline(ends, here, 2, place=hosts.place)
        variants, _ = open_variants(ends, here.changed(plan=None), (*VARIANTS, LOSSY), place=hosts.place)
        *exact, lossy = variants
        assert lossy.name == LOSSY, "DDP fits every network"
        for rate in settings.compare.rates:
            hosts.limit(rate)
            progress(f"link: {rate}")
            with ExitStack() as its:
                told = here
                if ours is None:
                    told = with_plan(here, progress, link=UNLIMITED if rate == "unlimited" else rate)
                    side = open_pipeline(its, told, told.num_stages, place=hosts.place)
                else:
                    side = calibrated(ours, here.compare.window_seconds)
                calibrated(lossy, here.compare.window_seconds)
                family = qualify(exact, {}, here, keep=True)
                rounds = take_turns([side, family.side, lossy], probe, here.compare.rounds, progress)
            mine, theirs = rounds.rate("ours"), rounds.rate(family.side.name)
            ratio = rounds.ratio("ours", family.side.name)
            rows.append({"link": rate, **({"plan": told.plan_text} if searched else {}),
                         "ours samples/s": mine.median, "DDP": family.side.name,
                         "its samples/s": theirs.median, "ratio": ratio.median, "least": ratio.least,
                         "most": ratio.most, "n": ratio.n, "PowerSGD samples/s": rounds.rate(LOSSY).median,
                         "ours / PowerSGD": rounds.ratio("ours", LOSSY).median})  # fmt: skip
            series["ours"].append((rate, *mine[:3]))
            series["ddp"].append((rate, *theirs[:3]))
            series["ddp, PowerSGD"].append((rate, *rounds.rate(LOSSY)[:3]))
            notes += [f"{rate}: {note}" for note in rounds.notes()]
    title = f"{settings.subject}, 2 hosts, {settings.precision}, batch {settings.batch_size}"
    summary = {"model": settings.network, "devices": 2, "precision": settings.precision,
               "batch": settings.batch_size, "bandwidth": rows}  # fmt: skip
    plot = Plot("lines", title, "rate of the link", "samples/s", series)
    return Finding("bandwidth", summary, [Grid(title, rows)], notes, plot)
