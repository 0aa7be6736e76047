"""Is the loader ever the bottleneck, and is another faster? Batches made with nobody learning from them, beside the
training that they feed, and beside what else makes the same batches:

    pictures kept encoded    torchvision's ImageFolder in torch's DataLoader, with as many workers
    pixels                   crop and flip of whole batches in torch, gathered, or by masks as airbench does
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from statistics import median

from ffdist.bench.harness.probe import Probe
from ffdist.bench.harness.result import BenchResult, Plot, Progress
from ffdist.bench.harness.rounds import PoolSide, Rounds, calibrated, take_turns
from ffdist.bench.harness.table import ResultTable
from ffdist.bench.harness.window import Window
from ffdist.bench.harness.worker_pool import WorkerMain, WorkerPool
from ffdist.bench.loaders import SIMPLE, WAYS, BatchPathMain, FolderMain, LoaderMain
from ffdist.bench.settings import BenchSettings
from ffdist.bench.sides import open_pipeline
from ffdist.data.encoded import EncodedSplit
from ffdist.scratch import scratch_folder

ALONE, TRAINING = "loader", "ours"
SECONDS = 1.0
"""Default seconds of a window: a loader makes as many batches in it as a training learns from in several."""
MAX_TRIES_PER_ROUND = 2
"""Times the rounds asked for that are tried: every round has many sides."""
TURNS = 60.0
"""Seconds in which rounds begin: of large pictures the training that they feed takes much longer than its window."""


def loader_mains(settings: BenchSettings, folder: Path) -> dict[str, WorkerMain]:
    """Every loader that makes these batches, by its name; ours first. folder: for pictures in files."""
    job = settings.job(1)
    split = job().images.train
    dataset = settings.train.dataset
    alike = {*dataset.augment} <= SIMPLE
    if not isinstance(split, EncodedSplit):
        ways = WAYS if alike and split.dtype == "uint8" and "resized-crop" not in dataset.augment else {}
        return {ALONE: LoaderMain(job), **{f"torch, {way}": BatchPathMain(job, way) for way in ways}}
    found: dict[str, WorkerMain] = {}
    for workers in settings.compare.workers:
        named = f"{workers} worker{'s' * (workers != 1)}"
        found[f"{ALONE}, {named}"] = LoaderMain(settings.changed(loader_workers=workers).job(1))
        for tensors in (False, True) if alike else ():
            decoder = "decode_image" if tensors else "Pillow"
            found[f"ImageFolder by {decoder}, {named}"] = FolderMain(job, folder, workers, tensors)
    return found


def loader(settings: BenchSettings, progress: Progress) -> BenchResult:
    """Samples/s of loaders alone, and of the pipeline that ours feeds."""
    settings = settings.changed(seconds=settings.compare.seconds or SECONDS)
    with ExitStack() as ends:
        probe = ends.enter_context(Probe(settings.compare.devices))
        sides: list[PoolSide] = []
        folder = ends.enter_context(scratch_folder())
        for name, main in loader_mains(settings, folder).items():
            progress(f"starting {name}")
            pool = ends.enter_context(WorkerPool(name, main, 1, parents=isinstance(main, FolderMain)))
            side = PoolSide(name, pool, Window(settings.compare.warmup_batches, 3))
            sides.append(calibrated(side, settings.compare.window_seconds))
        sides.append(open_pipeline(ends, settings, settings.num_stages, TRAINING))
        rounds = take_turns(
            sides, probe, settings.compare.rounds, progress, max_tries=MAX_TRIES_PER_ROUND, seconds=TURNS
        )
        for side in sides:
            side.pool.finish()  # a DataLoader that is killed leaves its semaphores behind
    return result_of(settings, [side.name for side in sides if side.name != TRAINING], rounds)


def result_of(settings: BenchSettings, names: list[str], rounds: Rounds) -> BenchResult:
    """names: of the loaders."""
    waits = waiting(rounds, settings.batch_size)
    ours = [name for name in names if name.startswith(ALONE)]
    best = max(ours, key=lambda name: rounds.rate(name).median)
    ratio = rounds.ratio(best, TRAINING)
    changes = " ".join(settings.train.dataset.augment) or "none"
    title = f"{settings.train.dataset.data.rsplit('/', 1)[-1]}, augment {changes}; {settings.subject}"
    against = {name: fastest(rounds, name, names) for name in ours}
    summary = {
        "data": settings.train.dataset.data,
        "augment": settings.train.dataset.augment,
        "model": settings.network,
        "loader": rounds.rate(best).median,
        "training": rounds.rate(TRAINING).median,
        "waiting": waits,
        "loaders": {name: rounds.rate(name).median for name in names},
        **ratio.facts("ratio"),
        "against": {
            name: {"fastest": other, "ratio": quotient} for name, (other, quotient) in against.items() if other
        },
    }
    notes = [
        f"the loader is {ratio.median:,.1f} times as fast as the training that it feeds",
        f"the first stage of the training waits for data {waits:.1%} of its time",
        *(
            f"{name}: {quotient:.2f} of {other}, the fastest of the others"
            for name, (other, quotient) in against.items()
            if other
        ),
        "a core: samples by the seconds of computing of the loader and of its worker processes",
        *rounds.notes(),
    ]
    columns = {
        "what": "side",
        "samples/s": "throughput",
        "min": "throughput.min",
        "max": "throughput.max",
        "samples/s a core": "a_core",
        "n": "throughput.n",
    }
    made = ResultTable("loaders", title, columns, {"throughput": "samples/s", "a_core": "samples/s", "waiting": ""})
    for name in names:
        made.add(
            side=name.replace(ALONE, "loader alone", 1),
            throughput=rounds.rate(name),
            a_core=samples_per_core_second(rounds, name),
        )
    made.add(side="training", throughput=rounds.rate(TRAINING), waiting=waits)
    plot = Plot.bars_of(made, "throughput", "samples/s")
    return BenchResult("loader", summary, [made, rounds.table()], notes, plot)


def samples_per_core_second(rounds: Rounds, name: str) -> float | None:
    """Samples for each second of computing."""
    cores = [
        window.samples / window.details["computing"]
        for window in rounds.measured[name]
        if window.details.get("computing")
    ]
    return median(cores) if cores else None


def fastest(rounds: Rounds, ours: str, names: list[str]) -> tuple[str | None, float]:
    """The best of the others with as many workers, and our rate by its."""
    workers = ours.partition(", ")[2]
    others = [name for name in names if not name.startswith(ALONE) and name.endswith(workers)]
    if not others:
        return None, 0.0
    other = max(others, key=lambda name: rounds.rate(name).median)
    return other, rounds.ratio(ours, other).median


def waiting(rounds: Rounds, batch_size: int) -> float:
    """The share of its time that the first stage of the training waits for the loader.

    A stage's seconds go from round to round; between its own the other sides have their turns, and it is given nothing.
    """
    shares = []
    for window in rounds.measured[TRAINING]:
        stage = window.details["stages"][0]
        own = window.details["batches"] * batch_size / window.rate
        shares.append(max(0.0, stage["no_data"] - (stage["seconds"] - own)) / own)
    return median(shares)
