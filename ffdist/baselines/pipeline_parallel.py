"""Backpropagation through a pipeline of stages and microbatches, by torch.distributed.pipelining."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, schedules
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ffdist.baselines.base import BaselineConfig, Learner, RankPlace, WholeNetwork, cross_entropy, optimised
from ffdist.device import synchronize
from ffdist.errors import ConfigError, NetworkError, setting
from ffdist.models import Chain
from ffdist.pipeline.block import to_device
from ffdist.pipeline.plan import partition

Style = Literal["gpipe", "1f1b", "interleaved", "zero-bubble"]
STYLES: dict[Style, type] = {
    "gpipe": schedules.ScheduleGPipe,
    "1f1b": schedules.Schedule1F1B,
    "interleaved": schedules.ScheduleInterleaved1F1B,
    "zero-bubble": schedules.ScheduleInterleavedZeroBubble,
}
PARTS = {"gpipe": 1, "1f1b": 1, "interleaved": 2, "zero-bubble": 2}
"""Stages a rank."""
SUMS = "scale_grads" not in inspect.signature(schedules.ScheduleGPipe).parameters
"""torch 2.6 leaves the sum of the microbatches' gradients, and not their mean."""


WAITS_FOR_ALL = inspect.signature(schedules._batch_p2p).return_annotation is not inspect.Signature.empty
"""torch 2.6 sends and receives at once, and waits for the last of both alone: on GPUs, where NCCL makes one of them,
that is all; on CPUs Gloo drops the others, and the ranks wait forever."""


def pipeline_parallel(
    chain: Chain,
    config: BaselineConfig,
    place: RankPlace,
    *,
    style: Style = "1f1b",
    microbatches: int = 8,
    cast_once: bool = False,
) -> Learner:
    """Stages cut by measured block times; the interleaved styles give each rank two of them, round robin.

    cast_once: weights are cast to bfloat16 once for all microbatches, and kept so until the last: faster, and larger.

    Raises NetworkError where there are fewer blocks than stages, or microbatches that do not divide the batch, and
    ConfigError on a CPU for a torch whose schedules, but GPipe's, run on GPUs alone, and for averaged weights.
    """
    if config.settings.optim.ema is not None:
        raise ConfigError(
            "pipelines keep no averaged weights",
            where=style,
            got=setting("optim.ema"),
            remedy="leave it out, or another side: --against ddp",
        )
    stages = place.size * PARTS[style]
    if stages > len(chain) or config.settings.training.batch_size % microbatches:
        raise NetworkError(
            f"{style} does not fit",
            where=f"{place.size} ranks, batches of {config.settings.training.batch_size}",
            expected=f"{stages} blocks, and microbatches that divide the batch",
            got=f"{len(chain)} blocks, {microbatches} microbatches",
        )
    if config.device.type == "cpu" and style != "gpipe" and not WAITS_FOR_ALL:
        raise ConfigError(
            "this torch runs this schedule on GPUs alone",
            where=style,
            expected="a newer torch, or GPUs",
            got=f"torch {torch.__version__} on a CPU",
            remedy="a newer torch, with the torchvision that goes with it; or another side: --against gpipe-4",
        )
    whole = WholeNetwork(chain, config)
    shape = (config.settings.training.batch_size // microbatches, *chain.input_shape)
    blocks_per_stage = agreed_partition(whole, shape, stages, config, place)
    around = config.autocast if cast_once else nullcontext
    return Pipelined(whole, blocks_per_stage, shape, style, microbatches, config, place, around, chain.num_classes)


class Pipelined:
    """One rank of the pipeline: rank 0 reads batches, the labels go straight to the last rank."""

    def __init__(
        self,
        whole: WholeNetwork,
        blocks_per_stage: list[int],
        shape: Sequence[int],
        style: Style,
        microbatches: int,
        config: BaselineConfig,
        place: RankPlace,
        around: Callable[[], AbstractContextManager[Any]],
        num_classes: int,
    ) -> None:
        self.num_classes = num_classes
        self.config = config
        self.place = place
        self.around = around
        self.microbatches = microbatches
        self.shard: tuple[int, int] | None = (0, 1) if place.rank == 0 else None
        parts = [
            PipelinePart(whole.blocks[sum(blocks_per_stage[:i]) :][:n], config) for i, n in enumerate(blocks_per_stage)
        ]
        borders = border_tensors(parts, shape, config)
        mine = range(place.rank, len(blocks_per_stage), place.size)
        stages = [
            PipelineStage(
                parts[i], i, len(blocks_per_stage), config.device, input_args=borders[i], output_args=borders[i + 1]
            )
            for i in mine
        ]
        self.modules: nn.Module = nn.ModuleList(parts[i] for i in mine)
        self.last = len(blocks_per_stage) - 1 in mine
        held = {id(block) for i in mine for block in parts[i].blocks}
        named = {name: block for name, block in whole.by_name().items() if id(block) in held}
        self.optimizer, self.scheduler = optimised(nn.ModuleDict(named), config)
        single = PARTS[style] == 1
        self.steps = STYLES[style](
            stages[0] if single else stages, microbatches, loss_fn=partial(cross_entropy, config=config)
        )

    def labels(self) -> Tensor:
        """An empty tensor for a batch's labels: int64 [B], or shares float32 [B, K] where transforms mix samples."""
        samples, mixes = self.config.settings.training.batch_size, ("mixup", "cutmix")
        if any(text.startswith(mixes) for text in self.config.settings.dataset.augment):
            return torch.empty(samples, self.num_classes)
        return torch.empty(samples, dtype=torch.int64)

    def learn(self, x: Tensor | None, y: Tensor | None) -> None:
        labels = y if y is not None else self.labels()
        labels = labels.to(self.config.device)
        dist.broadcast(labels, 0)
        given = () if x is None else (to_device(x, self.config.device),)
        with self.around():
            self.steps.step(*given, **({"target": labels} if self.last else {}))
        if SUMS:
            torch._foreach_div_([p.grad for p in self.modules.parameters() if p.grad is not None], self.microbatches)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if not isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step()


class PipelinePart(nn.Module):
    """Consecutive blocks under the run's precision: what a stage calls, in its backward pass again."""

    def __init__(self, blocks: nn.ModuleList, config: BaselineConfig) -> None:
        super().__init__()
        self.blocks = blocks
        self.config = config

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            x.register_hook(Tensor.contiguous)  # point to point takes no other strides
        if x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        with self.config.autocast():
            for block in self.blocks:
                x = block(x)
        return x.contiguous()


def border_tensors(parts: list[PipelinePart], shape: Sequence[int], config: BaselineConfig) -> list[Tensor]:
    """A microbatch at each border, for its shape and dtype, and without memory, as older torch keeps it; all but the
    first want gradients."""
    x = torch.zeros(*shape, device=config.device)
    borders = [x.to("meta")]
    for part in parts:
        modes = [(m, m.training) for m in part.modules()]
        part.eval()  # batch norm's statistics stay as they are
        with torch.no_grad():
            x = part(x)
        for module, training in modes:
            module.training = training
        borders.append(x.to("meta").requires_grad_())
    return borders


def agreed_partition(
    whole: WholeNetwork, shape: Sequence[int], stages: int, config: BaselineConfig, place: RankPlace
) -> list[int]:
    """Blocks in each stage, the classifier with the last; by times that rank 0 measures."""
    counts = [torch.zeros(stages, dtype=torch.int64, device=config.device)]
    if place.rank == 0:
        seconds = block_seconds(whole, shape, config)
        seconds[-2:] = [sum(seconds[-2:])]
        blocks_per_stage = partition(seconds, stages)
        blocks_per_stage[-1] += 1  # the last block and the classifier were one to `partition`
        counts[0] += torch.tensor(blocks_per_stage, device=config.device)
    dist.broadcast(counts[0], 0)
    return counts[0].tolist()


def block_seconds(whole: WholeNetwork, shape: Sequence[int], config: BaselineConfig) -> list[float]:
    """Forward and backward of one microbatch through each block alone; the least of three."""
    x = torch.zeros(*shape, device=config.device)
    result = []
    for index, block in enumerate(whole.blocks):
        times = []
        x = out = to_device(x, config.device)
        for _ in range(3):
            begun = time.perf_counter()
            with config.autocast():
                out = block(x.requires_grad_(index > 0))  # pictures need no gradient
            out.float().sum().backward()
            synchronize(config.device)
            times.append(time.perf_counter() - begun)
        result.append(min(times))
        x = out.detach()
    whole.zero_grad()
    return result
