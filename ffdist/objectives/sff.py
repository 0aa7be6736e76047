"""Scalable Forward-Forward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from ffdist.errors import ConfigError
from ffdist.objectives.base import BlockSpec, Local
from ffdist.objectives.competitive import Competitive
from ffdist.objectives.form import channel_norm, form, pointwise


@dataclass(frozen=True)
class SFF(Competitive):
    """Scalable Forward-Forward (arXiv 2501.03176, section 4).

    An auxiliary convolution maps a block's output y to K maps z = aux(norm(y)); the goodness of class k is
    g_k = mean over space of z_k^2 ("square", training step 2) or of z_k ("mean", section 4.1). The loss is the
    log-sum-exp margin -E[g_true - log sum_j exp g_j] (equation of section 4.2), which is the cross-entropy over g. The
    next block gets norm(y), detached; the auxiliary output goes nowhere.

    A gradient crosses the auxiliary convolution, that norm and the block's own layers, and nothing before.

    Our own choices: the norm is over all of a sample's features with a per-channel scale and shift
    (`GroupNorm(1, C)`, which has exactly the parameters the paper counts), and the goodness is read after it, so that
    the block's own loss trains that scale and shift. For tokens, which the paper has not, norm and auxiliary layer are
    those of each token, and the mean is over tokens.
    """

    kernel: int = 1
    """Side of the auxiliary convolution, odd; the paper's one knob (5 on CIFAR-10, 3 on CIFAR-100)."""
    goodness: Literal["square", "mean"] = "square"
    """Mean over space of the auxiliary output's square, or of the output itself."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ConfigError(
                "the auxiliary convolution's side is not odd",
                where="objective sff, kernel",
                expected="1, 3, 5, ...",
                got=self.kernel,
            )
        if self.goodness not in ("square", "mean"):
            raise ConfigError(
                "unknown form of goodness",
                where="objective sff, goodness",
                expected="square or mean",
                got=self.goodness,
            )

    def head(self, spec: BlockSpec) -> nn.Module:
        return SFFHead(spec, self.kernel)

    def local(self, head: nn.Module, out: Tensor, labels: Tensor | None) -> Local:
        assert isinstance(head, SFFHead)
        normed = head.norm(out)
        z = head.aux(normed)
        scores = head.form.position_mean(z.square() if self.goodness == "square" else z)
        loss = self.compete(scores, labels, learning=head.training)
        return Local(loss, scores, normed.detach())


class SFFHead(nn.Module):
    """norm: of what goes on; aux: from it to K maps (or K numbers, for vectors; K numbers a token, for tokens)."""

    def __init__(self, spec: BlockSpec, kernel: int) -> None:
        super().__init__()
        self.form = form(spec, "SFF")
        self.norm = channel_norm(self.form)
        self.aux = pointwise(self.form, spec.num_classes, kernel)
