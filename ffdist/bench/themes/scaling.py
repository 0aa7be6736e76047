"""Samples a second as devices are added."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from ffdist.bench.finding import Cell, Finding, Grid, Plot, Progress
from ffdist.bench.probe import Probe
from ffdist.bench.rounds import take_turns
from ffdist.bench.settings import BenchSettings
from ffdist.bench.sides import open_baseline, open_pipeline
from ffdist.bench.summary import Summary


def scaling(settings: BenchSettings, progress: Progress) -> Finding:
    """1, 2, ... `devices` on each side; the batch in all stays the same. One device's baseline is bp."""
    points: dict[str, dict[int, Summary]] = {"ours": {}, settings.compare.against[0]: {}}
    notes: list[str] = []
    rows: list[dict[str, Cell]] = []
    for devices in range(1, settings.compare.devices + 1):
        here = settings.changed(devices=devices, stages=None, cut=())
        against = "bp" if devices == 1 else settings.compare.against[0]
        with ExitStack() as ends:
            probe = ends.enter_context(Probe(devices))
            sides = [open_pipeline(ends, here, devices), open_baseline(ends, here, against).side]
            rounds = take_turns(sides, probe, settings.compare.rounds, progress)
        ours, theirs = rounds.rate("ours"), rounds.rate(sides[1].name)
        points["ours"][devices], points[settings.compare.against[0]][devices] = ours, theirs
        ratio = rounds.ratio("ours", sides[1].name)
        rows.append({"devices": devices, "ours samples/s": ours.median, "against": sides[1].name,
                     "its samples/s": theirs.median, "ratio": ratio.median, "least": ratio.least, "most": ratio.most,
                     "n": ratio.n, "ours / one": ours.median / points["ours"][1].median})  # fmt: skip
        notes += [f"{devices} devices: {note}" for note in rounds.notes()]
    title = f"{settings.subject}, {settings.precision}, batch {settings.batch_size}"
    series: dict[str, list[tuple[Any, float, float, float]]] = {
        name: [(devices, *summary[:3]) for devices, summary in of.items()] for name, of in points.items()
    }
    summary = {
        "model": settings.network,
        "precision": settings.precision,
        "batch": settings.batch_size,
        "scaling": rows,
    }
    return Finding("scaling", summary, [Grid(title, rows)], notes, Plot("lines", title, "devices", "samples/s", series))
