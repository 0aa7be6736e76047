"""The recipe by which a network of a builder with a name can be made again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ffdist.errors import ConfigError
from ffdist.known import MODEL_PLACES
from ffdist.options import text_of, typed


class ChainRecipe(NamedTuple):
    """The arguments that make the same chain again, as `ffdist train` takes them."""

    name: str
    options: tuple[str, ...] = ()
    """key=value, those that are not the default."""
    blocks: tuple[int, ...] = ()
    """How many of the builder's blocks make one each; empty: each is one."""
    pretrained: str | None = None
    """The file of weights to start from."""

    def regrouped(self, blocks_per_block: Sequence[int]) -> ChainRecipe:
        """The recipe of the chain after a further `Chain.regroup`."""
        if not self.blocks:
            return self._replace(blocks=tuple(blocks_per_block))
        starts = [sum(blocks_per_block[:i]) for i in range(len(blocks_per_block))]
        sums = (sum(self.blocks[start : start + count]) for start, count in zip(starts, blocks_per_block, strict=True))
        return self._replace(blocks=tuple(sums))


def recipe_of(
    name: str, build: Callable[..., Any], options: Mapping[str, Any], defaults: Mapping[str, Any]
) -> ChainRecipe | None:
    """The recipe of a call with these options; None where one of them cannot be written on a command line."""
    changed = {key: value for key, value in options.items() if key not in defaults or defaults[key] != value}
    texts = {key: text_of(value) for key, value in changed.items()}
    try:
        if typed(build, texts, name, skip=2) != changed:
            return None
    except ConfigError:
        return None
    return ChainRecipe(name, tuple(f"{key}={text}" for key, text in texts.items()))


def known_name(build: Callable[..., Any]) -> str | None:
    """The name of one of ffdist's own builders."""
    place = f"{build.__module__}:{build.__qualname__}"
    return next((name for name, known in MODEL_PLACES.items() if known == place), None)
