"""The laws of every transport, kept by the object store, between processes that are drivers on one cluster."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import ray
import torch
from harness import Crew, Outcome, Place
from ray._private.internal_api import get_memory_info_reply, get_state_from_address
from ray.cluster_utils import Cluster
from test_transport_contract import (
    EDGE,
    Pair,
    Side,
    _outcome,
    keep_silent,
    test_a_killed_receiver_is_an_error_at_a_sender_that_waits,  # noqa: F401 - collected here, with the pair below
    test_a_killed_sender_is_an_error_at_a_receiver_that_waits,  # noqa: F401
    test_a_receiver_counts_the_seconds_it_waited_for_data,  # noqa: F401
    test_a_sender_learns_that_the_receiver_has_closed,  # noqa: F401
    test_a_silent_peer_is_a_timeout_that_says_what_was_waited_for,  # noqa: F401
    test_a_tensor_that_cannot_travel_is_refused_and_the_edge_goes_on,  # noqa: F401
    test_an_edge_that_was_never_used_closes,  # noqa: F401
    test_any_dtype_shape_and_layout_arrives_with_its_bits_and_strides,  # noqa: F401
    test_close_waits_for_no_recv_and_delivers_what_was_accepted,  # noqa: F401
    test_ends_of_different_attempts_never_meet,  # noqa: F401
    test_ends_of_different_depth_are_refused,  # noqa: F401
    test_exactly_depth_sends_return_before_a_recv_and_one_more_with_each,  # noqa: F401
    test_frames_of_any_size_arrive_in_order_and_never_change_afterwards,  # noqa: F401
    test_of_a_killed_sender_only_whole_frames_arrive_then_an_error,  # noqa: F401
    test_received_tensors_are_aligned_as_those_that_torch_allocates,  # noqa: F401
)

from ffdist.errors import TransportError
from ffdist.mailbox import new_mailbox
from ffdist.transport import Frame, Receiver, Sender

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::ResourceWarning")]

MIB = 1 << 20
FRAMES = 40


class RayPair(Pair):
    """Runs the two sides of a law over the object store."""

    def __init__(self, address: str, crew: Crew) -> None:
        super().__init__("object_store", crew)
        self.address = address

    def run(self, upstream: Side, downstream: Side, *args: Any, edge: Any = EDGE, edges: Any = None) -> list[Outcome]:
        edges, sides = edges or (edge, edge), (upstream, downstream)
        return self.crew.run(_on_cluster, self.address, edges, sides, args)


def _on_cluster(place: Place, address: str, edges: Any, sides: Any, args: tuple[Any, ...]) -> Any:
    warnings.simplefilter("default")  # Ray's own
    if not ray.is_initialized():
        ray.init(address, log_to_driver=False, logging_level="ERROR")
    from ffdist.transport import object_store

    end = (object_store.open_sender, object_store.open_receiver)[place.rank](edges[place.rank], place.store)
    return _outcome(place, end, sides[place.rank], args).unwrap()


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    with Crew(2) as crew:
        yield crew


@pytest.fixture
def pair(cluster: Cluster, crew: Crew) -> RayPair:
    return RayPair(cluster.address, crew)


@pytest.fixture
def processes(pair: RayPair) -> RayPair:
    return pair


def send_many(place: Place, sender: Sender) -> None:
    for i in range(FRAMES):
        sender.send(Frame("x", {"i": i}, {"x": torch.full((8 * MIB,), i % 256, dtype=torch.uint8)}))


def recv_many(place: Place, receiver: Receiver) -> list[tuple[int, int]]:
    """Bytes held in the cluster's object stores, and bytes spilled to disk, behind each frame."""
    state = get_state_from_address(ray.get_runtime_context().gcs_address)
    used = []
    for i in range(FRAMES):
        assert receiver.recv().tensors["x"][0] == i
        stats = get_memory_info_reply(state).store_stats
        used.append((stats.object_store_bytes_primary_copy, stats.spilled_bytes_total))
    return used


def test_the_store_never_holds_more_than_the_edges_depth(pair: RayPair) -> None:
    """Four times as much travels as the store can hold; what is freed stays there until its room is needed."""
    _, used = pair.values(send_many, recv_many, edge=replace(EDGE, depth=2))
    assert max(held for held, _ in used) <= 3 * 8.1 * MIB
    assert {spilled for _, spilled in used} == {0}


def test_a_mailbox_counts_what_lay_there_for_a_side(driver: str) -> None:
    mailbox = new_mailbox("counted")
    ray.get([mailbox.post.remote("guest", number, "letter") for number in range(3)])
    ray.get(mailbox.post.remote("owner", 0, "of no concern"))
    assert [ray.get(mailbox.take.remote("guest", number))[1] for number in range(3)] == [3, 2, 1]


def test_a_mailbox_is_a_process_without_torch(driver: str) -> None:
    """There are two of an edge, and torch is seconds and some 200 MB of each."""
    mailbox = new_mailbox("light")
    assert not ray.get(mailbox.__ray_call__.remote(lambda self: "torch" in sys.modules))


def send_too_much(place: Place, sender: Sender) -> None:
    try:
        sender.send(Frame("x", {}, {"x": torch.zeros(60 * MIB, dtype=torch.uint8)}))
    finally:
        place.tell("done")


def test_a_frame_that_the_store_has_no_room_for_is_refused(pair: RayPair) -> None:
    with pytest.raises(TransportError, match=r"(?s)object store is too small.*188,743,680 bytes"):
        pair.run(send_too_much, keep_silent)[0].unwrap()
