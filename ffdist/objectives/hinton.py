"""Hinton's Forward-Forward, supervised."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffdist.errors import ConfigError, NetworkError, setting
from ffdist.objectives.base import BlockSpec
from ffdist.objectives.threshold import LabelledInput, ThresholdHead


@dataclass(frozen=True)
class Hinton(LabelledInput):
    """Forward-Forward with labels in the picture (Hinton, arXiv 2212.13345, section 3.3).

    The label is written one-hot over the picture's first K pixels; negatives bear an evenly drawn wrong label, never
    the true one; neutral pictures 1/K in each of them. Goodness, loss and prediction are `LabelledInput`'s, over
    layers 2 .. L.

    Hard negatives (`predict=linear hard=yes`) draw the wrong label in proportion to the softmax of the blocks' mean
    scores when they last learned from the picture, the true one left out.

    A gradient crosses the block's own layers, and nothing before.

    Our own choices: the pictures have mean 0 and variance 1 here, so the pixel that is on has `strength` and the
    others 0, in every channel; the linear readouts are one a block, and their mean predicts. Convolutions are refused:
    a filter that scans the picture cannot see the label in its corner.
    """

    strength: float = 3.0
    """The strength of the pixel that is on, in standard deviations of the pictures; about white on MNIST."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.strength:
            raise ConfigError(
                "the label has no strength: no block can see it",
                where="objective hinton, strength",
                expected="another number than 0",
                got=self.strength,
            )

    @property
    def input_rms(self) -> float | None:
        return abs(self.strength) / 3  # the default of 3 is made for pictures of root mean square 1

    def head(self, spec: BlockSpec) -> nn.Module:
        if len(spec.output_shape) == 3:
            raise NetworkError(
                "a convolution cannot see a label in the corner of a picture",
                where=spec,
                expected="vectors [C] or tokens [T, C]",
                got=list(spec.output_shape),
                remedy=f"take {setting('network.model', 'mlp')}, or a rule for convolutions: sel-fourier, sff",
            )
        shape = spec.input_shape
        pixels = torch.Size(shape[1:] if len(shape) > 1 else shape).numel()
        if spec.index == 0 and pixels < spec.num_classes:
            picture = len(shape) == 3
            raise NetworkError(
                f"the {'picture' if picture else 'sample'} is too small to write the label over its first numbers",
                where=spec,
                expected=f"at least {spec.num_classes} {'pixels' if picture else 'numbers'}",
                got=pixels,
                remedy=f"enlarge the pictures: {setting('dataset.image_size')}"
                if picture
                else "take a rule without labels in the input: sff",
            )
        return ThresholdHead(spec, "hinton", readout=self.predict == "linear")

    def stamp(self, x: Tensor, labels: Tensor, num_classes: int) -> Tensor:
        return self._write(x, self.strength * F.one_hot(labels, num_classes).to(x.dtype))

    def stamp_all(self, x: Tensor, label: int, num_classes: int) -> Tensor:
        values = x.new_zeros(x.shape[0], num_classes)
        values[:, label] = self.strength
        return self._write(x, values)

    def neutral(self, x: Tensor, num_classes: int) -> Tensor:
        return self._write(x, x.new_full((x.shape[0], num_classes), self.strength / num_classes))

    def _write(self, x: Tensor, values: Tensor) -> Tensor:
        """values [B, K] over the first K pixels of each channel, or the first K numbers of a vector."""
        if x.dim() == 2:
            return torch.cat([values, x[:, values.shape[1] :]], 1)
        flat = x.flatten(2)
        written = values[:, None].expand(-1, flat.shape[1], -1)
        return torch.cat([written, flat[..., values.shape[1] :]], -1).view(x.shape)
