"""Every transport of the registry keeps the contract, between real processes; `local` between threads. (Ray's object
store: `tests/ray/test_object_store.py`.)"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from ffdist.errors import TransportError
from ffdist.known import TRANSPORT_PLACES, TRANSPORTS_OF_RAY
from ffdist.transport import TRANSPORTS, EdgeContext, Frame, Receiver, Sender, shared_memory, transport_of, wire
from ffdist.transport.contract import (
    ContractRank,
    Crew,
    EdgeContract,
    EdgePair,
    ProcessPair,
    ThreadPair,
    TransportContract,
)
from ffdist.transport.contract.sides import EDGE, die, do_nothing
from ffdist.transport.link import Link
from ffdist.transport.process_group import GLOO, new_edge_group

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    with Crew(2) as crew:
        yield crew


class TestBetweenThreads(EdgeContract):
    @pytest.fixture
    def pair(self) -> EdgePair:
        return ThreadPair()


class TestBetweenProcesses(TransportContract):
    """Those that need a GPU at each end are tried in `tests/gpu`, and with a stand-in in `tests/accelerator`."""

    @pytest.fixture(
        params=[n for n in TRANSPORT_PLACES if n not in TRANSPORTS_OF_RAY and not transport_of(n).on_device]
    )
    def pair(self, request: pytest.FixtureRequest, crew: Crew) -> EdgePair:
        return ProcessPair(transport_of(request.param), crew)


def test_a_transport_has_the_name_that_it_is_registered_by() -> None:
    assert {name: transport.name for name, transport in TRANSPORTS.items()} == {name: name for name in TRANSPORTS}


def test_by_gloo_an_end_says_that_the_other_is_of_another_attempt(crew: Crew) -> None:
    """Where they meet by a store, each looks for the other under its own attempt."""
    edges = [replace(EDGE, timeout=timedelta(seconds=1), attempt=attempt) for attempt in (0, 1)]
    for outcome in ProcessPair(transport_of("gloo"), crew).run(do_nothing, do_nothing, edges=edges):
        assert isinstance(outcome.error, TransportError)
        assert "not the next one of this attempt" in str(outcome.error)


def take_the_end(place: ContractRank, cut: bool) -> float:
    """Rank 0 closes a sender; rank 1 takes its end as a receiver would, and answers or cuts after half a second.
    Seconds that it took."""
    edge = replace(EDGE, timeout=timedelta(seconds=20))
    group = new_edge_group(0, 1, edge.timeout)
    if place.rank == 0:
        sender = GLOO.open_sender(edge, EdgeContext(place.store, torch.device("cpu"), group))
        begun = time.monotonic()
        sender.close()
    else:
        link = Link(edge, group, "the sender")
        link.greet()
        begun = time.monotonic()
        link.fetch(wire.PRELUDE.size, "frame", 0)
        time.sleep(0.5)
        if cut:
            link.cut()
        else:
            link.wait(link.put([], 0), "acknowledgement", 0)
    took = time.monotonic() - begun
    dist.barrier()
    dist.destroy_process_group()
    return took


@pytest.mark.parametrize("cut", [False, True])
def test_by_gloo_a_sender_has_closed_when_the_receiver_says_so_or_is_gone(crew: Crew, cut: bool) -> None:
    """And not when its end is sent: where the receiver cuts the connection while that is written, gloo never says that
    it failed, and a worker waited for twenty minutes."""
    assert 0.3 < crew.run(take_the_end, cut, gloo=True)[0].unwrap() < 10


def fill_and_die(place: ContractRank, sender: Sender, _: Path) -> None:
    sender.send(Frame("x", {}, {"x": torch.ones(100_000)}))
    die(place, sender)


def note_names_and_die(place: ContractRank, receiver: Receiver, notes: Path) -> None:
    receiver.recv()
    maps = [line.split(maxsplit=5)[5] for line in Path("/proc/self/maps").read_text().splitlines() if "ffdist" in line]
    address = place.store.get(f"ffdist/{EDGE.name}/{EDGE.attempt}/address").decode()
    notes.write_text("\n".join([address, *maps]))
    place.post("about to block")
    os.kill(os.getpid(), signal.SIGKILL)


def test_shared_memory_leaves_no_name_behind_after_sigkill(crew: Crew, tmp_path: Path) -> None:
    notes = tmp_path / "names"
    outcomes = ProcessPair(shared_memory.TRANSPORT, crew).run(fill_and_die, note_names_and_die, notes)
    assert [outcome.exitcode for outcome in outcomes] == [-signal.SIGKILL] * 2
    address, *maps = notes.read_text().splitlines()
    assert address not in Path("/proc/net/unix").read_text()
    assert [name for name in maps if "memfd" in name]
    assert not [name for name in maps if Path(name).exists() and not name.endswith(".so")]


STRANGER = """
import os, socket, sys
os.setuid(65534)
socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect(chr(0) + sys.argv[1])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to start another user's process")
def test_a_stranger_who_connects_is_turned_away() -> None:
    store = dist.HashStore()
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(shared_memory.TRANSPORT.open_receiver, EDGE, EdgeContext(store))
        address = store.get(f"ffdist/{EDGE.name}/{EDGE.attempt}/address").decode()
        subprocess.run([sys.executable, "-c", STRANGER, address], check=True)
        sender = shared_memory.TRANSPORT.open_sender(EDGE, EdgeContext(store))
        sender.send(Frame("for you"))
        receiver = opening.result()
        assert receiver.recv().kind == "for you"
        receiver.close()
        sender.close()


def resident_in_shared_memory() -> int:
    """Bytes of edges' slots that this process has touched, mapped at both ends."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(maxsplit=1)[0]:
            inside = "memfd:ffdist" in line
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


def test_shared_memory_that_is_free_again_is_taken_before_any_that_was_never_used() -> None:
    """An edge as deep as a stage has blocks holds no more memory than what is under way at once."""
    store, edge, before = dist.HashStore(), replace(EDGE, depth=32), resident_in_shared_memory()
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(shared_memory.TRANSPORT.open_receiver, edge, EdgeContext(store))
        sender = shared_memory.TRANSPORT.open_sender(edge, EdgeContext(store))
        receiver = opening.result()
    values = torch.ones(2**16)
    for _ in range(2 * edge.depth):
        sender.send(Frame("x", {}, {"x": values}))
        assert torch.equal(receiver.recv().tensors["x"], values)
    assert resident_in_shared_memory() - before <= 2 * 4 * values.nbytes, "four slots at both ends, of 33"
    sender.close()
    receiver.close()
