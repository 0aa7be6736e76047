"""The two ends of an edge in each law: functions of a place and an end, run in a process each."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ffdist.errors import PeerLostError, TransportError
from ffdist.transport.base import Edge, Frame, Receiver, Sender
from ffdist.transport.contract.processes import ContractRank
from ffdist.transport.wire import ALIGNMENT, DTYPES, as_bytes, is_dense

EDGE = Edge("0-1", depth=2, timeout=timedelta(seconds=30))
A_MOMENT = timedelta(seconds=0.3)
"""How long something is watched that must not happen."""

# What travels arrives, in order, as it was.


def print_of(tensor: Tensor) -> tuple[Any, ...]:
    """All that must arrive: dtype, shape, strides, bits, and that there is no graph."""
    bits = hashlib.sha256(as_bytes(tensor).numpy().tobytes()).hexdigest()
    return str(tensor.dtype), tuple(tensor.shape), tensor.stride(), bits, tensor.requires_grad


def layouts() -> dict[str, Tensor]:
    """Tensors of all layouts, some not dense."""
    x = torch.randn(4, 6, 5, 3, generator=torch.Generator().manual_seed(1))
    return {
        "contiguous": x,
        "channels last": x.to(memory_format=torch.channels_last),
        "one channel, channels last": x[:, :1].contiguous().to(memory_format=torch.channels_last),
        "transposed": x[0, 0].t(),
        "batch of one": x[1:2],
        "sliced": x[:, ::2, 1:],
        "expanded": x[:1].expand(4, 6, 5, 3),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 7),
        "empty slice": x[:, :, :0],
        "conjugated": torch.complex(x, x).conj(),
        "with a graph": (x.clone().requires_grad_() * 2),
        "parameter": torch.nn.Parameter(x[0, 0]),
    }


def all_dtypes() -> dict[str, Tensor]:
    bits = torch.arange(1, 129, dtype=torch.uint8) % 2  # that any dtype can have, bool too
    return {name: bits.clone().view(dtype).view(2, -1) for name, dtype in DTYPES.items()}


def expected_print(tensor: Tensor) -> tuple[Any, ...]:
    tensor = tensor.detach().resolve_conj()
    return print_of(tensor if is_dense(tensor.shape, tensor.stride()) else tensor.contiguous())


def send_each(place: ContractRank, sender: Sender, frames: Callable[[], list[Frame]]) -> None:
    for frame in frames():
        sender.send(frame)


def recv_prints(place: ContractRank, receiver: Receiver, frames: Callable[[], list[Frame]]) -> list[Any]:
    """Keeps every frame until all are here: none may change when later ones come."""
    kept = [receiver.recv() for _ in frames()]
    return [(f.kind, f.fields, {name: print_of(t) for name, t in f.tensors.items()}) for f in kept]


def odd_frames() -> list[Frame]:
    fields = {"step": 7, "loss": 0.1, "nan": float("inf"), "none": None, "blocks": [{"name": "ä", "ok": True}]}
    return [Frame("layouts", fields, layouts()), Frame("dtypes", {}, all_dtypes()), Frame("marker"), Frame("", {"": 0})]


def growing_frames() -> list[Frame]:
    """Batches with a smaller last one, markers between, and now and then a frame larger than all before."""
    generator = torch.Generator().manual_seed(2)
    rows = [128, 128, 40, 0, 129, 1, 1000, 1000, 3, 5000, 40, 5000]
    frames = []
    for step, num in enumerate(rows):
        x = torch.randn(num, 64, generator=generator).bfloat16()
        frames += [Frame("batch", {"step": step}, {"x": x, "y": torch.arange(num)}), Frame("marker", {"step": step})]
    return frames


def recv_addresses(place: ContractRank, receiver: Receiver, frames: Callable[[], list[Frame]]) -> list[int]:
    return [tensor.data_ptr() % ALIGNMENT for _ in frames() for tensor in receiver.recv().tensors.values()]


def send_sparse_then_marker(place: ContractRank, sender: Sender) -> tuple[str, None]:
    with pytest.raises(TransportError) as caught:
        sender.send(Frame("x", {}, {"bad": torch.eye(3).to_sparse()}))
    sender.send(Frame("marker"))
    return caught.value.what, None


def recv_one(place: ContractRank, receiver: Receiver) -> str:
    return receiver.recv().kind


SIZES = (1, 1 << 10, (1 << 20) + 1, 1 << 28, 1)
"""Bytes of messages, one after the other."""


def message(size: int) -> Tensor:
    """Bytes that tell where they belong."""
    return torch.arange(251, dtype=torch.uint8).repeat(size // 251 + 1)[:size]


def send_sizes(place: ContractRank, sender: Sender, sizes: tuple[int, ...]) -> None:
    for size in sizes:
        sender.send(Frame("x", {}, {"x": message(size)}))


def recv_sizes(place: ContractRank, receiver: Receiver, sizes: tuple[int, ...]) -> list[bool]:
    """Receive messages of these sizes; for each, True if it is as it was sent."""
    return [torch.equal(receiver.recv().tensors["x"], message(size)) for size in sizes]


SLOWLY = 0.01
"""Seconds that a receiver takes for a frame which is sent in a hundredth of it."""


def send_fast(place: ContractRank, sender: Sender, frames: int) -> float:
    """Send as fast as may be, and return the seconds that it waited for room."""
    for step in range(frames):
        sender.send(Frame("x", {"step": step}, {"x": torch.ones(16)}))
    return sender.waited


def recv_slowly(place: ContractRank, receiver: Receiver, frames: int) -> list[int]:
    got = list[int]()
    for _ in range(frames):
        got.append(receiver.recv().fields["step"])
        time.sleep(SLOWLY)
    return got


# An edge holds `depth` frames, no more and no fewer.


def fill_then_one_more(place: ContractRank, sender: Sender, depth: int, rounds: int) -> float:
    """Each round: `depth` sends that return, posted as "full"; then one more, posted as "went on" when it returns.
    Returns the seconds waited for room."""
    for i in range(rounds):
        place.await_posted(f"empty {i}")
        for _ in range(depth):
            sender.send(Frame("x", {}, {"x": torch.ones(100_000)}))
        place.post(f"full {i}")
        sender.send(Frame("one more"))
        place.post(f"went on {i}")
    return sender.waited


def watch_then_empty(place: ContractRank, receiver: Receiver, depth: int, rounds: int) -> list[tuple[bool, bool, bool]]:
    """Each round, whether `depth` sends returned, whether one more did before a recv, and whether it did after one."""
    seen = []
    for i in range(rounds):
        place.post(f"empty {i}")
        full = place.await_posted(f"full {i}")
        early = place.await_posted(f"went on {i}", A_MOMENT)
        receiver.recv()
        seen.append((full, early, place.await_posted(f"went on {i}")))
        for _ in range(depth):
            receiver.recv()
    return seen


def send_while_one_is_held(place: ContractRank, sender: Sender, depth: int) -> None:
    for i in range(1 + depth):
        sender.send(Frame("x", {}, {"x": torch.full((100_000,), float(i))}))
        if i == 0:
            assert place.await_posted("held")
    place.post("full")


def hold_the_first(place: ContractRank, receiver: Receiver, depth: int) -> tuple[bool, list[list[float]]]:
    """True if the edge took `depth` frames while a received tensor was held; and the values of all at the end."""
    held = [receiver.recv().tensors["x"]]
    place.post("held")
    full = place.await_posted("full")
    held += [receiver.recv().tensors["x"] for _ in range(depth)]
    return full, [x.unique().tolist() for x in held]


def send_when_asked(place: ContractRank, sender: Sender) -> None:
    place.await_posted("asking")
    sender.send(Frame("x"))


def ask_and_recv(place: ContractRank, receiver: Receiver) -> float:
    place.post("asking")
    receiver.recv()
    return receiver.waited


def wait_and_recv(place: ContractRank, receiver: Receiver) -> int:
    """Frames that lay there when `recv` was called, where the sender sends only afterwards."""
    asking = threading.Timer(A_MOMENT.total_seconds(), place.post, ["asking"])
    asking.start()
    receiver.recv()
    asking.join()
    return receiver.queued


def recv_what_lies_there(place: ContractRank, receiver: Receiver, depth: int) -> int:
    assert place.await_posted("closed", EDGE.timeout / 2)
    receiver.recv()
    return receiver.queued


MANY = 200


def send_many(place: ContractRank, sender: Sender, warm: int) -> int:
    return _growth(warm, lambda: sender.send(Frame("x", {}, {"x": torch.ones(1 << 20, dtype=torch.uint8)})))


def recv_many(place: ContractRank, receiver: Receiver, warm: int) -> int:
    return _growth(warm, receiver.recv)


def _growth(warm: int, act: Callable[[], object]) -> int:
    """Resident bytes that came with MANY acts after the first `warm`."""
    for _ in range(warm):
        act()
    before = _resident_bytes()
    for _ in range(MANY):
        act()
    return _resident_bytes() - before


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# An end that closes.


def send_depth_and_close(place: ContractRank, sender: Sender, depth: int) -> None:
    for i in range(depth):
        sender.send(Frame("x", {"i": i}, {"x": torch.full((100_000,), float(i))}))
    sender.close()
    sender.close()
    place.post("closed")


def recv_after_close(place: ContractRank, receiver: Receiver, depth: int) -> tuple[list[Any], list[str]]:
    assert place.await_posted("closed", EDGE.timeout / 2)
    frames = [receiver.recv() for _ in range(depth)]
    got = [(frame.fields["i"], frame.tensors["x"].unique().tolist()) for frame in frames]
    return got, [_lost(receiver.recv), _lost(receiver.recv)]


def _lost(act: Callable[[], object]) -> str:
    with pytest.raises(PeerLostError) as caught:
        act()
    return str(caught.value)


def send_for_ever(place: ContractRank, sender: Sender) -> str:
    def act() -> None:
        while True:
            sender.send(Frame("x", {}, {"x": torch.ones(1000)}))

    place.post("sending")
    error = _lost(act)
    sender.close()
    return error


def close_early(place: ContractRank, receiver: Receiver) -> str:
    """Close while the sender sends on; the error of a `recv` on the closed end."""
    assert place.await_posted("sending")
    receiver.recv()
    receiver.close()
    receiver.close()
    return _lost(receiver.recv)


def do_nothing(place: ContractRank, end: Sender | Receiver) -> None:
    pass


# An end that is silent, killed, or not the right one.


def send_into_silence(place: ContractRank, sender: Sender) -> None:
    try:
        for _ in range(3):
            sender.send(Frame("x"))
    finally:
        place.post("done")


def recv_from_silence(place: ContractRank, receiver: Receiver) -> None:
    try:
        receiver.recv()
    finally:
        place.post("done")


def keep_silent(place: ContractRank, end: Sender | Receiver) -> None:
    assert place.await_posted("done")


def die(place: ContractRank, end: Sender | Receiver) -> None:
    """SIGKILL, once the other end says that it is about to block."""
    assert place.await_posted("about to block")
    os.kill(os.getpid(), signal.SIGKILL)


def send_until_error(place: ContractRank, sender: Sender) -> None:
    sender.send(Frame("x", {}, {"x": torch.ones(100_000)}))
    sender.send(Frame("x", {}, {"x": torch.ones(100_000)}))
    place.post("about to block")
    sender.send(Frame("x"))


def recv_until_error(place: ContractRank, receiver: Receiver) -> None:
    place.post("about to block")
    receiver.recv()


def send_and_die(place: ContractRank, sender: Sender) -> None:
    for i in range(2):
        sender.send(Frame("x", {"i": i}, {"x": torch.full((1_000_000,), i)}))
    os.kill(os.getpid(), signal.SIGKILL)


def recv_what_is_left(place: ContractRank, receiver: Receiver) -> tuple[list[Any], str]:
    """The frames that come from a sender that is killed, and the error after them."""
    got: list[Any] = []

    def act() -> None:
        while True:
            frame = receiver.recv()
            got.append((frame.fields["i"], frame.tensors["x"].unique().tolist()))

    return got, _lost(act)
