"""A search by grid over pipelines: every trial is a whole pipeline-parallel run, placed by Ray, watched by Ray Tune.

    python launch/ray_sweep.py --lr 1e-3 2e-3 --objective sff local-ce --epochs 5 --out sweeps/digits

Without --address it runs on a Ray of this host alone. The table at the end is ordered by validation accuracy.
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from ffdist.runtime.on_ray import alone_unless_told

if __name__ == "__main__":  # Ray reads it as it is imported
    alone_unless_told([arg for arg in sys.argv[1:] if arg.startswith("--address")])

import ray
from ray import tune
from rich.table import Table

from ffdist import plain
from ffdist.cli import print_error
from ffdist.cli.parsing import parsed
from ffdist.errors import ConfigError, FfdistError, Interrupted, exit_status
from ffdist.events import EpochEnded, RunEvent, StopRun
from ffdist.objectives import load_objective
from ffdist.presets import with_preset
from ffdist.runtime.agree import check_job
from ffdist.runtime.folder import new_run
from ffdist.runtime.interrupts import StopRequest, handle_signals, interrupts, signals_restored, unwind
from ffdist.runtime.opened import open_dataset
from ffdist.runtime.ray import RayOptions, joined, run_ray
from ffdist.runtime.ray_own import interrupts_kept
from ffdist.runtime.start import SettingsJob, make_job
from ffdist.settings import Settings, without_strange_options


@dataclass(frozen=True)
class Sweep:
    """Train one pipeline for each combination of --lr, --objective and --kernel."""

    lr: tuple[float, ...] = (1e-3, 2e-3, 4e-3)
    """Learning rates."""
    objective: tuple[str, ...] = ()
    """Learning rules. Default: the preset's; of another rule the preset's options are left out."""
    kernel: tuple[int, ...] = ()
    """Kernel sizes of the head, for rules that have one (sff). Default: the rule's own."""
    preset: str = "digits"
    """Settings to start from."""
    validation: float | None = None
    """Share held out, by which the search goes. Default: the preset's, or 0.2 where it holds nothing out."""
    epochs: int | None = None
    """Default: the preset's."""
    samples: int | None = None
    """Default: all."""
    data: str | None = None
    """Default: the preset's."""
    stages: int = 2
    """Stages of each pipeline."""
    at_once: int = 1
    """Pipelines at the same time."""
    address: str | None = None
    """The cluster: auto or host:port."""
    out: Path = Path("sweeps/digits")
    """Where the runs go; on a disk that all nodes share."""


class StopActor:
    """Tells the trials, in processes of their own, of a signal by which the sweep is to stop."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()

    async def ask(self) -> None:
        self._asked.set()

    async def wait(self) -> None:
        await self._asked.wait()


def train(trial: dict[str, Any], sweep: Sweep, stop: Any) -> None:
    """One trial: the driver of a pipeline of its own. It ends early, with a snapshot, when the actor `stop` is asked
    to."""
    asked = stop.wait.remote()
    if is_done(asked):
        return
    choice = trial["choice"]
    run = sweep.out / "runs" / "-".join(f"{name}={value}" for name, value in choice.items())
    settings = settings_of(choice, sweep).changed(out=run)

    def report(event: RunEvent) -> None:
        if is_done(asked):
            raise StopRun("the sweep was told to stop")
        if isinstance(event, EpochEnded):
            train, validation = event.record["train"], event.record["validation"]
            tune.report({"accuracy": validation["accuracy"]["mean"], "samples_per_second": train["samples_per_second"]})

    limits = settings.run
    options = RayOptions(start_timeout=timedelta(minutes=10), max_restarts=limits.max_restarts, timeout=limits.timeout)
    with new_run(settings, open_dataset(settings.dataset)):
        job = SettingsJob(settings, run, sweep.stages)
        run_ray(job, sweep.stages, report, run=run, data=settings.dataset.data, options=options)


def is_done(answer: Any) -> bool:
    """True if an actor has answered."""
    return bool(ray.wait([answer], timeout=0)[0])


def settings_of(choice: dict[str, Any], sweep: Sweep) -> Settings:
    """The preset's settings with those of a choice. Raises ConfigError where nothing would be held out to search by."""
    names = ("epochs", "samples", "data", "validation")
    given = {name: getattr(sweep, name) for name in names if getattr(sweep, name) is not None}
    preset = with_preset(Settings(), sweep.preset)
    settings = preset.changed(**given, lr=choice["lr"], objective=choice["objective"], launcher="ray", threads=1)
    settings = without_strange_options(settings, preset, given)
    if settings.dataset.validation == 0:
        if sweep.validation == 0:
            raise ConfigError("a search goes by the validation accuracy", where="--validation", expected="> 0", got=0)
        settings = settings.changed(validation=0.2)
    if "kernel" in choice:
        kept = tuple(arg for arg in settings.rule.objective_args if not arg.startswith("kernel="))
        settings = settings.changed(objective_args=(*kept, f"kernel={choice['kernel']}"))
    return settings


def choices(sweep: Sweep) -> list[dict[str, Any]]:
    """Every combination; a kernel only for the rules whose head has one."""
    made: list[dict[str, Any]] = []
    for objective in sweep.objective or (with_preset(Settings(), sweep.preset).rule.objective,):
        kernels = sweep.kernel if objective != "backprop" and hasattr(load_objective(objective), "kernel") else ()
        for lr in sweep.lr:
            made += [{"lr": lr, "objective": objective, "kernel": k} for k in kernels] or [
                {"lr": lr, "objective": objective}
            ]
    return made


def check(sweep: Sweep) -> None:
    """Raises ConfigError where the folder holds a sweep already, and whatever is wrong with a choice."""
    if (sweep.out / "runs").exists():
        raise ConfigError("the folder already holds a sweep", where=sweep.out, remedy="choose another --out")
    for choice in choices(sweep):
        settings = settings_of(choice, sweep)
        check_job(make_job(settings, open_dataset(settings.dataset), workers=sweep.stages))


class NoMoreTrials(tune.Callback):
    """Raises Interrupted when the last trial at work has ended of a sweep that was told to stop."""

    def __init__(self, request: StopRequest) -> None:
        self.request = request

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if self.request.number and not any(each.status == "RUNNING" for each in trials if each is not trial):
            raise Interrupted(self.request.number)

    on_trial_error = on_trial_complete


def search(sweep: Sweep) -> list[tune.Result]:
    """The trials, the best first. Raises Interrupted for a signal, when those at work have made their snapshots; for a
    second one at once."""
    actor: Any = ray.remote(StopActor)
    stop = actor.options(num_cpus=0).remote()
    # A trial only drives: its stages take the CPUs. Ray wants it to need something, so it needs a byte.
    trainable = tune.with_resources(tune.with_parameters(train, sweep=sweep, stop=stop), {"cpu": 0, "memory": 1})
    with interrupts_kept(), interrupts(lambda _: stop.ask.remote()) as request:
        tuner = tune.Tuner(
            trainable,
            param_space={"choice": tune.grid_search(choices(sweep))},
            tune_config=tune.TuneConfig(max_concurrent_trials=sweep.at_once),
            run_config=tune.RunConfig(
                storage_path=str(sweep.out), name="tune", verbose=0, callbacks=[NoMoreTrials(request)]
            ),
        )
        grid = tuner.fit()
    return sorted((grid[i] for i in range(len(grid))), key=lambda result: -(result.metrics or {}).get("accuracy", -1.0))


def table(results: list[tune.Result]) -> Table:
    """A line for each trial: its choice, validation accuracy, speed, and the last line of its error."""
    made = plain.table("objective", "kernel", "lr", "validation accuracy", "samples/s", "error")
    for result in results:
        metrics, choice = result.metrics or {}, (result.config or {})["choice"]
        error = str(result.error).strip().splitlines()[-1].strip() if result.error else ""
        made.add_row(
            choice["objective"],
            str(choice.get("kernel", "-")),
            str(choice["lr"]),
            f"{metrics.get('accuracy', float('nan')):.2%}",
            f"{metrics.get('samples_per_second', float('nan')):,.0f}",
            error,
        )
    return made


def main() -> None:
    """Run the sweep. Told to stop by Ctrl-C, SIGTERM or SIGHUP it ends its trials, each with a snapshot, and the Ray
    that it has started; the exit status is 128 and the signal's number."""
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Tune's would wait for the trials at work
    try:
        with signals_restored(), interrupts_kept():
            handle_signals(unwind)
            sweep = parsed(Sweep, sys.argv[1:], "ray_sweep.py")
            sweep = replace(sweep, out=sweep.out.absolute())
            check(sweep)
            with joined(RayOptions(sweep.address), sweep.stages * sweep.at_once):
                results = search(sweep)
    except FfdistError as error:
        print_error(error)
        sys.exit(1)
    except Interrupted as told:
        sys.exit(exit_status(told.number))
    plain.PlainConsole().print(table(results))
    sys.exit(any(result.error for result in results))


if __name__ == "__main__":
    main()
