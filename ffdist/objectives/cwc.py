"""Channel-wise competitive learning, as published and as modified for any network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ffdist.errors import ConfigError, NetworkError
from ffdist.objectives.base import BlockSpec, Local
from ffdist.objectives.competitive import Competitive
from ffdist.objectives.form import channel_norm, check_groups

SUPERCLASSES = """
    4 1 14 8 0 6 7 7 18 3 3 14 9 18 7 11 3 9 7 11 6 11 5 10 7
    6 13 15 3 15 0 11 1 10 12 14 16 9 11 5 5 19 8 8 15 13 14 17 18 10
    16 4 17 4 2 0 17 4 18 17 10 3 2 12 12 16 12 1 9 19 2 10 0 1 16
    12 9 13 15 13 16 19 2 4 6 19 5 5 8 19 18 1 2 15 6 0 17 8 14 13
"""
CIFAR100_SUPERCLASSES = tuple(map(int, SUPERCLASSES.split()))
"""The official coarse label of each of CIFAR-100's fine labels (in their alphabetical order)."""


@dataclass(frozen=True)
class CwC(Competitive):
    """Channel-wise competitive Forward-Forward (Papachristodoulou et al., AAAI 2024).

    A block's C channels are divided evenly among the K classes; g_k = mean over the class's channels and space of y^2;
    the loss is the cross-entropy over g (their L_CwC). One pass, no negatives, no auxiliary layer; the block's output
    itself, after its batch norm, goes on. Interleaved layer training (ILT), in which a block has epochs of its own to
    learn in, is `--windows`: theirs are 0:11 0:16 0:21 0:25 on CIFAR-10. Our own choice: past its window a block is
    as in evaluation, its batch norm's statistics at rest, too.

    A gradient crosses the block's own layers, and nothing before.

    In CIFAR-100 the first blocks compete for its 20 super-classes (the authors' code takes label // 5; we take the
    official ones); they give no scores.
    """

    superclass_blocks: int = 0
    """How many of the first blocks learn CIFAR-100's super-classes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.superclass_blocks < 0:
            raise ConfigError(
                "the number of blocks that learn super-classes is negative",
                where="objective cwc, superclass_blocks",
                expected=">= 0",
                got=self.superclass_blocks,
            )

    def head(self, spec: BlockSpec) -> nn.Module:
        if self.superclass_blocks and spec.num_classes != len(CIFAR100_SUPERCLASSES):
            raise NetworkError(
                "super-classes are known for CIFAR-100 alone",
                where="objective cwc, superclass_blocks",
                expected="100 classes",
                got=spec.num_classes,
                remedy="set it to 0",
            )
        return CwCHead(spec, coarse=spec.index < self.superclass_blocks)

    def local(self, head: nn.Module, out: Tensor, labels: Tensor | None) -> Local:
        assert isinstance(head, CwCHead)
        next_input = out.detach()
        scores = head.form.class_means(out.square(), head.num_groups)
        if head.coarse is None:
            return Local(self.compete(scores, labels, learning=head.training), scores, next_input)
        coarse = None if labels is None else coarse_labels(labels, head.coarse, head.num_groups)
        return Local(self.compete(scores, coarse, learning=head.training), None, next_input)


def coarse_labels(labels: Tensor, table: Tensor, num_groups: int) -> Tensor:
    """The super-classes of labels int64 [B]; of shares [B, K] the shares of the super-classes, [B, groups]."""
    if not labels.is_floating_point():
        return table[labels]
    return labels.new_zeros(len(labels), num_groups).index_add_(1, table, labels)


class CwCHead(nn.Module):
    """No parameters: where the groups of channels are, and the super-classes of the labels."""

    coarse: Tensor | None

    def __init__(self, spec: BlockSpec, *, coarse: bool) -> None:
        super().__init__()
        self.num_groups = max(CIFAR100_SUPERCLASSES) + 1 if coarse else spec.num_classes
        self.form = check_groups(spec, "CwC", self.num_groups)
        table = torch.tensor(CIFAR100_SUPERCLASSES) if coarse else None
        self.register_buffer("coarse", table, persistent=False)


@dataclass(frozen=True)
class CwCMod(Competitive):
    """CwC for any network, as the SFF paper modifies it (arXiv 2501.03176, section 5).

    Goodness and loss are CwC's, from each block's own output; a norm is between blocks. Instead of ILT there is a
    schedule of reduction on plateau a block. A gradient crosses the block's own layers, and nothing before.

    Our own choice: the norm has no scale and shift, since no loss would train them.
    """

    def head(self, spec: BlockSpec) -> nn.Module:
        return CwCModHead(spec)

    def local(self, head: nn.Module, out: Tensor, labels: Tensor | None) -> Local:
        assert isinstance(head, CwCModHead)
        scores = head.form.class_means(out.square(), head.num_classes)
        loss = self.compete(scores, labels, learning=head.training)
        return Local(loss, scores, head.norm(out.detach()))


class CwCModHead(nn.Module):
    """norm: of what goes on."""

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        self.num_classes = spec.num_classes
        self.form = check_groups(spec, "CwC-mod", spec.num_classes)
        self.norm = channel_norm(self.form, learned=False)
