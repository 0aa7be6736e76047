"""Time to accuracy: whole runs with validation, until a side's validation accuracy reaches the target.

Validation comes once an epoch, so a side that is a hair short of the target at the end of one would pay for a whole one
more. Between two ends the accuracy counts as rising in a straight line, and steps below the target are shown, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from math import inf, isnan, nan
from statistics import median

from ffdist.bench.accuracy_found import VALIDATION, AccuracyRuns, RecipeTrial, fastest, reached_after, result_of
from ffdist.bench.best import with_plan
from ffdist.bench.harness.probe import Probe
from ffdist.bench.harness.result import BenchResult, Progress
from ffdist.bench.harness.rounds import MAX_TRIES_PER_ROUND, Machine
from ffdist.bench.harness.worker_pool import WorkerMain, WorkerPool
from ffdist.bench.hosts import Hosts
from ffdist.bench.recipes import SIDES, Recipe, recipes_of, scheduled
from ffdist.bench.settings import BenchSettings
from ffdist.bench.sides import Placing, on_this_host, open_baseline
from ffdist.bench.sittings import ComparisonSetup, FinishedTrainings, Training, with_setup
from ffdist.bench.whole_runs import BaselineRun, Epoch, PipelineRun
from ffdist.errors import ConfigError, setting
from ffdist.runtime.start import SettingsJob

TRIAL_SEEDS = 10**6
"""Added to the seed for what is tried beforehand, and above the number of any round."""


@dataclass
class AccuracySide:
    """A side of the comparison, whose every training has another seed."""

    name: str
    size: int
    make_main: Callable[[SettingsJob], WorkerMain]
    settings: BenchSettings
    probe: Callable[[], Machine]
    """Opened by the first training that is run."""
    finished: FinishedTrainings
    progress: Progress
    recipe: Recipe

    def train(self, number: int) -> Training:
        """The training whose seed is the settings' seed plus `number`: run now, or kept by an earlier sitting."""
        seed = self.settings.train.training.seed + number
        return self.finished.load_or_run(self.name, self.recipe, seed, lambda: self.run(seed))

    def run(self, seed: int) -> Training:
        """Train epoch by epoch, until the target is reached or the recipe's epochs are over."""
        probe, epochs = self.probe(), list[Epoch]()
        before = probe.measure()
        job = whole_job(self.settings, self.recipe, seed)
        with WorkerPool(self.name, self.make_main(job), self.size) as pool:
            while len(epochs) < self.recipe.epochs and not (
                epochs and epochs[-1].accuracy >= self.settings.compare.target
            ):
                epochs.append(pool.recv())
                at = f"{epochs[-1].accuracy:.2%} after {epochs[-1].seconds:,.1f} s"
                self.progress(f"{self.name}, seed {seed}, epoch {len(epochs)}: {at}")
        lower = min(before, probe.measure())
        return Training(epochs, lower, lower >= probe.required)


def accuracy(settings: BenchSettings, progress: Progress) -> BenchResult:
    """Seconds from the first batch to the target, read off between ends of epochs; seed + i in round i, in turns.

    ffdist's accuracy is that of its last block; the mean of blocks is in the record. Start-up does not count on either
    side, validation does on both. Each side goes by the recipe that was fastest for it on other seeds. With a folder
    for finished trainings the comparison may be stopped at any time: the same command goes on after the last of them.
    """
    check(settings)
    with ExitStack() as ends:
        finished = ends.enter_context(FinishedTrainings(settings, progress))
        setup = finished.setup(lambda: find_setup(settings, progress))
        settings = with_setup(settings, setup)
        place = ends.enter_context(placed(settings))
        images = settings.job(1)().images
        chance = 1 / len(images.classes)
        mains: dict[str, tuple[int, Callable[[SettingsJob], WorkerMain]]] = {
            "ours": (settings.num_stages, lambda job: place(PipelineRun(job))),
            setup.variant: (
                settings.compare.devices,
                lambda job: place(BaselineRun(replace(job, workers=1), setup.variant)),
            ),
        }
        probe = cache(lambda: ends.enter_context(Probe(settings.compare.devices)))
        sides, tried = list[AccuracySide](), dict[str, list[RecipeTrial]]()
        for name, (size, main) in mains.items():
            recipes = recipes_of("ours" if name == "ours" else "baseline", settings)
            side = AccuracySide(name, size, main, settings, probe, finished, progress, recipes[0])
            sides.append(side)
            tried[name] = try_recipes(side, recipes, chance)
            side.recipe = fastest(tried[name])
        rounds = take_rounds(sides, settings.compare.rounds, progress)
    free = [each for each in rounds if all(training.free for training in each.values())]
    runs = {side.name: [each[side.name].epochs for each in free or rounds] for side in sides}
    race = AccuracyRuns(setup.variant, chance, tried, runs, len(rounds) - len(free), bool(free))
    return result_of(settings, race, finished.notes)


@contextmanager
def placed(settings: BenchSettings) -> Iterator[Placing]:
    """The place where the sides' processes live: here, or on two hosts whose link is limited."""
    if not settings.compare.link:
        yield on_this_host
        return
    with Hosts() as hosts:
        hosts.limit(settings.compare.link)
        yield hosts.place


def find_setup(settings: BenchSettings, progress: Progress) -> ComparisonSetup:
    """The plan, the blocks of modules, and which of the baseline's variants is fastest: each with the optimiser of that
    side's first recipe, as an update takes time, too."""
    ours, theirs = (with_recipe(settings, recipes_of(side, settings)[0]) for side in SIDES)
    planned = with_plan(ours, progress, link=settings.compare.link).train
    with placed(settings) as place, ExitStack() as its:
        theirs = theirs.changed(plan=planned.plan.plan, lanes=planned.training.lanes)
        variant = open_baseline(its, theirs, settings.compare.against[0], progress, place=place).side.variant
    blocks = settings.train_settings(1).network.blocks
    return ComparisonSetup(variant, planned.plan.plan, planned.training.lanes, blocks)


def take_rounds(sides: Sequence[AccuracySide], wanted: int, progress: Progress) -> list[dict[str, Training]]:
    """Rounds of one training a side: A B, B A, A B, ..., which cancels a drift of the machine's speed.

    It ends when in `wanted` rounds the machine was free, or after `MAX_TRIES_PER_ROUND` times as many.
    """
    rounds = list[dict[str, Training]]()
    for number in range(MAX_TRIES_PER_ROUND * wanted):
        rounds.append({side.name: side.train(number) for side in (sides if number % 2 == 0 else reversed(sides))})
        lower = min(training.probe for training in rounds[-1].values())
        free = all(training.free for training in rounds[-1].values())
        progress(f"round {number + 1}: probe {lower:.2f}{'' if free else ', discarded'}")
        wanted -= free
        if not wanted:
            break
    return rounds


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
    """Try each recipe on `--qualifying` seeds, none of which is measured later; a single recipe is not run."""
    if len(recipes) == 1:
        return [RecipeTrial(recipes[0], nan, nan)]
    trials, compare = list[RecipeTrial](), side.settings.compare
    for recipe in recipes:
        side.progress(f"{side.name} with {recipe}")
        side.recipe = recipe
        runs = [side.train(TRIAL_SEEDS + number).epochs for number in range(compare.qualifying)]
        seconds = [reached_after(epochs, compare.target, chance) for epochs in runs]
        middle = median(inf if isnan(s) else s for s in seconds)
        trials.append(RecipeTrial(recipe, middle, median(epochs[-1].accuracy for epochs in runs)))
    return trials


def with_recipe(settings: BenchSettings, recipe: Recipe) -> BenchSettings:
    """The settings of a whole training with that recipe, with a schedule over all of its epochs."""
    return replace(settings, train=scheduled(settings.train).changed(**dict(recipe.values)))


def whole_job(settings: BenchSettings, recipe: Recipe, seed: int) -> SettingsJob:
    """The job of a whole training with that recipe, and with validation."""
    train = with_recipe(settings, recipe).train.changed(validation=VALIDATION, seed=seed)
    return replace(settings, train=train).job(settings.num_stages)
