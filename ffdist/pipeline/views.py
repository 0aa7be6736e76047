"""Several views of a picture, whose scores are averaged when a network is measured; its plain accuracy stays apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from ffdist.errors import ConfigError
from ffdist.pipeline.message import EvalBatch
from ffdist.pipeline.predictors import ScoreTally, summed
from ffdist.pipeline.stage import Stage

VIEWS = ("flip", "shift")
"""flip: mirrored, too, both alike; shift: moved by a pixel along the diagonal, both ways, with the rest of the weight
that the picture itself has [airbench]."""


class View(NamedTuple):
    """A picture seen in one way."""

    weight: float
    """The weight of its scores; all views' make 1."""
    moved: int = 0
    """Pixels down and to the right; what comes into sight is mirrored at the edge."""
    mirrored: bool = False

    def of(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same."""
        if self.moved:
            height, width = x.shape[2:]
            far = abs(self.moved)
            top = left = far - self.moved
            x = F.pad(x, (far,) * 4, mode="reflect")[:, :, top : top + height, left : left + width]
        return x.flip(3) if self.mirrored else x


def views_of(names: Iterable[str], shape: Sequence[int]) -> list[View]:
    """shape: of a sample. Raises ConfigError for other names, and for samples that are no pictures."""
    asked = set(names)
    if unknown := asked - set(VIEWS):
        raise ConfigError("there is no such view", where="views", expected=" or ".join(VIEWS), got=", ".join(unknown))
    if len(shape) != 3 or ("shift" in asked and min(shape[1:]) < 2):
        raise ConfigError("only pictures have views", where="views", expected="samples [C, H, W]", got=list(shape))
    places = [View(0.5), View(0.25, -1), View(0.25, 1)] if "shift" in asked else [View(1.0)]
    if "flip" not in asked:
        return places
    return [View(view.weight / 2, view.moved, mirrored) for view in places for mirrored in (False, True)]


class ViewAccuracy:
    """A network's accuracy by the averaged scores of several views."""

    def __init__(self, names: Iterable[str], shape: Sequence[int], stage: Stage) -> None:
        """stage: all of the network, of its own: what it counts is of single views."""
        self.names = [name for name in VIEWS if name in set(names)]
        self.views = views_of(names, shape)
        self.stage = stage
        self.tally = ScoreTally()

    def add(self, batches: Iterable[EvalBatch], weights: dict[str, float] | None) -> None:
        """batches: of the same samples, one of each view."""
        passed = [self.stage.evaluate(batch) for batch in batches]
        scores = [batch.scores for batch in passed if batch.scores is not None]
        if scores:
            mean = summed(view.weight * each for view, each in zip(self.views, scores, strict=True))
            self.tally.add(replace(passed[0], scores=mean), weights)

    def result(self) -> dict[str, Any]:
        """The result as of `ScoreTally.result`, with the views' names and number."""
        samples, blocks = self.tally.samples, self.tally.blocks
        own = [{"block": name, "accuracy": count / samples} for name, count in blocks.top1.items()]
        return {"views": self.names, "passes": len(self.views), **self.tally.result(own)}
