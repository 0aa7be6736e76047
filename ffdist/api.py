"""The library's front door: a chain of blocks, a rule and data, trained through a pipeline."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, get_type_hints

import numpy as np
from torch import Tensor, nn

from ffdist.arguments import checked, spelled_as_arguments
from ffdist.baselines.twin import Backprop, twin
from ffdist.data import Images
from ffdist.data.given import Data, as_images
from ffdist.errors import ConfigError, DataError, NetworkError
from ffdist.models import Chain
from ffdist.models.chain import no_sequential
from ffdist.objectives import Objective, load_objective
from ffdist.pipeline.classifier import Classifier
from ffdist.pipeline.optim import OptimConfig
from ffdist.pipeline.source import Schedule
from ffdist.plain import PlainConsole
from ffdist.report.console import ConsoleReport
from ffdist.runtime.agree import check_job
from ffdist.runtime.given_run import kept, named_folder, settings_of
from ffdist.runtime.job import Job, JobConfig
from ffdist.runtime.outcome import Result
from ffdist.runtime.payload import refuse_while_loading
from ffdist.runtime.processes import run_processes
from ffdist.runtime.threads import run_threads
from ffdist.sending import GivenJob, check_sendable
from ffdist.snapshot import SnapshotStore, latest

BACKPROP = "backprop"
"""The name of the twin: the same network, learning by one loss."""


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
    device: Literal["auto", "cpu", "cuda"] = "auto"
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
        out: str | Path | None = None,
        resume: bool = False,
        progress: bool = True,
        **optim: Any,
    ) -> Result:
        """Train; the trained network is in `classifier`, and in the `nn.Sequential` that was passed in.

        test: a test split for `data` that has none.
        out: keep the run in this folder, as `ffdist train --out` does: for `ffdist.load`, and for the commands, which
            make networks and rules again that ffdist or a module defines, and take `--data` for data that were given.
        resume: go on from the last snapshot in `out`, with the same data, network, rule and settings; `epochs` may be
            more.
        validation: the share of the training samples that is held out, and not learned from, drawn by class and by
            `seed`; 0 for none. None: the validation split that `data` brings, or a fifth. Or such a split, in any form
            of `data`.
        optim: fields of `OptimConfig`: lr, optimizer, schedule, weight_decay, ...
        Ctrl-C, SIGTERM and SIGHUP end the training early, behind a snapshot; again, or before it has begun, they raise
        KeyboardInterrupt.
        Raises ConfigError, DataError and NetworkError for what does not go together, DivergedError for a loss that is
        not finite, StageError for a stage that fails or does not answer.
        """
        refuse_while_loading()
        own = self._settings()
        share, held_out = (validation, None) if is_share(validation) else (None, validation)
        told = fit_settings({"epochs": epochs, "batch_size": batch_size, "validation": share, "augment": augment,
                             "early_stop": early_stop, "resume": resume, "progress": progress}, optim)  # fmt: skip
        optim_config = OptimConfig(**{name: told[name] for name in optim})
        if not isinstance(out, (str, Path, type(None))):
            raise ConfigError("out has a wrong value", where="Pipeline.fit", expected="a folder", got=repr(out))
        if told["resume"] and out is None:
            raise ConfigError("which run is to go on?", where="Pipeline.fit", remedy="name its folder: out=...")
        images = as_images(data, test, held_out)
        with ExitStack() as stack:
            run = Path(out or stack.enter_context(tempfile.TemporaryDirectory(prefix="ffdist-")))
            config = JobConfig(
                Schedule(told["epochs"], early_stop=told["early_stop"]), optim_config, run=run, timeout=self.timeout,
                **{name: told[name] for name in ("batch_size", "validation", "augment", "resume")},
                **{name: own[name] for name in SETTINGS if name not in ("launcher", "blocks")},
            )  # fmt: skip
            job = self._job(images, config)
            check_job(job, config.stages)
            if progress and job.chain.joined:
                print(f"ffdist: {job.chain.joined}", file=sys.stderr)
            if out is not None:
                named = named_folder(data) if test is None and held_out is None else None
                settings = settings_of(
                    config, data=named, network=self.network, objective=self.objective, blocks=own["blocks"],
                    launcher=own["launcher"],
                )  # fmt: skip
                job = stack.enter_context(kept(job, settings))
            result = self._launch(job, progress)
            self._load(job, run)
        return result

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


SETTINGS = ("stages", "launcher", "blocks", "cut", "fusion", "queue", "precision", "device", "seed", "threads")
"""Fields of a `Pipeline` that are checked by their types."""


def fit_settings(given: dict[str, Any], optim: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `fit`, of the types they should have. Raises ConfigError for those that are not."""
    of_fit = get_type_hints(Pipeline.fit) | {"validation": float | None}
    hints = {name: of_fit[name] for name in given} | get_type_hints(OptimConfig)
    return checked(given | optim, hints, "Pipeline.fit")


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
