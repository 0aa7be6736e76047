"""The axis of a block's output that holds its channels: as its layers say, or as the block itself does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from functools import partial
from typing import Any, Literal, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ffdist.errors import NetworkError

Axes = Literal["channels_first", "channels_last"]
"""[N, C, ...] or [N, ..., C]: what an attribute `axes` of a block may say of its output."""


class OutputLayout(Enum):
    """The layout of a block's output, and its view for a rule: as vectors [N, C], tokens [N, T, C] or maps [N, C, H,
    W]."""

    AS_IS = "as it is"
    SIGNALS = "[N, C, L], seen as maps [N, C, 1, L]"
    LAST = "[N, H, W, C], seen as maps [N, C, H, W]"

    def to_images(self, y: Tensor) -> Tensor:
        """A block's output as a rule reads it: a view."""
        match self:
            case OutputLayout.SIGNALS:
                return y.unsqueeze(2)
            case OutputLayout.LAST:
                return y.permute(0, 3, 1, 2)
        return y

    def to_next_input(self, y: Tensor) -> Tensor:
        """The inverse of `to_images`: what a rule passes on as the next block takes it."""
        match self:
            case OutputLayout.SIGNALS:
                return y.squeeze(2)
            case OutputLayout.LAST:
                return y.permute(0, 2, 3, 1)
        return y

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of one sample as a rule sees it."""
        return tuple(self.to_images(torch.empty(1, *shape, device="meta")).shape[1:])


def layout_of(shape: Sequence[int], axis: int | None) -> OutputLayout | None:
    """The layout of an output [N, *shape] whose channels are at `axis`; None where that is not known, or is neither
    after the batch nor last."""
    last = len(shape)
    if last not in (2, 3):
        return OutputLayout.AS_IS
    if axis not in (1, last):
        return None
    if last == 2:
        return OutputLayout.SIGNALS if axis == 1 else OutputLayout.AS_IS
    return OutputLayout.AS_IS if axis == 1 else OutputLayout.LAST


def declared(block: nn.Module, name: str) -> Axes | None:
    """The axes that a block declares by an attribute `axes`: "channels_first" or "channels_last".

    Raises NetworkError for another text.
    """
    says = getattr(block, "axes", None)
    if not isinstance(says, str):
        return None
    if says not in ("channels_first", "channels_last"):
        raise NetworkError(
            f"block '{name}' has an attribute `axes` with an unknown value",
            where="its attribute `axes`",
            expected="'channels_first' or 'channels_last'",
            got=says,
        )
    return cast(Axes, says)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


FIRST = _names("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d")
"""Functions whose result has its channels after the batch."""
LAST = _names("""embedding multi_head_attention_forward scaled_dot_product_attention lstm gru rnn_tanh rnn_relu""")
"""Functions whose result has its channels last."""
OVER_LAST = _names("linear bilinear layer_norm rms_norm")
"""The same, unless they were given their channels elsewhere: then they are at work on positions."""
CHANNELWISE = _names("""max_pool1d max_pool2d avg_pool1d avg_pool2d lp_pool1d lp_pool2d adaptive_max_pool1d
                        adaptive_max_pool2d adaptive_avg_pool1d adaptive_avg_pool2d batch_norm instance_norm group_norm
                        interpolate upsample pixel_shuffle pixel_unshuffle local_response_norm channel_shuffle
                        dropout1d dropout2d""")
"""Functions that take what is after the batch for channels."""
MOVES = _names("""transpose permute movedim moveaxis swapaxes swapdims t adjoint __get__ squeeze unsqueeze __getitem__
                  select narrow expand expand_as unbind chunk split tensor_split""")
"""Functions whose result is a view, so that a tensor with strides of its own shows where an axis has gone."""
TURNS = _names("transpose permute movedim moveaxis swapaxes swapdims adjoint __get__")
"""Functions among them that move an axis."""
RESHAPES = _names("reshape view flatten unflatten reshape_as view_as")
PRODUCTS = _names("matmul __matmul__ bmm")
REDUCTIONS = _names("mean sum amax amin max min median mode quantile logsumexp norm std var prod")
LOST = _names("einsum baddbmm addbmm tensordot kron cdist as_strided rot90") | {
    f"{name}_" for name in MOVES | RESHAPES | _names("as_strided resize set")
}
"""Functions whose result may have its channels anywhere."""
UNSURE = -1
"""In place of an axis: turned from what was not known. A linear layer after may mix channels or positions alike."""
STRIDES = (1000003, 1000033, 1000037, 1000039, 1000081, 1000099, 1000117, 1000121)
"""Primes: no axis of a view has the stride of another by chance."""


class AxisTracer(TorchFunctionMode):
    """Follows the axis of the channels through what is computed inside, function by function.

    Convolutions have their channels after the batch; linear layers, layer norms, attention and embeddings have them
    last; transposing and reshaping move them, and what acts on single numbers leaves them where they are.
    """

    def __init__(self, x: Tensor, axis: int | None) -> None:
        super().__init__()
        self.known: dict[int, tuple[Tensor, int | None]] = {id(x): (x, axis)}
        """By identity; the tensors are kept, as the identity of one that is gone may be another's."""
        self.largest = 0
        """Numbers in the largest tensor computed, which is no view."""

    @contextmanager
    def heeding(self, block: nn.Module, name: str) -> Iterator[None]:
        """A context in which a module's own attribute `axes` decides for its output, whatever its layers are."""

        def says(module: nn.Module, _args: object, y: object, axes: Axes) -> None:
            if isinstance(y, Tensor):
                self.known[id(y)] = (y, 1 if axes == "channels_first" else y.dim() - 1)

        hooks = [
            module.register_forward_hook(partial(says, axes=axes))
            for module in block.modules()
            if (axes := declared(module, name))
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def axis(self, y: Tensor) -> int | None:
        """The axis of a tensor's channels; None where that is not known."""
        found = self._followed(y)
        return None if found == UNSURE else found

    def _followed(self, y: Tensor) -> int | None:
        return self.known.get(id(y), (y, None))[1]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        given = [(t, self._followed(t)) for t in tensors((*args, *named.values()))]
        result = func(*args, **named)
        viewed = getattr(func, "__name__", "") in MOVES
        for place, y in enumerate(tensors((result,))):
            self.largest = max(self.largest, 0 if viewed else y.numel())
            self.known[id(y)] = (y, _axis_of(y, place, given, func, args, named))
        return result


Given: TypeAlias = Sequence[tuple[Tensor, int | None]]
"""Tensors that a function was given, and where their channels are."""


def _axis_of(
    y: Tensor, place: int, given: Given, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> int | None:
    """The channels' axis of `y`, a function's result or the part at `place` of it; None where it cannot be known."""
    name = getattr(func, "__name__", "")
    if not given or y.dim() < 2:
        return None
    x, axis = given[0]
    if name in FIRST or func is F.unfold:
        return 1
    if name in CHANNELWISE:
        return 1 if axis in (None, UNSURE, 1) else None
    if name in LAST:
        return y.dim() - 1
    if name in OVER_LAST:
        over_positions = axis not in ((None, UNSURE) if name == "layer_norm" else (None,)) and axis != x.dim() - 1
        return axis if over_positions and y.dim() == x.dim() else y.dim() - 1
    if name == "unfold":
        return axis if axis is not None and kwargs.get("dimension", args[1]) % x.dim() != axis else None
    if x.dim() == 2 < y.dim() and y.dim() < 4 and name in MOVES | RESHAPES:
        return None  # a vector's numbers may become channels as well as positions
    if name in TURNS and axis in (None, UNSURE) and x.dim() == 3:
        return UNSURE
    if axis == UNSURE and name in MOVES | RESHAPES | REDUCTIONS:
        return UNSURE if y.dim() == x.dim() and name in MOVES else None
    if name in RESHAPES:
        return _same_place(x, y, axis)
    if name in PRODUCTS and len(given) == 2:
        return _of_product(y, *given)
    if name in MOVES and axis is not None:
        return _moved_to(x, axis, place, func, args, kwargs)
    if name in REDUCTIONS and y.dim() < x.dim() and axis is not None:
        return _left_of(x, axis, kwargs.get("dim", args[1] if len(args) > 1 else None))
    if name in LOST:
        return None
    alike = {a for t, a in given if a is not None and t.dim() == y.dim()}
    return alike.pop() if len(alike) == 1 else None


def _of_product(y: Tensor, left: tuple[Tensor, int | None], right: tuple[Tensor, int | None]) -> int | None:
    """The channels' axis after a matrix product; a matrix without a batch is weights, which mix the last axis, or the
    one before it."""
    (a, of_a), (b, of_b) = left, right
    last = y.dim() - 1
    if b.dim() == 2 < a.dim() and of_b is None:
        return of_a if of_a not in (None, last) else last
    if a.dim() == 2 < b.dim() and of_a is None:
        return of_b
    return last if of_b == b.dim() - 1 else None


def _moved_to(
    x: Tensor, axis: int, place: int, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> int | None:
    """The place of an axis of `x` in a view of it, found by the strides of another tensor that is viewed alike."""
    if x.dim() > len(STRIDES):
        return None
    marked = torch.empty_strided(x.shape, STRIDES[: x.dim()], device="meta")
    swap = {id(x): marked}
    try:
        views = tensors(
            (func(*(swap.get(id(a), a) for a in args), **{k: swap.get(id(v), v) for k, v in kwargs.items()}),)
        )
    except (RuntimeError, TypeError, IndexError):  # indices of another device, say
        return None
    strides = views[place].stride() if place < len(views) else ()
    found = [a for a, stride in enumerate(strides) if stride % STRIDES[axis] == 0]
    return found[0] if found else None


def _left_of(x: Tensor, axis: int, dims: object) -> int | None:
    """The place of an axis of `x` once the axes in `dims` are removed; None where it is one of them."""
    axes = [dims] if isinstance(dims, int) else dims
    if not isinstance(axes, (tuple, list)) or not all(isinstance(a, int) for a in axes):
        return None
    gone = {a % x.dim() for a in axes}
    return None if axis in gone else axis - sum(a < axis for a in gone)


def tensors(values: Iterable[Any]) -> list[Tensor]:
    """The tensors among the values, also those within tuples and lists."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += tensors(value)
    return found


def _same_place(x: Tensor, y: Tensor, axis: int | None) -> int | None:
    """The axis of `y`, a reshaped `x`, that has the size of x's `axis` and as many numbers after it; or that is made
    of it and its neighbours, as heads and what each gives make tokens' channels."""
    if axis is None:
        return None
    begins, ends = x.shape[axis:].numel(), x.shape[axis + 1 :].numel()
    bounds = {x.shape[a:].numel() for a in range(1, x.dim() + 1)}
    spans = [(a, y.shape[a:].numel(), y.shape[a + 1 :].numel()) for a in range(1, y.dim())]
    places = [a for a, first, last in spans if (first, last) == (begins, ends)]
    if not places and 1 not in y.shape[1:]:
        places = [a for a, first, last in spans if last <= ends < begins <= first and {first, last} <= bounds]
    return places[0] if len(places) == 1 else None
