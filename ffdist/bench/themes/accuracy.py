"""Time to accuracy: whole runs with validation, until a side's validation accuracy reaches the target."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
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


def accuracy(settings: BenchSettings, progress: Progress) -> Finding:
    """Seconds from the first batch to the end of the epoch that reaches the target; seed + i in round i, in turns.

    ffdist's accuracy is that of its last block; the mean of blocks is in the record. Start-up does not count on either
    side, validation does on both.
    """
    with ExitStack() as ends:
        progress(f"qualifying {settings.against[0]}")
        variant = open_baseline(ends, settings, settings.against[0]).side.variant
    runs: dict[str, list[list[Epoch]]] = {"ours": [], variant: []}
    failed: list[tuple[list[Epoch], list[Epoch]]] = []
    with Probe(settings.devices) as probe:
        for number in range(PATIENCE * settings.rounds):
            job = whole_job(settings, settings.seed + number)
            before = probe.measure()
            ours = run("ours", PipelineRun(job), settings.num_stages, settings, progress)
            theirs = run(variant, BaselineRun(replace(job, stages=1), variant), settings.devices, settings, progress)
            if min(before, probe.measure()) >= probe.least:
                runs["ours"].append(ours)
                runs[variant].append(theirs)
            else:
                failed.append((ours, theirs))
            if len(runs["ours"]) == settings.rounds:
                break
    trusted = bool(runs["ours"])
    if not trusted:
        runs = {"ours": [a for a, _ in failed], variant: [b for _, b in failed]}
    return told(settings, variant, runs, len(failed), trusted)


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


def told(
    settings: BenchSettings, variant: str, runs: dict[str, list[list[Epoch]]], discarded: int, trusted: bool
) -> Finding:
    reached = {name: all(run[-1].accuracy >= settings.target for run in of) for name, of in runs.items()}
    seconds = {name: [run[-1].seconds for run in of] for name, of in runs.items()}
    ratio = ratios(seconds[variant], seconds["ours"])
    rows: list[dict[str, Cell]] = []
    for name, of in runs.items():
        times, epochs = Summary.of(seconds[name]), Summary.of([float(len(run)) for run in of])
        mean = Summary.of([run[-1].mean for run in of])
        rows.append({"side": name, f"seconds to {settings.target:.0%}": times.median, "least": times.least,
                     "most": times.most, "epochs": epochs.median, "n": times.n,
                     "reached": "yes" if reached[name] else "no",
                     "accuracy then": Summary.of([run[-1].accuracy for run in of]).median,
                     "mean of blocks": mean.median})  # fmt: skip
    notes = [f"{discarded} runs discarded by the probe", f"validation on {VALIDATION:.0%} of the training samples"]
    if not trusted:
        notes.append("NOT RELIABLE: the cores were never free together; the figures are of discarded runs")
    title = f"{model_name(settings)}, {settings.devices} devices, batch {settings.batch_size}, {settings.epochs} epochs"
    summary: dict[str, Any] = {
        "model": model_name(settings), "devices": settings.devices, "precision": settings.precision,
        "batch": settings.batch_size, "target": settings.target, "variant": variant, "reached": reached,
        "ours": Summary.of(seconds["ours"]).median, "theirs": Summary.of(seconds[variant]).median,
        "ratio": ratio.median, "ratio_min": ratio.least, "ratio_max": ratio.most, "n": ratio.n, "trusted": trusted,
        "runs": {name: [[epoch._asdict() for epoch in run] for run in of] for name, of in runs.items()},
    }  # fmt: skip
    series: dict[str, list[tuple[Any, float, float, float]]] = {
        name: [(round(e.seconds, 1), e.accuracy, e.accuracy, e.accuracy) for e in of[0]] for name, of in runs.items()
    }
    plot = Plot("lines", title, "seconds", "validation accuracy", series)
    return Finding("accuracy", summary, [Grid(title, rows)], notes, plot)
