"""Time to accuracy: whole runs with validation, until a side's validation accuracy reaches the target.

Validation comes once an epoch, so a side that is a hair short of the target at the end of one would pay for a whole one
more. Between two ends the accuracy counts as rising in a straight line, and steps below the target are shown, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from math import isnan, nan
from typing import Any

from ffdist.bench.finding import Cell, Finding, Grid, Plot, Progress
from ffdist.bench.jobs import BenchJob
from ffdist.bench.probe import Probe
from ffdist.bench.rounds import PATIENCE
from ffdist.bench.settings import BenchSettings
from ffdist.bench.sides import open_baseline
from ffdist.bench.summary import Summary, ratios
from ffdist.bench.team import Life, Team
from ffdist.bench.themes.throughput import model_name
from ffdist.bench.whole_runs import BaselineRun, Epoch, PipelineRun

VALIDATION = 0.1
BELOW = (0.05, 0.025, 0.01, 0.0)
"""The levels shown: so far below the target."""


def accuracy(settings: BenchSettings, progress: Progress) -> Finding:
    """Seconds from the first batch to the target, read off between ends of epochs; seed + i in round i, in turns.

    ffdist's accuracy is that of its last block; the mean of blocks is in the record. Start-up does not count on either
    side, validation does on both.
    """
    with ExitStack() as ends:
        progress(f"qualifying {settings.against[0]}")
        variant = open_baseline(ends, settings, settings.against[0]).side.variant
    classes = settings.job(1)().chain.num_classes
    runs: dict[str, list[list[Epoch]]] = {"ours": [], variant: []}
    failed: list[dict[str, list[Epoch]]] = []
    with Probe(settings.devices) as probe:
        for number in range(PATIENCE * settings.rounds):
            job = whole_job(settings, settings.seed + number)
            before = probe.measure()
            lives: list[tuple[str, Life, int]] = [
                ("ours", PipelineRun(job), settings.num_stages),
                (variant, BaselineRun(replace(job, stages=1), variant), settings.devices),
            ]
            order = lives if number % 2 == 0 else reversed(lives)
            found = {name: run(name, life, size, settings, progress) for name, life, size in order}
            if min(before, probe.measure()) >= probe.least:
                for name, epochs in found.items():
                    runs[name].append(epochs)
            else:
                failed.append(found)
            if len(runs["ours"]) == settings.rounds:
                break
    trusted = bool(runs["ours"])
    if not trusted:
        runs = {name: [found[name] for found in failed] for name in runs}
    return told(settings, variant, runs, len(failed), trusted, classes)


def whole_job(settings: BenchSettings, seed: int) -> BenchJob:
    told = replace(settings.train_settings(settings.num_stages), validation=VALIDATION, schedule="cosine",
                   epochs=settings.epochs, seed=seed)  # fmt: skip
    return BenchJob(told, settings.num_stages)


def run(name: str, life: Life, size: int, settings: BenchSettings, progress: Progress) -> list[Epoch]:
    """Epoch by epoch, until the target or the last."""
    epochs: list[Epoch] = []
    with Team(name, life, size) as team:
        while len(epochs) < settings.epochs and not (epochs and epochs[-1].accuracy >= settings.target):
            epochs.append(team.hear())
            progress(f"{name}, epoch {len(epochs)}: {epochs[-1].accuracy:.2%} after {epochs[-1].seconds:,.1f} s")
    return epochs


def reached_after(run: Sequence[Epoch], level: float, chance: float) -> float:
    """Seconds at which the line through the ends of epochs, from `chance` at 0, first is at `level`; NaN: never."""
    before = Epoch(0.0, chance, chance)
    for epoch in run:
        if epoch.accuracy >= level:
            share = (level - before.accuracy) / (epoch.accuracy - before.accuracy)
            return before.seconds + max(0.0, share) * (epoch.seconds - before.seconds)
        before = epoch
    return nan


def told(
    settings: BenchSettings,
    variant: str,
    runs: dict[str, list[list[Epoch]]],
    discarded: int,
    trusted: bool,
    classes: int,
) -> Finding:
    reached = {name: all(run[-1].accuracy >= settings.target for run in of) for name, of in runs.items()}
    levels = level_rows(runs, variant, settings.target, 1 / classes)
    ours, theirs, ratio = at_level(runs, variant, settings.target, 1 / classes)
    rows: list[dict[str, Cell]] = []
    for name, of in runs.items():
        mean = Summary.of([run[-1].mean for run in of])
        per_epoch = Summary.of([run[-1].seconds / len(run) for run in of])
        rows.append({"side": name, "epochs until then": Summary.of([float(len(run)) for run in of]).median,
                     "seconds an epoch": per_epoch.median, "n": len(of), "reached": "yes" if reached[name] else "no",
                     "accuracy then": Summary.of([run[-1].accuracy for run in of]).median,
                     "mean of blocks": mean.median})  # fmt: skip
    notes = [
        f"{discarded} pairs of runs discarded by the probe",
        f"validation on {VALIDATION:.0%} of the training samples, once an epoch, and a straight line between",
    ]
    if not trusted:
        notes.append("NOT RELIABLE: the cores were never free together; the figures are of discarded runs")
    title = f"{model_name(settings)}, {settings.devices} devices, batch {settings.batch_size}, {settings.epochs} epochs"
    summary: dict[str, Any] = {
        "model": model_name(settings), "devices": settings.devices, "precision": settings.precision,
        "batch": settings.batch_size, "target": settings.target, "variant": variant, "reached": reached,
        "ours": ours.median, "theirs": theirs.median,
        "ratio": ratio.median, "ratio_min": ratio.least, "ratio_max": ratio.most, "n": ratio.n, "trusted": trusted,
        "levels": levels,
        "runs": {name: [[epoch._asdict() for epoch in run] for run in of] for name, of in runs.items()},
    }  # fmt: skip
    series: dict[str, list[tuple[Any, float, float, float]]] = {
        name: [(round(e.seconds, 1), e.accuracy, e.accuracy, e.accuracy) for e in of[0]] for name, of in runs.items()
    }
    plot = Plot("lines", title, "seconds", "validation accuracy", series)
    grids = [Grid(title, rows), Grid("seconds to a validation accuracy", levels)]
    return Finding("accuracy", summary, grids, notes, plot)


def level_rows(runs: dict[str, list[list[Epoch]]], variant: str, target: float, chance: float) -> list[dict[str, Cell]]:
    rows: list[dict[str, Cell]] = []
    for level in (target - below for below in BELOW):
        ours, theirs, ratio = at_level(runs, variant, level, chance)
        rows.append({"to": f"{level:.1%}", "ours, s": ours.median, "DDP": variant, "its s": theirs.median,
                     "its / ours": ratio.median, "least": ratio.least, "most": ratio.most, "n": ratio.n})  # fmt: skip
    return rows


def at_level(
    runs: dict[str, list[list[Epoch]]], variant: str, level: float, chance: float
) -> tuple[Summary, Summary, Summary]:
    """Seconds of ours and of theirs, and theirs by ours pair by pair; of nothing where a run did not get there."""
    ours, theirs = ([reached_after(run, level, chance) for run in runs[name]] for name in ("ours", variant))
    if any(map(isnan, (*ours, *theirs))):
        return Summary.of([]), Summary.of([]), Summary.of([])
    return Summary.of(ours), Summary.of(theirs), ratios(theirs, ours)
