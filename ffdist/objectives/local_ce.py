"""Plain local cross-entropy, the control among the rules."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ffdist.objectives.base import BlockSpec, Local
from ffdist.objectives.competitive import Competitive
from ffdist.objectives.form import form, pointwise


@dataclass(frozen=True)
class LocalCE(Competitive):
    """Cross-entropy of a linear classifier a block on the mean over space (or tokens) of its output: g = W mean(y) + b.

    A gradient crosses that layer and the block's own, and nothing before.

    The block's output goes on as it is. What a rule adds beyond greedy supervised learning shows against this one. The
    linear layer is applied at each position before the mean, which is the same and keeps the layout of gradients.
    """

    def head(self, spec: BlockSpec) -> nn.Module:
        return LocalCEHead(spec)

    def local(self, head: nn.Module, out: Tensor, labels: Tensor | None) -> Local:
        assert isinstance(head, LocalCEHead)
        scores = head.form.position_mean(head.linear(out))
        return Local(self.compete(scores, labels, learning=head.training), scores, out.detach())


class LocalCEHead(nn.Module):
    """linear: C -> K at each position."""

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        self.form = form(spec, "local cross-entropy")
        self.linear = pointwise(self.form, spec.num_classes)
