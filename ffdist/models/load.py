"""The networks by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ffdist.errors import ConfigError, users_code
from ffdist.known import MODEL_PLACES, Known
from ffdist.models.apart import check_apart
from ffdist.models.chain import Chain, Shape, children
from ffdist.options import find, typed

MODELS: Mapping[str, Callable[..., Chain]] = Known(MODEL_PLACES)


def load_model(
    name: str, input_shape: Sequence[int], num_classes: int, options: Mapping[str, object] | None = None
) -> Chain:
    """The network called `name` for inputs of `input_shape` (one sample, without the batch).

    name: a key of `MODELS`, or a user's own function (input_shape, num_classes, **options) that returns a `Chain` or an
        `nn.Sequential` (each child a block), as "package.module:function" or "path/file.py:function".
    options: text as typed on a command line, or values as TOML has them, by the builder's parameter names.

    Raises ConfigError for an unknown name or option (with the nearest one), for a value of another type, and for a
    function that returns neither; NetworkError where the children share a parameter.
    """
    build = find(name, MODELS, "model")
    if not callable(build):
        raise ConfigError(
            f"'{name}' is not a model", expected="a function (input_shape, num_classes, **options)", got=build
        )
    shape = tuple(input_shape)
    with torch.random.fork_rng(devices=[]), users_code(
        ConfigError, "the model's function fails", where=f"model {name}",
        expected=f"a function (input_shape, num_classes, **options), called with ({shape}, {num_classes})",
        remedy="mend the function, or set its options: --model-args NAME=VALUE",
    ):  # fmt: skip
        given = typed(build, options or {}, f"model {name}", skip=2)
        made = build(shape, num_classes, **given)
    if isinstance(made, Chain):
        return made
    if not isinstance(made, nn.Sequential):
        raise ConfigError("a model's function returns a Chain or an nn.Sequential", where=f"model {name}",
                          got=type(made).__name__)  # fmt: skip
    parts = children(made)
    check_apart(parts)
    blocks = [(child, _Child(build, shape, num_classes, given, i)) for i, (child, _) in enumerate(parts)]
    return Chain(blocks, input_shape=shape, num_classes=num_classes)


class _Child:
    """Builds one block of the `nn.Sequential` that a user's function returns: all of it, to keep one child. So the
    block's weights depend, as every block's do, on the seed and its index alone.
    """

    def __init__(
        self, build: Callable[..., Any], shape: Shape, num_classes: int, given: dict[str, object], index: int
    ) -> None:
        self.build, self.shape, self.num_classes, self.given, self.index = build, shape, num_classes, given, index

    def __call__(self) -> nn.Module:
        return self.build(self.shape, self.num_classes, **self.given)[self.index]
