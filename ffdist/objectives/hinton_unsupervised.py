"""Hinton's Forward-Forward, unsupervised."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffdist.errors import ConfigError, NetworkError
from ffdist.objectives.base import BlockSpec
from ffdist.objectives.form import rms_normalised
from ffdist.objectives.threshold import ThresholdHead, UnlabelledInput


@dataclass(frozen=True)
class HintonUnsupervised(UnlabelledInput):
    """Forward-Forward on pictures against hybrids of two (Hinton, arXiv 2212.13345, section 3.2).

    Negative = m * x1 + (1 - m) * x2 with a mask m of large regions of ones and zeros: a random bit picture, blurred
    repeatedly with [1/4, 1/2, 1/4] in both directions, then cut at 0.5. Training batches are [positives, negatives].
    Goodness, threshold and normalisation as in `hinton`. The labels reach only a linear layer a block, which learns
    from the normalised activities of the positives without touching them and gives the block's scores; the first of
    several blocks has none.

    A gradient crosses the block's own layers, and nothing before.

    Our own choices: x2 is the sample some random places further in the batch; `blurs`; the paper's one linear layer on
    the last blocks' activities is one a block, and their mean predicts.
    """

    blurs: int = 6
    """How often the bits are blurred: the more, the larger the regions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blurs < 0 or self.peer < 0:
            raise ConfigError(
                "the number of blurs, or a weight, is negative",
                where="objective hinton-unsupervised",
                expected=">= 0",
                got=f"blurs {self.blurs}, peer {self.peer}",
            )

    def head(self, spec: BlockSpec) -> nn.Module:
        if spec.index == 0 and len(spec.input_shape) != 3:
            raise NetworkError(
                "hybrids can be made of pictures alone",
                where=spec,
                expected="an input of (C, H, W)",
                got=list(spec.input_shape),
                remedy="take another rule for vectors: sff",
            )
        return ThresholdHead(spec, "hinton-unsupervised", readout=True)

    def prepare(self, x: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
        batch, _, height, width = x.shape
        shift = int(torch.randint(1, max(batch, 2), (), generator=generator))
        mask = masks(batch, height, width, self.blurs, generator).to(x)
        return rms_normalised(torch.cat([x, mask * x + (1 - mask) * x.roll(shift, 0)]))

    def prepare_eval(self, x: Tensor, num_classes: int) -> Tensor:
        return rms_normalised(x)


def masks(batch: int, height: int, width: int, blurs: int, generator: torch.Generator) -> Tensor:
    """Regions of ones and zeros, float32 [B, 1, H, W]; at the borders the nearest bit counts on."""
    bits = torch.randint(0, 2, (batch, 1, height, width), generator=generator).float()
    kernel = torch.tensor([0.25, 0.5, 0.25])
    for _ in range(blurs):
        padded = F.pad(bits, (1, 1, 1, 1), mode="replicate")
        bits = F.conv2d(F.conv2d(padded, kernel.view(1, 1, 3, 1)), kernel.view(1, 1, 1, 3))
    return (bits > 0.5).float()
