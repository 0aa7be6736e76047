"""Predictors, which make one answer of the blocks' scores, and counts of right answers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ffdist.errors import NetworkError
from ffdist.pipeline.fusion import FUSION
from ffdist.pipeline.message import EvalBatch
from ffdist.pipeline.own_metrics import OwnMetrics

PREDICTORS = {
    "mean": "mean of blocks",
    "last": "last block",
    "weighted": "weighted blocks",
    FUSION: "fusion head",
}
"""mean: the mean of the scores of all blocks that give any (under a rule that writes each label into the picture: the
goodness of each label); last: the last block's; weighted: their mean with `block_weights`; fusion: the head's."""

TOP = 5


def predictions(
    scores: Mapping[str, Tensor], weights: Mapping[str, float] | Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """The scores of each predictor, float32 [B, K].

    scores: float32 [B, K] of each block that gives any, in order, and of the fusion head where there is one, by name.
    weights: of each of these blocks; without, there is no "weighted".
    """
    blocks = {name: given for name, given in scores.items() if name != FUSION}
    answers = {"mean": summed(blocks.values()) / len(blocks), "last": list(blocks.values())[-1]}
    if weights:
        answers["weighted"] = summed(weights[name] * given for name, given in blocks.items())
    if FUSION in scores:
        answers[FUSION] = scores[FUSION]
    return answers


def summed(scores: Iterable[Tensor]) -> Tensor:
    """The sum in the blocks' order, so that the bits are the same everywhere."""
    first, *others = scores
    for other in others:
        first = first + other
    return first


def block_weights(correct: Mapping[str, int], samples: int, num_classes: int) -> dict[str, float]:
    """Each block's weight, adding up to 1: in proportion to max(0, log(a / (1 - a)) + log(K - 1)).

    a: its share of right answers on the validation split, (correct + 1) / (samples + 2), which is never 0 or 1. This is
    a classifier's weight in SAMME (Zhu, Zou, Rosset and Hastie, Multi-class AdaBoost, 2009, algorithm 2): 0 for one no
    better than chance. To weigh Forward-Forward blocks by it, and their scores rather than their votes, is our own
    choice.
    """
    weights = {}
    for name, count in correct.items():
        share = (count + 1) / (samples + 2)
        weights[name] = max(0.0, math.log(share / (1 - share)) + math.log(num_classes - 1))
    total = sum(weights.values())
    return {name: weight / total if total else 1 / len(weights) for name, weight in weights.items()}


def accuracy_by(predictor: str, accuracy: Mapping[str, float]) -> float:
    """A split's accuracy by one predictor. Before weights have been measured all blocks count alike: then "weighted" is
    the mean.

    Raises KeyError for any other that did not answer.
    """
    return accuracy["mean" if predictor == "weighted" and predictor not in accuracy else predictor]


def last_weights(records: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    """The blocks' weights after the last of these epochs; None without a validation split."""
    return records[-1].get("validation", {}).get("weights") if records else None


class RightCounts:
    """Right answers by who gave them: the first guess, and any of the first five."""

    def __init__(self) -> None:
        self.top1: dict[str, int] = {}
        self.top5: dict[str, int] = {}

    def add(self, name: str, scores: Tensor, y: Tensor) -> None:
        """scores: float32 [B, K]; y: int64 [B]."""
        hits = scores.topk(min(TOP, scores.shape[1])).indices == y[:, None]
        self.top1[name] = self.top1.get(name, 0) + int((scores.argmax(1) == y).sum())
        self.top5[name] = self.top5.get(name, 0) + int(hits.sum())


class ScoreTally:
    """Counts what predictors and blocks get right on one split."""

    def __init__(self, metrics: OwnMetrics | None = None) -> None:
        """metrics: of a user's own, which see what the mean of the blocks says."""
        self.metrics = metrics or OwnMetrics()
        self.samples = 0
        self.num_classes = 0
        self.loss = 0.0
        self.predictors = RightCounts()
        self.blocks = RightCounts()

    def add(self, batch: EvalBatch, weights: Mapping[str, float] | None) -> dict[str, Tensor]:
        """Counts a batch that has passed all blocks, and returns its `predictions`.

        Raises NetworkError when no block gave scores.
        """
        scores = batch.by_block()
        if not scores.keys() - {FUSION}:
            raise NetworkError(
                "no block gives scores under this objective",
                where=f"the {batch.split} split",
                remedy="use a network with more blocks, or another objective",
            )
        answers = predictions(scores, weights)
        mean = answers["mean"]
        y = batch.y.to(mean.device)
        self.samples = self.samples + len(y)
        self.num_classes = mean.shape[1]
        self.loss += float(F.cross_entropy(mean, y, reduction="sum"))
        for name, given in answers.items():
            self.predictors.add(name, given, y)
        for name, given in scores.items():
            self.blocks.add(name, given, y)
        self.metrics.add(mean, y)
        return answers

    def result(self, blocks: Iterable[dict[str, Any]]) -> dict[str, Any]:
        """Accuracies as fractions, and the loss; top-5 accuracies, too, where there are more than 5 classes.

        blocks: each block's own metrics, which get their top-5 accuracy here.
        """
        result: dict[str, Any] = {"samples": self.samples, "accuracy": self._shares(self.predictors.top1)}
        top5: dict[str, float] = {}
        if self.num_classes > TOP:
            result["top5"], top5 = self._shares(self.predictors.top5), self._shares(self.blocks.top5)
        own = [block | {"top5": top5[block["block"]]} if block["block"] in top5 else block for block in blocks]
        if self.metrics.metrics:
            result["metrics"] = self.metrics.result()
        return result | {"loss": self.loss / self.samples, "blocks": own}

    def weights(self) -> dict[str, float]:
        """The weight of each block after this split."""
        right = {name: count for name, count in self.blocks.top1.items() if name != FUSION}
        return block_weights(right, self.samples, self.num_classes)

    def _shares(self, right: Mapping[str, int]) -> dict[str, float]:
        return {name: count / self.samples for name, count in right.items()}
