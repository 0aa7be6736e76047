"""Devices: the one place that knows what kinds there are.

CUDA, MPS, XPU, and whatever a package of its own brings to torch, go one way, that of `torch.accelerator`: a process
has one kind of accelerator, or none. Where kinds differ for good, it is said here, and nowhere else. A CPU goes the
same way: it has done what it was given when a call returns, so nothing waits for it, and its memory is the process's.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

CPU = torch.device("cpu")
UNIFIED = ("mps",)
"""Kinds whose memory is the host's: copies there wait for nothing, and pinned memory is no faster."""
COLLECTIVES = {"cuda": "nccl", "xpu": "xccl"}
"""What torch.distributed sends tensors by between two devices of a kind; other kinds register theirs with torch."""


class Accelerators(NamedTuple):
    """The accelerators that this process sees."""

    kind: str | None
    """ "cuda", "mps", "xpu", ..., None where there is none."""
    number: int


def seen() -> Accelerators:
    """Those that this process sees. No device is set up for it."""
    here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return Accelerators(here.type, torch.accelerator.device_count()) if here else Accelerators(None, 0)


def may_need_driver(device: str) -> bool:
    """True if work on this device, or on "auto", may need a driver: what one has opened does not outlive a fork. It is
    not asked itself: that opens it."""
    if device == "cpu":
        return False
    kind = torch.accelerator.current_accelerator()  # as torch was built, whether there is one or not
    if kind is None or device != "auto":
        return kind is not None
    return kind.type != "cuda" or Path("/dev/kfd").exists() or any(Path("/dev").glob("nvidia[0-9]*"))


def parsed(name: str) -> tuple[str, int | None]:
    """ "cuda:1" as ("cuda", 1), "cuda" as ("cuda", None)."""
    kind, colon, number = name.partition(":")
    return kind, int(number) if colon else None


def holds_values(kind: str) -> bool:
    """True if tensors on this kind of device have any."""
    return kind.isidentifier() and kind != "meta"


def queues(device: torch.device) -> bool:
    """True if work is queued there, and the host runs ahead of it."""
    return device.type != "cpu"


def enter(device: torch.device) -> None:
    """Make the device the current one of this process and thread, for what a user's rule or block leaves to torch;
    threads begin on the first one, and would take memory there."""
    if queues(device):
        torch.accelerator.set_device_index(device)


def allow_tf32(device: torch.device) -> bool:
    """Allow TF32 in float32 products of this process's accelerators from here on; False where the kind has none."""
    has_precision = hasattr(torch.backends, "fp32_precision")  # from torch 2.9 on
    if device.type == "cuda" and has_precision:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        torch.backends.cudnn.conv.fp32_precision = "tf32"  # pyright: ignore[reportAttributeAccessIssue]
    elif device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    elif device.type == "xpu" and has_precision:
        torch.backends.mkldnn.matmul.fp32_precision = "tf32"  # pyright: ignore[reportAttributeAccessIssue]
        torch.backends.mkldnn.conv.fp32_precision = "tf32"  # pyright: ignore[reportAttributeAccessIssue]
    return device.type == "cuda" or (device.type == "xpu" and has_precision)


def synchronize(device: torch.device) -> None:
    """Wait until it has done what it was given; a CPU has."""
    if queues(device):
        torch.accelerator.synchronize(device)


def new_stream(device: torch.device) -> torch.Stream | None:
    """A stream beside the current one; None for a CPU, which has none."""
    return torch.Stream(device) if queues(device) else None


def on_stream(stream: torch.Stream | None) -> AbstractContextManager[Any]:
    """A context in which work goes to this stream; None: to the current one."""
    return nullcontext() if stream is None else stream


def use_on_current_stream(tensor: Tensor) -> None:
    """The memory of an accelerator's tensor, of another stream, is used again only after what the current one does."""
    if queues(tensor.device):
        tensor.record_stream(torch.accelerator.current_stream(tensor.device))


def recorded(device: torch.device, *, timing: bool = False, blocking: bool = False) -> torch.Event:
    """An event after all that the current stream of an accelerator has been given so far.

    timing: for `elapsed_time`. blocking: a thread that waits for it sleeps; where the kind cannot, it spins.
    """
    if blocking and device.type == "cuda":  # torch.Event knows of no such thing
        event: Any = torch.cuda.Event(enable_timing=timing, blocking=True)
    else:
        event = torch.Event(device, enable_timing=timing)
    event.record(torch.accelerator.current_stream(device))
    return event


def seconds_between(first: torch.Event, last: torch.Event) -> float:
    """Seconds from one event to a later one of the same device, both recorded for timing; waits for the later one."""
    last.synchronize()
    return first.elapsed_time(last) / 1000


def copied(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; the host goes on where it can. To an accelerator by pinned memory, which torch uses
    again when the copy is over: from any other, the host may have to wait until the device has done all it was given.
    """
    if device.type in UNIFIED or not queues(device):
        return tensor.to(device)
    if tensor.device.type == "cpu" and _pins(device.type):
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A small tensor on the device, from memory as it is, which is not pinned first."""
    return tensor.to(device, non_blocking=device.type not in UNIFIED)


@cache
def _pins(kind: str) -> bool:
    """True if host memory can be pinned for this kind; a package's kind need not."""
    if kind in COLLECTIVES:
        return True
    try:
        return torch.empty(1).pin_memory().is_pinned()
    except RuntimeError:
        return False


def allocated_bytes(device: torch.device) -> int:
    """Bytes of tensors on an accelerator, now; 0 on a CPU, whose memory is the process's."""
    if not queues(device):
        return 0
    if device.type == "mps":
        return torch.mps.current_allocated_memory()
    return _memory("memory_allocated", device)(device)


def peak_bytes(device: torch.device) -> int:
    """The most that tensors on an accelerator took since `forget_peak`; 0 on a CPU. Metal tells no peak: there it is
    what its driver holds for this process, which grows and does not shrink."""
    if not queues(device):
        return 0
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    return _memory("max_memory_allocated", device)(device)


def forget_peak(device: torch.device) -> None:
    """The peak begins anew, at what is allocated now."""
    if queues(device) and device.type != "mps":
        _memory("reset_peak_memory_stats", device)(device)


def free_cached(device: torch.device) -> None:
    """Give memory back that torch keeps for later tensors."""
    if device.type == "mps":
        torch.mps.empty_cache()
    elif queues(device):
        _memory("empty_cache", device)()


def _memory(name: str, device: torch.device) -> Callable[..., Any]:
    """The function of `torch.accelerator` of that name, from torch 2.9 on; before that the kind's own, of the same
    name."""
    return getattr(torch.accelerator, name, None) or getattr(torch.get_device_module(device), name)


def total_bytes(device: torch.device) -> int:
    """All the memory of an accelerator. 0 where its kind does not tell."""
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    return getattr(_properties(device), "total_memory", 0)


def wide(device: torch.device) -> torch.dtype:
    """The dtype of sums over an epoch: float64, where the device can; Metal and some of Intel's cannot."""
    lacks = device.type == "mps" or (device.type == "xpu" and not getattr(_properties(device), "has_fp64", True))
    return torch.float32 if lacks else torch.float64


def seed_generators(device: torch.device | None, seed: int) -> None:
    """Torch's default generators, the CPU's and the device's, start from `seed`."""
    torch.default_generator.manual_seed(seed)
    if device is not None and queues(device):
        with _current(device):
            torch.get_device_module(device).manual_seed(seed)


def generator_states(device: torch.device | None) -> list[Tensor]:
    """States of torch's default generators, the CPU's and the device's."""
    states = [torch.get_rng_state()]
    if device is not None and queues(device):
        states.append(torch.get_device_module(device).get_rng_state(device))
    return states


def set_generator_states(states: list[Tensor], device: torch.device | None) -> None:
    """The inverse of `generator_states`."""
    torch.set_rng_state(states[0])
    if device is not None and queues(device):
        torch.get_device_module(device).set_rng_state(states[1], device)


@contextmanager
def _current(device: torch.device) -> Iterator[None]:
    """An accelerator is the current one inside; after it the one before."""
    before = torch.accelerator.current_device_index()
    torch.accelerator.set_device_index(device)
    try:
        yield
    finally:
        torch.accelerator.set_device_index(before)


def collective(device: torch.device) -> str | None:
    """torch.distributed's backend that joins two devices of this kind ("nccl"); None: tensors go by host memory."""
    if not queues(device):
        return None
    name = COLLECTIVES.get(device.type) or dist.Backend.default_device_backend_map.get(device.type, "gloo")
    return name if name != "gloo" and dist.is_backend_available(name) else None


def joint_backend(collective: str) -> str:
    """The backend of a process group with tensors on CPUs and on the devices that it joins, such as
    "cpu:gloo,cuda:nccl": of a group every rank says the same, those that are not in it and have no such device, too."""
    backends = dist.Backend.default_device_backend_map | COLLECTIVES
    kinds = [kind for kind, name in backends.items() if name == collective]
    return ",".join(["cpu:gloo", *(f"{kind}:{collective}" for kind in kinds)])


def group_backend(device: torch.device) -> str:
    """The backend of a process group whose tensors are on a CPU or on such a device: "gloo", or
    "cpu:gloo,cuda:nccl"."""
    own = collective(device)
    return joint_backend(own) if own else "gloo"


def name_of(device: torch.device) -> str:
    """The device's name, as its maker calls it."""
    return getattr(_properties(device), "name", None) or str(device)


def identity(device: torch.device) -> str:
    """A name of an accelerator, the same in every process that sees it: each may see them under numbers of its own."""
    if not queues(device):
        return str(device)
    uuid = getattr(_properties(device), "uuid", None)
    return f"{device.type}:{uuid or f'{platform.node()}/{device.index or 0}'}"


def all_seen() -> list[torch.device]:
    """Every accelerator that this process sees."""
    kind, count = seen()
    return [torch.device(kind, index) for index in range(count)] if kind else []


def _properties(device: torch.device) -> Any:
    """The device's properties by the kind's module in torch; None where it has none."""
    if not queues(device):
        return None
    properties = getattr(torch.get_device_module(device), "get_device_properties", None)
    return properties(device) if properties else None
