"""Time to accuracy: whole runs with validation, until a side's validation accuracy reaches the target.

Validation comes once an epoch, so a side that is a hair short of the target at the end of one would pay for a whole one
more. Between two ends the accuracy counts as rising in a straight line, and steps below the target are shown, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import product
from math import inf, isnan, nan
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from ffdist.bench.best import with_plan
from ffdist.bench.harness.finding import BenchResult, Plot, Progress
from ffdist.bench.harness.probe import Probe
from ffdist.bench.harness.rounds import MAX_TRIES_PER_ROUND
from ffdist.bench.harness.summary import Summary, ratios
from ffdist.bench.harness.table import Cell, ResultTable
from ffdist.bench.harness.team import WorkerMain, WorkerPool
from ffdist.bench.hosts import Hosts
from ffdist.bench.jobs import BenchJob
from ffdist.bench.settings import BASE, BenchSettings
from ffdist.bench.sides import Placing, here, open_baseline
from ffdist.bench.whole_runs import BaselineRun, Epoch, PipelineRun
from ffdist.errors import ConfigError, setting
from ffdist.settings import GROUP_OF, Settings, apply, flat
from ffdist.settings.toml import read_toml

SIDES = ("ours", "baseline")
RECIPE = frozenset(name for name, group in GROUP_OF.items() if group in ("optim", "scheduler")) | {
    "epochs",
    "label_smoothing",
}
"""Settings that a side may choose for itself."""
VALIDATION = 0.1
BELOW = (0.05, 0.025, 0.01, 0.0)
"""The levels shown: so far below the target."""


class Recipe(NamedTuple):
    """The settings that a side chooses for itself."""

    values: tuple[tuple[str, Any], ...]
    """Settings by name; always the learning rate, `lr`, and the number of epochs, at most and of the schedule."""

    def __str__(self) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {shown(value)}" for name, value in self.values)

    @property
    def epochs(self) -> int:
        return dict(self.values)["epochs"]

    @property
    def others(self) -> str:
        """All but the learning rate and the epochs."""
        return ", ".join(f"{name} {shown(value)}" for name, value in self.values if name not in ("lr", "epochs"))


def shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


class AccuracySide(NamedTuple):
    """A side of the comparison."""

    name: str
    size: int
    make_main: Callable[[BenchJob], WorkerMain]


class RecipeTrial(NamedTuple):
    """A recipe's result before the comparison, by medians."""

    recipe: Recipe
    seconds: float
    """To the target; infinite: it did not get there."""
    accuracy: float
    """At its end."""


class AccuracyRuns(NamedTuple):
    """All that was run."""

    variant: str
    """The baseline."""
    chance: float
    """Accuracy before the first batch."""
    tried: dict[str, list[RecipeTrial]]
    """Beforehand, by side."""
    runs: dict[str, list[list[Epoch]]]
    """By side, "ours" and the variant."""
    discarded: int
    """Pairs of runs."""
    trusted: bool


def accuracy(settings: BenchSettings, progress: Progress) -> BenchResult:
    """Seconds from the first batch to the target, read off between ends of epochs; seed + i in round i, in turns.

    ffdist's accuracy is that of its last block; the mean of blocks is in the record. Start-up does not count on either
    side, validation does on both. Each side goes by the recipe that was fastest for it on other seeds.
    """
    check(settings)
    settings = with_plan(settings, progress, link=settings.compare.link)
    with ExitStack() as ends:
        place = ends.enter_context(linked(settings.compare.link)).place if settings.compare.link else here
        variant = qualified(settings, place, progress)
        chance = 1 / settings.job(1)().chain.num_classes
        contenders = [
            AccuracySide("ours", settings.num_stages, lambda job: place(PipelineRun(job))),
            AccuracySide(
                variant, settings.compare.devices, lambda job: place(BaselineRun(replace(job, stages=1), variant))
            ),
        ]
        tried = {side.name: try_recipes(side, settings, chance, progress) for side in contenders}
        race = AccuracyRuns(variant, chance, tried, *take_turns(contenders, settings, chosen(tried), progress))
    return result_of(settings, race)


def check(settings: BenchSettings) -> None:
    """Raises ConfigError for a schedule that a baseline cannot follow, and for a file of recipes that holds others."""
    if settings.train.scheduler.schedule == "plateau":
        raise ConfigError(
            f"{setting('scheduler.schedule', 'plateau')} is not compared: baselines do not lower their rate by it",
            where="ffdist bench accuracy",
            expected="a schedule of steps or epochs",
            remedy=f"{setting('scheduler.schedule', 'cosine')}, say",
        )
    for side in SIDES:
        recipes_of(side, settings)


@contextmanager
def linked(rate: str) -> Iterator[Hosts]:
    """Two hosts, namespaces of this machine, whose link has a rate. Raises ConfigError where there can be none."""
    with Hosts() as hosts:
        hosts.limit(rate)
        yield hosts


def qualified(settings: BenchSettings, place: Placing, progress: Progress) -> str:
    """The fastest variant of the baseline."""
    against = settings.compare.against[0]
    progress(f"qualifying {against}")
    with ExitStack() as ends:
        return open_baseline(ends, settings, against, place=place).side.variant


def take_turns(
    contenders: Sequence[AccuracySide], settings: BenchSettings, recipes: dict[str, Recipe], progress: Progress
) -> tuple[dict[str, list[list[Epoch]]], int, bool]:
    """Runs by side, pairs that the probe discarded, and whether it let any through."""
    runs: dict[str, list[list[Epoch]]] = {side.name: [] for side in contenders}
    failed: list[dict[str, list[Epoch]]] = []
    with Probe(settings.compare.devices) as probe:
        for number in range(MAX_TRIES_PER_ROUND * settings.compare.rounds):
            before = probe.measure()
            order = contenders if number % 2 == 0 else reversed(contenders)
            found = {side.name: run(side, settings, recipes[side.name], number, progress) for side in order}
            if min(before, probe.measure()) >= probe.least:
                for name, epochs in found.items():
                    runs[name].append(epochs)
            else:
                failed.append(found)
            if len(runs["ours"]) == settings.compare.rounds:
                break
    trusted = bool(runs["ours"])
    if not trusted:
        runs = {name: [found[name] for found in failed] for name in runs}
    return runs, len(failed), trusted


def try_recipes(side: AccuracySide, settings: BenchSettings, chance: float, progress: Progress) -> list[RecipeTrial]:
    """Each recipe on as many seeds as --qualifying says, none of which is measured later; a single one is not run."""
    recipes = recipes_of("ours" if side.name == "ours" else "baseline", settings)
    if len(recipes) == 1:
        return [RecipeTrial(recipes[0], nan, nan)]
    trials = []
    for recipe in recipes:
        progress(f"{side.name} with {recipe}")
        runs = [
            run(side, settings, recipe, MAX_TRIES_PER_ROUND * settings.compare.rounds + number, progress)
            for number in range(settings.compare.qualifying)
        ]
        seconds = [reached_after(epochs, settings.compare.target, chance) for epochs in runs]
        trials.append(
            RecipeTrial(
                recipe, median(inf if isnan(s) else s for s in seconds), median(epochs[-1].accuracy for epochs in runs)
            )
        )
    return trials


def chosen(tried: dict[str, list[RecipeTrial]]) -> dict[str, Recipe]:
    """Each side's fastest to the target; where none gets there, the one that ends highest."""
    return {
        name: min(trials, key=lambda trial: (trial.seconds, -trial.accuracy)).recipe for name, trials in tried.items()
    }


def recipes_of(side: str, settings: BenchSettings) -> list[Recipe]:
    """Those of the file, each with each of the learning rates and lengths that it does not say itself.

    side: "ours" or "baseline". Raises ConfigError for a file that cannot be read, or says what is no recipe's.
    """
    compare, train = settings.compare, settings.train
    tables = read_recipes(compare.recipes).get(side, [{}]) if compare.recipes else [{}]
    recipes: list[Recipe] = []
    for table in tables:
        changed = apply(train, table, str(compare.recipes))
        if strange := [name for name in flat(table) if name not in RECIPE]:
            raise ConfigError(
                f"'{strange[0]}' is none of what a side chooses for itself",
                where=compare.recipes,
                expected="settings of the optimiser, the schedule, epochs and label smoothing",
                remedy="on the command line it holds for both sides",
            )
        values = {name: changed.value(name) for name in flat(table)}
        lrs = (values["lr"],) if "lr" in values else compare.lrs or (train.optim.lr,)
        lengths = (values["epochs"],) if "epochs" in values else compare.lengths or (train.training.epochs,)
        recipes += [
            Recipe(tuple((values | {"lr": lr, "epochs": epochs}).items())) for lr, epochs in product(lrs, lengths)
        ]
    return recipes


def read_recipes(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Tables by side. Raises ConfigError for what is no such file."""
    found = read_toml(path)
    right = all(isinstance(tables, list) and all(isinstance(t, dict) for t in tables) for tables in found.values())
    if not right or not found.keys() <= set(SIDES):
        raise ConfigError(
            "a file of recipes cannot be used",
            where=path,
            got=", ".join(found),
            expected="[[ours]] and [[baseline]], each as often as there are recipes",
        )
    return found


def whole_job(settings: BenchSettings, recipe: Recipe, seed: int) -> BenchJob:
    settings = replace(settings, train=scheduled(settings.train).changed(**dict(recipe.values)))
    train = settings.train_settings(settings.num_stages).changed(validation=VALIDATION, seed=seed)
    return BenchJob(train, settings.num_stages)


def scheduled(settings: Settings) -> Settings:
    """By cosine, where nobody says otherwise."""
    return settings.changed(schedule="cosine") if settings.scheduler == BASE.scheduler else settings


def run(side: AccuracySide, settings: BenchSettings, recipe: Recipe, number: int, progress: Progress) -> list[Epoch]:
    """Epoch by epoch, until the target or the last; run `number` has seed + number."""
    epochs: list[Epoch] = []
    with WorkerPool(
        side.name, side.make_main(whole_job(settings, recipe, settings.train.training.seed + number)), side.size
    ) as team:
        while len(epochs) < recipe.epochs and not (epochs and epochs[-1].accuracy >= settings.compare.target):
            epochs.append(team.recv())
            progress(f"{side.name}, epoch {len(epochs)}: {epochs[-1].accuracy:.2%} after {epochs[-1].seconds:,.1f} s")
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


def result_of(settings: BenchSettings, race: AccuracyRuns) -> BenchResult:
    variant, runs, recipes = race.variant, race.runs, chosen(race.tried)
    reached = {name: all(run[-1].accuracy >= settings.compare.target for run in of) for name, of in runs.items()}
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
    if not race.trusted:
        notes.append("NOT RELIABLE: the cores were never free together; the figures are of discarded runs")
    title = f"{settings.subject}, {settings.compare.devices} devices, batch {settings.batch_size}"
    summary: dict[str, Any] = {
        "model": settings.network,
        "devices": settings.compare.devices,
        "precision": settings.precision,
        "batch": settings.batch_size,
        "target": settings.compare.target,
        "variant": variant,
        "reached": reached,
        "ours": ours.median,
        "theirs": theirs.median,
        "ratio": ratio.median,
        "ratio_min": ratio.least,
        "ratio_max": ratio.most,
        "n": ratio.n,
        "trusted": race.trusted,
        "recipes": {name: dict(recipe.values) for name, recipe in recipes.items()},
        "levels": level_table(race, settings.compare.target).drawn_cells(),
        "runs": {name: [[epoch._asdict() for epoch in run] for run in of] for name, of in runs.items()},
    }
    series: dict[str, list[tuple[Any, float, float, float]]] = {
        name: [(round(e.seconds, 1), e.accuracy, e.accuracy, e.accuracy) for e in of[0]] for name, of in runs.items()
    }
    plot = Plot("lines", title, "seconds", "validation accuracy", series)
    tables = [
        side_table(title, race, reached),
        level_table(race, settings.compare.target),
        trial_table(race.tried, settings.compare.qualifying),
        run_table(runs),
    ]
    return BenchResult("accuracy", summary, [table for table in tables if table.lines], notes, plot)


RECIPE_COLUMNS = {"recipe": "recipe", "learning rate": "lr", "epochs at most": "epochs_at_most"}


def columns(recipe: Recipe) -> dict[str, Cell]:
    """A recipe in a table."""
    values = dict(recipe.values)
    return {"recipe": recipe.others or "as told", "lr": f"{values['lr']:g}", "epochs_at_most": recipe.epochs}


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
    made, recipes = ResultTable("sides", title, heads, units), chosen(race.tried)
    for name, of in race.runs.items():
        made.add(
            side=name,
            **columns(recipes[name]),
            epochs=Summary.of([float(len(run)) for run in of]),
            epoch_time=Summary.of([run[-1].seconds / len(run) for run in of]),
            reached="yes" if reached[name] else "no",
            accuracy=Summary.of([run[-1].accuracy for run in of]),
            mean=Summary.of([run[-1].mean for run in of]),
        )
    return made


def trial_table(tried: dict[str, list[RecipeTrial]], runs: int) -> ResultTable:
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
        "least": "baseline/ratio.least",
        "most": "baseline/ratio.most",
        "n": "baseline/ratio.n",
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
    for name, of in runs.items():
        for run, epochs in enumerate(of):
            for epoch, at in enumerate(epochs):
                made.add(side=name, run=run, epoch=epoch + 1, time=at.seconds, accuracy=at.accuracy, mean=at.mean)
    return made


def at_level(race: AccuracyRuns, level: float) -> tuple[Summary, Summary, Summary]:
    """Seconds of ours and of theirs, and theirs by ours pair by pair; of nothing where a run did not get there."""
    ours, theirs = (
        [reached_after(run, level, race.chance) for run in race.runs[name]] for name in ("ours", race.variant)
    )
    if any(map(isnan, (*ours, *theirs))):
        return Summary.of([]), Summary.of([]), Summary.of([])
    return Summary.of(ours), Summary.of(theirs), ratios(theirs, ours)
