"""Time to accuracy: whole runs with validation, until a side's validation accuracy reaches the target.

Validation comes once an epoch, so a side that is a hair short of the target at the end of one would pay for a whole one
more. Between two ends the accuracy counts as rising in a straight line, and steps below the target are shown, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import inf, isnan, nan
from statistics import median

from ffdist.bench.accuracy_found import VALIDATION, AccuracyRuns, RecipeTrial, fastest, reached_after, result_of
from ffdist.bench.best import with_plan
from ffdist.bench.harness.probe import Probe
from ffdist.bench.harness.result import BenchResult, Progress
from ffdist.bench.harness.rounds import MAX_TRIES_PER_ROUND, take_turns
from ffdist.bench.harness.window import WindowRate
from ffdist.bench.harness.worker_pool import WorkerMain, WorkerPool
from ffdist.bench.hosts import Hosts
from ffdist.bench.recipes import SIDES, Recipe, recipes_of, scheduled
from ffdist.bench.settings import BenchSettings
from ffdist.bench.sides import here, open_baseline
from ffdist.bench.whole_runs import BaselineRun, Epoch, PipelineRun
from ffdist.errors import ConfigError, setting
from ffdist.runtime.start import SettingsJob


@dataclass
class AccuracySide:
    """A side of the comparison, whose every window is a whole run with another seed."""

    name: str
    size: int
    make_main: Callable[[SettingsJob], WorkerMain]
    settings: BenchSettings
    samples: int
    """Samples of an epoch, those for validation included."""
    progress: Progress
    recipe: Recipe
    num_runs: int = 0

    def measure(self) -> WindowRate:
        epochs = self.run(self.num_runs)
        self.num_runs += 1
        return WindowRate(len(epochs) * self.samples, epochs[-1].seconds, {"epochs": epochs})

    def run(self, number: int) -> list[Epoch]:
        """Epoch by epoch, until the target or the last; with the seed and that number."""
        epochs: list[Epoch] = []
        job = whole_job(self.settings, self.recipe, self.settings.train.training.seed + number)
        with WorkerPool(self.name, self.make_main(job), self.size) as pool:
            while len(epochs) < self.recipe.epochs and not (
                epochs and epochs[-1].accuracy >= self.settings.compare.target
            ):
                epochs.append(pool.recv())
                at = f"{epochs[-1].accuracy:.2%} after {epochs[-1].seconds:,.1f} s"
                self.progress(f"{self.name}, epoch {len(epochs)}: {at}")
        return epochs


def accuracy(settings: BenchSettings, progress: Progress) -> BenchResult:
    """Seconds from the first batch to the target, read off between ends of epochs; seed + i in round i, in turns.

    ffdist's accuracy is that of its last block; the mean of blocks is in the record. Start-up does not count on either
    side, validation does on both. Each side goes by the recipe that was fastest for it on other seeds.
    """
    check(settings)
    settings = with_plan(settings, progress, link=settings.compare.link)
    with ExitStack() as ends:
        place = here
        if settings.compare.link:
            hosts = ends.enter_context(Hosts())
            hosts.limit(settings.compare.link)
            place = hosts.place
        against = settings.compare.against[0]
        progress(f"qualifying {against}")
        with ExitStack() as its:
            variant = open_baseline(its, settings, against, place=place).side.variant
        images = settings.job(1)().images
        chance = 1 / len(images.classes)
        mains: dict[str, tuple[int, Callable[[SettingsJob], WorkerMain]]] = {
            "ours": (settings.num_stages, lambda job: place(PipelineRun(job))),
            variant: (settings.compare.devices, lambda job: place(BaselineRun(replace(job, workers=1), variant))),
        }
        sides, tried = list[AccuracySide](), dict[str, list[RecipeTrial]]()
        for name, (size, main) in mains.items():
            recipes = recipes_of("ours" if name == "ours" else "baseline", settings)
            side = AccuracySide(name, size, main, settings, len(images.train), progress, recipes[0])
            sides.append(side)
            tried[name] = try_recipes(side, recipes, chance)
            side.recipe = fastest(tried[name])
        probe = ends.enter_context(Probe(settings.compare.devices))
        rounds = take_turns(sides, probe, settings.compare.rounds, progress, max_tries=MAX_TRIES_PER_ROUND)
    runs = {name: [window.details["epochs"] for window in measured] for name, measured in rounds.measured.items()}
    return result_of(settings, AccuracyRuns(variant, chance, tried, runs, rounds.discarded, rounds.trusted))


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


def try_recipes(side: AccuracySide, recipes: Sequence[Recipe], chance: float) -> list[RecipeTrial]:
    """Each recipe on as many seeds as --qualifying says, none of which is measured later; a single one is not run."""
    if len(recipes) == 1:
        return [RecipeTrial(recipes[0], nan, nan)]
    trials, compare = list[RecipeTrial](), side.settings.compare
    for recipe in recipes:
        side.progress(f"{side.name} with {recipe}")
        side.recipe = recipe
        runs = [side.run(MAX_TRIES_PER_ROUND * compare.rounds + number) for number in range(compare.qualifying)]
        seconds = [reached_after(epochs, compare.target, chance) for epochs in runs]
        middle = median(inf if isnan(s) else s for s in seconds)
        trials.append(RecipeTrial(recipe, middle, median(epochs[-1].accuracy for epochs in runs)))
    return trials


def whole_job(settings: BenchSettings, recipe: Recipe, seed: int) -> SettingsJob:
    train = scheduled(settings.train).changed(**dict(recipe.values), validation=VALIDATION, seed=seed)
    return replace(settings, train=train).job(settings.num_stages)
