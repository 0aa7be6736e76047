"""The common part of rules in which the classes compete within one pass."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor

from ffdist.errors import ConfigError
from ffdist.objectives.base import Objective


@dataclass(frozen=True)
class Competitive(Objective):
    """Cross-entropy over a block's scores, -E[g_true - log sum_j exp g_j]."""

    label_smoothing: float = field(default=0.0, kw_only=True)
    """Share of the target that is spread evenly over all classes, when learning; [0, 1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(
                "label smoothing is a share",
                where="objective, label_smoothing",
                expected="0 <= x < 1",
                got=self.label_smoothing,
            )

    @property
    def soft_labels(self) -> bool:
        return True

    def compete(self, scores: Tensor, labels: Tensor | None, *, learning: bool) -> Tensor | None:
        """The loss, a scalar, with label smoothing only while learning; None where there are no labels.

        scores: float32 [B, K]; labels: int64 [B], or shares [B, K]; None when only predicting.
        """
        if labels is None:
            return None
        return F.cross_entropy(scores, labels, label_smoothing=self.label_smoothing if learning else 0.0)
