"""Which network is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ffdist.settings.base import Group, option


@dataclass(frozen=True)
class NetworkSettings(Group):
    """The network."""

    group: ClassVar[str] = "network"

    model: str = "cnnb"
    """A name (see `ffdist models`), module:function or file.py:function. It returns a Chain or an nn.Sequential."""
    model_args: tuple[str, ...] = ()
    """Its options as key=value, e.g. widths=32,64,128."""
    pretrained: str | None = None
    """Weights to start from: a state file, or "imagenet". The latter are torchvision's for resnet18, mobilenet-v3-small
    and vit with the options they have there; classifiers are left out. Files are .safetensors or .pth."""
    blocks: tuple[int, ...] = option(())
    """Children in a row that make a block, e.g. 2 1. Each block has one loss. Default: each child is a block."""
