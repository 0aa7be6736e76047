"""Decoupled greedy learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ffdist.errors import ConfigError
from ffdist.objectives.auxiliary import FlatPixels, PoolTo, TokenMean, convolutions, linears, pooled_size
from ffdist.objectives.base import BlockSpec, Local, label_shares
from ffdist.objectives.competitive import Competitive
from ffdist.objectives.form import form
from ffdist.objectives.predsim import similarity


@dataclass(frozen=True)
class DGL(Competitive):
    """Decoupled greedy learning (Belilovsky, Eickenberg and Oyallon, ICML 2020, arXiv 1901.08164).

    loss = CE(h(y)), where h is an auxiliary network after the block. A gradient crosses the layers of h (seven by
    default) and those of the block, and nothing before: local learning, but not of single layers.

    "mlp-sr" [code]: average pool to `side`; `depth` times [1x1 convolution, batch norm, ReLU]; average pool to 2x2;
    flatten; `depth` times [linear, batch norm, ReLU]; linear. "conv": average pool to `side`; `depth` times [3x3
    convolution, batch norm, ReLU]; mean over space; linear. The last block has, in either form, an average pool to 2x2,
    [linear, batch norm, ReLU], linear. The output goes on as it is.

    similarity > 0 mixes in predsim's term: (1 - s) * loss + s * mean((S(y) - S(onehot))^2), with S the matrix of cosine
    similarities between the samples' mean activities.

    Our own choice: vectors have only the linear layers; tokens have linear layers at each token in place of
    convolutions, and their mean in place of the pool; a side of ceil(H / 4), and of 8 for "conv", unless set.
    """

    auxiliary: Literal["mlp-sr", "conv"] = "mlp-sr"
    """Form of the auxiliary network."""
    depth: int = 3
    """Convolutions in it, and linear layers before the last."""
    width: int = 0
    """Channels in it; 0: as many as the block gives."""
    side: int = 0
    """Largest height and width of the map that it reads; 0: by its form."""
    similarity: float = 0.0
    """Share of the similarity loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth < 1 or self.width < 0 or self.side < 0 or not 0 <= self.similarity <= 1:
            raise ConfigError(
                "an option of the auxiliary network is out of range",
                where="objective dgl",
                expected="depth >= 1, width >= 0, side >= 0, 0 <= similarity <= 1",
                got=f"{self.depth}, {self.width}, {self.side}, {self.similarity}",
            )

    def head(self, spec: BlockSpec) -> nn.Module:
        return DGLHead(spec, self)

    def local(self, head: nn.Module, out: Tensor, labels: Tensor | None) -> Local:
        assert isinstance(head, DGLHead)
        scores = head.network(out).float()
        loss = self.compete(scores, labels, learning=head.training)
        if loss is not None and labels is not None and self.similarity:
            target = similarity(label_shares(labels, scores.shape[1]))
            mismatch = F.mse_loss(similarity(head.form.position_mean(out)), target)
            loss = (1 - self.similarity) * loss + self.similarity * mismatch
        return Local(loss, scores, out.detach())


class DGLHead(nn.Module):
    """network: the auxiliary network, [N, *spec.output_shape] -> [N, K]."""

    def __init__(self, spec: BlockSpec, rule: DGL) -> None:
        super().__init__()
        self.form = form(spec, "dgl")
        if len(self.form.position_dims) == 2:
            layers, features = map_layers(spec, rule)
        elif self.form.position_dims:
            layers, features = token_layers(spec, rule)
        else:
            layers, features = vector_layers(spec.output_shape[0], spec, rule)
        self.network = nn.Sequential(*layers, nn.Linear(features, spec.num_classes))


def map_layers(spec: BlockSpec, rule: DGL) -> tuple[list[nn.Module], int]:
    """Layers that read a map [N, C, H, W], and how many features they give."""
    channels, *size = spec.output_shape
    layers: list[nn.Module] = []
    if not spec.is_last:
        width = rule.width or channels
        conv = rule.auxiliary == "conv"
        side = rule.side or (8 if conv else -(-max(size) // 4))
        layers += [PoolTo(side), *convolutions([channels, *[width] * rule.depth], kernel=3 if conv else 1)]
        channels, size = width, list(pooled_size(size, side))
        if conv:
            return [*layers, PoolTo(1), FlatPixels()], channels
    height, width = pooled_size(size, 2)
    linear, features = vector_layers(channels * height * width, spec, rule)
    return [*layers, PoolTo(2), FlatPixels(), *linear], features


def token_layers(spec: BlockSpec, rule: DGL) -> tuple[list[nn.Module], int]:
    """Layers that read tokens [N, T, C], and how many features they give."""
    channels = spec.output_shape[-1]
    width = rule.width or channels
    if spec.is_last:
        linear, features = vector_layers(channels, spec, rule)
        return [TokenMean(), *linear], features
    layers = [*linears([channels, *[width] * rule.depth], nn.LayerNorm), TokenMean()]
    if rule.auxiliary == "conv":
        return layers, width
    linear, features = vector_layers(width, spec, rule)
    return [*layers, *linear], features


def vector_layers(size: int, spec: BlockSpec, rule: DGL) -> tuple[list[nn.Module], int]:
    """The linear layers before the last: as wide as what they read."""
    return linears([size] * ((1 if spec.is_last else rule.depth) + 1)), size
