"""What comes from a strange or broken end is the transport's error: no other, no wait, and no memory taken for it."""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from ffdist.errors import ConfigError, TransportError
from ffdist.pipeline.message import (
    EndOfEpoch,
    EndOfSplit,
    EvalBatch,
    Message,
    Snapshot,
    Stop,
    TrainBatch,
    from_frame,
    to_frame,
)
from ffdist.transport import EdgeContext, shared_memory
from ffdist.transport.base import Edge, Frame
from ffdist.transport.packet_socket import MAX_PENDING, PacketSocket
from ffdist.transport.slots import Slots
from ffdist.transport.wire import decode_header, decode_prelude, encode, encode_hello, from_bytes, payload_end

EDGE = Edge("0-1", timeout=timedelta(seconds=20))
MESSAGES: list[Message] = [
    TrainBatch(3, torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), features=torch.ones(2, 5)),
    EvalBatch("test", torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), scored=["a"]),
    EndOfSplit("train", 0, [{"block": "a", "loss": 0.5}]),
    EndOfEpoch(0, [{"seconds": 1.0}]),
    Snapshot(3, 1, 0, [{"file": "a"}]),
    Stop(),
]
ODD: list[Any] = [
    None,
    True,
    -1,
    2**62,
    2**70,
    1.5,
    float("nan"),
    "",
    "float32",
    "cpu",
    [],
    [[]],
    [2**62] * 3,
    {},
    {"a": 1},
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where in a JSON value something else may be put."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in items for place in places(inner, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(copy[path[0]], path[1:], new)
    return copy


@st.composite
def mutated(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A message's prelude and header, one of them changed: a value of the header, some bytes, or nesting."""
    prelude, header, _ = encode(to_frame(draw(st.sampled_from(MESSAGES))), EDGE, 0)
    how = draw(st.sampled_from(["value", "value", "value", "bytes", "prelude", "nested"]))
    if how == "value":
        content = json.loads(header)
        header = json.dumps(
            replaced(content, draw(st.sampled_from(places(content))), draw(st.sampled_from(ODD)))
        ).encode()
    elif how == "nested":
        header = b"[" * draw(st.sampled_from([10, 100_000]))
    changed = bytearray(prelude if how == "prelude" else header)
    if how in ("bytes", "prelude"):
        for index in draw(st.lists(st.integers(0, len(changed) - 1), min_size=1, max_size=4)):
            changed[index] = draw(st.integers(0, 255))
    return (bytes(changed), header) if how == "prelude" else (prelude, bytes(changed))


@settings(max_examples=400)
@given(sent=mutated())
def test_a_mutated_frame_is_a_message_or_the_transports_error(sent: tuple[bytes, bytes]) -> None:
    try:
        prelude = decode_prelude(sent[0], EDGE, 0)
        header = decode_header(sent[1], prelude, EDGE)
        assert payload_end(spec.nbytes for spec in header.tensors) == prelude.payload_bytes
        assert prelude.payload_bytes < 1 << 20, "memory would be taken for it"
        message = from_frame(
            header.frame([from_bytes(torch.zeros(s.nbytes, dtype=torch.uint8), s) for s in header.tensors])
        )
    except TransportError:
        return
    assert isinstance(message, Message)


@contextmanager
def opened() -> Iterator[tuple[PacketSocket, shared_memory.SharedMemoryReceiver]]:
    """A sender's bare end, and the receiver."""
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    receiver = shared_memory.SharedMemoryReceiver(EDGE, PacketSocket(b))
    with closing(PacketSocket(a)) as bell, closing(receiver):
        yield bell, receiver


def test_a_slot_that_is_not_there_is_the_transports_error() -> None:
    prelude, _, _ = encode(Frame("x"), EDGE, 0)
    with opened() as (bell, receiver):
        bell.send(prelude + b"\0")
        with pytest.raises(TransportError, match="number of a slot"):
            receiver.recv()


def test_a_descriptor_that_is_no_memory_file_is_the_transports_error() -> None:
    with opened() as (bell, receiver), tempfile.TemporaryFile() as empty:
        bell.send(shared_memory.GROWN, [empty.fileno()])
        with pytest.raises(TransportError, match="memory file"):
            receiver.recv()


@pytest.mark.parametrize(("slot", "longer"), [(EDGE.depth + 1, 0), (0, 1 << 40)])
def test_a_frame_beyond_its_slot_is_the_transports_error(slot: int, longer: int) -> None:
    with opened() as (bell, receiver):
        descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
        slots = Slots(descriptor, EDGE.depth + 1, 4096)
        frame = Frame("x", {}, {"x": torch.zeros(4)})
        prelude, header, tensors = encode(frame, EDGE, 0)
        slots.write(0, header, tensors)
        bell.send(shared_memory.GROWN, [descriptor])
        os.close(descriptor)
        far = (int.from_bytes(prelude[-8:], "little") + longer).to_bytes(8, "little")
        bell.send(prelude[:-8] + far + bytes([slot]))
        with pytest.raises(TransportError, match="cannot be read"):
            receiver.recv()


@pytest.mark.skipif(sys.platform != "linux", reason="needs shared memory")
def test_a_limit_of_files_is_named_where_it_keeps_memory_from_being_shared() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sender = shared_memory.SharedMemorySender(EDGE, PacketSocket(a))
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with b, closing(sender), pytest.raises(ConfigError, match=r"got: 4,096 bytes\n.*ulimit -f"):
            sender.send(Frame("x", {}, {"x": torch.zeros(10_000)}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


STRANGERS = {
    "silent": None,
    "gone": b"",
    "http": b"GET / HTTP/1.1",
    "long": b"x" * 4096,
    "an end without the token": encode_hello(EDGE),
    "an end with another token": encode_hello(EDGE, "0" * 32),
    "an end of another kind": encode_hello(EDGE).replace(b'"token":""', b'"token":[]'),
}


@pytest.mark.parametrize("said", STRANGERS.values(), ids=STRANGERS)
def test_a_stranger_of_the_same_user_is_passed_over(said: bytes | None) -> None:
    store = dist.HashStore()
    with ThreadPoolExecutor(1) as pool, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        opening = pool.submit(shared_memory.TRANSPORT.open_receiver, EDGE, EdgeContext(store))
        stranger.connect("\0" + store.get(f"ffdist/{EDGE.name}/{EDGE.attempt}/address").decode())
        if said == b"":
            stranger.close()
        elif said:
            stranger.send(said)
        with closing(shared_memory.TRANSPORT.open_sender(EDGE, EdgeContext(store))) as sender:
            sender.send(Frame("for you"))
            with closing(opening.result()) as receiver:
                assert receiver.recv().kind == "for you"


def test_more_strangers_than_are_held_keep_no_end_out() -> None:
    store = dist.HashStore()
    with ThreadPoolExecutor(1) as pool, ExitStack() as flood:
        opening = pool.submit(shared_memory.TRANSPORT.open_receiver, EDGE, EdgeContext(store))
        address = "\0" + store.get(f"ffdist/{EDGE.name}/{EDGE.attempt}/address").decode()
        for _ in range(2 * MAX_PENDING):
            stranger = flood.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            stranger.connect(address)
        with closing(shared_memory.TRANSPORT.open_sender(EDGE, EdgeContext(store))) as sender:
            sender.send(Frame("for you"))
            with closing(opening.result()) as receiver:
                assert receiver.recv().kind == "for you"


def test_an_end_of_another_edge_is_refused_at_once() -> None:
    store = dist.HashStore()
    with ThreadPoolExecutor(1) as pool, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        opening = pool.submit(shared_memory.TRANSPORT.open_receiver, EDGE, EdgeContext(store))
        other.connect("\0" + store.get(f"ffdist/{EDGE.name}/{EDGE.attempt}/address").decode())
        token = store.get(f"ffdist/{EDGE.name}/{EDGE.attempt}/token").decode()
        other.send(encode_hello(Edge("4-5"), token))
        with pytest.raises(TransportError, match="disagree"):
            opening.result()


def test_memory_that_could_shrink_is_not_taken() -> None:
    with opened() as (bell, receiver):
        descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
        os.truncate(descriptor, 1 << 16)
        bell.send(shared_memory.GROWN, [descriptor])
        with pytest.raises(TransportError, match="memory file"):
            receiver.recv()
        os.close(descriptor)


def test_memory_of_an_edge_cannot_shrink() -> None:
    """A peer that shrank it would end the other by SIGBUS."""
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    Slots(descriptor, EDGE.depth + 1, 4096)
    for size in (0, 1 << 20):
        with pytest.raises(PermissionError):
            os.truncate(descriptor, size)
    os.close(descriptor)
