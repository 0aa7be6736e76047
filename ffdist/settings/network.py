"""The network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ffdist.errors import ConfigError, setting
from ffdist.settings.base import SettingsGroup, option


@dataclass(frozen=True)
class NetworkSettings(SettingsGroup):
    """The network."""

    group: ClassVar[str] = "network"

    model: str = "cnnb"
    """A name of `ffdist models`, or file.py:function. Or module:function; it returns a Chain or an
    nn.Sequential."""
    model_args: tuple[str, ...] = ()
    """The network's options, e.g. widths=32,64,128. Several are separated by spaces; `ffdist models NAME` lists
    them."""
    pretrained: str | None = None
    """Weights to start from: a state file, or "imagenet". The latter are torchvision's for resnet18, mobilenet-v3-small
    and vit with the options they have there; classifiers are left out. Files are .safetensors or .pth."""
    blocks: tuple[int, ...] = option((), rare=True)
    """Layers in each block, e.g. 2 1. Layers are the children of the network's nn.Sequential, taken in order; each
    block has one loss. Default: one each."""
    modules: tuple[int, ...] = option(())
    """Join blocks into K modules, or as many in each. A module learns by one loss. One number, e.g. 2: consecutive
    blocks are joined into so many modules, so that the slowest is as fast as can be by measured time; the run keeps the
    counts. Several, e.g. 2 3: blocks in each module. A gradient crosses all layers of its module and of its head
    (--dry-run counts them); 1 is backpropagation."""
    dirac: bool = option(False, rare=True)
    """Start convolutions as the identity, as far as there are outputs. (Dirac initialisation.)"""

    def check(self) -> None:
        object.__setattr__(self, "modules", as_counts(self.modules))
        super().check()
        if any(count < 1 for count in self.modules):
            raise ConfigError(
                f"{setting('network.modules')} has a count that is too small", expected=">= 1", got=list(self.modules)
            )
        if self.dirac and self.pretrained:
            raise ConfigError(
                f"{setting('network.dirac')} and {setting('network.pretrained')} both say what weights begin with",
                expected="one of them",
            )


def as_counts(modules: object) -> object:
    """One whole number as a list of one; all else as it is."""
    return (modules,) if isinstance(modules, int) and not isinstance(modules, bool) else modules
