"""The backpropagation twin: the same blocks, the same data, one global loss."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ffdist.models import Chain
from ffdist.objectives import BlockSpec, Local
from ffdist.objectives.competitive import Competitive


@dataclass(frozen=True)
class BackpropRule(Competitive):
    """Cross-entropy of a block that ends in logits [B, K]: the twin's, whose one block is the whole network."""

    def head(self, spec: BlockSpec) -> nn.Module:
        return nn.Identity()

    def local(self, head: nn.Module, out: Tensor, labels: Tensor | None) -> Local:
        scores = out.float()
        return Local(self.compete(scores, labels, learning=head.training), scores, None)


class _Whole:
    """Builds all blocks and the classifier as one module."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain

    def __call__(self) -> nn.Module:
        chain = self.chain
        blocks = [(name.replace(".", "_"), build()) for name, build in zip(chain.names, chain.builders, strict=True)]
        classifier = chain.classifier()
        whole = nn.Sequential()
        for name, block in [*blocks, ("classifier", classifier)]:
            whole.add_module(name, block)
        return whole


def twin(chain: Chain) -> Chain:
    """A chain of one block: all of `chain`'s blocks and its classifier, [B, *input_shape] -> logits [B, K]."""
    whole = [("network", _Whole(chain))]
    return Chain(whole, input_shape=chain.input_shape, num_classes=chain.num_classes, origin=chain.origin)
