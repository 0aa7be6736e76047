"""The library's front door: a chain of blocks, a rule and data, trained through a pipeline."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_type_hints

import numpy as np
from torch import Tensor, nn

from ffdist.arguments import checked, spelled_as_arguments
from ffdist.baselines.twin import Backprop, twin
from ffdist.config import TrainSettings
from ffdist.data import Images
from ffdist.data.given import Data, as_images
from ffdist.errors import ConfigError, DataError, NetworkError
from ffdist.models import Chain
from ffdist.models.chain import no_sequential
from ffdist.objectives import Objective, load_objective
from ffdist.pipeline.classifier import Classifier
from ffdist.pipeline.optim import OptimConfig
from ffdist.plain import PlainConsole
from ffdist.report.console import ConsoleReport
from ffdist.report.log import read_run_log
from ffdist.runtime.agree import check_job
from ffdist.runtime.folder import beginning, check_resumable, going_on, held, nothing_left, read_recorded
from ffdist.runtime.in_python import (
    BACKPROP,
    as_recorded,
    check_given,
    data_settings,
    network_settings,
    rule_settings,
)
from ffdist.runtime.job import Job, JobConfig
from ffdist.runtime.outcome import Result
from ffdist.runtime.own_code import settled
from ffdist.runtime.payload import refuse_while_loading
from ffdist.runtime.processes import run_processes
from ffdist.runtime.run import write_settings
from ffdist.runtime.start import job_config
from ffdist.runtime.threads import run_threads
from ffdist.sending import GivenJob, check_sendable
from ffdist.snapshot import SnapshotStore, committed, latest


@dataclass
class Pipeline:
    """A network whose blocks learn by a local rule, in stages that work at the same time.

    network: a `Chain`, or any `nn.Sequential`, each layer with weights a block together with the norms, activations and
        pools behind it. blocks: how many children in a row make each one, if not so. Samples reach it as float32;
        what its outputs' axes mean is told by its layers (`nn.Conv1d`: [N, C, L]; `nn.Linear`: tokens [N, T, C]), or
        by an attribute `axes` of a block, "channels_first" or "channels_last".
    objective: the rule, e.g. `SFF(kernel=3)`, or its name on the command line, with its default options; "backprop":
        the same network with one loss.
    stages: how many; `cut` counts the blocks in each, by default they are dealt by measured time. The number of stages,
        the cut and the launcher change nothing about the result.
    fusion: whether a linear classifier on all blocks' features learns along, as one more block behind the last.
    launcher: "threads" of this process, or "processes" of this host: then what is passed in must be importable there,
        from a module, or from a script whose `fit` stands under `if __name__ == "__main__":`.
    Raises ConfigError for a value that is not of its type, or out of range.
    """

    network: Chain | nn.Sequential
    objective: Objective | str
    stages: int = 1
    launcher: Literal["threads", "processes"] = "threads"
    blocks: Sequence[int] | None = None
    cut: Sequence[int] = ()
    fusion: bool = False
    queue: int = 2
    precision: Literal["fp32", "bf16"] = "fp32"
    transport: Literal["auto", "shared-memory", "gloo", "nccl", "xccl"] = "auto"
    device: str = "auto"
    seed: int = 0
    threads: int | None = None
    timeout: timedelta = timedelta(minutes=10)
    _classifier: Classifier | None = field(default=None, repr=False)

    @spelled_as_arguments()
    def __post_init__(self) -> None:
        if self.objective != BACKPROP:
            as_objective(self.objective)
        if not isinstance(self.network, (Chain, nn.Sequential)):
            raise no_sequential(self.network)
        self._settings()

    @spelled_as_arguments()
    def fit(
        self,
        data: Data,
        *,
        test: Data | None = None,
        epochs: int = 10,
        batch_size: int = 128,
        validation: float | Data | None = None,
        augment: Sequence[Literal["crop", "shift", "flip", "alternate", "cutout"]] = (),
        early_stop: int | None = None,
        samples: int | None = None,
        image_size: int | None = None,
        microbatches: int = 1,
        snapshot_every: int | None = None,
        keep: int = 2,
        out: str | Path | None = None,
        resume: bool = False,
        progress: bool = True,
        **optim: Any,
    ) -> Result:
        """Train; the trained network is in `classifier`, and in the `nn.Sequential` that was passed in.

        A second `fit` begins a `Chain` anew, of random weights by `seed` (or those of `models.with_weights`); an
        `nn.Sequential` goes on from the weights that it has. Optimiser and schedule begin anew in either case.

        test: a test split for `data` that has none.
        validation: the share of the training samples that is held out, and not learned from, drawn by class and by
            `seed`; 0 for none. None: the validation split that `data` brings, or a fifth. Or such a split, in any form
            of `data`.
        early_stop, samples, image_size, microbatches, snapshot_every, keep: as `ffdist train --help` has them.
        out: keep the run in this folder: settings, snapshots and logs, as `ffdist train --out` does. `ffdist eval`,
            `predict`, `report`, `export` and `train --resume` take it where they can make the network and the rule
            again: those of ffdist, rules that a module defines, and networks of `models.load_model("module:function",
            ...)`. With any other network or rule, `ffdist.load(out, network, objective)` gives it back.
        resume: go on from the last snapshot in `out`, to the same bits as a run that was never interrupted; all else
            is told as it was, though `epochs` may be more, and stages and launcher others.
        optim: fields of `OptimConfig`: lr, optimizer, schedule, weight_decay, ...
        Ctrl-C, SIGTERM and SIGHUP end the training early, behind a snapshot; again, or before it has begun, they raise
        KeyboardInterrupt.
        Raises ConfigError, DataError and NetworkError for what does not go together, or not with the run that is to go
        on, DivergedError for a loss that is not finite, StageError for a stage that fails or does not answer.
        """
        refuse_while_loading()
        share, held_out = (validation, None) if is_share(validation) else (None, validation)
        told = fit_settings(
            {
                "epochs": epochs, "batch_size": batch_size, "validation": share, "augment": augment,
                "early_stop": early_stop, "samples": samples, "image_size": image_size, "microbatches": microbatches,
                "snapshot_every": snapshot_every, "keep": keep, "progress": progress, "resume": resume,
            },
            optim,
        )  # fmt: skip
        if not isinstance(out, (str, Path, type(None))):
            raise ConfigError("out has a wrong value", where="Pipeline.fit", expected="a folder", got=repr(out))
        settings = replace(self._told(told), out=out if out is None else Path(out))
        config = job_config(settings, None, settings.stages or 1)
        images = sized(as_images(data, test, held_out), settings.image_size)
        job = self._job(images, config)
        check_job(job, config.stages)
        if progress and job.chain.joined:
            print(f"ffdist: {job.chain.joined}", file=sys.stderr)
        if out is None and not resume:
            with tempfile.TemporaryDirectory(prefix="ffdist-") as scratch, held(Path(scratch)):
                return self._train(job, Path(scratch), progress)
        return self._train_kept(job, settings, data, progress)

    def _train(self, job: Job, run: Path, progress: bool) -> Result:
        result = self._launch(replace(job, config=replace(job.config, run=run)), progress)
        self._load(job, run)
        return result

    def _train_kept(self, job: Job, settings: TrainSettings, data: Data, progress: bool) -> Result:
        """In a folder of its own, that says all of itself; or on from where the run there has come to."""
        chain = self.chain(job.images)
        settings = replace(
            settings,
            **network_settings(chain, self.blocks),
            **rule_settings(self.objective),
            **data_settings(data, job.images),
        )
        if not settings.resume:
            with beginning(settings, job.images) as run:
                return self._train(job, run, progress)
        recorded = read_recorded(settings.out)
        settings = as_recorded(settings, recorded, chain, self.objective)
        check_given(recorded, chain, job.objective)
        check_resumable(recorded, settings, "give what is expected")
        with going_on(settings, job.images) as run:
            if told := nothing_left(settings):
                print(f"ffdist: {told} ({run})", file=sys.stderr)
                self._load(job, run)
                return result_of(run)
            ready = partial(write_settings, run, settled(settings))
            job = replace(job, config=replace(job.config, resume=bool(committed(run))), ready=ready)
            return self._train(job, run, progress)

    def _told(self, given: dict[str, Any]) -> TrainSettings:
        """What the arguments say, as settings of a run."""
        values = {name: value for name, value in (self._settings() | given).items() if name in OF_A_RUN}
        if windows := values.pop("windows", None):
            values["windows"] = tuple(f"{start}:{end}" for start, end in windows)
        return replace(TrainSettings(), timeout=self.timeout.total_seconds(), **values)

    def _job(self, images: Images, config: JobConfig) -> Job:
        chain = self.chain(images)
        if self.objective != BACKPROP:
            return Job(chain, as_objective(self.objective), images, config)
        if self.stages > 1 or self.fusion:
            raise ConfigError("backpropagation's twin is one block: its one loss is behind the last layer",
                              where="Pipeline", expected="stages=1, fusion=False",
                              got=f"stages={self.stages}, fusion={self.fusion}")  # fmt: skip
        whole = twin(chain)
        whole.joined = chain.joined
        return Job(whole, Backprop(), images, config)

    def chain(self, images: Images) -> Chain:
        """The network as a chain for these data. Raises NetworkError when it was made for other shapes or classes."""
        if isinstance(self.network, Chain):
            made, needed = (self.network.input_shape, self.network.num_classes), (images.shape, images.num_classes)
            if made != needed:
                raise NetworkError("the network was made for other data", where=f"data set {images.name}",
                                   expected="samples {}, {} classes".format(*made),
                                   got="samples {}, {} classes".format(*needed),
                                   remedy="make it of images.shape and images.num_classes")  # fmt: skip
            return self.network if self.blocks is None else self.network.regroup(self.blocks)
        return Chain.from_sequential(
            self.network, input_shape=images.shape, num_classes=images.num_classes, cut=self.blocks
        )

    @property
    def classifier(self) -> Classifier:
        """The trained network in one piece, a plain `nn.Module` in evaluation mode."""
        if self._classifier is None:
            raise ConfigError("the pipeline is not trained", remedy="call fit first")
        return self._classifier

    def predict(self, samples: Tensor | np.ndarray) -> Tensor:
        """Classes, int64 [B], of samples as in training.

        samples: pictures [B, H, W], [B, C, H, W] or [B, H, W, C], of whole numbers in 0..255 or of floats in 0..1; or,
            where it was trained on floats, such of their shape. Those far from the training's range are told.

        Raises DataError for samples of another shape, type or range, ConfigError before `fit`.
        """
        return self.classifier.predict(samples)

    def _settings(self) -> dict[str, Any]:
        """The settings, of the types they should have. Raises ConfigError for those that are not."""
        if not isinstance(self.timeout, timedelta):
            raise ConfigError("timeout has a wrong value", where="Pipeline", expected="a datetime.timedelta",
                              got=repr(self.timeout), remedy="timeout=timedelta(seconds=...)")  # fmt: skip
        return checked({name: getattr(self, name) for name in SETTINGS}, get_type_hints(Pipeline), "Pipeline")

    def _launch(self, job: Job, progress: bool) -> Result:
        report = ConsoleReport(PlainConsole(stderr=True, quiet=not progress))
        try:
            if self.launcher == "processes":
                check_sendable(job)
                return run_processes(GivenJob(job), job.config.stages, report)
            return run_threads(job, report)
        finally:
            report.close()

    def _load(self, job: Job, run: Path) -> None:
        manifest = latest(run)
        if manifest is None:
            raise DataError("no epoch was finished", where="fit", remedy="train for one epoch at least")
        self._classifier = Classifier(
            job.chain, job.objective, mean=job.images.mean, std=job.images.std, fusion=self.fusion
        )
        SnapshotStore(run, job.names).load_weights(self._classifier, manifest)
        self._classifier.pixels, self._classifier.spread = job.images.pixels, job.images.spread
        self._classifier.classes, self._classifier.decoding = list(job.images.classes), job.images.decoding
        if isinstance(self.network, nn.Sequential):
            trained = nn.Sequential(*self._classifier.blocks)
            own = self.network.state_dict()
            found = list(trained.state_dict().values())[: len(own)]  # behind them is the twin's own classifier
            values = dict(zip(own, found, strict=True))
            self.network.load_state_dict(values)


SETTINGS = (
    "stages",
    "launcher",
    "blocks",
    "cut",
    "fusion",
    "queue",
    "precision",
    "transport",
    "device",
    "seed",
    "threads",
)
"""Fields of a `Pipeline` that are checked by their types."""
OF_A_RUN = {f.name for f in fields(TrainSettings)} - {"blocks", "data", "model", "objective", "out"}
"""Settings of a run that are arguments of the same name here."""


def fit_settings(given: dict[str, Any], optim: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `fit`, of the types they should have. Raises ConfigError for those that are not."""
    of_fit = get_type_hints(Pipeline.fit) | {"validation": float | None}
    hints = {name: of_fit[name] for name in given} | get_type_hints(OptimConfig)
    return checked(given | optim, hints, "Pipeline.fit")


def sized(images: Images, size: int | None) -> Images:
    """With pictures resized to this side. Raises ConfigError for other samples."""
    if size is None:
        return images
    if len(images.shape) != 3 or not images.pixels:
        kind = "whole numbers" if images.pixels else "floats"
        raise ConfigError("only pictures are resized", where="image_size", expected="whole numbers (C, H, W)",
                          got=f"{kind} {images.shape}", remedy="leave it out, and resize them before")  # fmt: skip
    return replace(images, shape=(images.shape[0], size, size))


def result_of(run: Path) -> Result:
    """Of a run that has come to its end."""
    records, end = read_run_log(run)
    assert end, "checked by whoever says so"
    return Result(end["reason"], records, test=end["test"])


def is_share(validation: Any) -> bool:
    """Whether it is a number, and no data: None and what is mistyped are told as a number is."""
    return validation is None or isinstance(validation, (int, float, str)) or getattr(validation, "ndim", None) == 0


def as_objective(rule: Objective | str) -> Objective:
    """The rule, or the one of that name. Raises ConfigError for what is neither."""
    if isinstance(rule, str):
        return load_objective(rule)
    if not isinstance(rule, Objective):
        name = getattr(rule, "__name__", "SFF")
        raise ConfigError("the objective is not a rule", where="Pipeline", expected="an Objective, or the name of one",
                          got=repr(rule), remedy=f"make one: {name}()")  # fmt: skip
    return rule
