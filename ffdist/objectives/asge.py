"""Adaptive spatial goodness encoding."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffdist.errors import ConfigError
from ffdist.objectives.base import BlockSpec, Local
from ffdist.objectives.competitive import Competitive
from ffdist.objectives.form import form, readout_input, rms_normalised


@dataclass(frozen=True)
class ASGE(Competitive):
    """Adaptive spatial goodness encoding (2025).

    The goodness of a block's output x [C, H, W] is kept in space: q = flatten(avg_pool_{s x s}(x^2)) with s = 512 / C,
    so that q has 4096, 2048, 1024, 512 numbers for C = 64, 128, 256, 512. The logits are q R + b with R and b frozen,
    drawn from N(0, 1) / sqrt(K) (the "random synaptic feedback"), and the loss is the cross-entropy over them. What
    goes on is dropout(x) divided by its root mean square. There is no batch norm.

    A gradient crosses R, which is frozen, and the block's own layers, and nothing before.

    The paper predicts by linear layers on the pooled features of blocks 2 .. L, summed ("fusion"). Such a layer is in
    each block here (`readout="linear"`), learns from its own block's detached features alone, and gives the block's
    scores, so that their mean over the blocks is the prediction; `features` offers the same to one joint layer.

    Our own choices: that readout; s is at most 8, which it is for the fewest channels the paper has, at most the map's
    side, and at least 1; dropout is of single numbers; of vectors q is x^2, of tokens its mean over tokens. With `vgg8`
    the options norm=false, pool=avg, pool_first=true make the paper's network, whose pools follow the goodness; there
    they stand before dropout and division, here they open the next block.
    """

    readout: Literal["linear", "feedback"] = "linear"
    """What gives the scores: a linear layer on the pooled features, or the frozen feedback itself."""
    dropout: float = 0.1
    """Dropout rate of what the next block gets."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.dropout < 1:
            raise ConfigError(
                "the dropout rate is out of range",
                where="objective asge, dropout",
                expected="0 <= x < 1",
                got=self.dropout,
            )

    def head(self, spec: BlockSpec) -> nn.Module:
        return ASGEHead(spec, readout=self.readout == "linear")

    def local(self, head: nn.Module, out: Tensor, labels: Tensor | None) -> Local:
        assert isinstance(head, ASGEHead)
        logits = F.linear(head.pooled(out.square()), head.feedback, head.bias).float()
        loss = self.compete(logits, labels, learning=head.training)
        scores = logits if self.readout == "feedback" else None
        if head.linear is not None:
            scores = head.linear(head.pooled(readout_input(out, head))).float()
            readout = self.compete(scores, labels, learning=head.training)
            loss = None if loss is None or readout is None else loss + readout
        next_input = rms_normalised(F.dropout(out.detach(), self.dropout, head.training))
        return Local(loss, scores, next_input)

    def features(self, head: nn.Module, out: Tensor, samples: int) -> Tensor | None:
        assert isinstance(head, ASGEHead)
        return head.pooled(out.detach()).float() if head.counts else None


class ASGEHead(nn.Module):
    """feedback [K, dim(q)] and bias [K]: frozen; linear: the readout, in the blocks whose features count."""

    feedback: Tensor
    bias: Tensor

    def __init__(self, spec: BlockSpec, *, readout: bool) -> None:
        super().__init__()
        self.counts = spec.index > 0 or spec.num_blocks == 1
        self.form = form(spec, "ASGE")
        size = self.form.channels
        self.grid: tuple[int, int] | None = None
        if len(spec.output_shape) == 3:
            side = max(1, min(8, 512 // spec.output_shape[0]))
            self.grid = (min(side, spec.output_shape[1]), min(side, spec.output_shape[2]))
            size *= math.prod(self.grid)
        scale = 1 / math.sqrt(spec.num_classes)
        self.register_buffer("feedback", torch.randn(spec.num_classes, size) * scale)
        self.register_buffer("bias", torch.randn(spec.num_classes) * scale)
        self.linear = nn.Linear(size, spec.num_classes) if readout and self.counts else None

    def pooled(self, y: Tensor) -> Tensor:
        """Averaged to the grid and flattened, [N, *spec.output_shape] -> [N, dim(q)]."""
        if self.grid is None:
            return self.form.position_mean(y)
        return F.adaptive_avg_pool2d(y, self.grid).permute(0, 2, 3, 1).flatten(1)
