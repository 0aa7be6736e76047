"""The work of a training from Python beside its network and data: who watches it, who runs it, what it came to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ffdist.arguments import OTHERS, short
from ffdist.data import Images
from ffdist.data.given import Data, as_images
from ffdist.errors import ConfigError, DivergedError, setting
from ffdist.events import Observer, Observers
from ffdist.notes import note
from ffdist.plain import PlainConsole
from ffdist.report.console import ConsoleReport
from ffdist.report.log import read_run_log
from ffdist.runtime.agree import validation_note
from ffdist.runtime.job import Job
from ffdist.runtime.observing import observers
from ffdist.runtime.on_ray import launch_on_ray
from ffdist.runtime.opened import open_dataset, with_preprocessing
from ffdist.runtime.outcome import Result
from ffdist.runtime.processes import run_processes
from ffdist.runtime.threads import run_threads
from ffdist.runtime.worker_main import TrainingMain
from ffdist.sending import GivenJob, check_sendable
from ffdist.settings import Settings
from ffdist.settings.unused import unused_settings

Watching = Callable[[Path | None], Observers]
"""Makes the observers of the run in this folder; None: of one that nobody keeps."""


def watched(settings: Settings, callbacks: Sequence[Observer], run: Path | None, *, progress: bool) -> Observers:
    """The console, then the callbacks, then whom the settings name. Raises ConfigError for what cannot be called."""
    for each in callbacks if isinstance(callbacks, Sequence) else [None]:
        if not callable(each):
            raise ConfigError(
                "a callback is called with each event",
                where="Pipeline.fit(callbacks=...)",
                expected="a list of functions, or of objects with __call__(event)",
                got=short(each if isinstance(callbacks, Sequence) else callbacks),
            )
    return observers(settings, run, [ConsoleReport(PlainConsole(stderr=True, quiet=not progress)), *callbacks])


def check_flags(**flags: Any) -> None:
    """Raises ConfigError for one that is neither True nor False."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise ConfigError(
                f"{name} has a wrong value",
                where="Pipeline.fit",
                expected="True or False",
                got=short(value),
                remedy=OTHERS[name] if name == "resume" else None,
            )


def open_given(settings: Settings, data: Data, test: Any = None, held_out: Any = None) -> tuple[Settings, Images, bool]:
    """The settings, the data as the network gets them, and whether the settings name them."""
    if named := isinstance(data, (str, Path)):
        settings = settings.changed(data=str(data))
        data = open_dataset(settings.dataset)
    return settings, with_preprocessing(as_images(data, test, held_out), settings.dataset), named


def note_run_facts(job: Job) -> None:
    """Note for the user what is notable about the run that begins."""
    origin = f"weights to start from: {job.chain.origin}" if job.chain.origin else None
    for text in (validation_note(job), job.chain.joined, origin, *unused_settings(job.settings)):
        if text:
            note(text)


def without_folder(error: DivergedError, scratch: Path) -> DivergedError:
    """The error of a run that keeps nothing, without the file in its folder `scratch`, which is gone by now."""
    remedy = str(error.details["remedy"])
    if str(scratch) not in remedy:
        return error
    keeps = "fit(..., out=FOLDER) keeps the batch, and ffdist.replay(FOLDER) learns it again, by itself"
    return error.again(remedy=f"{keeps}; {remedy.partition('; ')[2]}")


def check_unkept(settings: Settings) -> None:
    """Raises ConfigError for what a run without a folder has no place for."""
    watch = settings.watch
    if watch.trace or watch.profile:
        name = "trace" if watch.trace else "profile"
        raise ConfigError(
            f"a {name} needs a run folder to lie in",
            where=setting(f"watch.{name}"),
            expected="a folder for the run",
            remedy="fit(data, out=FOLDER)",
        )


def launched(job: Job, observer: Observer) -> Result:
    """Run the job by its launcher."""
    match job.settings.plan.launcher:
        case "threads":
            return run_threads(job, observer)
        case "processes":
            check_sendable(job)
            run, main = job.settings.run, TrainingMain(GivenJob(job))
            return run_processes(
                main, job.workers, observer, run=job.run, max_restarts=run.max_restarts, timeout=run.timeout
            )
        case "ray":
            check_sendable(job)
            assert job.run, "a scratch folder at least"
            return launch_on_ray(GivenJob(job), job.settings, job.workers, job.run, observer)


def result_of(run: Path) -> Result:
    """The result of a run that has come to its end."""
    records, end = read_run_log(run)
    assert end, "checked by whoever says so"
    return Result(end["reason"], records, test=end["test"])
