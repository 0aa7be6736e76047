"""Self-contrastive Forward-Forward."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ffdist.errors import ConfigError
from ffdist.objectives.base import BlockSpec, Local
from ffdist.objectives.form import rms_normalised
from ffdist.objectives.threshold import ThresholdHead, UnlabelledInput


@dataclass(frozen=True)
class SCFF(UnlabelledInput):
    """Self-contrastive Forward-Forward (Chen et al., Nature Communications 2025, arXiv 2409.11593).

    A positive is a picture beside itself, a negative one beside another: [x, x] and [x, x']. The first layer has the
    same weights for both halves, W x + W x', so the pair is the sum of the two; a picture is predicted beside itself.
    No label and no mask is needed, and vectors do as well as pictures.

    loss = BCE of goodness - theta, positives against negatives, + decay * mean over positives of the goodness' root.
    Goodness, threshold and normalisation are those of `hinton-unsupervised`, and so are the readouts: a linear layer a
    block, which learns from the positives' normalised activities without touching them.

    A gradient crosses the block's own layers, and nothing before.

    Our own choices: x' is the sample some random places further in the batch; a bias of the first layer counts once
    for a pair (there twice); one theta for positives and negatives (there two).
    """

    decay: float = 0.0
    """Weight of the positives' goodness' root, so that it does not grow without end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decay < 0 or self.peer < 0:
            raise ConfigError(
                "a weight is negative",
                where="objective scff",
                expected=">= 0",
                got=f"decay {self.decay}, peer {self.peer}",
            )

    def head(self, spec: BlockSpec) -> nn.Module:
        return ThresholdHead(spec, "scff", readout=True)

    def prepare(self, x: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
        shift = int(torch.randint(1, max(len(x), 2), (), generator=generator))
        return rms_normalised(torch.cat([2 * x, x + x.roll(shift, 0)]))

    def prepare_eval(self, x: Tensor, num_classes: int) -> Tensor:
        return rms_normalised(2 * x)

    def local(self, head: nn.Module, out: Tensor, labels: Tensor | None) -> Local:
        local = super().local(head, out, labels)
        if not (self.decay and head.training):
            return local
        assert isinstance(head, ThresholdHead)
        assert local.loss is not None
        goodness = head.form.position_mean(out[: len(out) // 2].square()).sum(1)
        # 1e-8, since at 0 the root's gradient would be infinite
        return local._replace(loss=local.loss + self.decay * (goodness + 1e-8).sqrt().mean())
