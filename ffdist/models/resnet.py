"""ResNet18, of torchvision's own residual blocks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

from torch import nn

from ffdist.errors import ConfigError
from ffdist.models.arguments import checked_arguments
from ffdist.models.chain import Chain
from ffdist.models.parts import check_picture, check_widths, named_path

WIDTHS = (64, 128, 256, 512)
CUTS = {"group": (3, 2, 2, 2), "block": (2, 1, 1, 1, 1, 1, 1, 1), "stem-group": (1, 2, 2, 2, 2)}


def _initialise(module: nn.Module) -> nn.Module:
    """Initialise as torchvision does: He's normal for convolutions, ones and zeros for norms (which is their
    default)."""
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
    return module


def _stem(channels: int, width: int, kernel: int) -> nn.Module:
    if kernel == 3:
        conv, pool = nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.Identity()
    else:
        conv, pool = nn.Conv2d(channels, width, 7, 2, 3, bias=False), nn.MaxPool2d(3, 2, 1)
    parts = named_path(("conv1", conv), ("bn1", nn.BatchNorm2d(width)), ("relu", nn.ReLU()), ("maxpool", pool))
    return _initialise(parts)


def _residual(group: int, place: int, in_width: int, width: int, stride: int) -> nn.Module:
    from torchvision.models.resnet import BasicBlock  # two seconds, which other networks need not pay

    downsample = None
    if stride != 1 or in_width != width:
        downsample = nn.Sequential(nn.Conv2d(in_width, width, 1, stride, bias=False), nn.BatchNorm2d(width))
    return _initialise(named_path((f"layer{group}.{place}", BasicBlock(in_width, width, stride, downsample))))


@checked_arguments
def resnet18(
    input_shape: Sequence[int],
    num_classes: int,
    stem: Literal[3, 7] = 3,
    split: Literal["group", "block", "stem-group"] = "group",
    widths: tuple[int, int, int, int] = WIDTHS,
) -> Chain:
    """ResNet18 (arXiv 1512.03385) cut into 4 groups, or its 8 residual blocks, of 2 convolutions each.

    stem: 3 for a 3x3 convolution (pictures of about 32 pixels), 7 for the original 7x7 with stride 2 and a pool.
    split: "group" for 4 blocks, "block" for 8, both with the stem joined to the first; "stem-group" for the stem and 4
        groups, 5 blocks, which is the SFF paper's cut (its counts of parameters say so).
    widths: channels of the groups; multiples of the number of classes suit the channel-wise rules.
    """
    if stem not in (3, 7) or split not in CUTS:
        raise ConfigError(
            "unknown form of ResNet18",
            where="model resnet18",
            expected=f"stem 3 or 7, split {' or '.join(CUTS)}",
            got=f"stem {stem}, split {split}",
        )
    check_widths("resnet18", widths)
    channels, _, _ = check_picture("resnet18", input_shape, 8 if stem == 3 else 32)
    blocks = [("stem", partial(_stem, channels, widths[0], stem))]
    for group, width in enumerate(widths, 1):
        before = widths[max(group - 2, 0)]
        first, second = (before, width, 1 if group == 1 else 2), (width, width, 1)
        blocks += [(f"layer{group}.{i}", partial(_residual, group, i, *a)) for i, a in enumerate((first, second))]
    return Chain(blocks, input_shape=input_shape, num_classes=num_classes).regroup(CUTS[split])
