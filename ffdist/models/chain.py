"""A network as a chain of named blocks, each built on its own, so that a stage builds only what it holds."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ffdist.errors import NetworkError, setting, users_code
from ffdist.models.apart import check_apart
from ffdist.models.arguments import check_input
from ffdist.models.axes import Axes, OutputLayout, declared
from ffdist.models.joins import describe_joins, joined
from ffdist.models.meta import on_meta
from ffdist.models.outputs import Output, place_of, trace_outputs, unknown_axes_error
from ffdist.models.parts import SpatialMean
from ffdist.models.recipe import ChainRecipe
from ffdist.models.sound import check_given, check_row, check_sound
from ffdist.models.strided_pointwise import pick_places_first
from ffdist.renamed import renamed_arguments
from ffdist.seeds import derive_seed, seeded

Shape = tuple[int, ...]
COPIED = "a module that is passed in is copied by copy.deepcopy, which must work; in place of the old \
torch.nn.utils.weight_norm, torch.nn.utils.parametrizations.weight_norm; after pruning, torch.nn.utils.prune.remove; \
without locks, files and other attributes that cannot be copied"


class Chain:
    """Blocks in order, with the shape of one input sample and the number of classes.

    blocks: (name, builder) pairs; a builder returns the block's `nn.Module`, newly initialised.
    input_shape: of one sample, without the batch: (C, H, W) for pictures, (N,) for vectors.
    classifier: builds what backpropagation puts after the last block, from that block's output shape to [B, K] logits;
        a local rule has no use for it. Default: mean over space, then a linear layer.
    origin: where the blocks' weights come from, in words; empty for random ones.
    axes: where blocks' channels are, "channels_first" [N, C, ...] or "channels_last" [N, ..., C], where neither a
        block's layers tell nor its own attribute `axes` does.
    Raises NetworkError for no block, equal names, and what is no shape or number of classes.
    """

    def __init__(
        self,
        blocks: Iterable[tuple[str, Callable[[], nn.Module]]],
        *,
        input_shape: Sequence[int],
        num_classes: int,
        classifier: Callable[[Shape, int], nn.Module] | None = None,
        origin: str = "",
        axes: Axes | None = None,
    ) -> None:
        pairs = list(blocks)
        check_input(input_shape, num_classes)
        self.origin = origin
        self.axes: Axes | None = axes
        self.joined = ""
        """How layers were joined to blocks, in words."""
        self.recipe: ChainRecipe | None = None
        """How it can be made again, where a builder with a name has made it."""
        self.names = [name for name, _ in pairs]
        self.builders = [builder for _, builder in pairs]
        self.input_shape: Shape = tuple(int(size) for size in input_shape)
        self.num_classes = int(num_classes)
        self.build_classifier = classifier or pooled_classifier
        if not pairs:
            raise NetworkError("a network needs at least one block", expected=">= 1 block", got=0)
        if len(set(self.names)) != len(pairs):
            raise NetworkError("two blocks have the same name", expected="distinct names", got=self.names)
        self._outputs: list[Output] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"Chain({' -> '.join(self.names)}, input {self.input_shape}, {self.num_classes} classes)"

    def build(self, index: int, seed: int) -> nn.Module:
        """Block `index`; its weights depend on `seed` and `index` alone, not on which other blocks are built where."""
        with seeded(derive_seed(seed, "weights", index)):
            block = self.builders[index]()
        pick_places_first(block)
        return block

    def shapes(self) -> list[Shape]:
        """The output shape of each block for one sample, found by passing zeros through small blocks, and without
        computing anything through large ones (torch's meta device).

        Raises NetworkError naming the first block that does not take the shape before it, or writes into its input.
        """
        return [output.shape for output in self.outputs()]

    def layouts(self) -> list[OutputLayout]:
        """The layout of each block's output. Raises NetworkError where neither its layers nor itself tell, as
        `shapes`."""
        for index, (name, output) in enumerate(zip(self.names, self.outputs(), strict=True)):
            if output.layout is None:
                raise unknown_axes_error(self, index, name, output)
        return [output.layout for output in self.outputs() if output.layout is not None]

    def outputs(self) -> list[Output]:
        """The output of each block for one sample; raises as `shapes`."""
        if self._outputs is None:
            with seeded(0):
                self._outputs = list(trace_outputs(self))
        return self._outputs

    def know_outputs(self, outputs: list[Output]) -> None:
        """Set the outputs of this very network that were found elsewhere, so that they are not computed again."""
        self._outputs = outputs

    def build_meta(self, index: int) -> nn.Module:
        """Block `index` with shapes and no memory, in training mode."""
        with (
            on_meta(),
            users_code(
                NetworkError,
                f"block '{self.names[index]}' cannot be built",
                where=place_of(self, index),
                remedy=COPIED if isinstance(self.builders[index], _Given) else None,
            ),
        ):
            block = self.builders[index]()
            check_sound(self.names[index], block)
            return block.to("meta")

    def check_apart(self) -> None:
        """Raises NetworkError where two blocks share a parameter, or two parameters of a block their memory."""
        with on_meta():
            blocks = [build.module if isinstance(build, _Given) else build() for build in self.builders]
        check_apart(list(zip(self.names, blocks, strict=True)))

    @renamed_arguments(cut="blocks_per_block")
    def regroup(self, blocks_per_block: Sequence[int]) -> Chain:
        """The same network in larger blocks: `blocks_per_block` counts the old ones in each new one, and sums to their
        number."""
        if any(n < 1 for n in blocks_per_block) or sum(blocks_per_block) != len(self):
            raise NetworkError(
                "the blocks do not cover the network",
                where=setting("network.blocks"),
                expected=f"positive counts that sum to {len(self)} ({', '.join(self.names)})",
                got=list(blocks_per_block),
            )
        bounds = [sum(blocks_per_block[:i]) for i in range(len(blocks_per_block) + 1)]
        groups = [range(a, b) for a, b in pairwise(bounds)]
        larger = Chain(
            [("+".join(self.names[i] for i in g), _joined([self.builders[i] for i in g])) for g in groups],
            input_shape=self.input_shape,
            num_classes=self.num_classes,
            classifier=self.build_classifier,
            origin=self.origin,
            axes=self.axes,
        )
        larger.recipe = self.recipe and self.recipe.regrouped(blocks_per_block)
        return larger

    def classifier(self) -> nn.Module:
        """The classifier that backpropagation puts after the last block, newly initialised: its output -> [B, K]
        logits."""
        last = self.outputs()[-1]
        if self.build_classifier is not pooled_classifier or last.layout in (None, OutputLayout.AS_IS):
            return self.build_classifier(last.shape, self.num_classes)
        return nn.Sequential(RuleView(last.layout), pooled_classifier(last.layout.shape(last.shape), self.num_classes))

    @classmethod
    @renamed_arguments(cut="layers_per_block")
    def from_sequential(
        cls,
        module: nn.Sequential,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        layers_per_block: Sequence[int] | None = None,
    ) -> Chain:
        """Any `nn.Sequential`. Weights are kept, and so are ties between weights of a block.

        layers_per_block: how many children in a row make each block. Default: each child with weights is one, together
            with the norms, activations, pools and dropouts after it; `joined` of the result says how.

        Raises NetworkError for what is no nn.Sequential or does more than call its children in turn, for a cut that
        does not fit, and for blocks that share a parameter or that `check_sound` refuses.
        """
        if not isinstance(module, nn.Sequential):
            raise no_sequential_error(module)
        check_row(module)
        parts = children(module)
        for name, child in parts:
            check_given(name, child)
        counts = joined(parts) if layers_per_block is None else layers_per_block
        chain = cls(
            [(name, _Given(child)) for name, child in parts],
            input_shape=input_shape,
            num_classes=num_classes,
            axes=declared(module, "of the whole nn.Sequential"),
        )
        if list(counts) != [1] * len(parts):
            chain = chain.regroup(counts)
        chain.joined = describe_joins(parts, counts) if layers_per_block is None else ""
        chain.check_apart()
        return chain


def no_sequential_error(module: object) -> NetworkError:
    """The error, with a remedy, for something else than an `nn.Sequential`."""
    if isinstance(module, (list, tuple, nn.ModuleList)):
        remedy = "nn.Sequential(*layers)"
    elif type(module).__module__.startswith("torchvision."):
        remedy = (
            "ffdist.models.torchvision_chain(net, input_shape=images.shape, num_classes=images.num_classes), for "
            "those it can split"
        )
    elif isinstance(module, nn.Module):
        remedy = "write its parts in a row: nn.Sequential(net.first, net.second, ...), each what goes on to the next"
    else:
        remedy = "give a network that is made: nn.Sequential(...)"
    return NetworkError(
        "a chain is made of an nn.Sequential",
        expected="a Chain or an nn.Sequential",
        got=type(module).__name__ if not isinstance(module, type) else f"the class {module.__name__}",
        remedy=remedy,
    )


def children(module: nn.Sequential) -> list[tuple[str, nn.Module]]:
    """The children by name, in order; what comes several times comes here as often, unlike in `named_children`."""
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
    return _Given(BlockGroup(*given)) if len(given) == len(builders) else _Group(builders)


class RuleView(nn.Module):
    """A module that views a block's output as rules read it: vectors [N, C], tokens [N, T, C] or maps [N, C, H, W]."""

    def __init__(self, layout: OutputLayout) -> None:
        super().__init__()
        self.layout = layout

    def forward(self, x: Tensor) -> Tensor:
        return self.layout.to_images(x)


class BlockGroup(nn.Sequential):
    """Several blocks in a row as one, each under its number in the state: "0.weight" is the first's."""


class _Group:
    """A builder of several blocks as one."""

    def __init__(self, builders: Sequence[Callable[[], nn.Module]]) -> None:
        self.builders = builders

    def __call__(self) -> nn.Module:
        return BlockGroup(*(build() for build in self.builders))


def pooled_classifier(shape: Shape, num_classes: int) -> nn.Module:
    """Mean over space (if there is any), then a linear layer: [B, *shape] -> [B, num_classes]."""
    if len(shape) == 3:
        return nn.Sequential(SpatialMean(), nn.Linear(shape[0], num_classes))
    return nn.Sequential(nn.Flatten(), nn.Linear(int(torch.Size(shape).numel()), num_classes))
