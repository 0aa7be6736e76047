"""The object store keeps the whole contract of an edge, between processes that are drivers on one cluster."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
import ray
import torch
import torch.distributed as dist
from ray._private.internal_api import get_memory_info_reply, get_state_from_address
from ray.cluster_utils import Cluster

from ffdist.edge_actor import new_edge_actor
from ffdist.errors import StageAwayError, TransportError
from ffdist.process_stat import is_alive
from ffdist.runtime.meeting import set_key
from ffdist.runtime.ray_store import ActorStore, KeyValueActor
from ffdist.transport import Frame, Receiver, Sender, transport_of
from ffdist.transport.contract import ContractRank, Crew, EdgePair, ProcessPair, TransportContract
from ffdist.transport.contract.sides import EDGE, keep_silent

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::ResourceWarning")]

MIB = 1 << 20
FRAMES = 24


@dataclass(frozen=True)
class Join:
    """Makes a process a driver on the cluster, once."""

    address: str

    def __call__(self) -> None:
        warnings.simplefilter("default")  # Ray's own
        if not ray.is_initialized():
            ray.init(self.address, log_to_driver=False, logging_level="ERROR")


def threads() -> set[Any]:
    """Of a driver's descriptors some are Ray's connections to its nodes and to processes that have ended; it closes
    them later."""
    return set(threading.enumerate())


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    with Crew(2, fresh=True) as crew:  # Ray starts threads in them, and connections
        yield crew


@pytest.fixture
def pair(cluster: Cluster, crew: Crew) -> EdgePair:
    """Memory settles when all of the store's has been seen, and Ray's own buffers are as many as it uses."""
    return ProcessPair(transport_of("object-store"), crew, enter=Join(cluster.address), held=threads, warm=500)


class TestObjectStore(TransportContract):
    @pytest.fixture
    def pair(self, pair: EdgePair) -> EdgePair:
        return pair


def send_many(place: ContractRank, sender: Sender) -> None:
    for i in range(FRAMES):
        sender.send(Frame("x", {"i": i}, {"x": torch.full((64 * MIB,), i % 256, dtype=torch.uint8)}))


def recv_many(place: ContractRank, receiver: Receiver) -> list[tuple[int, int]]:
    """Bytes held in the cluster's object stores, and bytes spilled to disk, behind each frame."""
    state = get_state_from_address(ray.get_runtime_context().gcs_address)
    used = []
    for i in range(FRAMES):
        assert receiver.recv().tensors["x"][0] == i
        stats = get_memory_info_reply(state).store_stats
        used.append((stats.object_store_bytes_primary_copy, stats.spilled_bytes_total))
    return used


def test_the_store_never_holds_more_than_the_edges_depth(pair: EdgePair) -> None:
    """More than twice as much travels as the store can hold; what is freed stays there until its room is needed."""
    _, used = pair.values(send_many, recv_many, edge=replace(EDGE, depth=2))
    assert max(held for held, _ in used) <= 3 * 64.1 * MIB
    assert {spilled for _, spilled in used} == {0}


def test_a_mailbox_counts_what_lay_there_for_a_side(driver: str) -> None:
    actor = new_edge_actor("counted")
    ray.get([actor.post.remote("guest", number, "message") for number in range(3)])
    ray.get(actor.post.remote("owner", 0, "of no concern"))
    assert [ray.get(actor.take.remote("guest", number))[1] for number in range(3)] == [3, 2, 1]


def test_a_store_whose_actor_is_gone_raises_what_a_lost_store_of_torchs_raises(driver: str) -> None:
    actor: Any = ray.remote(KeyValueActor).options(num_cpus=0).remote()
    store = ActorStore(actor, timedelta(seconds=60))
    store.set("key", "value")
    assert store.get("key") == b"value"
    ray.kill(actor)  # which returns before it has died
    with suppress(dist.DistNetworkError):
        for _ in range(400):
            store.check(["a"])
            time.sleep(0.05)
    uses = (lambda: store.set("a", "b"), lambda: store.get("a"), lambda: store.check(["a"]), lambda: store.wait(["a"]))
    for use in uses:
        with pytest.raises(dist.DistNetworkError, match="the actor is gone"):
            use()
    with pytest.raises(StageAwayError, match="the store through which the stages meet is gone"):
        set_key(store, "a", "b", where="stage 1")


def test_a_store_whose_actor_is_stopped_raises_the_same_in_time(driver: str) -> None:
    actor: Any = ray.remote(KeyValueActor).options(num_cpus=0).remote()
    process: Any = ray.get(actor.__ray_call__.remote(lambda self: os.getpid()))
    store = ActorStore(actor, timedelta(seconds=0.5))
    os.kill(process, signal.SIGSTOP)
    try:
        for use in (lambda: store.set("a", "b"), lambda: store.check(["a"])):
            with pytest.raises(dist.DistNetworkError, match="the actor has not answered"):
                use()
    finally:
        os.kill(process, signal.SIGCONT)
        ray.kill(actor)


def use_until_error(place: ContractRank, end: Sender | Receiver, owner: int, number: int) -> tuple[int, str, float]:
    """The process of the actor of this end, which gets the signal behind the first frame where the end is the owner's;
    the error that ends it, and the seconds until that."""
    frame = Frame("x", {}, {"x": torch.ones(8)})
    use = (lambda: end.send(frame)) if isinstance(end, Sender) else end.recv
    use()
    place.post(f"rank {place.rank} has used it")
    assert place.await_posted(f"rank {1 - place.rank} has used it")
    actor: Any = end._mine._actor  # pyright: ignore[reportAttributeAccessIssue]
    pid: int = ray.get(actor.beat.remote())[0]
    began = time.monotonic()
    if place.rank == owner:
        os.kill(pid, number)
    try:
        while True:
            use()
    except TransportError as error:
        return pid, str(error), time.monotonic() - began


@pytest.mark.parametrize("owner", [0, 1], ids=["sender", "receiver"])
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_an_actor_that_is_stopped_or_killed_is_an_error_in_time_at_both_ends_and_is_gone(
    pair: EdgePair, owner: int, number: signal.Signals
) -> None:
    edge = replace(EDGE, silence=timedelta(seconds=1))
    found = pair.values(use_until_error, use_until_error, owner, number, edge=edge)
    pid, _, _ = found[owner]
    _, error_text, _ = found[1 - owner]
    whose = ("sender", "receiver")[owner]
    if number == signal.SIGSTOP:
        assert f"the actor of the {whose} does not answer" in error_text
        assert "edge 0-1, attempt 0, frame " in error_text
        assert f", process {pid} of host " in error_text
        assert f"while the {('frame', 'credit')[owner]} was awaited" in error_text
    else:
        assert f"the {whose} died, or the actor of its end" in error_text
    assert max(seconds for _, _, seconds in found) < 1 + 5
    assert not is_alive(pid)


def test_a_mailbox_is_a_process_without_torch(driver_of_interpreters: str) -> None:
    """There are two of an edge, and torch is seconds and some 200 MB of each."""
    actor = new_edge_actor("light")
    assert not ray.get(actor.__ray_call__.remote(lambda self: "torch" in sys.modules))


def send_too_much(place: ContractRank, sender: Sender) -> None:
    try:
        sender.send(Frame("x", {}, {"x": torch.zeros(400 * MIB, dtype=torch.uint8)}))
    finally:
        place.post("done")


def test_a_frame_that_the_store_has_no_room_for_is_refused(pair: EdgePair) -> None:
    with pytest.raises(TransportError, match=r"(?s)object store is too small.*1,258,291,200 bytes"):
        pair.run(send_too_much, keep_silent)[0].unwrap()
