"""The laws of every transport: two functions each, one for each end (`sides`), run at once by an `EdgePair`."""

from __future__ import annotations

import signal
from dataclasses import replace
from datetime import timedelta

import pytest

from ffdist.errors import PeerLostError, PeerTimeoutError, TransportError
from ffdist.transport.contract.pair import EdgePair
from ffdist.transport.contract.sides import (
    EDGE,
    MANY,
    SIZES,
    SLOWLY,
    ask_and_recv,
    close_early,
    die,
    do_nothing,
    expected_print,
    fill_then_one_more,
    growing_frames,
    hold_the_first,
    keep_silent,
    odd_frames,
    recv_addresses,
    recv_after_close,
    recv_from_silence,
    recv_many,
    recv_one,
    recv_prints,
    recv_sizes,
    recv_slowly,
    recv_until_error,
    recv_what_is_left,
    recv_what_lies_there,
    send_and_die,
    send_depth_and_close,
    send_each,
    send_fast,
    send_for_ever,
    send_into_silence,
    send_many,
    send_sizes,
    send_sparse_then_marker,
    send_until_error,
    send_when_asked,
    send_while_one_is_held,
    wait_and_recv,
    watch_then_empty,
)


class EdgeContract:
    """The laws that every edge keeps, also one between threads."""

    @pytest.fixture
    def pair(self) -> EdgePair:
        """The pair that runs both ends; a subclass gives it."""
        raise NotImplementedError("a class of tests has a fixture `pair`")

    def test_any_dtype_shape_and_layout_arrives_with_its_bits_and_strides(self, pair: EdgePair) -> None:
        _, got = pair.values(send_each, recv_prints, odd_frames)
        for (kind, fields, prints), sent in zip(got, odd_frames(), strict=True):
            assert (kind, fields) == (sent.kind, sent.fields)
            assert prints == {name: expected_print(t) for name, t in sent.tensors.items()}

    @pytest.mark.parametrize("depth", [1, 3])
    def test_frames_of_any_size_arrive_in_order_and_never_change_afterwards(self, pair: EdgePair, depth: int) -> None:
        _, got = pair.values(send_each, recv_prints, growing_frames, edge=replace(EDGE, depth=depth))
        sent = [
            (f.kind, f.fields, {name: expected_print(t) for name, t in f.tensors.items()}) for f in growing_frames()
        ]
        assert got == sent

    def test_a_tensor_that_cannot_travel_is_refused_and_the_edge_goes_on(self, pair: EdgePair) -> None:
        (what, _), got = pair.values(send_sparse_then_marker, recv_one)
        assert "'bad' cannot travel" in what
        assert got == "marker"

    @pytest.mark.parametrize("depth", [2, 3])
    def test_a_frame_in_use_takes_no_room_from_the_edge_and_keeps_its_values(self, pair: EdgePair, depth: int) -> None:
        _, (full, values) = pair.values(send_while_one_is_held, hold_the_first, depth, edge=replace(EDGE, depth=depth))
        assert full
        assert values == [[float(i)] for i in range(depth + 1)]

    def test_messages_of_a_byte_to_256_mib_arrive_by_an_edge_that_holds_one(self, pair: EdgePair) -> None:
        _, whole = pair.values(send_sizes, recv_sizes, SIZES, edge=replace(EDGE, depth=1))
        assert whole == [True] * len(SIZES)

    @pytest.mark.parametrize("depth", [1, 64])
    def test_a_receiver_that_is_far_slower_makes_the_sender_wait_and_loses_nothing(
        self, pair: EdgePair, depth: int
    ) -> None:
        frames = 2 * depth + 20
        ahead, got = pair.values(send_fast, recv_slowly, frames, edge=replace(EDGE, depth=depth))
        assert got == list(range(frames))
        assert ahead > SLOWLY * 10

    @pytest.mark.parametrize("depth", [1, 64])
    def test_exactly_depth_sends_return_before_a_recv_and_one_more_with_each(self, pair: EdgePair, depth: int) -> None:
        waited, seen = pair.values(fill_then_one_more, watch_then_empty, depth, 2, edge=replace(EDGE, depth=depth))
        assert seen == [(True, False, True)] * 2
        assert waited > 0

    def test_a_receiver_counts_the_seconds_it_waited_for_data(self, pair: EdgePair) -> None:
        assert pair.values(send_when_asked, ask_and_recv)[1] > 0

    def test_a_receiver_counts_the_frames_that_lay_in_the_queue(self, pair: EdgePair) -> None:
        assert pair.values(send_when_asked, wait_and_recv)[1] == 0
        assert pair.values(send_depth_and_close, recv_what_lies_there, 3, edge=replace(EDGE, depth=3))[1] == 3

    def test_memory_does_not_grow_with_the_number_of_frames(self, pair: EdgePair) -> None:
        assert max(pair.values(send_many, recv_many, pair.warm)) < MANY * (1 << 20) / 5

    def test_close_waits_for_no_recv_and_delivers_what_was_accepted(self, pair: EdgePair) -> None:
        _, (got, errors) = pair.values(send_depth_and_close, recv_after_close, 3, edge=replace(EDGE, depth=3))
        assert got == [(i, [float(i)]) for i in range(3)]
        for error in errors:
            assert "the sender closed the edge" in error
            assert "edge 0-1" in error
            assert "frame 3" in error

    def test_a_sender_learns_that_the_receiver_has_closed(self, pair: EdgePair) -> None:
        theirs, own = pair.values(send_for_ever, close_early)
        assert "the receiver" in theirs
        assert "edge 0-1" in theirs
        assert "closed" in own

    def test_an_edge_that_was_never_used_closes(self, pair: EdgePair) -> None:
        pair.values(do_nothing, do_nothing)

    def test_a_silent_peer_is_a_timeout_that_says_what_was_waited_for(self, pair: EdgePair) -> None:
        edge = replace(EDGE, timeout=timedelta(seconds=1))
        with pytest.raises(PeerTimeoutError, match=r"(?s)no credit.*edge 0-1.*frame 2.*within 1 s"):
            pair.run(send_into_silence, keep_silent, edge=edge)[0].unwrap()
        with pytest.raises(PeerTimeoutError, match=r"(?s)no frame.*edge 0-1.*frame 0.*within 1 s"):
            pair.run(keep_silent, recv_from_silence, edge=edge)[1].unwrap()


class TransportContract(EdgeContract):
    """The laws that every edge between processes keeps, besides: peers die, and the wrong ones come."""

    def test_received_tensors_are_aligned_as_those_that_torch_allocates(self, pair: EdgePair) -> None:
        _, offsets = pair.values(send_each, recv_addresses, growing_frames)
        assert set(offsets) == {0}

    def test_a_killed_receiver_is_an_error_at_a_sender_that_waits(self, pair: EdgePair) -> None:
        survivor, dead = pair.run(send_until_error, die)
        assert dead.exitcode == -signal.SIGKILL
        assert isinstance(survivor.error, PeerLostError)
        assert "the receiver" in str(survivor.error)

    def test_a_killed_sender_is_an_error_at_a_receiver_that_waits(self, pair: EdgePair) -> None:
        dead, survivor = pair.run(die, recv_until_error)
        assert dead.exitcode == -signal.SIGKILL
        assert isinstance(survivor.error, PeerLostError)
        assert "the sender" in str(survivor.error)

    def test_of_a_killed_sender_only_whole_frames_arrive_then_an_error(self, pair: EdgePair) -> None:
        dead, survivor = pair.run(send_and_die, recv_what_is_left)
        assert dead.exitcode == -signal.SIGKILL
        got, _ = survivor.unwrap()
        assert got == [(0, [0]), (1, [1])][: len(got)]

    def test_ends_of_different_attempts_never_meet(self, pair: EdgePair) -> None:
        edges = [replace(EDGE, timeout=timedelta(seconds=1), attempt=attempt) for attempt in (0, 1)]
        for outcome in pair.run(do_nothing, do_nothing, edges=edges):
            assert isinstance(outcome.error, TransportError)

    def test_ends_of_different_depth_are_refused(self, pair: EdgePair) -> None:
        edges = [replace(EDGE, depth=depth) for depth in (2, 3)]
        for outcome in pair.run(do_nothing, do_nothing, edges=edges):
            assert isinstance(outcome.error, TransportError)
            assert "disagree" in str(outcome.error)
