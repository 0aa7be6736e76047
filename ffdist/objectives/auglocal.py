"""AugLocal: the head of a block is a narrow copy of the blocks that follow it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ffdist.errors import ConfigError
from ffdist.objectives.auxiliary import FlatPixels, GlobalMax, PoolTo, TokenMean, pooled_size
from ffdist.objectives.base import BlockSpec, Following, Local, as_it_is
from ffdist.objectives.competitive import Competitive
from ffdist.objectives.form import form
from ffdist.objectives.narrow import as_wide, narrow_copies


@dataclass(frozen=True)
class AugLocal(Competitive):
    """AugLocal (Ma, Wu, Si and Tan, ICLR 2024, arXiv 2402.17318).

    loss = CE(W pool(c_d(... c_1(y)))), where c_1 ... c_d are copies, private to this block's head, of d of the blocks
    that follow it, and W is linear. A gradient crosses the copies, W and the block, and nothing before: with d of many
    layers this is local learning of modules, not of single layers. The output goes on as it is.

    Of L blocks, those at round(l + (L - 1 - l) i / d), i = 1 ... d, are copied for block l [code]. The last block,
    which nothing follows, has pool and W alone.

    Our own choice: the copies are narrow (the paper's are of full width), read maps of at most `side` pixels, and start
    from what the blocks themselves start from; scores are multiplied by `scale`; all that follow are copied by default
    (the paper lets d fall towards the end).
    """

    depth: int = 0
    """Blocks that are copied, at most; 0: all that follow."""
    width: float = 0.25
    """The width of the copies' layers: a share of the channels below 1, a number of channels above; 1: whole copies, of
    layers of any kind."""
    side: int = 0
    """Largest height and width of the map that the copies read; larger ones are average-pooled. 0: as it is."""
    pool: Literal["mean", "max"] = "mean"
    """Over space, before the linear layer."""
    scale: float = 1.0
    """What the scores are multiplied by."""

    def __post_init__(self) -> None:
        super().__post_init__()
        whole = self.width <= 1 or self.width == int(self.width)
        if self.depth < 0 or not self.width > 0 or not whole or self.side < 0 or not self.scale > 0:
            raise ConfigError(
                "an option of the auxiliary network is out of range",
                where="objective auglocal",
                expected="depth >= 0, 0 < width <= 1 or a number of channels, side >= 0, scale > 0",
                got=f"{self.depth}, {self.width}, {self.side}, {self.scale}",
            )

    def head(self, spec: BlockSpec) -> nn.Module:
        return AugLocalHead(spec, self)

    def local(self, head: nn.Module, out: Tensor, labels: Tensor | None) -> Local:
        assert isinstance(head, AugLocalHead)
        scores = head(out).float() * self.scale
        return Local(self.compete(scores, labels, learning=head.training), scores, out.detach())

    def narrowed(self, channels: int) -> int:
        """Channels of a copy's layer."""
        return max(1, round(channels * self.width)) if self.width <= 1 else int(self.width)


class AugLocalHead(nn.Module):
    """copies: of blocks that follow; readout: linear layer after a pool."""

    def __init__(self, spec: BlockSpec, rule: AugLocal) -> None:
        super().__init__()
        form(spec, "auglocal")
        blocks = chosen(spec, rule.depth)
        self.seen = blocks[-1].seen if blocks else as_it_is
        pooled = rule.side if len(spec.output_shape) == 3 else 0
        self.pool = PoolTo(pooled) if pooled else nn.Identity()
        shape = (spec.output_shape[0], *pooled_size(spec.output_shape[1:], pooled)) if pooled else spec.output_shape
        self.given = spec.to_next_input if blocks else as_it_is
        x = self.given(torch.zeros(2, *shape))
        narrower = as_wide if rule.width == 1 else rule.narrowed
        self.copies = narrow_copies(blocks, x, narrower, f"auglocal, {spec}")
        with torch.no_grad():
            y = self.seen(self.copies.eval()(x))
        self.copies.train()
        over: dict[int, list[nn.Module]] = {
            4: [GlobalMax()] if rule.pool == "max" else [PoolTo(1), FlatPixels()],
            3: [TokenMean()],
        }
        features = y.shape[1] if y.dim() == 4 else y.shape[-1]
        self.readout = nn.Sequential(*over.get(y.dim(), []), nn.Linear(features, spec.num_classes, bias=False))

    def forward(self, out: Tensor) -> Tensor:
        """[N, *spec.output_shape] -> [N, K]."""
        return self.readout(self.seen(self.copies(self.given(self.pool(out)))))


def chosen(spec: BlockSpec, depth: int) -> list[Following]:
    """The blocks after `spec` that its head copies: `depth` of them, evenly; all for 0."""
    following = spec.following
    count = min(depth or len(following), len(following))
    first = spec.index + 1
    return [following[round(spec.index + len(following) * i / count) - first] for i in range(1, count + 1)]
