"""The interface of a transform: a frozen dataclass of options, and a pure function of pictures and of numbers drawn for
them.

    @dataclass(frozen=True)
    class Darken(BatchTransform):       # as darken.py:Darken(most=0.5)
        most: float = 0.5               # an option

        @property
        def numbers(self) -> int:       # drawn for each sample
            return 1

        def batch(self, x, drawn):      # uint8 [B, H, W, C], float64 [B, 1] in [0, 1)
            return (x * (1 - self.most * drawn[:, :, None, None])).astype(x.dtype)

The numbers come from (seed, name of the transform, epoch, place of the sample in its split) and nothing else, so that a
sample is changed alike by whoever makes it, in whatever batch. A transform draws nothing itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np

from ffdist.calls import Call
from ffdist.errors import ConfigError
from ffdist.known import TRANSFORM_PLACES
from ffdist.options import check_fields, text_of

Size = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True)
class Transform:
    """One of `PictureTransform`, `BatchTransform` and `MixTransform`; its fields are its options."""

    def __post_init__(self) -> None:
        """Raises ConfigError for an option of another type than its field declares, or out of its range."""
        check_fields(self, f"transform {type(self).__name__}")
        self.check()

    def check(self) -> None:
        """Raises ConfigError for options out of their range, by `refuse`."""

    @property
    def numbers(self) -> int:
        """The count of numbers that it draws for a sample."""
        return 0

    def refuse(self, option: str, expected: str, remedy: str | None = None) -> ConfigError:
        """The error for an option whose value is out of range. expected: the range in words."""
        return ConfigError(
            f"option '{option}' is out of its range",
            where=f"transform {type(self).__name__}",
            expected=expected,
            got=text_of(getattr(self, option)),
            remedy=remedy,
        )

    def check_share(self, option: str) -> None:
        """Raises ConfigError for an option that is no share."""
        if not 0 <= getattr(self, option) <= 1:
            raise self.refuse(option, "0..1")

    def as_call(self) -> Call:
        """The transform as a call, with the options that differ from their defaults: from it, it can be made again.

        Raises ConfigError where it has no name: a class that a function defines.
        """
        kind = type(self)
        place = f"{kind.__module__}:{kind.__qualname__}"
        name = next((name for name, known in TRANSFORM_PLACES.items() if known == place), place)
        if "<locals>" in place:
            raise ConfigError(
                f"the transform {kind.__name__} has no name by which runs keep it",
                got=place,
                remedy="define its class in a module, outside of any function",
            )
        options = {f.name: getattr(self, f.name) for f in fields(self) if f.init and getattr(self, f.name) != f.default}
        return Call(name, {key: text_of(value) for key, value in options.items()})


class PictureTransform(Transform, ABC):
    """Changes the size of one decoded picture of any size; comes before all others."""

    @abstractmethod
    def picture(self, picture: np.ndarray, drawn: np.ndarray, wanted: Size) -> np.ndarray:
        """picture: [H, W, C], uint8 or float32. drawn: float64 [numbers] in [0, 1). wanted: what the network takes.

        Returns [h, w, C] of the same dtype; the picture itself stays as it is.
        """

    def size(self, given: Size | None, wanted: Size) -> Size | None:
        """The size of what `picture` returns for pictures of a size; None: it depends, or pictures differ. Default:
        wanted."""
        return wanted


class BatchTransform(Transform, ABC):
    """Changes all samples of a batch at once, which have one size."""

    normalised: ClassVar[bool] = False
    """Whether it comes after the normalisation; its samples are float32 then."""
    of_bytes: ClassVar[bool] = False
    """Whether it takes pictures of uint8 alone, and no floats."""

    @abstractmethod
    def batch(self, x: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        """x: contiguous [B, H, W, C], whose memory may be used again. drawn: float64 [B, numbers] in [0, 1).

        Returns [B, H, W, C] of the same dtype. What becomes of a sample depends on nothing else in the batch.
        """


class MixTransform(Transform, ABC):
    """Mixes each sample with the one before it in the batch, after all other transforms; its label is mixed, too."""

    @abstractmethod
    def mix(self, x: np.ndarray, others: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        """x, others: float32 [B, H, W, C], normalised; x is changed in place. drawn: float64 [B, numbers] in [0, 1).

        Returns each sample's own share in its label, float64 [B].
        """
