"""A small vision transformer, of torchvision's own encoder blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ffdist.errors import ConfigError, NetworkError, setting
from ffdist.models.arguments import checked_arguments
from ffdist.models.chain import Chain, Shape
from ffdist.models.parts import check_picture, named_path


class Patches(nn.Module):
    """Pictures to tokens: [B, C, H, W] -> [B, 1 + H*W/P^2, D], a learned class token first, places added."""

    def __init__(self, channels: int, num_patches: int, patch: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.conv_proj = nn.Conv2d(channels, dim, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.encoder = nn.ParameterDict({"pos_embedding": torch.empty(1, 1 + num_patches, dim).normal_(std=0.02)})
        self.dropout = nn.Dropout(dropout)
        nn.init.trunc_normal_(self.conv_proj.weight, std=math.sqrt(1 / (channels * patch * patch)))
        assert self.conv_proj.bias is not None
        nn.init.zeros_(self.conv_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.conv_proj(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(x.shape[0], -1, -1), tokens], 1)
        return self.dropout(tokens + self.encoder["pos_embedding"])


def _encoder(place: int, dim: int, heads: int, mlp_dim: int, dropout: float) -> nn.Module:
    from torchvision.models.vision_transformer import EncoderBlock  # two seconds, which other networks need not pay

    block = EncoderBlock(heads, dim, mlp_dim, dropout, attention_dropout=0.0)
    return named_path((f"encoder.layers.encoder_layer_{place}", block))


class _ClassToken(nn.Module):
    """[B, T, D] -> [B, D]."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0]


def _classifier(shape: Shape, num_classes: int) -> nn.Module:
    """The norm and linear layer of the original, on the class token."""
    return nn.Sequential(nn.LayerNorm(shape[-1], eps=1e-6), _ClassToken(), nn.Linear(shape[-1], num_classes))


@checked_arguments
def vit(
    input_shape: Sequence[int],
    num_classes: int,
    patch: int = 4,
    dim: int = 192,
    depth: int = 6,
    heads: int = 3,
    mlp_dim: int = 0,
    dropout: float = 0.0,
) -> Chain:
    """A vision transformer (arXiv 2010.11929): patches with their places, then `depth` encoder blocks.

    The patches are joined to the first encoder block, since alone they are linear and have nothing worth a rule of
    their own. A block's output is [T, dim] tokens.

    patch: side of a patch in pixels, a divisor of the picture's sides.
    dim: features of a token, a multiple of `heads`.
    depth: encoder blocks, 1 at least.
    heads: attention heads of each encoder block.
    mlp_dim: hidden features of an encoder's MLP; 0 for 4 * dim.
    dropout: rate, in an encoder block's attention and MLP.
    """
    channels, height, width = check_picture("vit", input_shape, patch)
    if height % patch or width % patch:
        raise NetworkError(
            "the pictures cannot be cut into patches",
            where="model vit",
            expected=f"sides that are multiples of {patch}",
            got=f"{height} x {width}",
            remedy=f"choose the option patch, or {setting('dataset.image_size')}",
        )
    if dim % heads or depth < 1:
        raise ConfigError(
            "these options do not make encoder blocks",
            where="model vit",
            expected="dim a multiple of heads, depth >= 1",
            got=f"dim {dim}, heads {heads}, depth {depth}",
        )
    num_patches = (height // patch) * (width // patch)
    blocks = [("patches", partial(Patches, channels, num_patches, patch, dim, dropout))]
    blocks += [(f"encoder{i}", partial(_encoder, i, dim, heads, mlp_dim or 4 * dim, dropout)) for i in range(depth)]
    chain = Chain(blocks, input_shape=input_shape, num_classes=num_classes, classifier=_classifier)
    return chain.regroup([2] + [1] * (depth - 1))
