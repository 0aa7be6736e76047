"""The form of a block's output for rules: where its channels are, and what to sum over."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffdist.errors import NetworkError, setting
from ffdist.objectives.base import BlockSpec


class OutputForm(NamedTuple):
    """The form of a block's output with its batch: maps [N, C, H, W], tokens [N, T, C] or vectors [N, C]."""

    channels: int
    position_dims: tuple[int, ...]
    """The axes of the positions (space or tokens); none for vectors."""
    num_positions: int

    def class_means(self, y: Tensor, num_classes: int) -> Tensor:
        """Mean over the channels of a class's group and over the positions: [N, *shape] -> float32 [N, K]."""
        return self.position_mean(y).unflatten(1, (num_classes, -1)).mean(2)

    def position_mean(self, y: Tensor) -> Tensor:
        """Mean over the positions, [N, *shape] -> float32 [N, C]; over the channels-last view of maps, so that the
        gradient has their layout too and nothing after copies."""
        if len(self.position_dims) == 2:
            y = y.permute(0, 2, 3, 1).flatten(1, 2)
        # summed in float32: bf16 has 8 bits, and a sum of some hundred squares would lose the small ones
        return y.mean(1, dtype=torch.float32) if self.position_dims else y.float()


def form(spec: BlockSpec, rule: str) -> OutputForm:
    """The form of a block's output; NetworkError where `rule` cannot read it."""
    match spec.output_shape:
        case (channels, height, width):
            return OutputForm(channels, (2, 3), height * width)
        case (tokens, channels):
            return OutputForm(channels, (1,), tokens)
        case (channels,):
            return OutputForm(channels, (), 1)
    raise NetworkError(
        f"{rule} cannot read goodness from this output",
        where=spec,
        expected="[C, H, W] maps, [T, C] tokens or [C] vectors",
        got=list(spec.output_shape),
        remedy="cut the network where its output has one of these forms",
    )


def check_groups(spec: BlockSpec, rule: str, num_classes: int) -> OutputForm:
    """The form of an output whose channels can be divided evenly among the classes; else NetworkError."""
    at = form(spec, rule)
    if at.channels % num_classes:
        raise NetworkError(
            f"{rule} deals a block's channels evenly to the classes",
            where=spec,
            expected=f"a multiple of {num_classes} channels",
            got=at.channels,
            remedy=f"a network of such widths ({_widths(spec, num_classes)}) or a rule with an auxiliary layer "
            f"({setting('rule.objective', 'sff')})",
        )
    return at


def _widths(spec: BlockSpec, num_classes: int) -> str:
    """A network whose channels go into the classes evenly, by its name and options."""
    model = "cnnb" if len(spec.output_shape) == 3 else "mlp"
    widths = ",".join(str(num_classes * n) for n in (4, 8, 12))
    return f"{setting('network.model', model)} {setting('network.model_args', f'widths={widths}')}"


def channel_norm(form: OutputForm, *, learned: bool = True) -> nn.Module:
    """Layer norm over a whole sample; over each token's features, for tokens. learned: a scale and shift a channel.

    `GroupNorm(1, C)` keeps a channels-last map as it is, where `layer_norm` over [C, H, W] copies it.
    """
    if len(form.position_dims) == 2:
        return nn.GroupNorm(1, form.channels, affine=learned)
    return nn.LayerNorm(form.channels, elementwise_affine=learned)


def pointwise(form: OutputForm, out_channels: int, kernel: int = 1, *, bias: bool = True) -> nn.Module:
    """A convolution over maps, the same linear layer at each token, or a linear layer: C -> out_channels."""
    if len(form.position_dims) == 2:
        return nn.Conv2d(form.channels, out_channels, kernel, padding=kernel // 2, bias=bias)
    return nn.Linear(form.channels, out_channels, bias=bias)


def rms_normalised(y: Tensor, eps: float = 1e-8) -> Tensor:
    """Each sample divided by the root of its mean square: only the direction is left. [N, ...] -> [N, ...]."""
    axes = tuple(range(1, y.dim()))
    # the mean square in float32; eps keeps a sample of zeros, as after a dead ReLU, from 0 / 0
    return y / (y.square().mean(axes, keepdim=True, dtype=torch.float32).sqrt() + eps).to(y.dtype)


def readout_input(out: Tensor, head: nn.Module) -> Tensor:
    """A block's output as a readout gets it that must not touch the block while both learn: then without its graph."""
    return out.detach() if head.training else out


class FlatFeatures(nn.Module):
    """[N, *shape] -> [N, size]: flattened, after pooling maps (averaging tokens) until there are at most `limit`.

    Maps are flattened channels last, as they lie in memory.
    """

    def __init__(self, spec: BlockSpec, rule: str, limit: int) -> None:
        super().__init__()
        at = form(spec, rule)
        self.grid: tuple[int, int] | None = None
        self.mean_tokens = False
        self.size = at.channels * at.num_positions
        if self.size > limit and len(spec.output_shape) == 3:
            height, width = spec.output_shape[1:]
            while at.channels * height * width > limit and (height, width) != (1, 1):
                height, width = -(-height // 2), -(-width // 2)
            self.grid = (height, width)
            self.size = at.channels * height * width
        elif self.size > limit and len(spec.output_shape) == 2:
            self.mean_tokens = True
            self.size = at.channels

    def forward(self, y: Tensor) -> Tensor:
        if self.grid is not None:
            y = F.adaptive_avg_pool2d(y, self.grid)
        if self.mean_tokens:
            y = y.mean(1)
        return y.permute(0, 2, 3, 1).flatten(1) if y.dim() == 4 else y.flatten(1)
