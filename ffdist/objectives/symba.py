"""SymBa: the contrast of a positive and its negative, without a threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffdist.errors import ConfigError
from ffdist.objectives.base import BlockSpec
from ffdist.objectives.threshold import LabelledInput, ThresholdHead


@dataclass(frozen=True)
class SymBa(LabelledInput):
    """SymBa (Lee and Song, arXiv 2303.08418): positives and negatives pull equally.

    loss = mean log(1 + exp(-alpha (G_pos - G_neg))), where G is the mean over a block's units of y^2, of one picture
    with its true label and with a wrong one. Labels are intrinsic class patterns: a fixed random pattern a class, as
    large as the picture. Prediction, readouts and negatives are `hinton`'s.

    A gradient crosses the block's own layers, and nothing before.

    Our own choices: the pattern, of +-1, is added to every channel `strength` times (there it is a channel of its own,
    which a network made for the pictures has no place for); it is drawn once and for all, from the place alone; what
    goes on is divided by its root mean square.
    """

    alpha: float = 4.0
    """How steep the contrast is."""
    strength: float = 1.0
    """The strength of the pattern, in standard deviations of the pictures."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.alpha > 0 or not self.strength:
            raise ConfigError(
                "alpha is not positive, or the strength is 0",
                where="objective symba",
                expected="alpha > 0, a strength other than 0",
                got=f"alpha {self.alpha}, strength {self.strength}",
            )

    @property
    def input_rms(self) -> float | None:
        return abs(self.strength)

    def head(self, spec: BlockSpec) -> nn.Module:
        return ThresholdHead(spec, "symba", readout=self.predict == "linear")

    def contrast(self, head: ThresholdHead, positive: Tensor, negative: Tensor) -> Tensor:
        # both have the same threshold taken off, which cancels; divided by the units, sums are SymBa's means
        return F.softplus(-self.alpha / head.form.channels * (positive - negative)).mean()

    def contrast_all(self, head: ThresholdHead, excess: Tensor, true: Tensor) -> Tensor:
        # over all labels, less the true one's own term, softplus(0)
        others = F.softplus(-self.alpha / head.form.channels * (true[:, None] - excess)).sum(1) - F.softplus(
            excess.new_zeros(())
        )
        return others.mean() / (head.num_classes - 1)

    def stamp(self, x: Tensor, labels: Tensor, num_classes: int) -> Tensor:
        return x + self.patterns(x, num_classes)[labels]

    def stamp_all(self, x: Tensor, label: int, num_classes: int) -> Tensor:
        return x + self.patterns(x, num_classes)[label]

    def neutral(self, x: Tensor, num_classes: int) -> Tensor:
        return x + self.patterns(x, num_classes).mean(0)

    def patterns(self, x: Tensor, num_classes: int) -> Tensor:
        """One a class, the same in every channel of a picture: [K, 1, H, W], or [K, N] for vectors."""
        shape = x.shape[1:] if x.dim() == 2 else (1, *x.shape[2:])
        return self.strength * signs(num_classes, shape).to(x)


def signs(num_classes: int, shape: Sequence[int]) -> Tensor:
    """+-1 at random and always alike, float32 [K, *shape]: by a hash of the place, which is computed in an exported
    network, too."""
    numbers = torch.arange(num_classes * math.prod(shape)) * 0x9E3779B1 + 0x85EBCA77
    for shift, factor in ((15, 0x2C1B3C6D), (12, 0x297A2D39)):
        numbers = ((numbers ^ (numbers >> shift)) & 0xFFFFFFFF) * factor
    return (2 * ((numbers >> 17) & 1) - 1).view(num_classes, *shape).float()
