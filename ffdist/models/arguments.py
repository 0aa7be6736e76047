"""Arguments of the builders of networks, checked where they are called from Python."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from numbers import Integral
from typing import ParamSpec, TypeVar

from ffdist.errors import ConfigError, NetworkError
from ffdist.models.recipe import known_name, recipe_of
from ffdist.options import checked_value, kinds_of, nearest

P = ParamSpec("P")
R = TypeVar("R")


def check_input(input_shape: object, num_classes: object) -> None:
    """Raises NetworkError for what is no shape of a sample, or no number of classes."""
    sizes = input_shape if isinstance(input_shape, Sequence) and not isinstance(input_shape, str) else ()
    if not sizes or not all(isinstance(size, Integral) and int(size) > 0 for size in sizes):
        raise NetworkError(
            "this is not an input shape",
            where="input_shape",
            expected="(C, H, W) of a picture, or (N,)",
            got=repr(input_shape),
            remedy="give input_shape first, then num_classes",
        )
    if not isinstance(num_classes, Integral) or isinstance(num_classes, bool) or int(num_classes) < 2:
        raise NetworkError(
            "a classifier needs two classes", where="num_classes", expected="a whole number >= 2", got=repr(num_classes)
        )


def checked_arguments(build: Callable[P, R]) -> Callable[P, R]:
    """A builder (input_shape, num_classes, **options) that refuses values of another type than it declares, and whose
    chains know their `recipe`.

    Raises NetworkError for what is no shape or no number of classes, ConfigError for an option that is not there, or is
    of another type.
    """
    signature, model = inspect.signature(build), f"model {build.__name__}"
    shape, classes, *options = signature.parameters
    defaults = {option: signature.parameters[option].default for option in options}
    name = known_name(build)

    @wraps(build)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for unknown in kwargs.keys() - signature.parameters.keys():
            raise ConfigError(f"unknown option '{unknown}'", where=model, remedy=nearest(unknown, options))
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise ConfigError(
                "a network is made of other arguments",
                where=model,
                got=error,
                expected="(input_shape, num_classes, **options)",
            ) from error
        check_input(given[shape], given[classes])
        kinds = kinds_of(build)
        checked_values = {
            each: checked_value(each, given[each], kinds[each], model) for each in options if each in given
        }
        made = build(**(given | checked_values))  # pyright: ignore[reportCallIssue]
        if name and hasattr(made, "recipe"):
            made.recipe = recipe_of(name, build, checked_values, defaults)  # pyright: ignore[reportAttributeAccessIssue]
        return made

    return checked
