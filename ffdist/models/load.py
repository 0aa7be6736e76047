"""The networks by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from ffdist.errors import ConfigError, setting, users_code
from ffdist.known import MODEL_PLACES, LazyNames
from ffdist.models.apart import check_apart
from ffdist.models.axes import declared
from ffdist.models.chain import BlockGroup, Chain, Shape, children, no_sequential_error, seeded
from ffdist.models.joins import describe_joins, joined
from ffdist.models.recipe import recipe_of
from ffdist.models.sound import check_row
from ffdist.options import find, typed

MODELS: Mapping[str, Callable[..., Chain]] = LazyNames(MODEL_PLACES)


def load_model(
    name: str, input_shape: Sequence[int], num_classes: int, options: Mapping[str, object] | None = None
) -> Chain:
    """The network called `name` for inputs of `input_shape` (one sample, without the batch).

    name: a key of `MODELS`, or a user's own function (input_shape, num_classes, **options) that returns a `Chain` or an
        `nn.Sequential` (each layer with weights a block, as `Chain.from_sequential` has it), as
        "package.module:function" or "path/file.py:function".
    options: text as typed on a command line, or values as TOML has them, by the builder's parameter names.

    Raises ConfigError for an unknown name or option (with the nearest one), for a value of another type, and for a
    function that returns neither; NetworkError where the children share a parameter, or are not all that is run.
    """
    build = find(name, MODELS, "model")
    if not callable(build) or isinstance(build, nn.Module):
        raise ConfigError(
            f"'{name}' is not a model",
            expected="a function (input_shape, num_classes, **options)",
            got=f"a {type(build).__name__} that is made already" if isinstance(build, nn.Module) else build,
            remedy="def build(input_shape, num_classes): return nn.Sequential(...), and name that function",
        )
    shape = tuple(input_shape)
    where = f"model {name}"
    given = typed(build, options or {}, where, skip=2)
    with (
        seeded(0),
        users_code(
            ConfigError,
            "the model's function fails",
            where=where,
            expected=f"a function (input_shape, num_classes, **options), called with ({shape}, {num_classes})",
            remedy=f"mend the function, or set its options: {setting('network.model_args', 'NAME=VALUE')}",
        ),
    ):
        made = build(shape, num_classes, **given)
    recipe = recipe_of(name, build, given, {})
    if isinstance(made, Chain):
        if name not in MODELS:
            made.recipe = recipe
        return made
    if not isinstance(made, nn.Sequential):
        raise ConfigError(
            "a model's function returns a Chain or an nn.Sequential",
            where=where,
            got=type(made).__name__,
            remedy=no_sequential_error(made).remedy,
        )
    check_row(made)
    parts = children(made)
    counts = joined(parts)
    blocks: list[tuple[str, _Children]] = []
    for count in counts:
        group = range(sum(counts[: len(blocks)]), sum(counts[: len(blocks)]) + count)
        blocks.append(("+".join(parts[i][0] for i in group), _Children(build, shape, num_classes, given, group)))
    check_apart([(name, child_at(made, block.indices)) for name, block in blocks])
    chain = Chain(blocks, input_shape=shape, num_classes=num_classes, axes=declared(made, where))
    chain.joined = describe_joins(parts, counts)
    chain.recipe = recipe
    return chain


class _Children:
    """Builds one block of the `nn.Sequential` that a user's function returns: all of it, to keep some children. So the
    block's weights depend, as every block's do, on the seed and its index alone.
    """

    def __init__(
        self, build: Callable[..., Any], shape: Shape, num_classes: int, given: dict[str, object], indices: range
    ) -> None:
        self.build = build
        self.shape = shape
        self.num_classes = num_classes
        self.given = given
        self.indices = indices

    def __call__(self) -> nn.Module:
        return child_at(self.build(self.shape, self.num_classes, **self.given), self.indices)


def child_at(module: nn.Sequential, indices: Sequence[int]) -> nn.Module:
    """The children at these indices: a single one itself, several as a `BlockGroup`."""
    parts = [module[i] for i in indices]
    return parts[0] if len(parts) == 1 else BlockGroup(*parts)
