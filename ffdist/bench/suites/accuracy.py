"""Time to accuracy: whole runs with validation, until a side's validation accuracy reaches the target.

Validation comes once an epoch, so a side that is a hair short of the target at the end of one would pay for a whole one
more. Between two ends the accuracy counts as rising in a straight line, and steps below the target are shown, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from math import inf, isnan, nan
from statistics import median
from typing import NamedTuple

from ffdist.bench.accuracy_found import VALIDATION, AccuracyRuns, RecipeTrial, chosen, reached_after, result_of
from ffdist.bench.best import with_plan
from ffdist.bench.harness.probe import Probe
from ffdist.bench.harness.result import BenchResult, Progress
from ffdist.bench.harness.rounds import MAX_TRIES_PER_ROUND
from ffdist.bench.harness.team import WorkerMain, WorkerPool
from ffdist.bench.hosts import Hosts
from ffdist.bench.jobs import BenchJob
from ffdist.bench.recipes import SIDES, Recipe, recipes_of, scheduled
from ffdist.bench.settings import BenchSettings
from ffdist.bench.sides import Placing, here, open_baseline
from ffdist.bench.whole_runs import BaselineRun, Epoch, PipelineRun
from ffdist.errors import ConfigError, setting


class AccuracySide(NamedTuple):
    """A side of the comparison."""

    name: str
    size: int
    make_main: Callable[[BenchJob], WorkerMain]


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


def whole_job(settings: BenchSettings, recipe: Recipe, seed: int) -> BenchJob:
    settings = replace(settings, train=scheduled(settings.train).changed(**dict(recipe.values)))
    train = settings.train_settings(settings.num_stages).changed(validation=VALIDATION, seed=seed)
    return BenchJob(train, settings.num_stages)


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
