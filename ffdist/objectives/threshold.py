"""The common part of Hinton's rules: goodness against a threshold, positives against negatives."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffdist.errors import ConfigError, setting
from ffdist.objectives.base import BlockSpec, Local, Objective
from ffdist.objectives.form import FlatFeatures, OutputForm, form, readout_input, rms_normalised

MAX_LAG = 64
"""Batches: the scores come back by an edge as deep, and one of shared memory can be no deeper (`MAX_DEPTH` there)."""


def threshold_loss(positive: Tensor, negative: Tensor) -> Tensor:
    """Binary cross-entropy of goodness minus threshold, positives (any number) weighing as much as negatives."""
    # log(1 + exp(x)) by softplus: exp would overflow float32 from 88 on, and goodness sums over all units
    return (F.softplus(-positive).mean() + F.softplus(negative).mean()) / 2


def wrong_labels(labels: Tensor, num_classes: int, generator: torch.Generator, scores: Tensor | None = None) -> Tensor:
    """One label a sample that is never the true one, int64 [B]: even over the others, or, where scores [B, K] of a
    linear head are given, in proportion to its softmax (hard negatives)."""
    if scores is None:
        shift = torch.randint(1, num_classes, labels.shape, generator=generator).to(labels.device)
        return (labels + shift) % num_classes
    weights = scores.float().scatter(1, labels[:, None], -torch.inf).softmax(1)
    return torch.multinomial(weights, 1, generator=generator)[:, 0]


class ThresholdHead(nn.Module):
    """mean_activity: each unit's moving average on positives, for peer normalisation; linear: a readout that learns
    from the block's normalised activities without touching them, in the blocks whose scores count."""

    mean_activity: Tensor

    def __init__(self, spec: BlockSpec, rule: str, *, readout: bool) -> None:
        super().__init__()
        self.num_classes = spec.num_classes
        self.form: OutputForm = form(spec, rule)
        self.counts = spec.index > 0 or spec.num_blocks == 1
        self.register_buffer("mean_activity", torch.zeros(self.form.channels))
        self.flat = FlatFeatures(spec, rule, limit=4096)
        self.linear = nn.Linear(self.flat.size, spec.num_classes) if readout and self.counts else None

    def excess(self, out: Tensor) -> Tensor:
        """Goodness minus threshold, [N, *spec.output_shape] -> float32 [N]: the sum over units (and mean over
        positions) of y^2, less the number of units."""
        return self.form.position_mean(out.square()).sum(1) - self.form.channels

    def peer_loss(self, positive: Tensor, momentum: float = 0.9) -> Tensor:
        """mean((mean(m) - m)^2) of the moving averages m [C], a scalar; they take in this batch, positive
        [B, *spec.output_shape], through which alone a gradient goes."""
        now = self.form.position_mean(positive).mean(0)
        average = momentum * self.mean_activity + (1 - momentum) * now
        self.mean_activity.copy_(average.detach())
        return (average.mean() - average).square().mean()

    def read(self, normed: Tensor) -> Tensor | None:
        """The readout's scores, [B, *spec.output_shape] -> float32 [B, K]."""
        return None if self.linear is None else self.linear(self.flat(normed)).float()


@dataclass(frozen=True)
class LabelledInput(Objective):
    """Rules that write a label into the picture: a right one makes a positive, a wrong one a negative.

    A block's goodness is the sum of its units' squared activities (the mean over space of that, for maps), its
    threshold theta the number of units; the loss is the binary cross-entropy of goodness - theta. What goes on is the
    output divided by its root mean square (so is the picture itself), which takes the goodness out.

    Training batches are [positives, negatives], and [positives, negatives, neutral] unless predict="goodness"; a
    block's scores are its goodness of each label, in K passes over a picture, or those of its own linear layer on the
    normalised activities of a neutral picture. The first of several blocks gives none.
    """

    predict: Literal["goodness", "linear", "both"] = field(default="goodness", kw_only=True)
    """Goodness for each label, K passes a picture; linear readouts, 3 passes in training and 1 in prediction; or both:
    goodness, and a neutral pass for a fusion head (--fusion), which is the paper's one linear layer."""
    peer: float = field(default=0.0, kw_only=True)
    """Weight of peer normalisation, 0.03 in loweX/Forward-Forward: all units of a block equally active on average."""
    hard: bool = field(default=False, kw_only=True)
    """Hard negatives (Hinton, section 3.3): the wrong label is drawn in proportion to the linear readouts' softmax."""
    lag: int = field(default=32, kw_only=True)
    """hard: how many batches late predictions are used. A sample's is of the epoch before in any case; with a lag that
    is fixed, the number of stages changes nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hard and self.predict != "linear":
            raise ConfigError(
                "hard negatives are drawn by the linear readouts",
                where="objective, hard",
                expected="predict=linear",
                got=f"predict={self.predict}",
                remedy=setting("rule.objective_args", "predict=linear hard=yes"),
            )
        if not 1 <= self.lag <= MAX_LAG:
            raise ConfigError(
                "the lag of predictions is out of range",
                where="objective, lag",
                expected=f"1 to {MAX_LAG} batches",
                got=self.lag,
            )
        if self.peer < 0 or self.predict not in ("goodness", "linear", "both"):
            raise ConfigError(
                "unknown prediction or negative weight",
                where="objective, predict or peer",
                expected="predict goodness, linear or both, peer >= 0",
                got=f"predict {self.predict}, peer {self.peer}",
            )

    @abstractmethod
    def stamp(self, x: Tensor, labels: Tensor, num_classes: int) -> Tensor:
        """Pictures each with its label written in: [B, *shape], int64 [B] -> [B, *shape], x unchanged."""

    @abstractmethod
    def stamp_all(self, x: Tensor, label: int, num_classes: int) -> Tensor:
        """The same label written into all pictures, [B, *shape] -> [B, *shape]."""

    @abstractmethod
    def neutral(self, x: Tensor, num_classes: int) -> Tensor:
        """Pictures that show no label, [B, *shape] -> [B, *shape]."""

    def contrast(self, head: ThresholdHead, positive: Tensor, negative: Tensor) -> Tensor:
        """The loss of samples' goodness less the threshold, float32 [B] each: with the true label, with a wrong one."""
        return threshold_loss(positive, negative)

    def contrast_all(self, head: ThresholdHead, excess: Tensor, true: Tensor) -> Tensor:
        """The same, on average over all wrong labels: of each label, float32 [B, K]; of the true one, [B]."""
        # all labels less the true one, since the wrong ones differ from sample to sample
        wrong = (F.softplus(excess).sum(1) - F.softplus(true)) / (head.num_classes - 1)
        return (F.softplus(-true).mean() + wrong.mean()) / 2

    def prepare(self, x: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
        return self._passes(x, labels, wrong_labels(labels, num_classes, generator), num_classes)

    @property
    def score_lag(self) -> int:
        return self.lag if self.hard else 0

    def prepare_with_scores(self, x: Tensor, labels: Tensor, scores: Tensor, generator: torch.Generator) -> Tensor:
        num_classes = scores.shape[1]
        return self._passes(x, labels, wrong_labels(labels, num_classes, generator, scores), num_classes)

    def _passes(self, x: Tensor, labels: Tensor, wrong: Tensor, num_classes: int) -> Tensor:
        passes = [self.stamp(x, labels, num_classes), self.stamp(x, wrong, num_classes)]
        if self.predict != "goodness":
            passes.append(self.neutral(x, num_classes))
        return rms_normalised(torch.cat(passes))

    def prepare_eval(self, x: Tensor, num_classes: int) -> Tensor:
        labels = range(num_classes) if self.predict != "linear" else ()
        passes = [self.stamp_all(x, label, num_classes) for label in labels]
        if self.predict != "goodness":
            passes.append(self.neutral(x, num_classes))
        return rms_normalised(torch.cat(passes))

    def local(self, head: nn.Module, out: Tensor, labels: Tensor | None) -> Local:
        assert isinstance(head, ThresholdHead)
        next_input = rms_normalised(out.detach())
        if head.training:
            assert labels is not None
            loss, scores = self._learn(head, out, next_input, labels)
        elif self.predict == "linear":
            scores = head.read(rms_normalised(out))
            loss = None if scores is None or labels is None else F.cross_entropy(scores, labels)
        else:
            passes = head.num_classes + (self.predict == "both")
            labelled = out[: out.shape[0] // passes * head.num_classes]
            loss, scores = self._each_label(head, labelled, labels)
        return Local(loss, scores, next_input)

    def forward_frozen(self, head: nn.Module, out: Tensor) -> Tensor | None:
        assert isinstance(head, ThresholdHead)
        return rms_normalised(out)

    def features(self, head: nn.Module, out: Tensor, samples: int) -> Tensor | None:
        assert isinstance(head, ThresholdHead)
        if self.predict == "goodness" or not head.counts:
            return None
        return head.flat(rms_normalised(out.detach()[-samples:])).float()

    def _learn(
        self, head: ThresholdHead, out: Tensor, next_input: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Positives up, negatives down; the readout, if any, on the neutral pass."""
        batch = len(labels)
        labelled = out[: 2 * batch]
        positive, negative = head.excess(labelled).split(batch)
        loss = self.contrast(head, positive, negative)
        if self.peer:
            loss = loss + self.peer * head.peer_loss(out[:batch])
        scores = head.read(next_input[2 * batch :]) if self.predict == "linear" else None
        return loss if scores is None else loss + F.cross_entropy(scores, labels), scores

    def _each_label(
        self, head: ThresholdHead, out: Tensor, labels: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Results of K passes: what the loss would be on average over the wrong labels; the goodness of each label as
        scores."""
        excess = head.excess(out).view(head.num_classes, -1).T
        loss = None
        if labels is not None:
            loss = self.contrast_all(head, excess, excess.gather(1, labels[:, None])[:, 0])
        return loss, excess if head.counts else None


@dataclass(frozen=True)
class UnlabelledInput(Objective):
    """Rules that make a negative of pictures alone: training batches are [positives, negatives].

    Goodness, threshold and normalisation as in `LabelledInput`. The labels reach only a linear layer a block, which
    learns from the normalised activities of the positives without touching them and gives the block's scores; the first
    of several blocks has none.
    """

    peer: float = field(default=0.0, kw_only=True)
    """Weight of peer normalisation, 0.03 in loweX/Forward-Forward."""

    @property
    def soft_labels(self) -> bool:
        return True

    def local(self, head: nn.Module, out: Tensor, labels: Tensor | None) -> Local:
        assert isinstance(head, ThresholdHead)
        next_input = rms_normalised(out.detach())
        batch = out.shape[0] // 2 if head.training else out.shape[0]
        scores = head.read(rms_normalised(readout_input(out, head)[:batch]))
        loss = F.cross_entropy(scores, labels) if scores is not None and labels is not None else None
        if head.training:
            positive, negative = head.excess(out).split(batch)
            contrast = threshold_loss(positive, negative)
            if self.peer:
                contrast = contrast + self.peer * head.peer_loss(out[:batch])
            loss = contrast if loss is None else contrast + loss
        return Local(loss, scores, next_input)

    def features(self, head: nn.Module, out: Tensor, samples: int) -> Tensor | None:
        assert isinstance(head, ThresholdHead)
        return head.flat(rms_normalised(out.detach()[:samples])).float() if head.counts else None
