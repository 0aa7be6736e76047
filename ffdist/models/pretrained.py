"""The weights of a state file in the blocks of a chain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ffdist.errors import NetworkError, setting
from ffdist.models.chain import BlockGroup, Chain
from ffdist.models.weights import read_state
from ffdist.options import path_of

COUNTER = "num_batches_tracked"
"""A counter of a batch norm; older files lack it, and nothing depends on it here."""


def with_weights(chain: Chain, path: str | Path) -> Chain:
    """The same chain, whose blocks are built with the weights of a state file (see `read_state`).

    A tensor has the name there that it has in torchvision's model, in an `nn.Sequential` of the blocks (the block's
    name before its own), or in what `ffdist export` writes. What the file has beyond them, a classifier say, is left
    out; `origin` of the result says what was taken.

    Raises NetworkError naming the tensors that the file lacks or has in another shape.
    """
    path = path_of(path)
    state = read_state(path)
    blocks = [chain.build_meta(index) for index in range(len(chain))]
    keys = max(_ways(chain, blocks), key=lambda way: _found(way, state))
    for name, block, names in zip(chain.names, blocks, keys, strict=True):
        _check(block, names, state, f"{setting('network.pretrained', path)}, block '{name}'")
    taken = {key for names in keys for key in names.values() if key in state}
    left = sorted(state.keys() - taken)
    some = ", ".join(left[:6]) + (", ..." if len(left) > 6 else "")
    origin = f"{len(taken)} tensors of {path.name} in {len(chain)} blocks"
    started = [_Started(build, path, names) for build, names in zip(chain.builders, keys, strict=True)]
    result = Chain(
        zip(chain.names, started, strict=True),
        input_shape=chain.input_shape,
        num_classes=chain.num_classes,
        classifier=chain.build_classifier,
        origin=f"{origin}; left out: {some}" if left else origin,
        axes=chain.axes,
    )
    result.joined = chain.joined
    result.recipe = chain.recipe and chain.recipe._replace(pretrained=str(path.absolute()))
    return result


def load_pretrained(block: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy the weights of torchvision's model into a block of `resnet18`, `mobilenet-v3-small`, `vit` or
    `torchvision_chain`, whose tensors have the names that they have there.

    state: what `state_dict()` of the torchvision model gives; tensors of other blocks in it are left alone.

    Raises NetworkError naming the tensors that `state` lacks or has in another shape; nothing is copied then.
    """
    names = {own: _within_group(block, own)[1] for own in block.state_dict()}
    _check(block, names, state, "the weights given")
    _copy(block, names, state)


class _Started:
    """Builds a block and copies its weights out of a file; a class, so that a chain can be sent to another process."""

    def __init__(self, build: Callable[[], nn.Module], path: Path, names: dict[str, str]) -> None:
        self.build = build
        self.path = path
        self.names = names

    def __call__(self) -> nn.Module:
        block = self.build()
        if not any(tensor.is_meta for tensor in block.state_dict().values()):
            _copy(block, self.names, read_state(self.path))
        return block


def _ways(chain: Chain, blocks: Sequence[nn.Module]) -> list[list[dict[str, str]]]:
    """The names that a file may have for each block's tensors, one list for each kind of file.

    They are torchvision's, those of an `nn.Sequential` of the blocks, of `ffdist export`, and of the twin's export.
    """
    plain, sequential, export, of_twin = [], [], [], []
    for index, (name, block) in enumerate(zip(chain.names, blocks, strict=True)):
        parts = name.split("+") if isinstance(block, BlockGroup) else [name]
        within = {own: _within_group(block, own) for own in block.state_dict()}
        plain.append({own: inner for own, (_, inner) in within.items()})
        sequential.append({own: f"{parts[place]}.{inner}" for own, (place, inner) in within.items()})
        export.append({own: f"blocks.{index}.{own}" for own in within})
        of_twin.append({own: f"blocks.0.{name.replace('.', '_')}.{own}" for own in within})
    return [plain, sequential, export, of_twin]


def _found(way: Sequence[Mapping[str, str]], state: Mapping[str, Tensor]) -> int:
    """The number of tensors that the file has by these names; -1 where two tensors would share one."""
    keys = [key for names in way for key in names.values()]
    return sum(key in state for key in keys) if len(set(keys)) == len(keys) else -1


def _within_group(block: nn.Module, own: str) -> tuple[int, str]:
    """The place of the part that has this tensor of a block, and the tensor's name in it."""
    if not isinstance(block, BlockGroup):
        return 0, own
    place, _, name = own.partition(".")
    return int(place), name


def _check(block: nn.Module, names: Mapping[str, str], state: Mapping[str, Tensor], where: str) -> None:
    wrong = []
    for own, tensor in block.state_dict().items():
        key = names[own]
        if key not in state and not own.endswith(COUNTER):
            wrong.append((f"{key} {list(tensor.shape)}", f"no such tensor among {', '.join([*state][:3])}, ..."))
        elif key in state and state[key].shape != tensor.shape:
            wrong.append((f"{key} {list(tensor.shape)}", f"{key} {list(state[key].shape)}"))
    if wrong:
        raise NetworkError(
            f"the weights do not fit: {len(wrong)} tensors of a block",
            where=where,
            expected=wrong[0][0],
            got=wrong[0][1],
            remedy="give the weights of this very architecture, and set its options as there "
            "(resnet18: stem=7, pictures of 3 channels; vit: patch, dim, depth, image size)",
        )


@torch.no_grad()
def _copy(block: nn.Module, names: Mapping[str, str], state: Mapping[str, Tensor]) -> None:
    for own, tensor in block.state_dict().items():
        if names[own] in state:
            tensor.copy_(state[names[own]])
