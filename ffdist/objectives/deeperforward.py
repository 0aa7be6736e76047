"""DeeperForward: mean goodness."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffdist.errors import ConfigError, NetworkError
from ffdist.objectives.base import BlockSpec, Local
from ffdist.objectives.competitive import Competitive
from ffdist.objectives.form import check_groups


@dataclass(frozen=True)
class DeeperForward(Competitive):
    """DeeperForward (Sun et al., ICLR 2025).

    The channels are divided among the classes as in CwC; the goodness of class k is the mean of its activities,
    g_k = mean(y), not of their squares, so that a silent unit still learns; the loss is the cross-entropy over g. What
    goes on is y with each class's group of channels normalised to mean 0 and variance 1, `group_norm(y, K)`: the
    goodness is taken out of it exactly. The picture is normalised in the same way, as one group [code].

    A gradient crosses the block's own layers, and nothing before.

    Our own choices: the blocks are those of any network given (the paper's has 17 convolutions with residuals between
    them); for tokens, a group is a class's features over all tokens.
    """

    dropout: float = 0.0
    """Dropout rate of a block's output, before its goodness; 0.2 in the authors' code."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.dropout < 1:
            raise ConfigError(
                "the dropout rate is out of range",
                where="objective deeperforward, dropout",
                expected="0 <= x < 1",
                got=self.dropout,
            )

    def head(self, spec: BlockSpec) -> nn.Module:
        return DeeperForwardHead(spec)

    def prepare(self, x: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
        return _standardised(x)

    def prepare_eval(self, x: Tensor, num_classes: int) -> Tensor:
        return _standardised(x)

    def local(self, head: nn.Module, out: Tensor, labels: Tensor | None) -> Local:
        assert isinstance(head, DeeperForwardHead)
        kept = F.dropout(out, self.dropout, head.training)
        scores = head.form.class_means(kept, head.num_classes)
        loss = self.compete(scores, labels, learning=head.training)
        # the last block may have a number a group, which cannot be normalised
        return Local(loss, scores, head.normalised(kept.detach()) if head.normalises else None)


def _standardised(x: Tensor) -> Tensor:
    """Mean 0 and variance 1 over each sample."""
    return F.group_norm(x, 1) if x.dim() == 4 else F.layer_norm(x, x.shape[1:])


class DeeperForwardHead(nn.Module):
    """No parameters: where the groups of channels are."""

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        self.normalises = not spec.is_last
        self.num_classes = spec.num_classes
        self.form = check_groups(spec, "DeeperForward", spec.num_classes)
        if not spec.is_last and self.form.channels * self.form.num_positions == spec.num_classes:
            raise NetworkError(
                "a group of one number has nothing to normalise",
                where=spec,
                expected=f"at least {2 * spec.num_classes} features",
                got=spec.num_classes,
                remedy="widen the block",
            )

    def normalised(self, y: Tensor) -> Tensor:
        """Each class's group of channels with mean 0 and variance 1: [N, *spec.output_shape] -> the same shape."""
        if self.form.position_dims == (1,):
            return F.group_norm(y.transpose(1, 2), self.num_classes).transpose(1, 2)
        return F.group_norm(y, self.num_classes)
