"""A block that learns by itself: module, head, optimiser, schedule, metrics."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ffdist.device import copied, queues, wide
from ffdist.errors import DivergedError, setting
from ffdist.models import OutputLayout, derive_seed, seeded
from ffdist.models.strided_pointwise import pick_places_first
from ffdist.objectives import BlockSpec, Local, Objective
from ffdist.objectives.base import main_labels
from ffdist.pipeline.average import WeightAverage
from ffdist.pipeline.compiled import compile_block, compiling
from ffdist.pipeline.contract import at, check_detached, check_graph, check_local, computing, own_code, rule_code
from ffdist.pipeline.finite import FiniteCheck, NonfiniteValue, is_finite
from ffdist.pipeline.group_norm import ask_for_gradients
from ffdist.pipeline.lr_schedule import build_lr_scheduler
from ffdist.pipeline.optim import build_optimizer
from ffdist.pipeline.precision import MIN_SCALE, LossScale, autocast, dtype_of
from ffdist.pipeline.tree import added_up
from ffdist.settings import Settings

CHECK_EVERY = 50
"""Batches between two looks at the loss on a GPU, where a look waits for the device; on a CPU every loss is checked."""


@dataclass(frozen=True, slots=True)
class BlockConfig:
    """The settings that all blocks of a run share."""

    settings: Settings
    total_steps: int
    """Batches of the whole run."""
    device: torch.device = field(default_factory=partial(torch.device, "cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of activations on their way to the next block."""
        return dtype_of(self.settings.compute.precision)


class LearningBlock:
    """One block of the chain with all it needs to learn; no gradient enters or leaves it."""

    def __init__(
        self,
        spec: BlockSpec,
        module: nn.Module,
        objective: Objective,
        config: BlockConfig,
        layout: OutputLayout = OutputLayout.AS_IS,
        head: nn.Module | None = None,
    ) -> None:
        """head: what the rule adds, where it is there already."""
        self.spec = spec
        self.objective = objective
        self.config = config
        self.layout = layout
        """How the module's output lies; the rule sees it as `spec.output_shape`."""
        if head is None:
            with seeded(derive_seed(config.settings.training.seed, "head", spec.index)):
                head = objective.head(spec)
        if objective.fixed_blocks:
            module.requires_grad_(False)
        self.parts = nn.ModuleDict({"module": module, "head": head})
        module_to(self.parts, config.device)
        if config.settings.compute.compile:
            compile_block(module)
        self.module = module
        self.head = head
        self.own_code = own_code(objective, self.parts.modules())
        """Whether some of it is a user's; then all of the process's generators are seeded for it."""
        self.optimizer = build_optimizer(config.settings.optim.of_block(spec.index), self.parts)
        self.learned = [p for group in self.optimizer.param_groups for p in group["params"]] if self.optimizer else []
        scaled = config.settings.compute.precision == "fp16" and self.optimizer is not None
        self.scale = LossScale(config.device, self.optimizer) if scaled and self.optimizer else None
        self.average = (
            WeightAverage(self.parts, config.settings.optim.ema)
            if config.settings.optim.ema is not None and self.learned
            else None
        )
        self.lr_scheduler = self.optimizer and build_lr_scheduler(
            config.settings.scheduler, self.optimizer, config.total_steps, config.settings.training.epochs
        )
        lanes = config.settings.training.lanes or 1
        self.totals = torch.zeros(lanes, 4, dtype=wide(config.device), device=config.device)
        """Sums of each lane since the last marker: loss times samples, samples with a loss; correct, samples with
        scores."""
        self.trained = self.totals.clone()
        """Those of the last epoch's training, ..."""
        self.skipped = 0
        """... and its batches in which no step was taken."""
        self._on_host = None if queues(config.device) else self.totals.numpy()
        """The same memory, where it is a CPU's: to add a number there is quicker than by torch."""
        self.lane = 0
        """The lane of the batch that is computed now."""
        self.validation_loss = float("nan")
        self.scheduled = 0
        """Steps of the schedule in this attempt, but for those that epochs bring."""
        self.finite_check: FiniteCheck | None = None
        """In a run: what is done where a batch brings the block to NaN or infinity. In float16 the scale of its
        gradients does that."""

    def check_batches(self) -> FiniteCheck | None:
        """Check from now on what the block makes of its batches."""
        if self.scale is None and self.optimizer is not None:
            self.finite_check = FiniteCheck(self.spec, self.config.settings.training.on_nan, self.config.device)
        return self.finite_check

    def forward(
        self, x: Tensor, y: Tensor, step: int, epoch: int = 0, part: int = 0, companion: Tensor | None = None
    ) -> Local:
        """Pass over x [N, *spec.input_shape]; `next_input` of the result is what the next block gets.

        companion: what the rule wants beside x, on the block's device.

        Without a loss where the block rests in this epoch: then it only passes on, as in evaluation.
        """
        assert not x.requires_grad
        if not self.config.settings.scheduler.learns(self.spec.index, epoch):
            with self._seeded("rest", step, part):
                return self._forward_frozen(x, len(y))
        self._mode(training=True)
        draws = derive_seed(self.config.settings.training.seed, "draws", self.spec.index, step, part)
        x = self._to_device(x)  # a copy to a GPU may wait; meanwhile other stages of this process may draw
        if self.scale:
            self.scale.remember(self.parts)
        if self.finite_check:
            self.finite_check.begin(step, epoch, self.parts, first=part == 0 and len(self.totals) == 1)
        with seeded(draws, self.config.device, all_kinds=self.own_code), self._autocast():
            local = self._forward_parts(self.parts, x, y, companion)
        local = self.finite_check.seen(local) if self.finite_check else local
        if self.learned:
            check_graph(local, self.objective, self.spec)
        return local

    def update(self, local: Local, y: Tensor, step: int, *, share: float = 1.0, complete: bool = True) -> None:
        """`backward`; and one optimiser step when the batch is complete."""
        if self.backward(local, y, share=share):
            if complete:
                self.step()
            self.check_often(step)

    def backward(self, local: Local, y: Tensor, *, share: float = 1.0) -> bool:
        """Backpropagate the block's own loss within the block; return True if there was something to learn.

        share: of the batch's samples, which its loss is the mean of; gradients add up until the batch is complete.
        """
        if local.loss is None or self.optimizer is None or self.lr_scheduler is None:
            return False
        loss = local.loss if share == 1 else local.loss * share
        with compiling(self.spec, self.config):
            # scaled as a number before: for `backward(gradient)` torch imports sympy, half a second a process
            (self.scale.scale_loss(loss) if self.scale else loss).backward()
        if self.scale:
            self.scale.mend()
        self._count(local, y)
        return True

    def check_often(self, step: int) -> None:
        """Call `check_finite` in a run, as often as it costs nothing; where each batch is checked, that was done
        already."""
        if self.finite_check is not None and self.finite_check.at_once:
            return
        is_due = step % CHECK_EVERY == 0 or not queues(self.config.device)
        if is_due and (self.finite_check or self.scale):
            self.check_finite(step)

    def step(self) -> None:
        """Update the weights by the gradients of a whole batch, unless the batch is to be skipped."""
        if self.finite_check:
            self.finite_check.look_at(p.grad for p in self.learned if p.grad is not None)
            if trouble := self.finite_check.take():
                self.skip(trouble)
                return
        self.apply()

    def apply(self) -> None:
        """Take the step, whatever the gradients are."""
        if self.finite_check:
            self.finite_check.end(None)
        self.descend()
        self.rest_of_step()

    def skip(self, trouble: NonfiniteValue) -> None:
        """Take no step in a batch; schedules count it."""
        assert self.finite_check is not None
        assert self.optimizer is not None
        self.finite_check.end(trouble)
        self.optimizer.zero_grad()
        self.catch_up(self.scheduled + 1)

    def catch_up(self, scheduled: int) -> None:
        """Take the schedule's steps up to so many, for batches in which the optimiser took none here."""
        while self.scheduled < scheduled:
            if self.optimizer is not None:
                self.optimizer._opt_called = True  # pyright: ignore[reportAttributeAccessIssue]  # torch would warn
            self._step_schedule()

    def _step_schedule(self) -> None:
        self.scheduled += 1
        if self.lr_scheduler is not None and not isinstance(self.lr_scheduler, ReduceLROnPlateau):
            self.lr_scheduler.step()

    def descend(self) -> None:
        """The part of `step` that the optimiser does."""
        assert self.optimizer is not None
        if self.scale:
            self.scale.unscale()
        if self.config.settings.optim.clip is not None:
            clip_grad_norm_(self.learned, self.config.settings.optim.clip)
        self.scale.step() if self.scale else self.optimizer.step()
        self.optimizer.zero_grad()

    def rest_of_step(self) -> None:
        """The part of `step` that comes when all weights are updated."""
        if self.average:
            self.average.update(self.parts)
        self._step_schedule()

    def evaluate(self, x: Tensor, y: Tensor, number: int = 0) -> Local:
        """Score message `number` of a split without learning, by the averaged weights where there are any."""
        parts = self.average.parts if self.average else self._mode(training=False)
        x = self._to_device(x)
        with self._seeded("evaluation", number), torch.no_grad(), self._autocast():
            local = self._forward_parts(parts, x, y)
        self._count(local, y)
        return local

    def take_metrics(self, split: str) -> dict[str, Any]:
        """Mean loss and accuracy over the split that has just passed; None where the block gave none."""
        metrics = self.metrics()
        if split == "train":
            self.trained.copy_(self.totals)
            self.skipped = self.finite_check.in_epoch if self.finite_check else 0
        self.totals.zero_()
        if self.finite_check and split == "train":
            self.finite_check.in_epoch = 0
        if split == "validation" and metrics["loss"] is not None:
            self.validation_loss = metrics["loss"]
        return metrics

    def give_up_evaluation(self) -> None:
        """Count again what training has counted before `take_metrics` took it, and nothing of what came since."""
        self.totals.copy_(self.trained)
        if self.finite_check:
            self.finite_check.in_epoch = self.skipped

    def metrics(self) -> dict[str, Any]:
        """Metrics of what this worker's lanes have counted since the last split."""
        loss, learned, correct, scored = added_up(list(self.totals)).tolist()
        metrics: dict[str, Any] = {
            "block": self.spec.name,
            "loss": loss / learned if learned else None,
            "accuracy": correct / scored if scored else None,
            "lr": self.lr,
        }
        if self.finite_check and self.finite_check.in_epoch:
            metrics["skipped"] = self.finite_check.in_epoch
        return metrics | ({"loss_scale": self.scale.value} if self.scale else {})

    def end_epoch(self) -> None:
        """Step a schedule that follows the validation loss, where there is one."""
        if isinstance(self.lr_scheduler, ReduceLROnPlateau) and self.validation_loss == self.validation_loss:  # no NaN
            self.lr_scheduler.step(self.validation_loss)

    @property
    def lr(self) -> float:
        """The learning rate now, of the first parameter group; 0 for a block with nothing to learn."""
        return self.optimizer.param_groups[0]["lr"] if self.optimizer else 0.0

    def check_finite(self, step: int) -> None:
        """Raises DivergedError for a sum of losses that is not finite; in float16, where single batches may overflow,
        for a loss scale below `MIN_SCALE`."""
        if self.scale and self.scale.value < MIN_SCALE:
            raise DivergedError(
                "gradients are not finite, batch after batch",
                where=f"{self.spec}, batch {step}",
                expected=f"a loss scale of float16 that stays above {MIN_SCALE:g}",
                got=self.scale.value,
                remedy=f"lower {setting('optim.lr')}, use {setting('compute.precision', 'bf16')} or fp32, or look for "
                "broken pictures in the data",
            )
        if not torch.isfinite(self.totals[:, 0]).all():
            if self.finite_check:
                self.finite_check.step = self.finite_check.look_back(step)
                raise self.finite_check.diverged_error(NonfiniteValue("loss", float(self.totals[:, 0].sum())))
            raise DivergedError(
                "the loss is not a finite number",
                where=f"{self.spec}, batch {step}",
                expected="a finite loss",
                got=float(self.totals[:, 0].sum()),
                remedy=f"lower {setting('optim.lr')}, use {setting('compute.precision', 'fp32')}, or look for "
                "broken pictures in the data",
            )

    def check_weights(self, step: int) -> None:
        """Raises DivergedError for weights that are not finite; called before they are saved, as nothing learns from
        such."""
        for name, parameter in self.parts.named_parameters():
            if self.finite_check and parameter.requires_grad and not is_finite(parameter):
                raise DivergedError(
                    "the weights are not finite numbers",
                    where=f"{self.spec}, {name}, batch {step}",
                    expected="finite weights, which a snapshot keeps",
                    got="an update that has broken them, though its gradients were finite",
                    remedy=f"lower {setting('optim.lr')}; the snapshot before, where there was one, is whole",
                )

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that a resumed run needs of this block: tensors, and JSON-able fields.

        Random numbers need none: they are drawn from (seed, block, batch number).
        """
        tensors = {name: value.detach() for name, value in self.parts.state_dict().items()}
        tensors["metrics.totals"] = self.totals[0] if len(self.totals) == 1 else self.totals
        fields: dict[str, Any] = {"block": self.spec.name, "validation_loss": repr(self.validation_loss)}
        if self.optimizer is not None and self.lr_scheduler is not None:
            saved = self.optimizer.state_dict()
            for index, slots in saved["state"].items():
                tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in slots.items() if v is not None}
            fields["param_groups"] = saved["param_groups"]
            if self.scale:
                fields["loss_scale"] = self.scale.state()
            fields["schedule"] = {k: v for k, v in self.lr_scheduler.state_dict().items() if k != "lr_lambdas"}
        if self.finite_check and (self.finite_check.in_row or self.finite_check.in_epoch):
            fields["skipped"] = [self.finite_check.in_row, self.finite_check.in_epoch]
        if self.average:
            tensors |= {f"average.{name}": value for name, value in self.average.state().items()}
            fields["averaged"] = self.average.updates
        return tensors, fields

    def load_state(self, tensors: dict[str, Tensor], fields: dict[str, Any]) -> None:
        """The inverse of `state`; the file has been checked against this block's names and shapes."""
        own = self.parts.state_dict()
        self.parts.load_state_dict({name: tensors[name] for name in own})
        self.totals.copy_(tensors["metrics.totals"].view(-1, 4))
        self.validation_loss = float(fields["validation_loss"])
        if self.finite_check:
            self.finite_check.in_row, self.finite_check.in_epoch = fields.get("skipped", (0, 0))
        if self.optimizer is None or self.lr_scheduler is None:
            return
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                slots.setdefault(int(index), {})[key] = with_strides_of(self.learned[int(index)], value)
        self.optimizer.load_state_dict({"state": slots, "param_groups": fields["param_groups"]})
        self.lr_scheduler.load_state_dict(self.lr_scheduler.state_dict() | fields["schedule"])
        if self.scale:
            self.scale.load_state(fields["loss_scale"])
        if self.average:
            self.average.load_state(averaged(tensors), fields["averaged"])

    def _forward_frozen(self, x: Tensor, samples: int) -> Local:
        """Pass x on by what the block has learned so far, in evaluation mode, without a loss."""
        parts = self._mode(training=False)
        with torch.no_grad(), self._autocast():
            with computing(self.objective, self.spec, learning=False):
                with compiling(self.spec, self.config):
                    out = self.layout.to_images(parts["module"](self._to_device(x)))
            with rule_code(self.objective, at(self.objective, self.spec)):
                next_input = self.objective.forward_frozen(parts["head"], out)
            return self._checked_local(Local(None, None, next_input), parts["head"], out, samples)

    def _forward_parts(self, parts: nn.ModuleDict, x: Tensor, y: Tensor, companion: Tensor | None = None) -> Local:
        """The module's output, and the rule on it. parts: the block's own module and head, or their averages."""
        with computing(self.objective, self.spec, learning=parts.training):
            with compiling(self.spec, self.config):
                out = self.layout.to_images(parts["module"](x))
        with rule_code(self.objective, at(self.objective, self.spec)):
            if companion is None:
                local = self.objective.local(parts["head"], out, y)
            else:
                local = self.objective.local_with_companion(parts["head"], out, y, companion)
        return self._checked_local(local, parts["head"], out, len(y))

    def _checked_local(self, local: Local, head: nn.Module, out: Tensor, samples: int) -> Local:
        """A rule's result with the features that a fusion head wants, checked, and with what goes on in the dtype and
        the layout of the next block. Raises NetworkError for what breaks `Objective.local`'s promises."""
        if self.config.settings.rule.fusion and isinstance(local, Local):
            with rule_code(self.objective, at(self.objective, self.spec)):
                local = local._replace(features=self.objective.features(head, out, samples))
        local = check_local(local, self.objective, self.spec, samples)
        check_detached(local, self.objective, self.spec)
        if local.next_input is None:
            return local
        return local._replace(next_input=self.layout.to_next_input(local.next_input).to(self.config.dtype))

    def _seeded(self, purpose: str, *place: int) -> AbstractContextManager[None]:
        """A context for code of a user's own that may draw random numbers; ffdist's own draws none there."""
        if not self.own_code:
            return nullcontext()
        return seeded(
            derive_seed(self.config.settings.training.seed, purpose, self.spec.index, *place), self.config.device
        )

    def _count(self, local: Local, y: Tensor) -> None:
        with torch.no_grad():
            if local.loss is not None:
                loss, count = local.loss.detach(), len(y)
                masked = self.scale or (self.finite_check and self.finite_check.policy == "skip")
                if masked and self.parts.training:  # such a batch, or lane, took no step
                    finite = loss.isfinite()
                    loss, count = loss.where(finite, 0), count * finite
                self._add(0, loss * len(y), count)
            if local.scores is not None:
                self._add(2, self._correct(local.scores.detach(), main_labels(y)), len(y))

    def _correct(self, scores: Tensor, labels: Tensor) -> Tensor | int:
        """The number of samples whose greatest score is the label's. scores: [B, K]; labels: int64 [B]."""
        if self._on_host is None or scores.dtype != torch.float32:
            return (scores.argmax(1) == labels).sum()
        # the first of several, and NaN before all, as torch has it; so few numbers are quicker counted by NumPy
        return int((scores.numpy().argmax(1) == labels.numpy()).sum())

    def _add(self, place: int, total: Tensor | int, count: Tensor | int) -> None:
        """Add to the lane's sums at `place`, and its count to the next."""
        if self._on_host is None:
            self.totals[self.lane, place] += total
            self.totals[self.lane, place + 1] += count
        else:
            self._on_host[self.lane, place] += total.item() if isinstance(total, Tensor) else total
            self._on_host[self.lane, place + 1] += int(count)

    def _to_device(self, x: Tensor) -> Tensor:
        return to_device(x, self.config.device)

    def _mode(self, *, training: bool) -> nn.ModuleDict:
        if self.parts.training is not training:
            self.parts.train(training)
        return self.parts

    def _autocast(self) -> torch.autocast:
        return autocast(self.config.device, self.config.settings.compute.precision)


def learn(
    blocks: Sequence[LearningBlock], x: Tensor, y: Tensor, step: int, companion: Tensor | None = None
) -> Tensor | None:
    """A whole batch through consecutive blocks, each updated before the next begins; what the last one passes on.

    companion: what the rule wants beside x, on the blocks' device.
    """
    next_input: Tensor | None = x
    for block in blocks:
        assert next_input is not None
        local = block.forward(next_input, y, step, companion=companion)
        block.update(local, y, step)
        next_input = local.next_input
    return next_input


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """A tensor on the device, pictures in channels-last strides."""
    x = copied(x, device)
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def module_to(module: nn.Module, device: torch.device) -> None:
    """Move a module to the device; what has four dimensions in channels-last strides, which `nn.Module.to` wants of
    five, too."""
    module._apply(lambda t: t.to(device, memory_format=torch.channels_last) if t.dim() == 4 else t.to(device))
    pick_places_first(module)  # in heads, too
    ask_for_gradients(module)


def averaged(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The averaged weights in what `LearningBlock.state` gives, by their names in the block; empty where none are."""
    return {name.removeprefix("average."): value for name, value in tensors.items() if name.startswith("average.")}


def with_strides_of(parameter: Tensor, value: Tensor) -> Tensor:
    """`value` with the strides of `parameter` where it has its shape: fused optimisers walk both in memory order."""
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value) if value.shape == parameter.shape else value
