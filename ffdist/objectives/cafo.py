"""Cascaded Forward: a predictor a block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffdist.errors import ConfigError
from ffdist.objectives.base import BlockSpec, Local, label_shares
from ffdist.objectives.competitive import Competitive
from ffdist.objectives.form import FlatFeatures


@dataclass(frozen=True)
class CaFo(Competitive):
    """Cascaded Forward (Zhao et al., arXiv 2303.09728): a linear predictor p = W y after each block, on all of its
    activities; their mean predicts. The output goes on as it is.

    loss = CE(p); or mean((p - q)^2); or sparsemax's, -q p + 1/2 sum_S (p_j^2 - tau^2) + 1/2 |q|^2, where q are the
    shares of the classes, S the support of sparsemax(p) and tau its threshold (Martins and Astudillo, 2016).

    The blocks are random and stay as they are ("fixed", the paper's first form), or learn by direct feedback alignment
    (its second): the loss's gradient by p reaches the block through fixed random weights in place of W's. So a
    gradient crosses the predictor alone, or the block's own layers, and nothing before.

    Our own choices: the square loss is learned by gradients, too (there solved in one step); the error that comes back
    is that of the block's own predictor (there of the network's end); `limit`, as in `mono-forward`.
    """

    loss: Literal["ce", "mse", "sparsemax"] = "ce"
    """The loss of the predictors."""
    blocks: Literal["fixed", "dfa"] = "fixed"
    """Whether blocks stay as they are, or learn by direct feedback alignment."""
    limit: int = 4096
    """The most activities that W reads; maps of more are average-pooled by halves."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.limit < 1:
            raise ConfigError("the limit is too small", where="objective cafo, limit", expected=">= 1", got=self.limit)

    @property
    def fixed_blocks(self) -> bool:
        return self.blocks == "fixed"

    def head(self, spec: BlockSpec) -> nn.Module:
        return CaFoHead(spec, self.limit)

    def local(self, head: nn.Module, out: Tensor, labels: Tensor | None) -> Local:
        assert isinstance(head, CaFoHead)
        y = head.flat(out.detach() if self.fixed_blocks else out)
        if head.training and not self.fixed_blocks:
            scores = Aligned.apply(y, head.predictor.weight, head.predictor.bias, head.feedback).float()
        else:
            scores = head.predictor(y).float()
        loss = None if labels is None else self.score_loss(scores, labels, learning=head.training)
        return Local(loss, scores, out.detach())

    def score_loss(self, scores: Tensor, labels: Tensor, *, learning: bool) -> Tensor | None:
        """The loss that `loss` names, a scalar; scores: float32 [B, K]; labels: int64 [B], or shares [B, K]."""
        if self.loss == "ce":
            return self.compete(scores, labels, learning=learning)
        smoothing = self.label_smoothing if learning else 0.0
        shares = (1 - smoothing) * label_shares(labels, scores.shape[1]) + smoothing / scores.shape[1]
        return F.mse_loss(scores, shares) if self.loss == "mse" else sparsemax_loss(scores, shares)


def sparsemax_loss(scores: Tensor, shares: Tensor) -> Tensor:
    """Sparsemax's loss (Martins and Astudillo, 2016), a scalar: the mean over the batch.

    scores, shares: float32 [B, K]; each row of shares adds up to 1.
    """
    ordered = scores.sort(1, descending=True).values
    sums = ordered.cumsum(1) - 1
    places = torch.arange(1, scores.shape[1] + 1, device=scores.device)
    # the support are the k largest scores, for the greatest k with 1 + k z_(k) > z_(1) + ... + z_(k)
    size = (places * ordered > sums).sum(1, keepdim=True)
    tau = sums.gather(1, size - 1) / size
    support = (scores.square() - tau.square()).where(scores > tau, 0).sum(1)
    return (0.5 * support - (shares * scores).sum(1) + 0.5 * shares.square().sum(1)).mean()


class Aligned(torch.autograd.Function):
    """A linear layer that backpropagates to its input by fixed `feedback` [K, n] in place of its weight [K, n]: direct
    feedback alignment (Noekland, 2016, arXiv 1609.01596). y [B, n] -> [B, K]."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, weight: Tensor, bias: Tensor, feedback: Tensor) -> Tensor:
        ctx.save_for_backward(y, feedback)
        return F.linear(y, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        y, feedback = ctx.saved_tensors
        grad = grads[0].to(feedback.dtype)
        return (grad @ feedback).to(y.dtype), grad.T @ y.to(grad.dtype), grad.sum(0), None


class CaFoHead(nn.Module):
    """predictor: the paper's W; feedback: the fixed weights by which the block hears of its loss."""

    feedback: Tensor

    def __init__(self, spec: BlockSpec, limit: int) -> None:
        super().__init__()
        self.flat = FlatFeatures(spec, "CaFo", limit)
        self.predictor = nn.Linear(self.flat.size, spec.num_classes)
        self.register_buffer("feedback", torch.randn(spec.num_classes, self.flat.size) / self.flat.size**0.5)
