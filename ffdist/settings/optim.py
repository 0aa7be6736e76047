"""Each block's own optimiser."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from ffdist.errors import ConfigError, setting
from ffdist.options import nearest
from ffdist.settings.base import SettingsGroup, option

OPTIMIZERS = ("adamw", "adam", "sgd", "muon")
OF_TORCH = ("ASGD", "Adadelta", "Adafactor", "Adagrad", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop")
"""Classes of torch.optim that people ask for by name."""


@dataclass(frozen=True)
class OptimSettings(SettingsGroup):
    """The optimiser of each block."""

    group: ClassVar[str] = "optim"

    optimizer: str = "adamw"
    """adamw, adam, sgd, muon or module:Class. Each block has its own. muon: for filters, and for matrices outside of
    heads and classifiers; `muon_rest` for all else. A class, as torch.optim:NAdam or file.py:Class, is a
    torch.optim.Optimizer, and gets lr and, where it takes one, weight_decay."""
    optimizer_args: tuple[str, ...] = option((), rare=True)
    """Options of an optimiser class, e.g. betas=0.9,0.99. Several are separated by spaces."""
    lr: float = option(2e-3, gt=0)
    """Learning rate of every block."""
    weight_decay: float = option(1e-5, ge=0)
    """Weight decay of every block."""
    block_rates: tuple[float, ...] = option((), rare=True)
    """Factor on each block's learning rates, e.g. 1 1 0.5. One for every block; it multiplies lr, bias_lr and
    head_lr."""
    betas: tuple[float, ...] = option((0.9, 0.999), rare=True)
    """adam, adamw: decay of the moving averages of gradients and of their squares."""
    eps: float = option(1e-8, gt=0, rare=True)
    """adam, adamw: number that is added to the denominator."""
    momentum: float = option(0.9, ge=0, lt=1)
    """Momentum of sgd, and of the sgd beside muon."""
    nesterov: bool = False
    """Nesterov momentum, for sgd and muon."""
    bias_lr: float | None = option(None, gt=0, rare=True)
    """Learning rate of biases and of norms' parameters. Default: lr."""
    head_lr: float | None = option(None, gt=0, rare=True)
    """Learning rate of heads, which the rule adds to blocks. Under backprop, of the classifier; with muon, of their
    linear layers. Default: lr."""
    muon_rest: Literal["sgd", "adamw"] = option("sgd", rare=True)
    """muon: the optimiser of all but filters and matrices. Its rates are head_lr and bias_lr, lr for what is left."""
    muon_momentum: float = option(0.95, ge=0, lt=1, rare=True)
    """Momentum of muon."""
    unit_filters: bool = option(False, rare=True)
    """muon: scale filters to norm sqrt(outputs). Before each step; matrices, too; for layers with a norm after."""
    ns_steps: int = option(5, ge=1, le=99, rare=True)
    """muon: steps of the Newton-Schulz iteration."""
    clip: float | None = option(None, gt=0, rare=True)
    """Largest norm of a block's gradient; a larger one is scaled down. Each block is clipped by itself."""
    no_decay: tuple[Literal["bias", "norm"], ...] = option((), rare=True)
    """Parameters that weight decay spares: bias, norm. By default nothing, as in the papers and their authors'
    code."""
    ema: float | None = option(None, ge=0, lt=1, rare=True)
    """Decay of a moving average of weights, e.g. 0.999. Validation, test, eval and export then go by it."""

    def check(self) -> None:
        super().check()
        if self.optimizer not in OPTIMIZERS and ":" not in self.optimizer:
            raise ConfigError(
                f"there is no optimiser '{self.optimizer}'",
                where=setting("optim.optimizer"),
                expected=f"{', '.join(OPTIMIZERS)}, module:Class (torch.optim:RMSprop, say) or file.py:Class",
                got=self.optimizer,
                remedy=torch_optimizer_setting(self.optimizer) or nearest(self.optimizer, OPTIMIZERS),
            )
        if self.optimizer_args and self.optimizer in OPTIMIZERS:
            raise ConfigError(
                f"{setting('optim.optimizer_args')} is for a class of an optimiser",
                expected=setting("optim.optimizer", "module:Class"),
                got=self.optimizer,
                remedy=f"its options are settings of their own: {setting('optim.betas')}, {setting('optim.momentum')}",
            )
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(
                f"{setting('optim.betas')} are two decays", expected="0 <= x < 1, twice", got=list(self.betas)
            )
        if not all(rate > 0 for rate in self.block_rates):
            raise ConfigError(
                f"{setting('optim.block_rates')} has a factor that is too small",
                expected="> 0",
                got=list(self.block_rates),
                remedy=f"a block that is not to learn rests: {setting('scheduler.windows')}",
            )

        plain = self.optimizer == "sgd" or (self.optimizer == "muon" and self.muon_rest == "sgd")
        if self.nesterov and plain and not self.momentum:
            raise ConfigError(
                f"{setting('optim.nesterov', True)} is a form of momentum, and there is none",
                where=setting("optim.momentum"),
                expected="> 0",
                got=self.momentum,
                remedy=f"{setting('optim.momentum', 0.9)}, or leave {setting('optim.nesterov')} out",
            )

    def check_blocks(self, blocks: int) -> None:
        """Raises ConfigError unless there is a factor for each of the network's blocks, or none at all."""
        if self.block_rates and len(self.block_rates) != blocks:
            raise ConfigError(
                "each block has a factor of its rates",
                where=setting("optim.block_rates"),
                expected=f"{blocks} factors",
                got=len(self.block_rates),
            )

    def of_block(self, index: int) -> OptimSettings:
        """Those of block `index`; what follows all of them learns by the rates as they are."""
        if index >= len(self.block_rates):
            return self
        factor = self.block_rates[index]
        rates = {name: getattr(self, name) for name in ("lr", "bias_lr", "head_lr")}
        return replace(self, **{name: factor * rate for name, rate in rates.items() if rate is not None})


def torch_optimizer_setting(name: str) -> str | None:
    """The setting that takes torch's optimiser of this name, in whatever case; None where it has none."""
    found = next((each for each in OF_TORCH if each.lower() == name.lower()), None)
    return found and setting("optim.optimizer", f"torch.optim:{found}")
