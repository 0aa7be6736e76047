"""Mono-Forward."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ffdist.errors import ConfigError
from ffdist.objectives.base import BlockSpec, Local
from ffdist.objectives.competitive import Competitive
from ffdist.objectives.form import FlatFeatures


@dataclass(frozen=True)
class MonoForward(Competitive):
    """Mono-Forward (Gong, Li and Abdulla, arXiv 2501.09238).

    A learned matrix M [K, n] projects all n activities of a block to a goodness a class, g = a M^T; the loss is the
    cross-entropy over g; the activities go on as they are.

    A gradient crosses M and the block's own layers, and nothing before.

    Our own choice: `limit`, since M of a large picture's first block would have more numbers than the whole network.
    """

    limit: int = 65536
    """The most activities that M reads; maps of more are average-pooled by halves, tokens averaged."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.limit < 1:
            raise ConfigError(
                "the limit is too small", where="objective mono-forward, limit", expected=">= 1", got=self.limit
            )

    def head(self, spec: BlockSpec) -> nn.Module:
        return MonoForwardHead(spec, self.limit)

    def local(self, head: nn.Module, out: Tensor, labels: Tensor | None) -> Local:
        assert isinstance(head, MonoForwardHead)
        scores = head.project(head.flat(out)).float()
        return Local(self.compete(scores, labels, learning=head.training), scores, out.detach())


class MonoForwardHead(nn.Module):
    """project: the paper's M, without bias."""

    def __init__(self, spec: BlockSpec, limit: int) -> None:
        super().__init__()
        self.flat = FlatFeatures(spec, "Mono-Forward", limit)
        self.project = nn.Linear(self.flat.size, spec.num_classes, bias=False)
