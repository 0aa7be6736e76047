"""The library's front door: a chain of blocks, a rule and data, trained through a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from ffdist import posix  # noqa: F401 - first: it says which systems have what the others import
from ffdist.arguments import as_fields, as_settings, check_options, is_share
from ffdist.data import Images
from ffdist.data.given import Data
from ffdist.errors import ConfigError, DataError, DivergedError
from ffdist.events import Observer, Observers
from ffdist.given_network import GivenNetwork
from ffdist.launch import (
    Watching,
    check_flags,
    check_unkept,
    launched,
    note_run_facts,
    open_given,
    result_of,
    watched,
    without_folder,
)
from ffdist.models import Chain
from ffdist.models.chain import no_sequential_error
from ffdist.notes import note
from ffdist.objectives import Objective
from ffdist.options import check_fields
from ffdist.payload import refuse_while_loading
from ffdist.pipeline.classifier import Classifier
from ffdist.pipeline.own_metrics import Metric, given_metrics
from ffdist.plan import Plan
from ffdist.planner.forecast import Forecast, Request
from ffdist.runtime.agree import check_job
from ffdist.runtime.folder import check_resumable, locked, new_run, nothing_left_note, read_recorded, resumed_run
from ffdist.runtime.in_python import (
    BACKPROP,
    as_recorded,
    check_given,
    data_settings,
    network_settings,
    rule_settings,
)
from ffdist.runtime.job import Job
from ffdist.runtime.join import JoinedRun
from ffdist.runtime.outcome import Result
from ffdist.runtime.own_code import GIVEN, named_code, with_absolute_paths
from ffdist.runtime.planned import planned
from ffdist.runtime.planning import settled_plan
from ffdist.runtime.record import facts, note_start
from ffdist.runtime.run import classifier_of, not_here_error, write_settings
from ffdist.runtime.world import World
from ffdist.scratch import scratch_folder
from ffdist.settings import Settings
from ffdist.settings.unused import check_of_plans
from ffdist.snapshot import FINAL, SnapshotStore, committed, pulled, use_snapshot, whole
from ffdist.trust import check_trusted, trusting


class Pipeline:
    """A network whose blocks learn by a local rule, in stages that work at the same time.

    network: a `Chain`; or any `nn.Sequential`, each layer with weights a block together with the norms, activations and
        pools after it (`blocks=`: how many children in a row make each one, if not so); or a network's name, with
        `model_args=["widths=8,16"]`. Samples reach it as float32; what its outputs' axes mean is known by its layers
        (`nn.Conv1d`: [N, C, L]; `nn.Linear`: tokens [N, T, C]), or by an attribute `axes` of a block, "channels_first"
        or "channels_last".
    objective: the rule, e.g. `SFF(kernel=3)`, or its name, with `objective_args=["kernel=3"]`; "backprop": the same
        network with one loss.
    settings: all of a run's settings, but for what is an argument here; default: `ffdist.Settings()`, with threads
        of this process as the launcher. Those of a preset: `ffdist.presets.with_preset(ffdist.Settings(), "digits")`;
        of a file: `ffdist.settings.toml.settings_in("my.toml")`.
    options: fields of the settings by their own names, in place of those: `stages=2, lr=1e-3, epochs=30`; `ffdist
        settings` lists them, with their defaults; they may as well be given to `fit`.

    The number of stages, the cut and the launcher change nothing about the result. With launcher="processes" or "ray"
    what is passed in must be importable there, from a module, or from a script whose `fit` stands under
    `if __name__ == "__main__":`. In a script that torchrun has started each process is a stage of the run, whatever the
    launcher; all of them must come to the same `fit`, and have its result and the trained network.
    Raises ConfigError for a value that is not of its type, or out of range.
    """

    __slots__ = ("_classifier", "network", "objective", "result", "settings")  # a mistyped setting is no attribute

    def __init__(
        self,
        network: Chain | nn.Sequential | str,
        objective: Objective | str,
        *,
        settings: Settings | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(network, (Chain, nn.Sequential, str)):
            raise no_sequential_error(network)
        given = {"model": network, "objective": objective}
        named = {name: value if isinstance(value, str) else GIVEN for name, value in given.items()}
        self.network = network
        self.settings = as_settings(settings, HERE).changed(**as_fields(options, "Pipeline"), **named)
        self.objective = objective
        check_options(network, objective, self.settings)
        self.result: Result | None = None
        """The result of the last `fit`."""
        self._classifier: Classifier | None = None
        if objective != BACKPROP:
            self._given.rule(self.settings)

    @classmethod
    def resume(
        cls,
        run: str | Path,
        data: Data | None = None,
        *,
        network: Chain | nn.Sequential | None = None,
        objective: Objective | None = None,
        progress: bool = True,
        callbacks: Sequence[Observer] = (),
        metrics: Mapping[str, Metric] | Sequence[Metric] = (),
        trust: bool = False,
        **changes: Any,
    ) -> Pipeline:
        """Go on with the run in this folder, begun here or on the command line, from its last snapshot to its end.

        data: default: where the run has them from. network, objective: those of its beginning, where they were given in
            Python. callbacks, metrics: as in `fit`. trust: as `ffdist.load` has it.
        changes: what may change: epochs, early_stop, stages, launcher, device, ...
        Returns the pipeline, with `result` and `classifier`. Raises ConfigError for what may not change, or is missing.
        """
        run = pulled(run)
        with trusting(trust):
            recorded = read_recorded(run)
        for name in named_code(recorded) if network is None or objective is None else ():
            check_trusted(name)
        for name, given in (("model", network), ("objective", objective)):
            if given is None and recorded.value(name) == GIVEN:
                raise not_here_error(name, Path(run))
        if data is None and recorded.dataset.data == GIVEN:
            raise ConfigError(
                "the run's data were given in Python, and cannot be opened here",
                where="Pipeline.resume",
                expected="the data, as when the run began",
                remedy="Pipeline.resume(run, data)",
            )
        named = {"model_args": network, "objective_args": objective}
        options = {name: () for name, value in named.items() if value is not None}
        here = recorded.changed(launcher=HERE.plan.launcher, stages=None, cut=(), **options)
        rule = objective if objective is not None else recorded.rule.objective
        pipeline = cls(recorded.network.model if network is None else network, rule, settings=here)
        data = recorded.dataset.data if data is None else data
        pipeline.fit(data, out=run, resume=True, progress=progress, callbacks=callbacks, metrics=metrics, **changes)
        return pipeline

    def fit(
        self,
        data: Data,
        *,
        test: Data | None = None,
        validation: float | Data | None = None,
        out: str | Path | None = None,
        resume: bool = False,
        progress: bool = True,
        callbacks: Sequence[Observer] = (),
        metrics: Mapping[str, Metric] | Sequence[Metric] = (),
        **options: Any,
    ) -> Result:
        """Train; the trained network is in `classifier`, and in the `nn.Sequential` that was passed in.

        A second `fit` begins a `Chain` anew, of random weights by `seed` (or those of `models.with_weights`); an
        `nn.Sequential` goes on from the weights that it has. Optimiser and schedule begin anew in either case.

        test: a test split for `data` that has none.
        validation: the share of the training samples that is held out, and not learned from, drawn by class and by
            `seed`; 0 for none. None: the validation split that `data` brings, or a fifth. Or such a split, in any form
            of `data`.
        out: keep the run in this folder: settings, snapshots and logs, as `ffdist train --out` does. `ffdist eval`,
            `predict`, `report`, `export` and `train --resume` take it where they can make the network and the rule
            again: those of ffdist, rules that a module defines, and networks of `models.load_model("module:function",
            ...)`. With any other network or rule, `ffdist.load(out, network, objective)` gives it back.
        resume: go on from the last snapshot in `out`, to the same bits as a run that was never interrupted; all else
            must be given as it was, though `epochs` may be more, and stages and launcher others.
        callbacks: each is called with every event of the run (`ffdist.events`), in this process, whatever the launcher
            (of torchrun's, in the last rank); one that fails is reported and left out; one that raises `StopRun` ends
            the run after a snapshot. If it has a `close`, that is called at the end.
        metrics: of your own, by name, such as {"f1": torchmetrics.classification.MulticlassF1Score(num_classes=10)}:
            objects with update, compute and reset, or functions of scores [N, K] and labels [N], which give a number or
            several. They get the validation and the test samples; their values are in `result.history()`.
        options: fields of the settings by their own names, for this run: epochs, batch_size, augment, lr, schedule, ...
            `plan` may be a `Plan`, such as `Pipeline.plan(...).plan`.
        Ctrl-C, SIGTERM and SIGHUP end the training early, after a snapshot; again, or before it has begun, they raise
        KeyboardInterrupt.
        Raises ConfigError, DataError and NetworkError for what does not go together, or not with the run that is to go
        on, DivergedError for a loss that is not finite, StageError for a stage that fails or does not answer.
        """
        refuse_while_loading()
        check_flags(resume=resume, progress=progress)
        share, held_out = (validation, None) if is_share(validation) else (None, validation)
        if share is not None:
            options["validation"] = share
        settings = self.settings.changed(
            **as_fields(options, "Pipeline.fit"), **({} if out is None else {"out": pulled(out) if resume else out})
        )
        check_options(self.network, self.objective, settings)
        world = World.from_env()
        job, named = self._job(settled_plan(settings), data, test, held_out, metrics, world)
        if progress and (world is None or world.first):
            note_run_facts(job)
        watching = partial(watched, job.settings, callbacks, progress=progress)
        if job.settings.run.out is None and not resume:
            check_unkept(job.settings)
            self.result = self._train_unkept(job, watching, world)
        else:
            self.result = self._train_kept(job, named, watching, world, resume=resume)
        return self.result

    def _job(
        self,
        settings: Settings,
        data: Data,
        test: Any,
        held_out: Any,
        metrics: Mapping[str, Metric] | Sequence[Metric],
        world: World | None,
    ) -> tuple[Job, bool]:
        """The work of a run on these data, and whether the data were given by the settings."""
        settings, images, named = open_given(settings, data, test, held_out)
        job = self._given.job(images, settings, world)
        job = replace(job, metrics=given_metrics(metrics, job.chain.num_classes))
        check_job(job)
        return job, named

    def _train_unkept(self, job: Job, watching: Watching, world: World | None) -> Result:
        if world:
            return self._join(
                JoinedRun(world, job, None, False, lambda: False, lambda run: None), lambda run: watching(None)
            )
        with scratch_folder() as scratch, locked(scratch):
            if job.settings.plan.launcher == "ray":
                write_settings(scratch, job.settings)  # by which an actor knows that it sees this folder
            try:
                return self._train(job, scratch, watching(None))
            except DivergedError as error:
                raise without_folder(error, scratch) from error

    def _train(self, job: Job, run: Path, observer: Observers) -> Result:
        with closing(observer):
            result = launched(replace(job, run=run), observer)
        self._load(job, run)
        return result

    def _join(self, joined: JoinedRun, watching: Watching) -> Result:
        def use(run: Path, result: Result | None) -> Result:
            self._load(joined.job, run)
            return result or result_of(run)

        return joined.train(watching, use)

    def _train_kept(self, job: Job, named: bool, watching: Watching, world: World | None, *, resume: bool) -> Result:
        """Train in a folder of its own, that says all of itself; or go on from where the run there has come to."""
        settings = self._recorded(job, named, resume=resume)
        made_with = facts("torchrun" if world else settings.plan.launcher, job.workers)
        begin = partial(resumed_run if resume else new_run, settings, job.images)

        def ready(run: Path) -> Callable[[], None]:
            return partial(note_start, run, made_with, with_absolute_paths(settings) if resume else None)

        if world:
            finished = lambda: nothing_left_note(settings) is not None  # noqa: E731
            return self._join(JoinedRun(world, job, begin, resume, finished, ready), watching)
        with begin() as run:
            if resume and (text := nothing_left_note(settings)):
                note(f"{text} ({run})")
                self._load(job, run)
                return result_of(run)
            go_on = resume and bool(committed(run))
            return self._train(replace(job, resume=go_on, ready=ready(run)), run, watching(run))

    def _recorded(self, job: Job, named: bool, *, resume: bool) -> Settings:
        """The settings by which the run is found again, or those of the run that goes on. Raises ConfigError where it
        cannot go on so.

        named: whether the data were given by the settings."""
        chain, rule = self.chain(job.images, job.settings), self._given.recorded_rule(job.settings)
        changes = rule_settings(rule)
        if changes["objective"] == GIVEN:
            changes = rule_settings(job.objective)
        settings = job.settings.changed(
            **network_settings(chain, job.settings.network.blocks or None),
            **changes,
            **({} if named and job.images.source else data_settings(job.images, job.settings.dataset)),
        )
        if not resume:
            return settings
        recorded = read_recorded(settings.run.out)
        settings = as_recorded(settings, recorded, chain, rule if rule == BACKPROP else job.objective)
        check_given(recorded, chain, job.objective)
        check_resumable(recorded, settings, "give what is expected")
        return settings

    def chain(self, images: Images, settings: Settings | None = None) -> Chain:
        """The network as a chain for these data. Raises NetworkError when it was made for other shapes or classes."""
        return self._given.chain(images, (settings or self.settings).network)

    @property
    def _given(self) -> GivenNetwork:
        return GivenNetwork(self.network, self.objective)

    @property
    def classifier(self) -> Classifier:
        """The trained network in one piece, a plain `nn.Module` in evaluation mode."""
        if self._classifier is None:
            raise ConfigError("the pipeline is not trained", remedy="call fit first")
        return self._classifier

    def plan(
        self,
        data: Data,
        *,
        devices: int,
        link: str | None = None,
        memory_limit: str | float | None = None,
        speeds: Sequence[float] = (),
        lanes: int | None = None,
        plan: str | Path | Plan | None = None,
        fresh: bool = False,
        **options: Any,
    ) -> Forecast:
        """Find which worker should compute which block, and forecast its speed, before anything is trained, as `ffdist
        plan` has it: blocks and links are measured, once; plans are searched and simulated.

        devices: how many there are, a worker each. link: what joins them, "1gbit" or "25gbit,50us"; None: within this
            host, measured. memory_limit: bytes that a worker may hold, or "8GiB". speeds: of the devices, against the
            one here. lanes: of a batch; None: those of the settings, else as many as are fastest. plan: one to price, a
            text, file or `Plan`, in place of the best. fresh: measured anew. options: fields of the settings.
        Returns the best plan (`.plan`), its stages (`.best`), and simulated samples a second (`.speeds`), beside a pure
        pipeline, data parallelism, and backpropagation by DDP and 1F1B; `.scaled([8, 32])` for other devices.
        `.best.devices` are the numbers of the workers' devices, some of which may be left idle.
        Raises ConfigError where nothing keeps to the memory limit, and for what does not go together.
        """
        if isinstance(plan, Plan):
            lanes = as_fields({"plan": plan, "lanes": lanes}, "Pipeline.plan")["lanes"]
        text = str(plan) if isinstance(plan, Path | Plan) else plan
        each = tuple(speeds) if isinstance(speeds, Iterable) else speeds
        request = Request(devices, link, memory_limit, each, lanes, text, fresh)
        check_fields(request, "Pipeline.plan")
        check_of_plans(options, "Pipeline.plan")
        settings = self.settings.changed(**as_fields(options, "Pipeline.plan"))
        check_options(self.network, self.objective, settings)
        settings, images, _ = open_given(settings, data)
        job = self._given.job(images, settings, None)
        check_job(job)
        return planned(job, request)

    def predict(self, samples: Tensor | np.ndarray) -> Tensor:
        """Classes, int64 [B], of samples as in training.

        samples: pictures [B, H, W], [B, C, H, W] or [B, H, W, C], of whole numbers in 0..255 or of floats in 0..1; or,
            where it was trained on floats, such of their shape. A note says so of those far from the training's range.

        Raises DataError for samples of another shape, type or range, ConfigError before `fit`.
        """
        return self.classifier.predict(samples)

    def _load(self, job: Job, run: Path) -> None:
        """Load what the run ended with into `classifier`, and into the `nn.Sequential` that was passed in."""
        manifest = use_snapshot(run, FINAL, whole)
        if manifest is None:
            raise DataError("no epoch was finished", where="fit", remedy="train for one epoch at least")
        self._classifier = classifier_of(job.chain, job.objective, job.images, job.settings)
        SnapshotStore(run, job.names).load_weights(self._classifier, manifest)
        self._classifier.records = manifest.records
        if isinstance(self.network, nn.Sequential):
            trained = nn.Sequential(*self._classifier.blocks)
            own = self.network.state_dict()
            found = list(trained.state_dict().values())[: len(own)]  # after them is the twin's own classifier
            values = dict(zip(own, found, strict=True))
            self.network.load_state_dict(values)


HERE = Settings().changed(launcher="threads")
"""The settings of a pipeline made in Python, where none are given."""
