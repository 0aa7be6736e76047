"""The measured costs of a network's blocks: values, and their JSON."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

FORMAT = 5


@dataclass(frozen=True)
class SampleCurve:
    """Seconds (or bytes) of something by the number of samples that it is done with, each measured several times."""

    samples: tuple[int, ...]
    """Growing."""
    repeats: tuple[tuple[float, ...], ...]
    """For each number of samples, all that was measured."""

    @classmethod
    def proportional(cls, samples: int, value: float) -> SampleCurve:
        """One that is known at one size, and goes with it."""
        return cls((samples,), ((value,),))

    @cached_property
    def values(self) -> tuple[float, ...]:
        """The lower quartile for each size: a neighbour's work on the machine only ever adds to a time."""
        return tuple(sorted(values)[(len(values) - 1) // 4] for values in self.repeats)

    @cached_property
    def spread(self) -> tuple[float, ...]:
        """Every measurement against the value of its size."""
        pairs = zip(self.repeats, self.values, strict=True)
        return tuple(each / value for values, value in pairs if value > 0 for each in values) or (1.0,)

    def at(self, samples: float) -> float:
        """The value: between two sizes on a straight line; below the smallest along the line of the two smallest, and
        beyond the largest in proportion."""
        sizes, values = self.samples, self.values
        if samples >= sizes[-1]:
            return values[-1] * samples / sizes[-1]
        if samples <= 0:
            return 0.0
        for (a, low), (b, high) in pairwise(zip(sizes, values, strict=True)):
            if samples <= b:
                along = low + (high - low) * (samples - a) / (b - a)
                return max(along, low * samples / a) if samples < a else along
        return values[0] * samples / sizes[0]


@dataclass(frozen=True)
class BlockProfile:
    """The measured times and sizes of one block."""

    name: str
    forward: SampleCurve
    """Seconds of a message, with what backward needs."""
    backward: SampleCurve
    """Seconds of a message: the local loss and gradient, the step left out."""
    step: float
    """Seconds of the optimiser's step, for all parameters; median."""
    add: float
    """Seconds of adding one lane's gradients to another's; median."""
    parameters: int
    weight_bytes: int
    """Averaged weights included."""
    gradient_bytes: int
    moment_bytes: int
    """The bytes of the optimiser's state."""
    sent: float
    """Bytes a sample on the way to the next block."""
    graph: SampleCurve
    """Peak bytes of a message at work, beside weights, gradients and moments."""
    lane: float = 0.0
    """Where a batch has several lanes: seconds that each takes beside its messages, to lay its gradients side by side
    and to keep what it made of running statistics; median."""
    lanes: float = 0.0
    """Seconds that the batch takes beside its lanes and the step, to put together what they made; median."""
    exchange: float = 0.0
    """Seconds of putting the block's gradients into a message, and of taking them out of one, beside what any message
    takes; median."""
    handover: float = 0.0
    """Seconds of giving all that the block has learned to another worker, and of taking it, beside the bytes' way;
    median."""
    running_bytes: int = 0
    """The bytes of running statistics that a microbatch makes where a batch has several lanes."""

    @property
    def state_bytes(self) -> int:
        """The bytes of all that the block has learned."""
        return self.weight_bytes + self.moment_bytes


@dataclass(frozen=True)
class BackpropProfile:
    """The same network by backpropagation, its classifier as the last of the blocks."""

    blocks: tuple[BlockProfile, ...]
    """`sent`: activations; gradients of the same size come back."""


@dataclass(frozen=True)
class Profile:
    """A network by a rule on one device, measured."""

    network: str
    rule: str
    batch: int
    """Samples of a whole batch, as the run has them."""
    microbatches: int
    """The microbatches of a lane."""
    precision: str
    device: str
    """As its maker calls it."""
    on_cpu: bool
    """Whether sending and reading take the computing's own time."""
    threads: int
    versions: dict[str, str]
    blocks: tuple[BlockProfile, ...]
    source: SampleCurve
    """Seconds of reading so many samples and preparing them for the first block."""
    sliced: bool
    """Whether workers that share a block may each update a slice of it: an element-wise optimiser without clipping."""
    backprop: BackpropProfile | None = None

    @property
    def names(self) -> list[str]:
        """The names of all blocks, in order."""
        return [block.name for block in self.blocks]

    @cached_property
    def kept(self) -> dict[Hashable, Any]:
        """Values that others have worked out from it, and need not once more."""
        return {}

    def message(self, lanes: int) -> float:
        """Samples of one message, on average."""
        return self.batch / lanes / self.microbatches

    def as_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Profile:
        """Raises KeyError, TypeError or ValueError for what `as_json` does not make."""
        fields = dict(value)
        if fields.pop("format") != FORMAT:
            raise ValueError("a profile of another format")
        backprop = fields.pop("backprop")
        return cls(
            **(
                fields
                | {
                    "blocks": blocks_from(fields["blocks"]),
                    "source": curve_from(fields["source"]),
                    "backprop": backprop and BackpropProfile(blocks_from(backprop["blocks"])),
                }
            )
        )


CURVES = ("forward", "backward", "graph")


def blocks_from(values: Sequence[dict[str, Any]]) -> tuple[BlockProfile, ...]:
    fields: list[dict[str, Any]] = [each | {name: curve_from(each[name]) for name in CURVES} for each in values]
    return tuple(BlockProfile(**each) for each in fields)


def curve_from(value: dict[str, Any]) -> SampleCurve:
    return SampleCurve(tuple(map(int, value["samples"])), tuple(tuple(map(float, each)) for each in value["repeats"]))
