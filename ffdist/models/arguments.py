"""What the builders of networks are called with, checked where they are called from Python."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from numbers import Integral
from typing import ParamSpec, TypeVar

from ffdist.errors import ConfigError, NetworkError
from ffdist.options import checked_value, kinds_of, nearest

P = ParamSpec("P")
R = TypeVar("R")


def check_input(input_shape: object, num_classes: object) -> None:
    """Raises NetworkError for what is no shape of a sample, or no number of classes."""
    sizes = input_shape if isinstance(input_shape, Sequence) and not isinstance(input_shape, str) else ()
    if not sizes or not all(isinstance(size, Integral) and int(size) > 0 for size in sizes):
        raise NetworkError("the input shape is none", where="input_shape", expected="(C, H, W) of a picture, or (N,)",
                           got=repr(input_shape), remedy="give input_shape first, then num_classes")  # fmt: skip
    if not isinstance(num_classes, Integral) or isinstance(num_classes, bool) or int(num_classes) < 2:
        raise NetworkError("a classifier needs two classes", where="num_classes", expected="a whole number >= 2",
                           got=repr(num_classes))  # fmt: skip


def checked_arguments(build: Callable[P, R]) -> Callable[P, R]:
    """A builder (input_shape, num_classes, **options) that refuses values of another type than it declares.

    Raises NetworkError for what is no shape or no number of classes, ConfigError for an option that is not there, or is
    of another type.
    """
    signature, model = inspect.signature(build), f"model {build.__name__}"
    shape, classes, *options = signature.parameters

    @wraps(build)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs.keys() - signature.parameters.keys():
            raise ConfigError(f"unknown option '{name}'", where=model, remedy=nearest(name, options))
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise ConfigError("a network is made of other arguments", where=model, got=error,
                              expected="(input_shape, num_classes, **options)") from error  # fmt: skip
        check_input(given[shape], given[classes])
        kinds = kinds_of(build)
        told = {name: checked_value(name, given[name], kinds[name], model) for name in options if name in given}
        return build(**(given | told))  # pyright: ignore[reportCallIssue]

    return checked
