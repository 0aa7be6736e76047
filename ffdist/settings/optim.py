"""Each block's own optimiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ffdist.settings.base import Group, option


@dataclass(frozen=True)
class OptimSettings(Group):
    """The optimiser of each block."""

    group: ClassVar[str] = "optim"

    optimizer: Literal["adamw", "adam", "sgd", "muon"] = "adamw"
    """Each block's own. muon: for filters, and for matrices outside of heads and classifiers; sgd for the rest."""
    lr: float = option(2e-3, above=0)
    """Learning rate of every block."""
    weight_decay: float = option(1e-5, least=0)
    """Weight decay of every block."""
    momentum: float = option(0.9, least=0, below=1)
    """Momentum of sgd, beside muon too."""
    nesterov: bool = False
    """Nesterov's form of momentum, for sgd and muon."""
    bias_lr: float | None = option(None, above=0)
    """Rate of biases and norms' parameters. Default: lr."""
    head_lr: float | None = option(None, above=0)
    """Rate of what the rule adds to a block. Of a twin's classifier, too; with muon, of their linear layers.
    Default: lr."""
    muon_momentum: float = option(0.95, least=0, below=1)
    """Momentum of muon."""
    unit_filters: bool = False
    """muon: scale filters to norm sqrt(outputs). Before each step; matrices, too; for layers with a norm behind."""
    ns_steps: int = option(5, least=1, most=99)
    """muon: steps of Newton and Schulz's iteration."""
    clip: float | None = option(None, above=0)
    """Largest norm of a block's gradient. A larger one is scaled down."""
    no_decay: tuple[Literal["bias", "norm"], ...] = ()
    """What weight decay spares: biases, norms' parameters. By default nothing, as in the papers and their authors'
    code."""
    ema: float | None = option(None, least=0, below=1)
    """Decay of a moving average of weights, e.g. 0.999. Validation, test, eval and export then go by it."""
