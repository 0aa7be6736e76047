"""A learning rule of one's own: ffdist train --objective examples/own_objective.py:Prototypes --objective-args scale=10

Each block keeps a prototype a class; the scores are the cosines between a sample's features and the prototypes, and
the loss is the cross-entropy over them. What goes on is the block's output, divided by its length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffdist.objectives import BlockSpec, Local, Objective


class PrototypeHead(nn.Module):
    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        self.last = spec.is_last
        self.prototypes = nn.Parameter(torch.randn(spec.num_classes, spec.channels))


@dataclass(frozen=True)
class Prototypes(Objective):
    scale: float = 10.0
    """Factor of the cosines before the softmax."""

    def head(self, spec: BlockSpec) -> nn.Module:
        return PrototypeHead(spec)

    def local(self, head: nn.Module, out: Tensor, labels: Tensor | None) -> Local:
        assert isinstance(head, PrototypeHead)
        features = out.mean({4: (2, 3), 3: (1,)}.get(out.dim(), ())) if out.dim() > 2 else out  # maps; tokens; vectors
        scores = self.scale * F.normalize(features.float()) @ F.normalize(head.prototypes).T
        loss = None if labels is None else F.cross_entropy(scores, labels)
        return Local(loss, scores, None if head.last else F.normalize(out.detach(), dim=2 if out.dim() == 3 else 1))
