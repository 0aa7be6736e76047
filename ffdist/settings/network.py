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
    """A name of `ffdist models`, or file.py:function. Or module:function; it returns a Chain or an nn.Sequential."""
    model_args: tuple[str, ...] = ()
    """Its options, e.g. widths=32,64,128. Several are told apart by spaces; `ffdist models NAME` lists them."""
    pretrained: str | None = None
    """Weights to start from: a state file, or "imagenet". The latter are torchvision's for resnet18, mobilenet-v3-small
    and vit with the options they have there; classifiers are left out. Files are .safetensors or .pth."""
    blocks: tuple[int, ...] = option(())
    """Children that make each block, e.g. 2 1. They follow in a row; each block has one loss. Default: one each."""
