"""Classes of callables, such as torchvision's, as transforms: a picture at a time, from seeded generators."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from ffdist.calls import Call, calls_of
from ffdist.data.generators import Generators
from ffdist.data.transforms.base import BatchTransform
from ffdist.errors import ConfigError, DataError, setting, users_code
from ffdist.options import convert, kinds_of, nearest

AT_A_TIME = 8
"""Pictures that are changed in one turn at the generators, for which a stage of the same process may wait."""


CHECKED_EVERY = 256
"""Pictures after which a transform is asked for its first one again, at most."""


class FirstCall:
    """The first picture that a transform was given, and what it made of it; asked for again after 1, 2, 4, ...
    pictures, so that one that changes later is noticed, too."""

    def __init__(self) -> None:
        self.calls = 0
        self.picture = self.made = np.zeros(0)
        self.seed = 0

    def is_due(self) -> bool:
        """True if it is to be asked for again, after one more picture."""
        self.calls += 1
        return self.calls & (self.calls - 1) == 0 or self.calls % CHECKED_EVERY == 0

    def keep(self, picture: np.ndarray, seed: int, made: np.ndarray) -> None:
        """Keep a picture and the result, where it is the first one."""
        if self.calls == 1:
            self.picture, self.seed, self.made = picture, seed, made.copy()


@dataclass(frozen=True)
class CallableTransform(BatchTransform):
    """A callable that takes a picture as a tensor [C, H, W] and returns such of the same shape and type. What it draws
    from torch's, NumPy's and Python's own generators, and from those that it holds, begins at a seed of each sample's
    own in each epoch."""

    name: str
    """The call that made it, with its options, as settings have it."""
    call: Callable[[Tensor], Any] = field(compare=False)
    first: FirstCall = field(default_factory=lambda: FirstCall(), compare=False, repr=False)
    """What shows from time to time that it repeats itself."""

    def as_call(self) -> Call:
        (call,) = calls_of([self.name], "transform")
        return call

    @property
    def purpose(self) -> str:
        return self.name

    @property
    def numbers(self) -> int:
        return 2

    def batch(self, x: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        self.change(x, self.seeds(drawn).tolist())
        return x

    def seeds(self, drawn: np.ndarray) -> np.ndarray:
        """A seed for each sample, int64 [B]. drawn: float64 [B, 2] in [0, 1)."""
        high, low = (drawn * 2.0**32).astype(np.uint64).T
        return (high << np.uint64(31) | low >> np.uint64(1)).astype(np.int64)

    def change(self, x: np.ndarray, seeds: Sequence[int]) -> None:
        """Pictures [B, H, W, C], in place, from these seeds. Raises DataError for what fails, or makes others."""
        for start in range(0, len(x), AT_A_TIME):
            with self.generators.restarting() as begin:
                for picture, seed in zip(x[start : start + AT_A_TIME], seeds[start : start + AT_A_TIME], strict=True):
                    before = picture.copy() if self.first.is_due() else None
                    begin(seed)
                    picture[:] = self.changed(picture)
                    if before is not None:
                        self.first.keep(before, seed, picture)
                        self.check_repeats(begin)

    def changed(self, picture: np.ndarray) -> np.ndarray:
        """One picture [H, W, C], transformed: of the same shape and type. Raises DataError for another result."""
        given = torch.from_numpy(picture).permute(2, 0, 1)
        takes = f"a callable that takes a tensor {list(given.shape)}"
        with users_code(DataError, "a transform fails", where=f"transform {self.name}", expected=takes):
            made = self.call(given)
        self.check_made(given, made)
        return made.permute(1, 2, 0).numpy()

    def check_repeats(self, begin: Callable[[int], None]) -> None:
        """Raises DataError for one that counts, say: how often it was called differs by process, so do its pictures."""
        picture, seed, made = self.first.picture, self.first.seed, self.first.made
        later = f", the second {self.first.calls:,} pictures later" if self.first.calls > 1 else ""
        begin(seed)
        if not np.array_equal(self.changed(picture.copy()), made, equal_nan=True):
            raise DataError(
                "a transform makes another picture of the same one",
                where=f"transform {self.name}",
                expected="what is decided by the picture and by torch's, NumPy's or Python's random numbers",
                got=f"two different pictures, from the same random numbers{later}",
                remedy="a class that keeps nothing from one call for the next, and draws from those generators alone",
            )

    @cached_property
    def generators(self) -> Generators:
        """The generators that it draws from: the process's shared ones, and those that it holds itself."""
        return Generators(self.call)

    def check_made(self, given: Tensor, made: Any) -> None:
        """Raises DataError for anything but a picture of the same kind."""
        if isinstance(made, Tensor) and made.shape == given.shape and made.dtype == given.dtype:
            return
        got = f"{made.dtype} {list(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
        sizes = isinstance(made, Tensor) and made.shape[:1] == given.shape[:1] and made.dtype == given.dtype
        raise DataError(
            "a transform returns another kind of picture",
            where=f"transform {self.name}",
            expected=f"{given.dtype} {list(given.shape)}, as it was given",
            got=got,
            remedy="sizes are changed by resize, center-crop, random-crop and resized-crop, or by a PictureTransform"
            if sizes
            else "a callable that returns a tensor of the type and shape that it gets",
        )


MIXING = {"MixUp": "mixup", "CutMix": "cutmix"}
"""torchvision's that are no transforms of a picture, and ours that do the same."""


def called(name: str, made: Any, options: Mapping[str, object]) -> CallableTransform:
    """An instance of the class `made` with these options. Raises ConfigError for what makes no callable."""
    where = f"transform {name}"
    if not callable(made):
        raise ConfigError(f"'{name}' is no transform", expected="a class of callables", got=repr(made))
    if own := MIXING.get(getattr(made, "__name__", "")):
        raise ConfigError(
            f"'{name}' mixes whole batches with their labels",
            where=where,
            expected="a transform of single pictures",
            remedy=setting("dataset.augment", own),
        )
    if not inspect.isclass(made) and options == {} and not inspect.signature(made).parameters:
        made = made()
    call = made(**guessed(made, options, where)) if inspect.isclass(made) else made
    if not callable(call):
        raise ConfigError(f"'{name}' makes no callable", expected="a class with __call__ or forward", got=repr(call))
    text = ",".join(f"{key}={value}" for key, value in options.items())
    return CallableTransform(f"{name}({text})" if text else name, call)


def guessed(made: Any, options: Mapping[str, object], where: str) -> dict[str, Any]:
    """Texts as what they look like, as members of an enumeration where one is declared. Raises ConfigError for an
    option that there is not."""
    parameters = inspect.signature(made).parameters
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    kinds = kinds_of(made)
    for name in options:
        if name not in parameters and not any_name:
            raise ConfigError(f"unknown option '{name}'", where=where, remedy=nearest(name, parameters))
    return {name: value_of(value, kinds.get(name)) for name, value in options.items()}


def value_of(value: object, kind: Any) -> Any:
    """A text as a number, a bool, a list or a member of the enumeration that `kind` declares; others as they are."""
    if not isinstance(value, str):
        return value
    for each in (kind, *get_args(kind)):
        if isinstance(each, type) and issubclass(each, Enum):
            return convert(value, each)
    parts = [convert(part, Any) for part in value.split(",")]
    return parts if len(parts) > 1 else parts[0]
