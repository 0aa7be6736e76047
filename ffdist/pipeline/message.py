"""The messages of the pipeline: batches, and the markers that are its only control."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from types import UnionType
from typing import Any, TypeAlias, get_args, get_origin, get_type_hints

from torch import Tensor

from ffdist.errors import TransportError
from ffdist.transport.base import Frame


@dataclass(slots=True)
class TrainBatch:
    """One batch to learn from, with its labels; or one of the microbatches that make it up."""

    step: int
    """The batch's number in the run, from 1."""
    x: Tensor | None
    """Activations [N, *shape]; after the last block the features for a fusion head, or None."""
    y: Tensor
    """Labels, int64 [B]; or the shares of the classes, float32 [B, K], where transforms mix samples."""
    epoch: int = 0
    """The epoch it belongs to, from 0."""
    part: int = 0
    """Which microbatch of the batch, from 0."""
    share: float = 1.0
    """Its part of the batch's samples."""
    complete: bool = True
    """Whether the batch is complete with it."""
    lane: int = 0
    """The lane of the batch, which it is of, from 0."""
    last: bool = True
    """Whether its lane is complete with it."""
    features: Tensor | None = None
    """What the blocks passed so far offer a fusion head, float32 [B, F]; None where there is none."""
    scores: Tensor | None = None
    """Sum of the scores of the blocks passed so far, float32 [B, K], where the source wants to hear of them."""
    scored: int = 0
    """How many blocks `scores` sums."""
    companion: Tensor | None = None
    """What the rule wants beside the activations, [B, ...]; None after the last block, and where it wants nothing."""
    order: int = 0
    """Its place among all batches that the source has sent, those of evaluation too, from 0: where workers take whole
    batches in turn, it says whose it is."""


@dataclass(slots=True)
class EvalBatch:
    """One batch to score, with the blocks' scores."""

    split: str
    """"validation" or "test"."""
    x: Tensor | None
    y: Tensor
    number: int = 0
    """Which message of its split, from 0."""
    lane: int = 0
    """As in `TrainBatch`."""
    last: bool = True
    """As in `TrainBatch`."""
    features: Tensor | None = None
    """As in `TrainBatch`."""
    scores: Tensor | None = None
    """The scores of the blocks passed so far that give any, float32 [S, B, K]."""
    scored: list[str] = field(default_factory=list)
    """Their names."""
    order: int = 0
    """As in `TrainBatch`."""

    def by_block(self) -> dict[str, Tensor]:
        """The scores [B, K] of each block that gave any, in order; on the CPU, by one copy."""
        return {} if self.scores is None else dict(zip(self.scored, self.scores.cpu(), strict=True))


@dataclass(slots=True)
class EndOfSplit:
    """All of a split's batches have passed ("train", "validation", "test"); every stage adds its blocks' metrics."""

    split: str
    epoch: int
    blocks: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class EndOfEpoch:
    """An epoch is over; every stage steps its blocks' schedules and adds its own time and memory."""

    epoch: int
    stages: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class Pulse:
    """A report within an epoch, to which every stage adds its own: its times since the last one, and what its
    blocks have learned so far. It asks for nothing to be settled, so that it costs no waiting."""

    step: int
    epoch: int
    stages: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class Snapshot:
    """Hold what is to be written; after the last stage it is the commit, once all that it awaits is on disk."""

    step: int
    epoch: int
    """The epoch that goes on after this snapshot, ..."""
    batch: int
    """... and the batch of it that comes next."""
    files: list[dict[str, Any]] = field(default_factory=list)
    """The manifest's entries for the blocks' files, one a block."""
    extra_files: list[dict[str, Any]] = field(default_factory=list)
    """The same for the files that source and sink write."""
    awaited: list[str] = field(default_factory=list)
    """Names of the blocks' files that are still being written: `Written` follows when they are on disk."""
    cuts_evaluation: bool = False
    """Whether it comes within an evaluation, which is given up: the snapshot is of the batch before, and a resumed run
    evaluates anew."""


@dataclass(slots=True)
class Written:
    """A stage's files of a snapshot are on disk; it follows the snapshot's own marker, and the last one completes it.

    Other than markers it comes from a stage, by one way alone, between any two messages."""

    step: int
    epoch: int
    """As in `Snapshot`."""
    files: list[dict[str, Any]] = field(default_factory=list)
    """What the manifest says of each."""


@dataclass(slots=True)
class Restore:
    """Take the blocks as a snapshot has them, which was committed long ago: nothing is learned from here on."""

    step: int
    epoch: int
    """Epochs that were over then."""


@dataclass(slots=True)
class Stop:
    """The end of the stream: nothing follows."""

    reason: str = "finished"


def types_of(hint: Any) -> tuple[type, ...]:
    """The classes whose instances a field may hold; a whole number may stand for any."""
    kinds = tuple(get_origin(kind) or kind for kind in (get_args(hint) if isinstance(hint, UnionType) else (hint,)))
    return (*kinds, int) if float in kinds else kinds


Message: TypeAlias = TrainBatch | EvalBatch | EndOfSplit | EndOfEpoch | Pulse | Snapshot | Written | Restore | Stop
MESSAGES: dict[str, type[Message]] = {
    kind.__name__: kind
    for kind in (TrainBatch, EvalBatch, EndOfSplit, EndOfEpoch, Pulse, Snapshot, Written, Restore, Stop)
}
TYPES = {
    kind: {name: types_of(hint) for name, hint in get_type_hints(message).items()} for kind, message in MESSAGES.items()
}
"""What each of a message's values may be."""


def to_frame(message: Message) -> Frame:
    """The message as the transports carry it: tensors as tensors, all else as fields."""
    values = {f.name: getattr(message, f.name) for f in fields(message)}
    return Frame(
        type(message).__name__,
        {name: value for name, value in values.items() if not isinstance(value, Tensor)},
        {name: value for name, value in values.items() if isinstance(value, Tensor)},
    )


def from_frame(frame: Frame) -> Message:
    """The inverse of `to_frame`. Raises TransportError for a frame that is no message."""
    values: dict[str, Any] = {**frame.fields, **frame.tensors}
    try:
        message = MESSAGES[frame.kind](**values)
    except (KeyError, TypeError) as error:
        raise no_message_error(f"{frame.kind}: {error}") from error
    for name, kinds in TYPES[frame.kind].items():
        if not isinstance(value := getattr(message, name), kinds):
            raise no_message_error(f"{frame.kind} with {name} of type {type(value).__name__}")
    return message


def no_message_error(got: str) -> TransportError:
    """The error for a frame that is neither a batch nor a marker of this version."""
    return TransportError(
        "this is not a message of the pipeline",
        expected="a batch or a marker",
        got=got,
        remedy="run the same version of ffdist at every stage",
    )
