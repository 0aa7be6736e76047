"""The memory that tensors take, counted storage by storage on a CPU."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(slots=True)
class MemoryPart:
    """A storage at the peak, and what it was for."""

    storage: weakref.ref[torch.UntypedStorage]
    size: int
    label: str


class _Here(threading.local):
    counter: TensorBytes | None = None
    """The one at work in this thread."""


_here = _Here()


class TensorBytes(TorchDispatchMode):
    """Counts the storages that this thread's operations have made or used, as long as anything holds them.

    A storage counts once however many views it has, and for as long as the autograd graph saves it. The peak is looked
    for after every operation. What a kernel needs within itself is not seen, nor what other threads hold alone (the
    loader's batches ahead). `uint8` storages are an edge's. Only storages on `kind` of device count: beside a GPU's
    weights, the host's batch takes none of its memory.
    """

    def __init__(self, kind: str = "cpu") -> None:
        super().__init__()
        self.kind = kind
        self.labels = WeakIdKeyDictionary()
        self.optimizers: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self.peak = 0
        self.at_peak: list[MemoryPart] = []
        self.outer: TensorBytes | None = None
        self.lock = threading.RLock()
        """Held by the thread that counts, where several do."""

    def __enter__(self) -> Self:
        self.outer = _here.counter
        _here.counter = self
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _here.counter = self.outer
        super().__exit__(kind, error, trace)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        with self.lock:
            self.see(leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor))
            self.weigh()
        return out

    def see(self, tensors: Iterable[Tensor]) -> None:
        """Count the storages of these tensors from now on, until they are gone."""
        for tensor in tensors:
            tensor = getattr(tensor, "_local_tensor", tensor)  # of a sharded tensor, this rank's part
            if tensor.device.type == self.kind and tensor.layout == torch.strided:
                storage = tensor.untyped_storage()
                if storage not in self.labels:
                    self.labels[storage] = "queue" if tensor.dtype == torch.uint8 else "activations"

    def mark(self, label: str) -> None:
        """Give all that is alive now a name; weights, gradients and the optimiser's tensors keep theirs."""
        for storage in list(self.labels.keys()):
            self.labels[storage] = label

    def weigh(self) -> None:
        """Look whether more is held than ever before."""
        held = self.held_bytes()
        total = sum(part.size for part in held.values())
        if total > self.peak:
            self.peak = total
            self.at_peak = list(held.values())
            self._name_owners()

    def held_bytes(self) -> dict[int, MemoryPart]:
        """The bytes of storages alive, by address; two storages over the same memory are one."""
        alive = self.labels.items()
        return {s.data_ptr(): MemoryPart(weakref.ref(s), s.nbytes(), label) for s, label in alive if s.nbytes()}

    def reset(self) -> None:
        """Forget the peak."""
        self.peak = 0
        self.at_peak = []
        self.weigh()

    def split(self) -> dict[str, int]:
        """The peak by what it was for."""
        sizes = {"weights": 0, "gradients": 0, "optimiser": 0, "activations": 0, "queue": 0}
        for part in self.at_peak:
            sizes[part.label] += part.size
        return sizes

    def _name_owners(self) -> None:
        """A gradient is its parameter's only when backward is over, so the peak is looked at again before a step."""
        owners: dict[int, str] = {}
        for optimizer in self.optimizers:
            owners |= _owners(optimizer)
        for part in self.at_peak:
            storage = part.storage()
            if storage is not None:
                part.label = owners.get(storage.data_ptr(), part.label)

    def meet(self, optimizer: Optimizer) -> None:
        """Called before each optimiser step of this thread."""
        with self.lock:
            self.optimizers.add(optimizer)
            self._name_owners()


def counter_here() -> TensorBytes | None:
    """The counter of this thread, for `counting`."""
    return _here.counter


@contextmanager
def counting(counter: TensorBytes | None) -> Iterator[None]:
    """A context in which another thread's counter counts this thread's work, too; None: nothing does."""
    if counter is None:
        yield
        return
    _here.counter = counter
    TorchDispatchMode.__enter__(counter)
    try:
        yield
    finally:
        TorchDispatchMode.__exit__(counter, None, None, None)
        _here.counter = None


def before_step(optimizer: Optimizer, args: Any = (), kwargs: Any = None) -> None:
    """Let this thread's counter know whose tensors these are. Steps that call no hooks call it themselves."""
    if _here.counter is not None:
        _here.counter.meet(optimizer)


# Once for all threads: while one of them walks through torch's hooks, before a step, no other may add or remove any.
register_optimizer_step_pre_hook(before_step)


def _owners(optimizer: Optimizer) -> dict[int, str]:
    """Address -> whose it is, of all that belongs to an optimiser's parameters."""
    owners: dict[int, str] = {}
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        for state in optimizer.state.get(parameter, {}).values():
            if isinstance(state, Tensor):
                owners[_address(state)] = "optimiser"
        if parameter.grad is not None:
            owners[_address(parameter.grad)] = "gradients"
        owners[_address(parameter)] = "weights"
    return owners


def _address(tensor: Tensor) -> int:
    return getattr(tensor, "_local_tensor", tensor).untyped_storage().data_ptr()
