"""All that is done to the samples of a split, in order: each picture to its size, then batches, then mixing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from ffdist.data import augment
from ffdist.data.sampler import generator, restarted
from ffdist.data.transforms.base import BatchTransform, MixTransform, PictureTransform, Size, Transform
from ffdist.data.transforms.callable_steps import CallableSteps
from ffdist.data.transforms.called import CallableTransform
from ffdist.data.transforms.draws import RandomDraws, whole
from ffdist.data.transforms.usual import Alternate, Crop, Flip, Shift, fused_name
from ffdist.errors import ConfigError, setting

NO_NUMBERS = np.zeros(0)
EXCLUSIVE: tuple[tuple[type[Transform], type[Transform]], ...] = ((Crop, Shift), (Flip, Alternate))


@dataclass(frozen=True, slots=True)
class StepDraws:
    """The numbers drawn for samples of a batch."""

    numbers: dict[int, np.ndarray]
    """Numbers of each transform, by its `id`: float64 [B, numbers]."""
    usual: augment.AugmentDraws | None = None
    """Draws of the transforms that are drawn for a whole batch at once."""
    chosen: np.ndarray | None = None
    """int [B]: which of several mixes each gets."""


@dataclass(frozen=True)
class FusedSteps:
    """Neighbours among what is drawn for a batch at once, done together."""

    names: tuple[str, ...]


class TransformSteps:
    """The transforms of a split for pictures of one network.

    steps = Steps(transforms, seed=0, wanted=(224, 224))
    drawn = steps.draw(epoch, batch, rows)                  # once a batch
    pictures = [steps.picture(p, drawn, i) for i, p in enumerate(decoded)]   # by any worker, in any order
    x = steps.batch(np.stack(pictures), drawn)              # [B, H, W, C] of one size
    x = steps.after_normalisation(normalised(x), drawn)     # float32
    """

    def __init__(self, transforms: Sequence[Transform], *, seed: int, wanted: Size, workers: int = 1) -> None:
        """wanted: height and width of what the network takes. workers: who call `batch` side by side.

        Raises ConfigError for transforms that exclude each other."""
        self.seed = seed
        self.wanted = wanted
        self.all = [copy(t) for t in transforms]  # of which one may stand twice
        check_together(self.all)
        self.pictures = [t for t in self.all if isinstance(t, PictureTransform)]
        self.normalised = [t for t in self.all if isinstance(t, BatchTransform) and t.normalised]
        self.mixes = [t for t in self.all if isinstance(t, MixTransform)]
        before = [t for t in self.all if isinstance(t, BatchTransform) and not t.normalised]
        self.usual = [name for t in before if (name := fused_name(t))]
        self.batches = grouped(before, workers)
        self.drawing = [t for t in self.all if not fused_name(t) and t.numbers]
        several = [("which mix", 1)] if len(self.mixes) > 1 else []
        self.draws = RandomDraws(seed, [*purposes(self.drawing), *several])
        self._first_mirrored = np.zeros(0, bool)

    def draw(self, epoch: int, batch: int, rows: np.ndarray, part: slice | np.ndarray = slice(None)) -> StepDraws:
        """The draws for samples `rows[part]` of a batch. rows: int [B], places in the split, of the whole batch."""
        return self.draw_all(epoch, batch, [rows], [part])

    def draw_all(
        self, epoch: int, first: int, rows: Sequence[np.ndarray], parts: Sequence[slice | np.ndarray]
    ) -> StepDraws:
        """Draw for the batches `first`, `first` + 1, ..., one after the other."""
        own = [batch_rows[part] for batch_rows, part in zip(rows, parts, strict=True)]
        numbers = self.draws.uniform(epoch, own[0] if len(own) == 1 else np.concatenate(own))
        usual = chosen = None
        if self.usual:
            drawn = [
                self.draw_usual(epoch, batch, batch_rows)[part]
                for batch, (batch_rows, part) in enumerate(zip(rows, parts, strict=True), first)
            ]
            usual = augment.AugmentDraws.joined(drawn)
        if len(self.mixes) > 1:
            chosen = whole(numbers[-1][:, 0], len(self.mixes))
        return StepDraws({id(t): own for t, own in zip(self.drawing, numbers, strict=False)}, usual, chosen)

    def draw_usual(self, epoch: int, batch: int, rows: np.ndarray) -> augment.AugmentDraws:
        """Draw for the transforms that are drawn for a batch at once."""
        mirrored = self.mirrored(epoch, rows) if "alternate" in self.usual else None
        return augment.draw(
            self.usual, len(rows), self.wanted, restarted.at(self.seed, "augment", epoch, batch), mirrored
        )

    def mirrored(self, epoch: int, rows: np.ndarray) -> np.ndarray:
        """bool [B] for "alternate": whether a row is mirrored in this epoch; half of them are, and the others in the
        next, as in airbench."""
        first, needed = self._first_mirrored, int(rows.max(initial=-1)) + 1
        if len(first) < needed:  # others may do so meanwhile: what they draw is the same
            self._first_mirrored = first = generator(self.seed, "mirrored").random(2 * needed) < 0.5
        return first[rows] ^ bool(epoch % 2)

    def picture(self, picture: np.ndarray, drawn: StepDraws | None = None, sample: int = 0) -> np.ndarray:
        """One decoded picture [H, W, C] of any size -> [h, w, C]. drawn, sample: of a batch, and its place in that."""
        for transform in self.pictures:
            numbers = drawn.numbers[id(transform)][sample] if drawn and transform.numbers else NO_NUMBERS
            picture = transform.picture(picture, numbers, self.wanted)
        return picture

    def batch(self, x: np.ndarray, drawn: StepDraws) -> np.ndarray:
        """Contiguous [B, H, W, C] before the normalisation; its memory may be used again."""
        for step in self.batches:
            x = np.ascontiguousarray(x)
            if isinstance(step, FusedSteps):
                assert drawn.usual
                x = augment.augment(x, drawn.usual.only(step.names))
            elif isinstance(step, CallableSteps):
                x = step.batch(x, [drawn.numbers[id(each)] for each in step.transforms])
            else:
                x = step.batch(x, drawn.numbers.get(id(step), NO_NUMBERS))
        return x

    def after_normalisation(self, x: np.ndarray, drawn: StepDraws) -> np.ndarray:
        """float32 [B, H, W, C] after the normalisation; its memory may be used again."""
        for transform in self.normalised:
            x = transform.batch(x, drawn.numbers.get(id(transform), NO_NUMBERS))
        return x

    def mix(self, x: np.ndarray, others: np.ndarray, drawn: StepDraws) -> np.ndarray:
        """Mix samples [B, H, W, C] with others, in place; returns each sample's own share in its label, float64 [B]."""
        share = np.ones(len(x))
        for place, transform in enumerate(self.mixes):
            at = np.arange(len(x)) if drawn.chosen is None else np.flatnonzero(drawn.chosen == place)
            if len(at):
                mixed = x[at]
                share[at] = transform.mix(mixed, others[at], drawn.numbers[id(transform)][at])
                x[at] = mixed
        return share

    def check_pictures(self, where: str, channels: int, *, pixels: bool) -> None:
        """Raises ConfigError for transforms that such pictures do not go through. pixels: whether they are uint8."""
        for transform in self.all:
            if isinstance(transform, BatchTransform) and transform.of_bytes and not (pixels and channels in (1, 3)):
                raise ConfigError(
                    f"{type(transform).__name__} takes pictures of whole numbers in 0..255, grey or RGB",
                    where=where,
                    expected="uint8, 1 or 3 channels",
                    got=f"{'uint8' if pixels else 'floats'}, {channels} channels",
                    remedy=f"leave it out of {setting('dataset.augment')}"
                    + ("" if pixels else ", or give pictures as whole numbers"),
                )


def check_together(transforms: Sequence[Transform]) -> None:
    """Raises ConfigError for transforms that exclude each other, and for one that stands twice and may not."""
    kinds = [type(t) for t in transforms]
    for one, other in EXCLUSIVE:
        if one in kinds and other in kinds:
            names = [each.__name__.lower() for each in (one, other)]
            raise ConfigError(
                "two transforms exclude each other",
                where=setting("dataset.augment"),
                expected=" or ".join(names),
                got=" ".join(names),
            )
    usual = [name for t in transforms if (name := fused_name(t))]
    for name in usual:
        if usual.count(name) > 1:
            raise ConfigError(
                f"the transform '{name}' is given twice",
                where=setting("dataset.augment"),
                remedy="leave one of them out",
            )


def grouped(transforms: Iterable[BatchTransform], workers: int) -> list[BatchTransform | FusedSteps | CallableSteps]:
    """The transforms in order; neighbours that are drawn for a batch at once, or change single pictures, are joined."""
    found: list[BatchTransform | FusedSteps | CallableSteps] = []
    for kind, group in groupby(transforms, key=kind_of):
        own = list(group)
        if kind is FusedSteps:
            found.append(FusedSteps(tuple(name for each in own if (name := fused_name(each)))))
        elif kind is CallableSteps:
            found.append(CallableSteps([each for each in own if isinstance(each, CallableTransform)], workers))
        else:
            found += own
    return found


def kind_of(transform: BatchTransform) -> type:
    """The kind by which it is joined with its neighbours."""
    if fused_name(transform):
        return FusedSteps
    return CallableSteps if isinstance(transform, CallableTransform) else BatchTransform


def purposes(transforms: Iterable[Transform]) -> list[tuple[str, int]]:
    """The purpose of each one's draws: its class, and which of several of one class it is, so that others beside it
    play no part."""
    seen: dict[str, int] = {}
    names = []
    for transform in transforms:
        name = getattr(transform, "purpose", type(transform).__qualname__)
        seen[name] = seen.get(name, -1) + 1
        names.append((f"{name} {seen[name]}", transform.numbers))
    return names
