"""MobileNetV3-small, of torchvision's own inverted residual blocks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

from torch import nn

from ffdist.errors import ConfigError
from ffdist.models.arguments import checked_arguments
from ffdist.models.chain import Chain, Shape
from ffdist.models.parts import SpatialMean, check_picture, named_path

# in, kernel, expanded, out, squeeze-and-excite, activation, stride: table 2 of arXiv 1905.02244
SETTINGS = (
    (16, 3, 16, 16, True, "RE", 2),
    (16, 3, 72, 24, False, "RE", 2),
    (24, 3, 88, 24, False, "RE", 1),
    (24, 5, 96, 40, True, "HS", 2),
    (40, 5, 240, 40, True, "HS", 1),
    (40, 5, 240, 40, True, "HS", 1),
    (40, 5, 120, 48, True, "HS", 1),
    (48, 5, 144, 48, True, "HS", 1),
    (48, 5, 288, 96, True, "HS", 2),
    (96, 5, 576, 96, True, "HS", 1),
    (96, 5, 576, 96, True, "HS", 1),
)
_norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)


def _initialise(module: nn.Module) -> nn.Module:
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out")
            if m.bias is not None:
                nn.init.zeros_(m.bias)
    return module


def _conv(place: int, channels: int, width: int, kernel: int, stride: int) -> nn.Module:
    from torchvision.ops import Conv2dNormActivation  # two seconds, which other networks need not pay

    layer = Conv2dNormActivation(channels, width, kernel, stride, norm_layer=_norm, activation_layer=nn.Hardswish)
    return _initialise(named_path((f"features.{place}", layer)))


def _residual(place: int) -> nn.Module:
    from torchvision.models.mobilenetv3 import InvertedResidual, InvertedResidualConfig

    config = InvertedResidualConfig(*SETTINGS[place - 1], dilation=1, width_mult=1.0)
    return _initialise(named_path((f"features.{place}", InvertedResidual(config, _norm))))


def _classifier(shape: Shape, num_classes: int) -> nn.Module:
    """The final convolution, which no local rule uses, pooling and a linear layer: [B, 96, H, W] -> [B, K]."""
    layers = [_conv(12, shape[0], 6 * shape[0], 1, 1), SpatialMean()]
    return nn.Sequential(*layers, nn.Linear(6 * shape[0], num_classes))


@checked_arguments
def mobilenet_v3_small(input_shape: Sequence[int], num_classes: int, stem_stride: Literal[1, 2] = 2) -> Chain:
    """MobileNetV3-small (arXiv 1905.02244): a stem and 11 inverted residual blocks, 12 blocks in all.

    stem_stride: 2 as published; 1 for small pictures, which are halved four times after the stem.
    """
    if stem_stride not in (1, 2):
        raise ConfigError(
            "unknown stride", where="model mobilenet-v3-small, stem_stride", expected="1 or 2", got=stem_stride
        )
    channels, _, _ = check_picture("mobilenet-v3-small", input_shape, 8)
    blocks = [("features.0", partial(_conv, 0, channels, 16, 3, stem_stride))]
    blocks += [(f"features.{place}", partial(_residual, place)) for place in range(1, len(SETTINGS) + 1)]
    return Chain(blocks, input_shape=input_shape, num_classes=num_classes, classifier=_classifier)
