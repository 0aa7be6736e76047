"""Local prediction and similarity matching."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffdist.errors import ConfigError
from ffdist.objectives.base import BlockSpec, Local, label_shares
from ffdist.objectives.competitive import Competitive
from ffdist.objectives.form import FlatFeatures, form, pointwise


@dataclass(frozen=True)
class PredSim(Competitive):
    """predsim (Noekland and Eidnes, ICML 2019, arXiv 1901.06656, equation 4).

    loss = (1 - beta) * CE(W pool(y)) + beta * mean((S(conv(y)) - S(onehot))^2), where S is the matrix of cosine
    similarities between the samples of a batch, each centred by its own mean. Of maps, S compares the standard
    deviations of the channels over space [code]. conv is a 3x3 convolution without bias (a linear layer, for vectors),
    W starts at zero [code]. The output goes on as it is.

    A gradient crosses one layer of the head, W or conv, and the block's own, and nothing before.

    Our own choice: for tokens, conv is a linear layer at each token, and S compares standard deviations over tokens.
    """

    beta: float = 0.99
    """Share of the similarity loss."""
    limit: int = 4096
    """The most features that W reads; maps of more are average-pooled by halves."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.beta <= 1 or self.limit < 1:
            raise ConfigError(
                "beta or limit is out of range",
                where="objective predsim",
                expected="0 <= beta <= 1, limit >= 1",
                got=f"{self.beta}, {self.limit}",
            )

    def head(self, spec: BlockSpec) -> nn.Module:
        return PredSimHead(spec, self.limit)

    def local(self, head: nn.Module, out: Tensor, labels: Tensor | None) -> Local:
        assert isinstance(head, PredSimHead)
        scores = head.decoder(head.flat(out)).float()
        loss = self.compete(scores, labels, learning=head.training)
        if loss is not None and labels is not None:
            target = similarity(label_shares(labels, scores.shape[1]))
            mismatch = F.mse_loss(similarity(head.spread(out)), target)
            loss = (1 - self.beta) * loss + self.beta * mismatch
        return Local(loss, scores, out.detach())


def similarity(x: Tensor) -> Tensor:
    """Cosine similarities of centred samples in full precision, float32 [B, F] -> [B, B]."""
    with torch.autocast(x.device.type, enabled=False):
        centred = x - x.mean(1, keepdim=True)
        unit = centred / (centred.norm(dim=1, keepdim=True) + 1e-8)
        return unit @ unit.T


class PredSimHead(nn.Module):
    """decoder: the classifier W; conv: what the similarity is taken after."""

    def __init__(self, spec: BlockSpec, limit: int) -> None:
        super().__init__()
        self.form = form(spec, "predsim")
        self.flat = FlatFeatures(spec, "predsim", limit)
        self.decoder = nn.Linear(self.flat.size, spec.num_classes)
        nn.init.zeros_(self.decoder.weight)
        self.conv = pointwise(self.form, self.form.channels, kernel=3, bias=False)

    def spread(self, out: Tensor) -> Tensor:
        """The features by which samples are compared, [N, *spec.output_shape] -> float32 [N, C]."""
        y = self.conv(out).float()
        if self.form.num_positions == 1:
            return y.flatten(1)
        return torch.sqrt(y.var(self.form.position_dims) + 1e-8)  # at 0 the root's gradient would be infinite
