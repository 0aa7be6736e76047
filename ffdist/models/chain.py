"""A network as a chain of named blocks, each built on its own, so that a stage builds only what it holds."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from threading import RLock

import torch
from torch import Tensor, nn

from ffdist.errors import NetworkError, users_code
from ffdist.models.apart import check_apart
from ffdist.models.parts import SpatialMean

Shape = tuple[int, ...]
_DEFAULT_GENERATORS = RLock()


def derive_seed(seed: int, *path: int | str) -> int:
    """A 63-bit seed for one purpose, the same on every machine: what draws the blocks' weights, and their dropout."""
    digest = hashlib.blake2b(repr((seed, *path)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Torch's default generators start from `seed` inside, and are as they were behind.

    The generators belong to the whole process, so stages that share one take turns here.
    """
    cuda = [device] if device is not None and device.type == "cuda" else []
    with _DEFAULT_GENERATORS, torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        if device is not None and cuda:
            torch.cuda.default_generators[device.index or 0].manual_seed(seed)
        yield


class Chain:
    """Blocks in order, with the shape of one input sample and the number of classes.

    blocks: (name, builder) pairs; a builder returns the block's `nn.Module`, newly initialised.
    input_shape: of one sample, without the batch: (C, H, W) for pictures, (N,) for vectors.
    classifier: builds what backpropagation puts behind the last block, from that block's output shape to [B, K] logits;
        a local rule has no use for it. Default: mean over space, then a linear layer.
    origin: where the blocks' weights come from, in words; empty for random ones.
    """

    def __init__(
        self,
        blocks: Iterable[tuple[str, Callable[[], nn.Module]]],
        *,
        input_shape: Sequence[int],
        num_classes: int,
        classifier: Callable[[Shape, int], nn.Module] | None = None,
        origin: str = "",
    ) -> None:
        pairs = list(blocks)
        self.origin = origin
        self.names = [name for name, _ in pairs]
        self.builders = [builder for _, builder in pairs]
        self.input_shape: Shape = tuple(input_shape)
        self.num_classes = num_classes
        self.build_classifier = classifier or pooled_classifier
        if not pairs:
            raise NetworkError("a network needs at least one block", expected=">= 1 block", got=0)
        if len(set(self.names)) != len(pairs):
            raise NetworkError("two blocks have the same name", expected="distinct names", got=self.names)
        if num_classes < 2:
            raise NetworkError("a classifier needs two classes", expected="num_classes >= 2", got=num_classes)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"Chain({' -> '.join(self.names)}, input {self.input_shape}, {self.num_classes} classes)"

    def build(self, index: int, seed: int) -> nn.Module:
        """Block `index`; its weights depend on `seed` and `index` alone, not on which other blocks are built where."""
        with seeded(derive_seed(seed, "weights", index)):
            return self.builders[index]()

    def shapes(self) -> list[Shape]:
        """The output shape of each block for one sample, found without computing anything (torch's meta device).

        Raises NetworkError naming the first block that does not take the shape before it, or writes into its input.
        """
        shapes: list[Shape] = []
        x = torch.empty(2, *self.input_shape, device="meta")
        for index, name in enumerate(self.names):
            block = self.build_meta(index)
            version = x._version
            with (
                torch.no_grad(),
                users_code(
                    NetworkError,
                    f"block '{name}' does not take the input it gets",
                    where=f"block {index} of {len(self)}",
                    expected=f"a module that takes [B, {', '.join(map(str, x.shape[1:]))}]",
                    remedy="check the input shape (--image-size) and the order of the blocks",
                ),
            ):
                y = block(x)
            if x._version != version:
                raise NetworkError(
                    f"block '{name}' changes its input in place",
                    where=f"block {index} of {len(self)}",
                    expected="an input left as it is, since the block before still learns from it",
                    remedy="build the layer with inplace=False, or join it to the block before (cut)",
                )
            if not isinstance(y, Tensor):
                raise NetworkError(f"block '{name}' does not return one tensor", where=f"block {index} of {len(self)}",
                                   expected="a tensor [B, ...]", got=f"a {type(y).__name__}",
                                   remedy="wrap the layer in a module that returns the tensor alone")  # fmt: skip
            shapes.append(tuple(y.shape[1:]))
            x = y
        return shapes

    def build_meta(self, index: int) -> nn.Module:
        """Block `index` with shapes and no memory, in training mode."""
        with (
            torch.device("meta"),
            users_code(
                NetworkError, f"block '{self.names[index]}' cannot be built", where=f"block {index} of {len(self)}"
            ),
        ):
            block = self.builders[index]()
            return block.to("meta")

    def check_apart(self) -> None:
        """Raises NetworkError where two blocks share a parameter, or two parameters of a block their memory."""
        with torch.device("meta"):
            blocks = [build.module if isinstance(build, _Given) else build() for build in self.builders]
        check_apart(list(zip(self.names, blocks, strict=True)))

    def regroup(self, cut: Sequence[int]) -> Chain:
        """The same network in larger blocks: `cut` counts the old blocks in each new one, and sums to their number."""
        if any(n < 1 for n in cut) or sum(cut) != len(self):
            raise NetworkError(
                "the cut does not cover the network",
                expected=f"positive counts that sum to {len(self)} ({', '.join(self.names)})",
                got=list(cut),
            )
        bounds = [sum(cut[:i]) for i in range(len(cut) + 1)]
        groups = [range(a, b) for a, b in pairwise(bounds)]
        return Chain(
            [("+".join(self.names[i] for i in g), _joined([self.builders[i] for i in g])) for g in groups],
            input_shape=self.input_shape,
            num_classes=self.num_classes,
            classifier=self.build_classifier,
            origin=self.origin,
        )

    @classmethod
    def from_sequential(
        cls,
        module: nn.Sequential,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        cut: Sequence[int] | None = None,
    ) -> Chain:
        """Any `nn.Sequential`: each child is a block, or `cut[i]` children in a row are block i. Weights are kept, and
        so are ties between weights of a block.

        Raises NetworkError for a cut that does not fit, and for blocks that share a parameter.
        """
        if not isinstance(module, nn.Sequential):
            raise NetworkError(
                "a chain is made of an nn.Sequential", expected="nn.Sequential", got=type(module).__name__
            )
        blocks = [(name, _Given(child)) for name, child in children(module)]
        chain = cls(blocks, input_shape=input_shape, num_classes=num_classes)
        chain = chain if cut is None else chain.regroup(cut)
        chain.check_apart()
        return chain


def children(module: nn.Sequential) -> list[tuple[str, nn.Module]]:
    """By name, in order; what comes several times comes here as often, unlike in `named_children`."""
    return list(zip(module._modules, module, strict=True))


class _Given:
    """A builder that copies a module the user made, to the CPU from wherever it is; a class, so that a chain can be
    sent to another process."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self) -> nn.Module:
        return copy.deepcopy(self.module).cpu()


def _joined(builders: Sequence[Callable[[], nn.Module]]) -> Callable[[], nn.Module]:
    """One builder of several blocks; what the user made is copied in one go, so that tied weights stay tied."""
    given = [builder.module for builder in builders if isinstance(builder, _Given)]
    return _Given(Group(*given)) if len(given) == len(builders) else _Group(builders)


class Group(nn.Sequential):
    """Several blocks as one."""


class _Group:
    """A builder of several blocks as one."""

    def __init__(self, builders: Sequence[Callable[[], nn.Module]]) -> None:
        self.builders = builders

    def __call__(self) -> nn.Module:
        return Group(*(build() for build in self.builders))


def pooled_classifier(shape: Shape, num_classes: int) -> nn.Module:
    """Mean over space (if there is any), then a linear layer: [B, *shape] -> [B, num_classes]."""
    if len(shape) == 3:
        return nn.Sequential(SpatialMean(), nn.Linear(shape[0], num_classes))
    return nn.Sequential(nn.Flatten(), nn.Linear(int(torch.Size(shape).numel()), num_classes))
