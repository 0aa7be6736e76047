"""Transforms by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

from ffdist.calls import FIRST, Call, calls_of, check_transforms
from ffdist.data.transforms.base import BatchTransform, MixTransform, PictureTransform, Transform
from ffdist.errors import ConfigError, setting, users_code
from ffdist.known import TRANSFORM_PLACES, LazyNames
from ffdist.options import find, typed

TRANSFORMS: Mapping[str, type[Transform]] = LazyNames(TRANSFORM_PLACES)
KINDS = (PictureTransform, BatchTransform, MixTransform)


def load_transform(name: str, options: Mapping[str, object] | None = None) -> Transform:
    """The transform called `name`, with its fields set from `options`.

    name: a key of `TRANSFORMS`, or a user's own as "package.module:Class" or "path/file.py:Class"; such may be any
        class of callables that take a picture as a tensor, as torchvision's are (`ffdist.data.transforms.called`).
    options: text as typed on a command line, or values as TOML has them, by name.

    Raises ConfigError for an unknown name or option (with the nearest one), and for a value of another type.
    """
    where = f"transform {name}"
    check_transforms([Call(name, {})], setting("dataset.augment"))
    made = find(name, TRANSFORMS, "transform")
    options = dict(options or {})
    if FIRST in options:
        options = {first_option(made, where): options.pop(FIRST), **options}
    with users_code(
        ConfigError,
        "the transform cannot be made",
        where=where,
        expected="a class whose options have defaults, or are given",
        remedy=f"{setting('dataset.augment', f'{name} OPTION=VALUE')}",
    ):
        if isinstance(made, type) and issubclass(made, KINDS):
            return made(**typed(made, options, where))
        from ffdist.data.transforms.called import called

        return called(name, made, options)


def first_option(made: object, where: str) -> str:
    """The option that a value without a name sets: the first one. Raises ConfigError where there is none."""
    names = list(inspect.signature(made).parameters) if callable(made) else []
    if not names:
        raise ConfigError("it has no options", where=where)
    return names[0]


def load_transforms(texts: Sequence[object], where: str = "dataset.augment") -> list[Transform]:
    """Transforms from texts as settings have them, "crop(padding=4)"; a transform that was made in Python is taken as
    it is."""
    made: list[Transform] = []
    for text in texts:
        if isinstance(text, Transform):
            made.append(text)
        else:
            made += [load_transform(call.name, call.options) for call in calls_of([text], setting(where))]
    return made
