"""Samples a second as devices are added."""

from __future__ import annotations

from contextlib import ExitStack

from ffdist.bench.harness.probe import Probe
from ffdist.bench.harness.result import BenchResult, Plot, Progress
from ffdist.bench.harness.rounds import take_turns
from ffdist.bench.harness.table import ResultTable, spread_of
from ffdist.bench.settings import BenchSettings
from ffdist.bench.sides import open_baseline, open_pipeline

UNITS = {"throughput": "samples/s", "ratio": "", "of_one": ""}


def scaling(settings: BenchSettings, progress: Progress) -> BenchResult:
    """1, 2, ... `devices` on each side; the batch in all stays the same. One device's baseline is bp."""
    asked = settings.compare.against[0]
    title = f"{settings.subject}, {settings.precision}, batch {settings.batch_size}"
    columns = {
        "devices": "devices",
        "ours samples/s": "ours/throughput",
        "against": f"{asked}/side",
        "its samples/s": f"{asked}/throughput",
        "ratio": f"{asked}/ratio",
        **spread_of(f"{asked}/ratio"),
        "ours / one": "ours/of_one",
    }
    made, tables, notes = ResultTable("scaling", title, columns, UNITS), list[ResultTable](), list[str]()
    one = 0.0
    for devices in range(1, settings.compare.devices + 1):
        here = settings.changed(devices=devices, stages=None, cut=())
        with ExitStack() as ends:
            probe = ends.enter_context(Probe(devices))
            theirs = open_baseline(ends, here, "bp" if devices == 1 else asked, progress).side
            sides = [open_pipeline(ends, here, devices), theirs]
            rounds = take_turns(sides, probe, settings.compare.rounds, progress)
        ours = rounds.rate("ours")
        one = ours.median if devices == 1 else one
        made.add(side="ours", devices=devices, throughput=ours, of_one=ours.median / one)
        made.add(against=asked, devices=devices, **rounds.line(theirs.name, "ours"))
        tables.append(rounds.table(devices=devices))
        notes += [f"{devices} devices: {note}" for note in rounds.notes()]
    summary = settings.facts | {"scaling": made.drawn_cells()}
    plot = Plot.lines_of(made, "throughput", "samples/s", "devices", "devices")
    return BenchResult("scaling", summary, [made, *tables], notes, plot)
