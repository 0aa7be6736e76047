"""A trained network in one piece, for everything but training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ffdist.models import Chain, seeded
from ffdist.objectives import Objective
from ffdist.pipeline.plan import sites


class Scores(NamedTuple):
    """Float32 [B, K] each."""

    mean: Tensor
    """The mean of all blocks' scores."""
    last: Tensor
    """The last block's."""
    blocks: list[Tensor | None]
    """Each block's; None where a block gives none."""


class Classifier(nn.Module):
    """All blocks and heads of a network with the normalisation of its pictures: a plain module, in evaluation mode.

    mean, std: per channel of pixels in [0, 1], as the training data's.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, chain: Chain, objective: Objective, *, mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,)
    ):
        super().__init__()
        self.objective, self.num_classes, self.names = objective, chain.num_classes, list(chain.names)
        places = sites(chain)
        self.blocks = nn.ModuleList(chain.build(site.index, seed=0) for site in places)
        with seeded(0):
            self.heads = nn.ModuleList(objective.head(site) for site in places)
        per_channel = (1, -1) + (1,) * (len(chain.input_shape) - 1) if len(mean) > 1 else (1,)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(per_channel))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(per_channel))
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels in [0, 1], float32 [B, *input_shape] -> the mean of the blocks' scores [B, K]; argmax is the class."""
        return self.scores((pixels - self.mean) / self.std).mean

    def scores(self, x: Tensor) -> Scores:
        """Normalised inputs [B, *input_shape], as a Loader gives them -> all predictors' scores."""
        onward: Tensor | None = self.objective.prepare_eval(x, self.num_classes)
        blocks: list[Tensor | None] = []
        for block, head in zip(self.blocks, self.heads, strict=True):
            assert onward is not None
            local = self.objective.local(head, block(onward), None)
            blocks.append(local.scores)
            onward = local.onward
        given = [scores for scores in blocks if scores is not None]
        total = given[0]
        for scores in given[1:]:
            total = total + scores
        return Scores(total / len(given), given[-1], blocks)
