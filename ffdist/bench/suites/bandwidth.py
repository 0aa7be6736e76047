"""Samples a second between two hosts, by the rate of the link between them."""

from __future__ import annotations

from contextlib import ExitStack

from ffdist.bench.best import with_plan
from ffdist.bench.harness.probe import Probe
from ffdist.bench.harness.result import BenchResult, Plot, Progress
from ffdist.bench.harness.rounds import calibrated, take_turns
from ffdist.bench.harness.table import ResultTable, spread_of
from ffdist.bench.hosts import Hosts
from ffdist.bench.settings import BenchSettings
from ffdist.bench.sides import open_pipeline, open_variants, qualify
from ffdist.runtime.planning import AUTO

VARIANTS = ("ddp-bucket-25", "ddp-bf16")
"""DDP's variants that could be fastest on a slow link."""
LOSSY = "ddp-powersgd"
"""Sends far less, and learns otherwise: beside the others, never in their place."""
UNLIMITED = "10gbit"
"""What the planner takes an unlimited link for: the ends' cores have more to do than it."""


COLUMNS = {
    "link": "link",
    "plan": "ours/plan",
    "ours samples/s": "ours/throughput",
    "DDP": "ddp/side",
    "its samples/s": "ddp/throughput",
    "ratio": "ddp/ratio",
    **spread_of("ddp/ratio"),
    "PowerSGD samples/s": f"{LOSSY}/throughput",
    "ours / PowerSGD": f"{LOSSY}/ratio",
}
UNITS = {"throughput": "samples/s", "ratio": "", "plan": ""}


def bandwidth(settings: BenchSettings, progress: Progress) -> BenchResult:
    """A stage on each of two hosts, or with `--plan auto` the plan that is best for each link, against a DDP rank on
    each; the hosts are namespaces, the link is rate-limited."""
    searched = settings.train.plan.plan == AUTO
    here = settings.changed(devices=2, transport="gloo", warmup_batches=2)
    here = here if searched else here.changed(stages=2)
    title = f"{settings.subject}, 2 hosts, {settings.precision}, batch {settings.batch_size}"
    columns = {heading: what for heading, what in COLUMNS.items() if searched or heading != "plan"}
    made, tables = ResultTable("bandwidth", title, columns, UNITS), list[ResultTable]()
    notes: list[str] = [
        "hosts are network namespaces of one machine, their link limited by tc tbf in both directions",
        "PowerSGD (rank 2, error feedback) learns otherwise than backpropagation: by speed alone",
    ]
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
                planned = here
                if ours is None:
                    planned = with_plan(here, progress, link=UNLIMITED if rate == "unlimited" else rate)
                    side = open_pipeline(its, planned, planned.num_stages, place=hosts.place)
                else:
                    side = calibrated(ours, here.compare.window_seconds)
                calibrated(lossy, here.compare.window_seconds)
                family = qualify(exact, {}, here, progress, keep=True)
                rounds = take_turns([side, family.side, lossy], probe, here.compare.rounds, progress)
            plan = planned.plan_text if searched else None
            made.add(side="ours", link=rate, throughput=rounds.rate("ours"), plan=plan)
            for name, against in ((family.side.name, "ddp"), (LOSSY, LOSSY)):
                made.add(against=against, link=rate, **rounds.line(name, "ours"))
            tables.append(rounds.table(link=rate))
            notes += [f"{rate}: {note}" for note in rounds.notes()]
    summary = here.facts | {"bandwidth": made.drawn_cells()}
    plot = Plot.lines_of(made, "throughput", "samples/s", "link", "rate of the link")
    return BenchResult("bandwidth", summary, [made, *tables], notes, plot)
