"""The interface of a local learning rule: the one extension point that users write."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffdist.options import check_fields
from ffdist.renamed import RenamedMembers, renamed_fields, renamed_names


def as_it_is(y: Tensor) -> Tensor:
    """The identity: a rule sees what the block gives, or a block takes what the rule passes on."""
    return y


def main_labels(labels: Tensor) -> Tensor:
    """int64 [B]: of labels that are shares of the classes, float [B, K], the class with the greatest."""
    return labels.argmax(1) if labels.is_floating_point() else labels


def label_shares(labels: Tensor, num_classes: int) -> Tensor:
    """float32 [B, K]: shares of the classes, also of labels that are one class each, int64 [B]."""
    return labels.float() if labels.is_floating_point() else F.one_hot(labels, num_classes).float()


class Following(NamedTuple):
    """A block after another."""

    name: str
    build: Callable[[], nn.Module]
    """Returns a newly initialised copy of it."""
    seen: Callable[[Tensor], Tensor] = as_it_is
    """From its output to what a rule sees: maps [N, C, H, W], tokens [N, T, C] or vectors [N, C]."""


@renamed_fields(shape="output_shape", sample="sample_shape", last="is_last", given="to_next_input")
@dataclass(frozen=True, slots=True)
class BlockSpec:
    """One block of a network, as a rule needs to know it to build a head."""

    index: int
    """The block's place in the whole network, from 0, whatever stage holds it."""
    name: str
    num_blocks: int
    """Blocks of the whole network, a fusion head not among them."""
    num_classes: int
    """K, the classes of the data."""
    input_shape: tuple[int, ...]
    """The shape of one sample as the block gets it, without the batch."""
    output_shape: tuple[int, ...]
    """The shape of one sample as the rule sees the block's output: (C, H, W) for maps, (C,) for vectors, (T, C) for
    tokens; a signal [C, L] is seen as a map of one row, (C, 1, L), and maps with their channels last as any other."""
    sample_shape: tuple[int, ...] = ()
    """Shape of one sample as the network gets it."""
    following: tuple[Following, ...] = field(default=(), repr=False, compare=False)
    """The blocks after this one, in order."""
    to_next_input: Callable[[Tensor], Tensor] = field(default=as_it_is, repr=False, compare=False)
    """From this block's output as a rule sees it to what the next block takes."""

    @property
    def is_last(self) -> bool:
        """True for the network's last block: nothing takes its `next_input`."""
        return self.index == self.num_blocks - 1

    @property
    def channels(self) -> int:
        """C of `output_shape`: features, for vectors and tokens."""
        return self.output_shape[-1] if len(self.output_shape) == 2 else self.output_shape[0]

    def __str__(self) -> str:
        return f"block {self.index} '{self.name}' with output {list(self.output_shape)}"


@renamed_fields(onward="next_input")
class Local(NamedTuple):
    """The result of a rule on one block's output."""

    loss: Tensor | None
    """Scalar; None where there are no labels, or where the block has nothing to learn."""
    scores: Tensor | None
    """[B, K] float: the block's evidence for each class; None where a block has none to give."""
    next_input: Tensor | None
    """What the next block gets, without a graph; None only where `spec.is_last`."""
    features: Tensor | None = None
    """The trainer puts `Objective.features` here where a fusion head wants them."""


class Objective(RenamedMembers, ABC):
    """One local learning rule. Subclasses are frozen dataclasses: their fields are the rule's settings.

    The trainer calls, in this order: `prepare` once a batch at the source; `head` once a block when it is built;
    `local` once a batch and block, under autograd, with the block's output `out` still attached to the block's own
    parameters and to nothing before them. It backpropagates `loss` through the block and its head, and hands on
    `next_input`. Before anything starts it does all this once with two made-up samples on the CPU, and evaluates them.
    """

    _renamed: ClassVar = {
        "prepare_told": "prepare_with_scores",
        "feedback": "score_lag",
        "local_beside": "local_with_companion",
        "rest": "forward_frozen",
        "signal": "input_rms",
    }

    def __post_init__(self) -> None:
        """Raises ConfigError for a setting of another type than its field declares; for dataclasses alone."""
        check_fields(self, f"objective {type(self).__name__}")

    @abstractmethod
    def head(self, spec: BlockSpec) -> nn.Module:
        """The module that the rule adds to a block (auxiliary layer, norm, frozen feedback); trained with the block.

        Raises NetworkError, naming the block, shapes and remedy, when the rule cannot use the block's output.
        """

    @abstractmethod
    def local(self, head: nn.Module, out: Tensor, labels: Tensor | None) -> Local:
        """The block's loss, its scores, and the next block's input, made of its output.

        out: the block's output [N, *spec.output_shape]; labels: int64 [B], or None when only predicting.
        N is B, or P * B when `prepare` or `prepare_eval` made P inputs of a sample, pass by pass: row p * B + b is
        sample b in pass p (positive before negative halves, class 0 for all before class 1). The head knows by
        `head.training` whether this is learning; when it is, a rule of several passes may give no scores.
        """

    def companion(self, x: Tensor) -> Tensor | None:
        """A tensor that travels with the activations of a training batch to every block, of samples as the network gets
        them, [B, *shape] -> [B, ...] without a graph; None: nothing does."""
        return None

    def local_with_companion(self, head: nn.Module, out: Tensor, labels: Tensor, companion: Tensor) -> Local:
        """The same as `local`, and called in its place while a block learns, where there is a `companion`."""
        return self.local(head, out, labels)

    def prepare(self, x: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
        """Training inputs at the source, [B, *shape] -> [N, *shape]: overlays, waves, positive and negative halves.

        generator: on the CPU, seeded for this batch (and lane): by what is drawn from it, every plan has the same bits.
        """
        return x

    @property
    def input_rms(self) -> float | None:
        """The size of inputs (root of their mean square) that the rule's own mark in them is made for; None: any."""
        return None

    @property
    def soft_labels(self) -> bool:
        """True if `local` also takes labels that are shares of the classes, float32 [B, K], as mixup and cutmix make
        them while learning; they are float32 in `prepare`, too."""
        return False

    @property
    def fixed_blocks(self) -> bool:
        """True if the blocks stay as they begin, and only the heads learn."""
        return False

    @property
    def score_lag(self) -> int:
        """The number of batches until the source has the blocks' scores of training samples; 0: it never has."""
        return 0

    def prepare_with_scores(self, x: Tensor, labels: Tensor, scores: Tensor, generator: torch.Generator) -> Tensor:
        """The same as `prepare`, and called in its place where there is a `score_lag`.

        scores: float32 [B, K], the mean of the blocks' scores the last time that they learned from each sample, as far
        as that was `score_lag` batches ago; zeros before there are any.
        """
        return self.prepare(x, labels, scores.shape[1], generator)

    def prepare_eval(self, x: Tensor, num_classes: int) -> Tensor:
        """Evaluation inputs at the source, [B, *shape] -> [N, *shape], without labels."""
        return x

    def forward_frozen(self, head: nn.Module, out: Tensor) -> Tensor | None:
        """The next block's input in an epoch outside of this block's learning window; its head is in evaluation mode.
        Default: as `local`."""
        return self.local(head, out, None).next_input

    def features(self, head: nn.Module, out: Tensor, samples: int) -> Tensor | None:
        """The features of this block that a fusion head after the last one may read: float32 [B, F] without a graph,
        or None.

        out: as in `local`, of B = `samples`. Default: the mean over space or tokens, for a rule of one pass.
        """
        y = out.detach()
        over = {4: (2, 3), 3: (1,)}.get(y.dim())
        return y.mean(over, dtype=torch.float32) if over else y.float()


__getattr__ = renamed_names(__name__, Site="BlockSpec")
