"""Is the loader ever the bottleneck? Batches made with nobody learning from them, beside the fastest training."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass

from ffdist.bench.finding import Cell, Finding, Grid, Plot, Progress
from ffdist.bench.probe import Probe
from ffdist.bench.rounds import take_turns
from ffdist.bench.settings import BenchSettings
from ffdist.bench.sides import calibrated, open_pipeline
from ffdist.bench.team import Seat, Team
from ffdist.bench.window import Lap, Window, endless
from ffdist.runtime.processes import MakeJob


@dataclass(frozen=True)
class LoaderLife:
    """Makes the batches of a window and lets them go."""

    make_job: MakeJob

    def __call__(self, seat: Seat) -> None:
        job = self.make_job()
        batches = endless(job.loaders().train)
        while (window := seat.order()) is not None:
            for _ in range(window.warmup):
                next(batches)
            begun = time.perf_counter()
            for _ in range(window.batches):
                next(batches)
            seat.answer(Lap(window.batches * job.settings.training.batch_size, time.perf_counter() - begun, {}))
        batches.close()


@dataclass
class LoaderSide:
    """The loader alone."""

    name: str
    team: Team
    window: Window

    def lap(self) -> Lap:
        return self.team.ask(self.window)


def loader(settings: BenchSettings, progress: Progress) -> Finding:
    """Samples/s of the loader alone, and of the pipeline that it feeds."""
    with ExitStack() as ends:
        probe = ends.enter_context(Probe(settings.compare.devices))
        team = ends.enter_context(Team("loader", LoaderLife(settings.job(1)), 1))
        alone = calibrated(
            LoaderSide("loader", team, Window(settings.compare.warmup_batches, 3)), settings.compare.seconds
        )
        trained = open_pipeline(ends, settings, settings.num_stages)
        rounds = take_turns([alone, trained], probe, settings.compare.rounds, progress)
    ratio = rounds.ratio("loader", "ours")
    rows: list[dict[str, Cell]] = [
        {"what": what, "samples/s": rate.median, "least": rate.least, "most": rate.most, "n": rate.n}
        for what, rate in (("loader alone", rounds.rate("loader")), ("training", rounds.rate("ours")))
    ]
    changes = " ".join(settings.train.dataset.augment) or "none"
    title = f"{settings.train.dataset.data.rsplit('/', 1)[-1]}, augment {changes}; {settings.subject}"
    summary = {
        "data": settings.train.dataset.data,
        "augment": settings.train.dataset.augment,
        "model": settings.network,
        "loader": rows[0]["samples/s"],
        "training": rows[1]["samples/s"],
        "ratio": ratio.median,
        "ratio_min": ratio.least,
        "ratio_max": ratio.most,
        "n": ratio.n,
    }
    notes = [f"the loader is {ratio.median:,.1f} times as fast as the training that it feeds", *rounds.notes()]
    series = {str(r["what"]): [("", *rounds.rate(n)[:3])] for r, n in zip(rows, ("loader", "ours"), strict=True)}
    return Finding("loader", summary, [Grid(title, rows)], notes, Plot("bars", title, "", "samples/s", series))
