"""The ranks' agreement before the stream starts: rank 0 decides, the others read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from math import prod
from typing import Any

import torch
import torch.distributed as dist

from ffdist.data import Loader
from ffdist.errors import ConfigError, DataError, NetworkError, SnapshotError, StageError, setting, unspelled
from ffdist.notes import note
from ffdist.objectives.load import known_objective
from ffdist.pipeline.lanes import parts
from ffdist.pipeline.lr_schedule import check_rise
from ffdist.pipeline.own_metrics import check_metrics
from ffdist.pipeline.own_optimizer import check_own_optimizer
from ffdist.pipeline.plan import check_objective
from ffdist.pipeline.score_table import check_lag
from ffdist.pipeline.smoke_test import SmallestBatch
from ffdist.pipeline.source import Loaders
from ffdist.runtime.folder import check_epochs
from ffdist.runtime.job import Job
from ffdist.runtime.meeting import await_key, set_key
from ffdist.runtime.memory import memory
from ffdist.runtime.planning import check_cut, is_searched, lanes_before_plan, max_stages, plan_of
from ffdist.runtime.routes import max_in_flight
from ffdist.runtime.world import World
from ffdist.settings import OptimSettings
from ffdist.settings.optim import OPTIMIZERS
from ffdist.snapshot import latest, set_aside
from ffdist.transport import transport_of


def agree(store: dist.Store, world: World, key: str, decide: Callable[[], Any], timeout: timedelta) -> Any:
    """Return on every rank what rank 0's `decide` returned (anything JSON can hold).

    Where rank 0 fails, it raises its own error, and the others raise a StageError that repeats it.
    """
    if world.first:
        try:
            value = decide()
        except Exception as error:  # whatever it is, the others wait for an answer
            with suppress(StageError):  # the store is gone: this rank's own error says more
                set_key(store, key, json.dumps({"error": unspelled(error)}), where=str(world))
            raise
        set_key(store, key, json.dumps({"value": value}), where=str(world))
        return value
    answer = json.loads(await_key(store, key, timeout, failure="worker 0 did not get ready", where=str(world)))
    if "error" in answer:
        raise StageError("worker 0 could not start", where=str(world), got=answer["error"])
    return answer["value"]


def make_plan(
    job: Job, world: World, loaders: Loaders, device: torch.device, speeds: Sequence[float] = ()
) -> dict[str, Any]:
    """The plan, the number of batches an epoch has, and the snapshot to start from. Only rank 0 makes it.

    speeds: of the workers' devices, where they are unlike.
    """
    steps = len(loaders.train)
    manifest = latest(job.run) if job.run and job.resume else None
    if job.resume and manifest is None:
        raise SnapshotError(
            "there is no snapshot to resume from",
            where=job.run,
            remedy=f"leave {setting('resume')} out to start a new run, with another {setting('run.out')}",
        )
    if job.run and manifest:
        check_epochs(manifest, job.settings.training.epochs)
        set_aside(job.run, manifest)
    plan = plan_of(job, world.size, device, loaders.train, speeds)
    in_flight = max_in_flight(plan, job.settings.plan.queue)
    check_lag(
        job.objective.score_lag,
        in_flight,
        f"{len(plan.stages)} stages, {setting('plan.queue', job.settings.plan.queue)}",
    )
    return {
        "plan": plan.as_json(),
        "steps": steps,
        "snapshot": str(manifest.folder) if manifest else None,
    }


def check_job(job: Job) -> None:
    """Everything that can be found wrong before anything is started or written.

    Raises NetworkError for blocks that do not fit together or that the objective cannot use, ConfigError for a cut,
    windows or a schedule that do not fit, or a transport that is none, DataError for samples that are not there.
    """
    check_cut(job, job.workers)
    if not is_searched(job.settings):  # else the plan that is found has to do
        queue, stages = job.settings.plan.queue, max_stages(job.settings, job.workers)
        in_flight = stages + (stages - 1) * queue
        check_lag(job.objective.score_lag, in_flight, f"{stages} stages, {setting('plan.queue', queue)}")
    job.settings.scheduler.check_windows(len(job.chain))
    job.settings.optim.check_blocks(len(job.chain))
    check_optimizer(job.settings.optim)
    if job.settings.plan.transport != "auto":
        transport_of(job.settings.plan.transport)
    loaders = job.loaders()
    epochs = job.settings.training.epochs
    check_rise(job.settings.scheduler, epochs * len(loaders.train), epochs)
    check_validation(job, loaders)
    check_labels(job, loaders.train)
    check_scale(job)
    check_own_metrics(job, loaders)
    lanes = lanes_before_plan(job)
    training = job.settings.changed(lanes=lanes).training
    # norms that are synchronised see the samples of all lanes
    smallest = smallest_part(
        loaders.train.largest_batch,
        training.microbatches,
        1 if training.sync_norms else lanes,
        planned=job.settings.training.lanes is None,
    )
    check_size(job, loaders.train.largest_batch)
    check_objective(
        job.chain,
        job.objective,
        fusion=job.settings.rule.fusion,
        samples=job.first_samples(loaders.train),
        smallest=smallest,
    )


def check_own_metrics(job: Job, loaders: Loaders) -> None:
    """Raises ConfigError for a metric that is not there, that fails, or that nothing is measured by."""
    metrics = job.own_metrics()
    if metrics and not (loaders.validation or loaders.test):
        raise ConfigError(
            "there are no samples to measure the metrics on",
            where=f"metric {', '.join(metrics)}",
            expected="a validation or a test split",
            remedy=setting("dataset.validation", 0.2),
        )
    check_metrics(metrics, job.chain.num_classes)


def check_labels(job: Job, train: Loader) -> None:
    """Raises ConfigError where samples are mixed, for a rule that takes no shares of classes as labels."""
    rule = job.objective
    if not train.mixing or rule.soft_labels:
        return
    own = known_objective(type(rule)) is None
    others = f"{setting('rule.objective', 'sff')}, or another rule whose classes compete"
    raise ConfigError(
        "the rule takes no mixed labels",
        where=f"objective {type(rule).__name__}",
        expected="one class a sample",
        got=f"{setting('dataset.augment')}: {' '.join(type(mix).__name__.lower() for mix in train.steps.mixes)}",
        remedy="leave that out; or "
        + ("soft_labels = True in the rule, where `local` takes float32 [B, K]; or " if own else "")
        + others,
    )


def check_optimizer(config: OptimSettings) -> None:
    """Raises ConfigError for one that this torch does not have, and for a user's that does not do."""
    name = config.optimizer
    if name not in OPTIMIZERS:
        check_own_optimizer(config)
    if name == "muon" and not hasattr(torch.optim, "Muon"):
        raise ConfigError(
            "this torch has no Muon",
            where=setting("optim.optimizer", name),
            expected="torch 2.9 or newer",
            got=f"torch {torch.__version__}",
            remedy="a newer torch, with the torchvision that goes with it; or another optimiser",
        )


def check_scale(job: Job) -> None:
    """Floats that are left as they are have the size for which the rule is made, where it writes something into them.

    Raises DataError where they have not; for other rules it is a note.
    """
    spread, signal = job.images.spread, job.objective.input_rms
    if spread is None or job.images.normalised:
        return
    unusual = not 0.1 <= spread.size / (signal or 1.0) <= 10
    if unusual and signal is not None:
        raise DataError(
            "the rule's own mark in a sample is lost in it, or covers it",
            where=f"data set {job.images.name}",
            expected=f"floats of a size of about {signal:g} (the root of their mean square)",
            got=f"{spread.size:.3g}, of {spread.low:g}..{spread.high:g}",
            remedy="normalize=True in ffdist.from_tensors, from_dataset or from_arrow",
        )
    if unusual:
        note(
            f"data set {job.images.name}: floats of {spread.low:g}..{spread.high:g} are trained on as they are; "
            "from_tensors, from_dataset and from_arrow scale them with normalize=True"
        )


def smallest_part(batch: int, microbatches: int, lanes: int = 1, *, planned: bool = False) -> SmallestBatch:
    """The smallest part of a batch of so many samples that a block learns from at once; others may exceed it.

    planned: whether the lanes are as many as a plan or its replicas say.
    """

    def smallest(samples: int, microbatches: int, lanes: int) -> int:
        return min(part.samples for part in parts(samples, lanes, microbatches) if part.samples)

    fewer = next((m for m in range(microbatches - 1, 0, -1) if smallest(batch, m, lanes) > 1), None)
    fewer_lanes = next((n for n in range(lanes - 1, 0, -1) if smallest(batch, microbatches, n) > 1), None)
    if batch == 1:
        remedy = f"train on two samples or more, with {setting('training.batch_size', '2')} or more"
    else:
        whole = microbatches * lanes * max(2, -(-batch // (microbatches * lanes)))
        remedies = [
            setting(f"training.{name}", value)
            for name, value in (("microbatches", fewer), ("lanes", fewer_lanes))
            if value and not (name == "lanes" and planned)
        ]
        remedy = ", or ".join([*remedies, setting("training.batch_size", whole)])
    return SmallestBatch(smallest(batch, microbatches, lanes), remedy)


def check_size(job: Job, batch: int) -> None:
    """Raises NetworkError for a block that no memory of this machine holds: by its weights, what the optimiser keeps of
    them, and one part of a batch at its input and its largest layer, which is less than it will need."""
    there = memory(job.settings.compute.device)
    part = -(-batch // job.settings.training.microbatches)
    optim = job.settings.optim
    kept = {"adamw": 4, "adam": 4, "muon": 3, "sgd": 3 if optim.momentum else 2}.get(optim.optimizer, 2)
    shapes = [job.chain.input_shape, *job.chain.shapes()]
    for index, (given, output) in enumerate(zip(shapes, job.chain.outputs(), strict=False)):
        weights = sum(p.numel() for p in job.chain.build_meta(index).parameters() if p.requires_grad)
        needs = 4 * (kept * weights + part * (prod(given) + output.largest))
        if needs > there:
            raise NetworkError(
                "a block does not fit into this machine",
                where=f"block {index} '{job.chain.names[index]}', {weights:,} weights, output {list(output.shape)}",
                expected=f"less than the {there / 2**30:,.1f} GiB there are",
                got=f"at least {needs / 2**30:,.1f} GiB for {part} samples at once",
                remedy=f"smaller pictures ({setting('dataset.image_size')}), narrower blocks "
                f"({setting('network.model_args')}), or a smaller {setting('training.batch_size')}",
            )


def check_validation(job: Job, loaders: Loaders) -> None:
    """A share must hold some sample out, and only where the data have no split for it; what follows the validation
    results must have some."""
    share, picked = job.settings.dataset.validation, len(loaders.train.indices)
    if share and job.images.validation is not None:
        raise ConfigError(
            "the data have a validation split of their own",
            where=f"{setting('dataset.validation', f'{share:g}')}, data set {job.images.name}",
            expected="no share of the training samples beside it",
            got=f"{len(job.images.validation):,} validation samples",
            remedy=f"leave {setting('dataset.validation')} out, or {setting('dataset.validation', 0)} to train "
            "without; "
            "the split itself is left out by "
            "`ffdist data prepare ... --ignore NAME`",
        )
    if job.validation_share and loaders.validation is None:
        raise ConfigError(
            f"{setting('dataset.validation')} holds no sample out",
            expected="a share that rounds to one or more",
            got=f"{job.validation_share:g} of {picked:,} samples",
            remedy=f"{setting('dataset.validation', '0')}, or a larger share",
        )
    followers = {
        setting("scheduler.schedule", "plateau"): job.settings.scheduler.schedule == "plateau",
        setting("training.early_stop"): job.settings.training.early_stop is not None,
    }
    remedy = (
        f"leave {setting('dataset.validation')} out"
        if job.images.validation
        else f"hold some samples out: {setting('dataset.validation', '0.1')}"
    )
    for flag, follows in followers.items():
        if follows and loaders.validation is None:
            raise ConfigError(
                f"{flag} follows the validation results, and there are none",
                expected="a validation set",
                got=setting("dataset.validation", f"{share or 0:g}"),
                remedy=remedy,
            )


def validation_note(job: Job) -> str | None:
    """The note on a validation split that the data bring."""
    own = job.images.validation
    if own is None:
        return None
    if job.validation_share is None:
        return f"validation on the data's own validation split, {len(own):,} samples; none is held out of train"
    share = setting("dataset.validation", f"{job.validation_share:g}")
    return f"the data's own validation split, {len(own):,} samples, is not used: {share}"
