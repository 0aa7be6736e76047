"""Networks that know their own name, so that a run begun in Python can be made again by a command."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec

from ffdist.errors import ConfigError
from ffdist.models.chain import Chain
from ffdist.options import text_of, typed

P = ParamSpec("P")


class Spelling(NamedTuple):
    """What makes a network by name: `load_model(name, input_shape, num_classes, options)`."""

    name: str
    options: tuple[tuple[str, str], ...]


def spelled(name: str) -> Callable[[Callable[P, Chain]], Callable[P, Chain]]:
    """For the builder that goes by `name`: its chains say with which options they were made."""

    def of(build: Callable[P, Chain]) -> Callable[P, Chain]:
        @functools.wraps(build)
        def remembering(*args: P.args, **kwargs: P.kwargs) -> Chain:
            chain = build(*args, **kwargs)
            chain.spelling = spelling(name, build, *args, **kwargs)
            return chain

        return remembering

    return of


def spelling(name: str, build: Callable[..., Chain], *args: Any, **kwargs: Any) -> Spelling | None:
    """None where an option cannot be written as text."""
    signature = inspect.signature(build)
    given = dict([*signature.bind(*args, **kwargs).arguments.items()][2:])
    texts = {option: text_of(value) for option, value in given.items()}
    try:
        again = typed(build, texts, name, skip=2)
    except ConfigError:
        return None
    same = all(as_tuple(again[option]) == as_tuple(value) for option, value in given.items())
    return Spelling(name, tuple(texts.items())) if same else None


def as_tuple(value: Any) -> Any:
    return tuple(map(as_tuple, value)) if isinstance(value, (list, tuple)) else value
