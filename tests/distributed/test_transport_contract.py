"""The one contract that every transport keeps: `local` between threads, the others between real processes.

A law is two functions, one for each end of an edge; `Pair.run` opens the edge, runs both at once, and checks that
closing gives back every descriptor and thread.
"""

from __future__ import annotations

import gc
import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from harness import Crew, Outcome, Place
from torch import Tensor

from ffdist.errors import PeerLostError, PeerTimeoutError, TransportError
from ffdist.transport import Edge, Frame, Receiver, Sender, open_local, process_group, shared_memory
from ffdist.transport.wire import ALIGNMENT, DTYPES, as_bytes, is_dense

pytestmark = pytest.mark.distributed

EDGE = Edge("0-1", depth=2, timeout=timedelta(seconds=30))
A_MOMENT = timedelta(seconds=0.3)
"""How long something is watched that must not happen."""

Side = Callable[..., Any]


class Pair:
    """Runs the two sides of a law over one transport."""

    def __init__(self, transport: str, crew: Crew) -> None:
        self.transport, self.crew = transport, crew

    def run(self, upstream: Side, downstream: Side, *args: Any, edge: Edge = EDGE, edges: Any = None) -> list[Outcome]:
        """Call `upstream(place, sender, *args)` and `downstream(place, receiver, *args)`; `edges` where they differ."""
        edges = edges or (edge, edge)
        if self.transport != "local":
            return self.crew.run(_in_process, self.transport, edges, (upstream, downstream), args,
                                 gloo=self.transport == "gloo")  # fmt: skip
        store, ends = dist.HashStore(), open_local(edge)
        with ThreadPoolExecutor(2) as pool:
            sides = zip(range(2), ends, (upstream, downstream), strict=True)
            return list(pool.map(lambda side: _outcome(Place(side[0], 2, store), *side[1:], args), sides))

    def values(self, *args: Any, **kwargs: Any) -> list[Any]:
        return [outcome.unwrap() for outcome in self.run(*args, **kwargs)]


def _outcome(place: Place, end: Sender | Receiver, side: Side, args: tuple[Any, ...]) -> Outcome:
    try:
        return Outcome(value=side(place, end, *args))
    except TransportError as error:
        return Outcome(error=error)
    finally:
        end.close()


def _in_process(place: Place, transport: str, edges: Any, sides: Any, args: tuple[Any, ...]) -> Any:
    group = process_group.new_edge_group(0, 1, EDGE.timeout) if transport == "gloo" else None
    place.tell(f"rank {place.rank} is here")
    assert place.hear(f"rank {1 - place.rank} is here")  # so that an edge's timeout measures the edge
    before = _held()
    end = _open(transport, edges[place.rank], place, group)
    outcome = _outcome(place, end, sides[place.rank], args)
    gc.collect()  # a tensor in a caught error's frames may still hold the memory it lies in
    left = _held() - before
    assert not left, f"left behind after close: {left}"
    return outcome.unwrap()


def _open(transport: str, edge: Edge, place: Place, group: dist.ProcessGroup | None) -> Sender | Receiver:
    if transport == "shared_memory":
        return (shared_memory.open_sender, shared_memory.open_receiver)[place.rank](edge, place.store)
    assert group is not None
    return (process_group.open_sender, process_group.open_receiver)[place.rank](edge, group)


def _held() -> set[Any]:
    """This process's threads and open descriptors."""
    descriptors = {int(name) for name in os.listdir("/proc/self/fd")}
    return {*threading.enumerate(), *(d for d in descriptors if _is_open(d))}


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:  # the one that listed the others
        return False
    return True


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    with Crew(2) as crew:
        yield crew


@pytest.fixture(params=["local", "shared_memory", "gloo"])
def pair(request: pytest.FixtureRequest, crew: Crew) -> Pair:
    return Pair(request.param, crew)


@pytest.fixture(params=["shared_memory", "gloo"])
def processes(request: pytest.FixtureRequest, crew: Crew) -> Pair:
    return Pair(request.param, crew)


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


def send_each(place: Place, sender: Sender, frames: Callable[[], list[Frame]]) -> None:
    for frame in frames():
        sender.send(frame)


def recv_prints(place: Place, receiver: Receiver, frames: Callable[[], list[Frame]]) -> list[Any]:
    """Keeps every frame until all are here: none may change when later ones come."""
    kept = [receiver.recv() for _ in frames()]
    return [(f.kind, f.fields, {name: print_of(t) for name, t in f.tensors.items()}) for f in kept]


def odd_frames() -> list[Frame]:
    fields = {"step": 7, "loss": 0.1, "nan": float("inf"), "none": None, "blocks": [{"name": "ä", "ok": True}]}
    return [Frame("layouts", fields, layouts()), Frame("dtypes", {}, all_dtypes()), Frame("marker"), Frame("", {"": 0})]


def test_any_dtype_shape_and_layout_arrives_with_its_bits_and_strides(pair: Pair) -> None:
    _, got = pair.values(send_each, recv_prints, odd_frames)
    for (kind, fields, prints), sent in zip(got, odd_frames(), strict=True):
        assert (kind, fields) == (sent.kind, sent.fields)
        assert prints == {name: expected_print(t) for name, t in sent.tensors.items()}


def growing_frames() -> list[Frame]:
    """Batches with a smaller last one, markers between, and now and then a frame larger than all before."""
    generator = torch.Generator().manual_seed(2)
    rows = [128, 128, 40, 0, 129, 1, 1000, 1000, 3, 5000, 40, 5000]
    frames = []
    for step, num in enumerate(rows):
        x = torch.randn(num, 64, generator=generator).bfloat16()
        frames += [Frame("batch", {"step": step}, {"x": x, "y": torch.arange(num)}), Frame("marker", {"step": step})]
    return frames


@pytest.mark.parametrize("depth", [1, 3])
def test_frames_of_any_size_arrive_in_order_and_never_change_afterwards(pair: Pair, depth: int) -> None:
    _, got = pair.values(send_each, recv_prints, growing_frames, edge=replace(EDGE, depth=depth))
    sent = [(f.kind, f.fields, {name: expected_print(t) for name, t in f.tensors.items()}) for f in growing_frames()]
    assert got == sent


def recv_addresses(place: Place, receiver: Receiver, frames: Callable[[], list[Frame]]) -> list[int]:
    return [tensor.data_ptr() % ALIGNMENT for _ in frames() for tensor in receiver.recv().tensors.values()]


def test_received_tensors_are_aligned_as_those_that_torch_allocates(processes: Pair) -> None:
    _, offsets = processes.values(send_each, recv_addresses, growing_frames)
    assert set(offsets) == {0}


def test_a_tensor_that_cannot_travel_is_refused_and_the_edge_goes_on(pair: Pair) -> None:
    (what, _), got = pair.values(send_sparse_then_marker, recv_one)
    assert "'bad' cannot travel" in what
    assert got == "marker"


def send_sparse_then_marker(place: Place, sender: Sender) -> tuple[str, None]:
    with pytest.raises(TransportError) as caught:
        sender.send(Frame("x", {}, {"bad": torch.eye(3).to_sparse()}))
    sender.send(Frame("marker"))
    return caught.value.what, None


def recv_one(place: Place, receiver: Receiver) -> str:
    return receiver.recv().kind


# An edge holds `depth` frames, no more and no fewer.


def fill_then_one_more(place: Place, sender: Sender, depth: int, rounds: int) -> float:
    """Each round: `depth` sends that return, told as "full"; then one in a thread, told as "went on"."""
    for i in range(rounds):
        place.hear(f"empty {i}")
        for _ in range(depth):
            sender.send(Frame("x", {}, {"x": torch.ones(100_000)}))
        place.tell(f"full {i}")
        sender.send(Frame("one more"))
        place.tell(f"went on {i}")
    return sender.waited


def watch_then_empty(place: Place, receiver: Receiver, depth: int, rounds: int) -> list[tuple[bool, bool, bool]]:
    seen = []
    for i in range(rounds):
        place.tell(f"empty {i}")
        full = place.hear(f"full {i}")
        early = place.hear(f"went on {i}", A_MOMENT)
        receiver.recv()
        seen.append((full, early, place.hear(f"went on {i}")))
        for _ in range(depth):
            receiver.recv()
    return seen


def send_while_one_is_held(place: Place, sender: Sender, depth: int) -> None:
    for i in range(1 + depth):
        sender.send(Frame("x", {}, {"x": torch.full((100_000,), float(i))}))
        if i == 0:
            assert place.hear("held")
    place.tell("full")


def hold_the_first(place: Place, receiver: Receiver, depth: int) -> tuple[bool, list[list[float]]]:
    held = [receiver.recv().tensors["x"]]
    place.tell("held")
    full = place.hear("full")
    held += [receiver.recv().tensors["x"] for _ in range(depth)]
    return full, [x.unique().tolist() for x in held]


@pytest.mark.parametrize("depth", [2, 3])
def test_a_frame_in_use_takes_no_room_from_the_edge_and_keeps_its_values(pair: Pair, depth: int) -> None:
    _, (full, values) = pair.values(send_while_one_is_held, hold_the_first, depth, edge=replace(EDGE, depth=depth))
    assert full
    assert values == [[float(i)] for i in range(depth + 1)]


@pytest.mark.parametrize("depth", [1, 3])
def test_exactly_depth_sends_return_before_a_recv_and_one_more_with_each(pair: Pair, depth: int) -> None:
    waited, seen = pair.values(fill_then_one_more, watch_then_empty, depth, 2, edge=replace(EDGE, depth=depth))
    assert seen == [(True, False, True)] * 2
    assert waited > 0


def send_when_asked(place: Place, sender: Sender) -> None:
    place.hear("asking")
    sender.send(Frame("x"))


def ask_and_recv(place: Place, receiver: Receiver) -> float:
    place.tell("asking")
    receiver.recv()
    return receiver.waited


def test_a_receiver_counts_the_seconds_it_waited_for_data(pair: Pair) -> None:
    assert pair.values(send_when_asked, ask_and_recv)[1] > 0


def wait_and_recv(place: Place, receiver: Receiver) -> int:
    asking = threading.Timer(A_MOMENT.total_seconds(), place.tell, ["asking"])
    asking.start()
    receiver.recv()
    asking.join()
    return receiver.queued


def recv_what_lies_there(place: Place, receiver: Receiver, depth: int) -> int:
    assert place.hear("closed", EDGE.timeout / 2)
    receiver.recv()
    return receiver.queued


def test_a_receiver_counts_the_frames_that_lay_in_the_queue(pair: Pair) -> None:
    assert pair.values(send_when_asked, wait_and_recv)[1] == 0
    assert pair.values(send_depth_and_close, recv_what_lies_there, 3, edge=replace(EDGE, depth=3))[1] == 3


MANY, WARM = 200, 20


def send_many(place: Place, sender: Sender) -> int:
    return _growth(lambda: sender.send(Frame("x", {}, {"x": torch.ones(1 << 20, dtype=torch.uint8)})))


def recv_many(place: Place, receiver: Receiver) -> int:
    return _growth(receiver.recv)


def _growth(act: Callable[[], object]) -> int:
    """Resident bytes that came with MANY acts after the first WARM."""
    for _ in range(WARM):
        act()
    before = _resident_bytes()
    for _ in range(MANY):
        act()
    return _resident_bytes() - before


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_does_not_grow_with_the_number_of_frames(pair: Pair) -> None:
    assert max(pair.values(send_many, recv_many)) < MANY * (1 << 20) / 10


# An end that closes.


def send_depth_and_close(place: Place, sender: Sender, depth: int) -> None:
    for i in range(depth):
        sender.send(Frame("x", {"i": i}, {"x": torch.full((100_000,), float(i))}))
    sender.close()
    sender.close()
    place.tell("closed")


def recv_after_close(place: Place, receiver: Receiver, depth: int) -> tuple[list[Any], list[str]]:
    assert place.hear("closed", EDGE.timeout / 2)
    frames = [receiver.recv() for _ in range(depth)]
    got = [(frame.fields["i"], frame.tensors["x"].unique().tolist()) for frame in frames]
    return got, [_lost(receiver.recv), _lost(receiver.recv)]


def _lost(act: Callable[[], object]) -> str:
    with pytest.raises(PeerLostError) as caught:
        act()
    return str(caught.value)


def test_close_waits_for_no_recv_and_delivers_what_was_accepted(pair: Pair) -> None:
    _, (got, errors) = pair.values(send_depth_and_close, recv_after_close, 3, edge=replace(EDGE, depth=3))
    assert got == [(i, [float(i)]) for i in range(3)]
    for error in errors:
        assert "the sender closed the edge" in error
        assert "edge 0-1" in error
        assert "frame 3" in error


def send_for_ever(place: Place, sender: Sender) -> str:
    def act() -> None:
        while True:
            sender.send(Frame("x", {}, {"x": torch.ones(1000)}))

    place.tell("sending")
    error = _lost(act)
    sender.close()
    return error


def close_early(place: Place, receiver: Receiver) -> str:
    assert place.hear("sending")
    receiver.recv()
    receiver.close()
    receiver.close()
    return _lost(receiver.recv)


def test_a_sender_learns_that_the_receiver_has_closed(pair: Pair) -> None:
    theirs, own = pair.values(send_for_ever, close_early)
    assert "the receiver" in theirs
    assert "edge 0-1" in theirs
    assert "closed" in own


def do_nothing(place: Place, end: Sender | Receiver) -> None:
    pass


def test_an_edge_that_was_never_used_closes(pair: Pair) -> None:
    pair.values(do_nothing, do_nothing)


# An end that is silent, killed, or not the right one.


def send_into_silence(place: Place, sender: Sender) -> None:
    try:
        for _ in range(3):
            sender.send(Frame("x"))
    finally:
        place.tell("done")


def recv_from_silence(place: Place, receiver: Receiver) -> None:
    try:
        receiver.recv()
    finally:
        place.tell("done")


def keep_silent(place: Place, end: Sender | Receiver) -> None:
    assert place.hear("done")


def test_a_silent_peer_is_a_timeout_that_says_what_was_waited_for(pair: Pair) -> None:
    edge = replace(EDGE, timeout=timedelta(seconds=1))
    with pytest.raises(PeerTimeoutError, match=r"(?s)no credit.*edge 0-1.*frame 2.*within 1 s"):
        pair.run(send_into_silence, keep_silent, edge=edge)[0].unwrap()
    with pytest.raises(PeerTimeoutError, match=r"(?s)no frame.*edge 0-1.*frame 0.*within 1 s"):
        pair.run(keep_silent, recv_from_silence, edge=edge)[1].unwrap()


def die(place: Place, end: Sender | Receiver) -> None:
    """SIGKILL, once the other end says that it is about to block."""
    assert place.hear("about to block")
    os.kill(os.getpid(), signal.SIGKILL)


def send_until_error(place: Place, sender: Sender) -> None:
    sender.send(Frame("x", {}, {"x": torch.ones(100_000)}))
    sender.send(Frame("x", {}, {"x": torch.ones(100_000)}))
    place.tell("about to block")
    sender.send(Frame("x"))


def recv_until_error(place: Place, receiver: Receiver) -> None:
    place.tell("about to block")
    receiver.recv()


def test_a_killed_receiver_is_an_error_at_a_sender_that_waits(processes: Pair) -> None:
    survivor, dead = processes.run(send_until_error, die)
    assert dead.exitcode == -signal.SIGKILL
    assert isinstance(survivor.error, PeerLostError)
    assert "the receiver" in str(survivor.error)


def test_a_killed_sender_is_an_error_at_a_receiver_that_waits(processes: Pair) -> None:
    dead, survivor = processes.run(die, recv_until_error)
    assert dead.exitcode == -signal.SIGKILL
    assert isinstance(survivor.error, PeerLostError)
    assert "the sender" in str(survivor.error)


def send_and_die(place: Place, sender: Sender) -> None:
    for i in range(2):
        sender.send(Frame("x", {"i": i}, {"x": torch.full((1_000_000,), i)}))
    os.kill(os.getpid(), signal.SIGKILL)


def recv_what_is_left(place: Place, receiver: Receiver) -> tuple[list[Any], str]:
    got: list[Any] = []

    def act() -> None:
        while True:
            frame = receiver.recv()
            got.append((frame.fields["i"], frame.tensors["x"].unique().tolist()))

    return got, _lost(act)


def test_of_a_killed_sender_only_whole_frames_arrive_then_an_error(processes: Pair) -> None:
    dead, survivor = processes.run(send_and_die, recv_what_is_left)
    assert dead.exitcode == -signal.SIGKILL
    got, _ = survivor.unwrap()
    assert got == [(0, [0]), (1, [1])][: len(got)]


def fill_and_die(place: Place, sender: Sender, _: Path) -> None:
    sender.send(Frame("x", {}, {"x": torch.ones(100_000)}))
    die(place, sender)


def note_names_and_die(place: Place, receiver: Receiver, notes: Path) -> None:
    receiver.recv()
    maps = [line.split(maxsplit=5)[5] for line in Path("/proc/self/maps").read_text().splitlines() if "ffdist" in line]
    address = place.store.get(f"ffdist/{EDGE.name}/{EDGE.attempt}/address").decode()
    notes.write_text("\n".join([address, *maps]))
    place.tell("about to block")
    os.kill(os.getpid(), signal.SIGKILL)


def test_shared_memory_leaves_no_name_behind_after_sigkill(crew: Crew, tmp_path: Path) -> None:
    notes = tmp_path / "names"
    outcomes = Pair("shared_memory", crew).run(fill_and_die, note_names_and_die, notes)
    assert [outcome.exitcode for outcome in outcomes] == [-signal.SIGKILL] * 2
    address, *maps = notes.read_text().splitlines()
    assert address not in Path("/proc/net/unix").read_text()
    assert [name for name in maps if "memfd" in name]
    assert not [name for name in maps if Path(name).exists() and not name.endswith(".so")]


def test_ends_of_different_attempts_never_meet(processes: Pair) -> None:
    edges = [replace(EDGE, timeout=timedelta(seconds=1), attempt=attempt) for attempt in (0, 1)]
    for outcome in processes.run(do_nothing, do_nothing, edges=edges):
        assert isinstance(outcome.error, TransportError)
        if processes.transport == "gloo":  # in shared memory, each looks for the other under its own attempt
            assert "not the next one of this attempt" in str(outcome.error)


def test_ends_of_different_depth_are_refused(processes: Pair) -> None:
    edges = [replace(EDGE, depth=depth) for depth in (2, 3)]
    for outcome in processes.run(do_nothing, do_nothing, edges=edges):
        assert isinstance(outcome.error, TransportError)
        assert "disagree" in str(outcome.error)


STRANGER = """
import os, socket, sys
os.setuid(65534)
socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect(chr(0) + sys.argv[1])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to start another user's process")
def test_a_stranger_who_connects_is_turned_away() -> None:
    store = dist.HashStore()
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(shared_memory.open_receiver, EDGE, store)
        address = store.get(f"ffdist/{EDGE.name}/{EDGE.attempt}/address").decode()
        subprocess.run([sys.executable, "-c", STRANGER, address], check=True)
        sender = shared_memory.open_sender(EDGE, store)
        sender.send(Frame("for you"))
        receiver = opening.result()
        assert receiver.recv().kind == "for you"
        receiver.close()
        sender.close()
