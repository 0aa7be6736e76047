"""An edge through Ray's object store: for clusters whose nodes reach one another by Ray's own ports alone.

    sender     puts frame n into the object store, and posts its header and reference in an actor of its own
    receiver   takes them there, copies the frame out, then posts a credit in an actor of its own

Each end waits at the other's actor, and Ray ends an actor with the process that owns it: so a peer's death is known
at once. Who waits asks the actor meanwhile whether it lives: nobody else would notice one that is stopped.

An object is freed when the last reference to it is gone, which is before its credit is posted; the store holds
`depth` frames of an edge, and the one that is being received. Tensors of a GPU arrive on the host.
"""

from __future__ import annotations

import itertools
import os
import secrets
import signal
import time
from collections import deque
from contextlib import suppress
from datetime import timedelta
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError

from ffdist.edge_actor import ActorPlace, EdgeActorWriter, Side, find_edge_actor, new_edge_actor
from ffdist.errors import PeerLostError, PeerTimeoutError, TransportError, setting
from ffdist.transport import wire
from ffdist.transport.base import Edge, Frame, Receiver, Sender
from ffdist.transport.buffers import BufferPool
from ffdist.transport.packet_socket import Store, key_of, post

CREDIT, END = b"+", b"."
START = timedelta(seconds=10)
"""What an actor, a process of its own, may take to start, beyond the edge's timeout."""
EVERY = 0.5
"""Seconds between two looks whether an actor lives at which an end waits."""


def open_sender(edge: Edge, store: Store) -> ObjectStoreSender:
    """The upstream end; blocks until the downstream one opens. This process must have joined the cluster.

    Raises PeerTimeoutError when the other end does not open in time, TransportError where the two disagree.
    """
    mine = new_edge_actor(f"{edge.name}-{secrets.token_hex(8)}")
    try:
        store.wait([key_of(edge, "actor")], edge.timeout + START)
        theirs = find_edge_actor(store.get(key_of(edge, "actor")).decode())
    except RuntimeError as error:  # what every kind of store raises when a wait times out
        raise edge.silent("receiver") from error
    except ValueError as error:  # Ray knows no such actor
        raise edge.lost("the receiver died") from error
    reader = EdgeActorReader(edge, theirs, "guest", "the receiver")
    # Taken before ours is there, since a receiver that disagrees with ours takes its actor away; and ours is there
    # before this end may disagree, since a receiver that heard nothing would wait until the timeout.
    greeting = reader.take("greeting", 0, START)
    posted = EdgeActorWriter(theirs, "owner").post((wire.encode_hello(edge), mine))
    ray.wait([posted], timeout=silence_of(edge).total_seconds())
    wire.check_hello(greeting, edge)
    return ObjectStoreSender(edge, EdgeActorWriter(mine, "guest"), reader)


def open_receiver(edge: Edge, store: Store) -> ObjectStoreReceiver:
    """The downstream end; blocks until the upstream one opens. Raises as `open_sender` does."""
    name = f"{edge.name}-{secrets.token_hex(8)}"
    mine = new_edge_actor(name)
    poster = EdgeActorWriter(mine, "guest")
    poster.post(wire.encode_hello(edge))
    post(edge, store, "actor", name)
    hello, theirs = EdgeActorReader(edge, mine, "owner", "the sender").take("sender", 0, START)
    wire.check_hello(hello, edge)
    reader = EdgeActorReader(edge, theirs, "guest", "the sender")
    with suppress(PeerLostError):  # `recv` reports that the sender died, as after any opening
        reader.connect(START)
    return ObjectStoreReceiver(edge, poster, reader)


def silence_of(edge: Edge) -> timedelta:
    """The time for which an actor of the edge may give no sign of life."""
    return edge.timeout if edge.silence is None else edge.silence


class EdgeActorReader:
    """Waiting at an actor, whose owner's death and silence are errors, and its own; counts the seconds waited."""

    def __init__(self, edge: Edge, actor: Any, side: Side, peer: str) -> None:
        self._edge = edge
        self._actor = actor
        self._side = side
        self._peer = peer
        self._numbers = itertools.count()
        self._beat = actor.beat.remote()
        """Asks the actor how it is."""
        self._place: ActorPlace | None = None
        """The actor's own; None until it has answered."""
        self.waited = 0.0
        self.queued = 0
        """Messages that lay there when one was last taken."""
        self.peer_closed = False

    def connect(self, more: timedelta) -> None:
        """Wait for the actor to start, so that the first message finds this end connected to where it is posted.
        Raises as `take` does."""
        self._answer(self._beat, f"sign of life of {self._peer}", None, more)

    def take(self, awaited: str, sequence: int, more: timedelta = timedelta()) -> Any:
        """The next message. Raises PeerLostError, or PeerTimeoutError after the edge's timeout, or the actor's silence
        (and `more`)."""
        if self.peer_closed:
            raise self._edge.lost(f"{self._peer} closed the edge", sequence)
        started = time.perf_counter()
        try:
            taken = self._actor.take.remote(self._side, next(self._numbers))
            message, self.queued = self._answer(taken, awaited, sequence, more)
            return message
        finally:
            self.waited += time.perf_counter() - started

    def _answer(self, asked: Any, awaited: str, sequence: int | None, more: timedelta) -> Any:
        """The actor's answer, as soon as it comes."""
        limit = (silence_of(self._edge) + more).total_seconds()
        heard = now = time.monotonic()
        deadline = now + (self._edge.timeout + more).total_seconds()
        while True:
            try:
                return ray.get(asked, timeout=max(0.0, min(EVERY, deadline - now)))
            except RayActorError as error:
                raise self._edge.lost(self._lost, sequence) from error
            except GetTimeoutError:
                looked, now = now, time.monotonic()
            if now >= deadline:
                raise self._edge.silent(awaited, sequence)
            if self._is_alive() or now - looked > EVERY + limit / 2:  # this process itself was stopped
                heard = now
            if now - heard > limit:
                self._end()
                raise self._hung_error(awaited, sequence, limit)

    def _is_alive(self) -> bool:
        """True if the actor has answered since this was asked last."""
        if not ray.wait([self._beat], timeout=0)[0]:
            return False
        with suppress(RayActorError):  # as what is waited for says
            self._place = ray.get(self._beat)
        self._beat = self._actor.beat.remote()
        return True

    @property
    def _actors_name(self) -> str:
        return "the actor of this end" if self._side == "owner" else f"the actor of {self._peer}"

    @property
    def _lost(self) -> str:
        return f"{self._actors_name} died" if self._side == "owner" else f"{self._peer} died, or the actor of its end"

    def _end(self) -> None:
        """End a process that does not answer: Ray asks it to end, which it may not hear."""
        ray.kill(self._actor)
        if self._place and self._place.node == ray.get_runtime_context().get_node_id():
            with suppress(OSError):
                os.kill(self._place.pid, signal.SIGKILL)

    def _hung_error(self, awaited: str, sequence: int | None, limit: float) -> PeerTimeoutError:
        return PeerTimeoutError(
            f"{self._actors_name} does not answer",
            where=f"{self._edge.at(sequence)}, {self._place or 'not heard of yet'}",
            expected=f"a sign of life within {limit:g} s",
            got=f"silence, while the {awaited} was awaited",
            remedy="look for what has stopped the process, or what cuts its host off; or raise "
            f"{setting('run.timeout')} where the machine has too much to do",
        )


class ObjectStoreSender(Sender):
    """The upstream end of an edge through the object store."""

    def __init__(self, edge: Edge, mine: EdgeActorWriter, reader: EdgeActorReader) -> None:
        self._edge = edge
        self._mine = mine
        self._reader = reader
        self._sequence = 0
        self._credited = 0
        self._capacity = store_capacity()
        self._posted: deque[Any] = deque(maxlen=edge.depth + 1)
        """What may be on its way to the actor: a frame before these has brought its credit."""
        self._closed = False

    def send(self, frame: Frame) -> None:
        if self._closed:
            raise self._edge.lost("this end is closed", self._sequence)
        prelude, header, tensors = wire.encode(frame, self._edge, self._sequence)
        self._check_room(sum(tensor.nbytes for tensor in tensors))
        while self._sequence - self._credited == self._edge.depth:
            self._take_credit()
        payload = ray.put([wire.as_bytes(tensor).cpu().numpy() for tensor in tensors])
        self._posted.append(self._mine.post((prelude, header, [payload])))
        self._sequence += 1

    def close(self) -> None:
        """The frames accepted stay in the store, and their references in the actor, until they are received: they
        have arrived there when this returns."""
        if not self._closed:
            self._closed = True
            self._posted.append(self._mine.post((wire.encode_end(self._edge, self._sequence), b"", [])))
            if not self._reader.peer_closed:  # else nobody receives them
                limit = silence_of(self._edge).total_seconds()
                ray.wait(list(self._posted), num_returns=len(self._posted), timeout=limit)
            self._posted.clear()

    def _take_credit(self) -> None:
        message = self._reader.take("credit", self._sequence)
        self.waited = self._reader.waited
        self._reader.peer_closed = message == END
        self._credited += message == CREDIT

    def _check_room(self, nbytes: int) -> None:
        needed = nbytes * (self._edge.depth + 1)
        if needed > self._capacity:
            raise TransportError(
                "the object store is too small",
                where=self._edge.at(self._sequence),
                expected=f"room for {self._edge.depth + 1} frames, {needed:,} bytes",
                got=f"{self._capacity:,} bytes",
                remedy=f"a smaller {setting('training.batch_size')} or {setting('plan.queue')}, or "
                "ray start --object-store-memory",
            )


class ObjectStoreReceiver(Receiver):
    """The downstream end of an edge through the object store."""

    def __init__(self, edge: Edge, mine: EdgeActorWriter, reader: EdgeActorReader) -> None:
        self._edge = edge
        self._mine = mine
        self._reader = reader
        self._sequence = 0
        self._pool = BufferPool(keep=2 * edge.depth)
        self._closed = False

    def recv(self) -> Frame:
        if self._closed:
            raise self._edge.lost("this end is closed", self._sequence)
        prelude, header, payload = self._take_frame()
        content = wire.decode_header(header, prelude, self._edge)
        arrays = self._fetch(payload[0])
        tensors = [
            wire.from_bytes(self._copied(array), spec) for array, spec in zip(arrays, content.tensors, strict=True)
        ]
        del arrays, payload  # the object is free before its credit is posted
        self._mine.post(CREDIT)
        self._sequence += 1
        return content.frame(tensors)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._mine.post(END)

    def _take_frame(self) -> tuple[wire.Prelude, bytes, list[Any]]:
        data, header, payload = self._reader.take("frame", self._sequence)
        self.waited = self._reader.waited
        self.queued = min(self._edge.depth, self._reader.queued)
        prelude = wire.decode_prelude(data, self._edge, self._sequence)
        if prelude.is_end:
            self._reader.peer_closed = True
            return self._take_frame()
        return prelude, header, payload

    def _fetch(self, reference: Any) -> list[np.ndarray]:
        started = time.perf_counter()
        try:
            return ray.get(reference, timeout=self._edge.timeout.total_seconds())
        except GetTimeoutError:
            raise self._edge.silent("frame", self._sequence) from None
        except ObjectLostError as error:
            raise self._edge.lost("the sender died", self._sequence) from error
        finally:
            self._reader.waited += time.perf_counter() - started
            self.waited = self._reader.waited

    def _copied(self, array: np.ndarray) -> torch.Tensor:
        """A copy that outlives the object; `array` is read-only memory of the store's."""
        own = self._pool.take(array.nbytes)
        own.numpy()[:] = array
        return own


def store_capacity() -> int:
    """Bytes of the object store on this node."""
    here = ray.get_runtime_context().get_node_id()
    return int(next(node["Resources"].get("object_store_memory", 0) for node in ray.nodes() if node["NodeID"] == here))
