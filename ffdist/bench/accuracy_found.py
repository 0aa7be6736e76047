"""The results of runs to an accuracy: seconds to each level, read off between ends of epochs, and the tables of
them."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isnan, nan
from typing import Any, NamedTuple

from ffdist.bench.harness.result import BenchResult, Plot, Series
from ffdist.bench.harness.summary import Summary, ratios
from ffdist.bench.harness.table import Cell, ResultTable, spread_of
from ffdist.bench.recipes import Recipe, scheduled
from ffdist.bench.settings import BenchSettings
from ffdist.bench.whole_runs import Epoch

VALIDATION = 0.1
BELOW = (0.05, 0.025, 0.02, 0.01, 0.0)
"""The levels shown: so far below the target."""
RECIPE_COLUMNS = {"recipe": "recipe", "learning rate": "lr", "epochs at most": "epochs_at_most"}


class RecipeTrial(NamedTuple):
    """A recipe's result before the comparison, by medians."""

    recipe: Recipe
    seconds: float
    """To the target; infinite: it did not get there."""
    accuracy: float
    """At its end."""


class AccuracyRuns(NamedTuple):
    """The trials and the runs of a comparison."""

    variant: str
    """The baseline."""
    chance: float
    """Accuracy before the first batch."""
    tried: dict[str, list[RecipeTrial]]
    """Trials before the comparison, by side."""
    runs: dict[str, list[list[Epoch]]]
    """The epochs of each run, by side: "ours" and the variant."""
    discarded: int
    """Pairs of runs that the probe discarded."""
    trusted: bool
    """False: no pair passed the probe, and `runs` are discarded ones."""


def fastest(trials: Sequence[RecipeTrial]) -> Recipe:
    """The fastest to the target; where none gets there, the one that ends highest."""
    return min(trials, key=lambda trial: (trial.seconds, -trial.accuracy)).recipe


def reached_after(run: Sequence[Epoch], level: float, chance: float) -> float:
    """Seconds at which the line through the ends of epochs, from `chance` at 0, first is at `level`; NaN: never."""
    before = Epoch(0.0, chance, chance)
    for epoch in run:
        if epoch.accuracy >= level:
            share = (level - before.accuracy) / (epoch.accuracy - before.accuracy)
            return before.seconds + max(0.0, share) * (epoch.seconds - before.seconds)
        before = epoch
    return nan


def at_level(race: AccuracyRuns, level: float) -> tuple[Summary, Summary, Summary]:
    """Seconds of ours and of theirs, and theirs by ours pair by pair; of nothing where a run did not get there."""
    ours, theirs = (
        [reached_after(run, level, race.chance) for run in race.runs[name]] for name in ("ours", race.variant)
    )
    if any(map(isnan, (*ours, *theirs))):
        return Summary.of([]), Summary.of([]), Summary.of([])
    return Summary.of(ours), Summary.of(theirs), ratios(theirs, ours)


def result_of(settings: BenchSettings, race: AccuracyRuns, sittings: Sequence[str] = ()) -> BenchResult:
    """The tables, summary and plot of a comparison. sittings: notes on when the trainings were made."""
    variant, runs = race.variant, race.runs
    reached = {
        name: all(run[-1].accuracy >= settings.compare.target for run in side_runs) for name, side_runs in runs.items()
    }
    ours, theirs, ratio = at_level(race, settings.compare.target)
    notes = [
        f"{race.discarded} pairs of runs discarded by the probe",
        f"validation on {VALIDATION:.0%} of the training samples, once an epoch, and a straight line between",
        f"schedule, where a recipe says no other: {scheduled(settings.train).scheduler.schedule}",
    ]
    if settings.by_plan:
        notes.append(f"ours by the plan {settings.plan_text}")
    if settings.compare.link:
        notes.append(f"hosts are network namespaces of one machine, their link limited to {settings.compare.link}")
    notes += sittings
    if not race.trusted:
        notes.append("NOT RELIABLE: the cores were never free together; the figures are of discarded runs")
    elif (pairs := len(runs[variant])) < settings.compare.rounds:
        notes.append(f"only {pairs} of {settings.compare.rounds} pairs wanted passed the probe")
    title = f"{settings.subject}, {settings.compare.devices} devices, batch {settings.batch_size}"
    summary: dict[str, Any] = {
        **settings.facts,
        "target": settings.compare.target,
        "variant": variant,
        "reached": reached,
        "ours": ours.median,
        "theirs": theirs.median,
        **ratio.facts("ratio"),
        "trusted": race.trusted,
        "recipes": {name: dict(fastest(trials).values) for name, trials in race.tried.items()},
        "levels": level_table(race, settings.compare.target).drawn_cells(),
        "runs": {name: [[epoch._asdict() for epoch in run] for run in side_runs] for name, side_runs in runs.items()},
    }
    series: Series = {
        name: [(round(e.seconds, 1), e.accuracy, e.accuracy, e.accuracy) for e in side_runs[0]]
        for name, side_runs in runs.items()
    }
    plot = Plot("lines", title, "seconds", "validation accuracy", series)
    tables = [
        side_table(title, race, reached),
        level_table(race, settings.compare.target),
        trial_table(race.tried, settings.compare.qualifying),
        run_table(runs),
    ]
    return BenchResult("accuracy", summary, [table for table in tables if table.lines], notes, plot)


def columns(recipe: Recipe) -> dict[str, Cell]:
    """A recipe in a table."""
    values = dict(recipe.values)
    return {"recipe": recipe.others or "as set", "lr": f"{values['lr']:g}", "epochs_at_most": recipe.epochs}


def side_table(title: str, race: AccuracyRuns, reached: dict[str, bool]) -> ResultTable:
    """The table of each side's runs."""
    heads = {
        "side": "side",
        **RECIPE_COLUMNS,
        "epochs until then": "epochs",
        "seconds an epoch": "epoch_time",
        "n": "epochs.n",
        "reached": "reached",
        "accuracy then": "accuracy",
        "mean of blocks": "mean",
    }
    units = {"epochs": "", "epoch_time": "s", "reached": "", "accuracy": "", "mean": ""}
    made = ResultTable("sides", title, heads, units)
    for name, side_runs in race.runs.items():
        made.add(
            side=name,
            **columns(fastest(race.tried[name])),
            epochs=Summary.of([float(len(run)) for run in side_runs]),
            epoch_time=Summary.of([run[-1].seconds / len(run) for run in side_runs]),
            reached="yes" if reached[name] else "no",
            accuracy=Summary.of([run[-1].accuracy for run in side_runs]),
            mean=Summary.of([run[-1].mean for run in side_runs]),
        )
    return made


def trial_table(tried: dict[str, list[RecipeTrial]], runs: int) -> ResultTable:
    """The table of recipes tried beforehand; a side with a single recipe has no lines."""
    heads = {"side": "side", **RECIPE_COLUMNS, "seconds to the target": "time", "accuracy then": "accuracy"}
    title = f"tried beforehand on other seeds, medians of {runs}"
    made = ResultTable("tried", title, heads, {"time": "s", "accuracy": ""})
    for name, trials in tried.items():
        for trial in trials if len(trials) > 1 else ():
            seconds = None if trial.seconds == inf else trial.seconds
            made.add(side=name, **columns(trial.recipe), time=seconds, accuracy=trial.accuracy)
    return made


def level_table(race: AccuracyRuns, target: float) -> ResultTable:
    """Seconds to the target, and to what is below it."""
    heads = {
        "to": "level",
        "ours, s": "ours/time",
        "DDP": "baseline/side",
        "its s": "baseline/time",
        "its / ours": "baseline/ratio",
        **spread_of("baseline/ratio"),
    }
    made = ResultTable("levels", "seconds to a validation accuracy", heads, {"time": "s", "ratio": ""})
    for level in (target - below for below in BELOW):
        ours, theirs, ratio = at_level(race, level)
        made.add(side="ours", level=f"{level:.1%}", time=ours)
        made.add(side=race.variant, against="baseline", level=f"{level:.1%}", time=theirs, ratio=ratio)
    return made


def run_table(runs: dict[str, list[list[Epoch]]]) -> ResultTable:
    """Every epoch of every run, for the record alone."""
    made = ResultTable("runs", "", {}, {"time": "s", "accuracy": "", "mean": ""})
    for name, side_runs in runs.items():
        for run, epochs in enumerate(side_runs):
            for epoch, at in enumerate(epochs):
                made.add(side=name, run=run, epoch=epoch + 1, time=at.seconds, accuracy=at.accuracy, mean=at.mean)
    return made
