"""A unix SEQPACKET connection of two processes: small packets, file descriptors, and the news of a peer's death."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import select
import socket
import struct
import termios
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from multiprocessing.connection import wait
from typing import Protocol

from ffdist.errors import PeerLostError, TransportError
from ffdist.transport.base import Edge
from ffdist.transport.wire import HELLO_BYTES, MAGIC, check_hello, encode_hello, is_strangers

MAX_PENDING = 64
"""Connections, at most, that an end holds and has not been greeted by yet."""
POLL_SECONDS = 0.02
"""Seconds between two looks for the other end; between them a signal's handler has its turn."""


class Store(Protocol):
    """The store in which two ends find one another: what is used of a `torch.distributed` store (any kind).

    `get` and `wait` block until the keys are set; both raise a RuntimeError when that takes too long, and all do when
    the store is gone. `check` tells at once whether all are set.
    """

    def set(self, key: str, value: str, /) -> None: ...
    def get(self, key: str, /) -> bytes: ...
    def check(self, keys: list[str], /) -> bool: ...
    def wait(self, keys: list[str], timeout: timedelta, /) -> None: ...


class PacketSocket:
    """One end of the connection. Packets arrive whole, in order, also those of a peer that has died since."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)

    def send(self, packet: bytes, descriptors: Sequence[int] = ()) -> bool:
        """Send one packet, at once: a socket has room for some two hundred small ones; False when the peer is gone."""
        if self._socket.fileno() < 0:  # closed here
            return False
        try:
            if descriptors:
                socket.send_fds(self._socket, [packet], descriptors)
            else:
                self._socket.send(packet)
        except ConnectionError:
            return False
        return True

    def recv(self, num_bytes: int, timeout: float) -> tuple[bytes, list[int]]:
        """The next packet and its descriptors; an empty packet when the peer is gone. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                return socket.recv_fds(self._socket, num_bytes, 1, socket.MSG_CMSG_CLOEXEC)[:2]
            except ConnectionResetError:
                continue  # said once, when the peer left packets unread; its own can still be read
            except BlockingIOError:
                if not self._poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                    raise TimeoutError from None

    def unread_bytes(self) -> int:
        """Bytes in the packets that have come and were not read yet."""
        return struct.unpack("i", fcntl.ioctl(self._socket, termios.FIONREAD, bytes(4)))[0]

    def close(self) -> None:
        self._socket.close()


def accept(edge: Edge, store: Store) -> PacketSocket:
    """The receiver's end: publish an address in `store`, and take the first connection of this user that greets with
    this run's token; others may connect, for the address can be seen, and are left alone.

    Raises PeerTimeoutError when no sender comes in time, TransportError where the two ends disagree.
    """
    deadline = time.monotonic() + edge.timeout.total_seconds()
    token = post_token(edge, store)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server, PendingConnections(token) as pending:
        name = f"ffdist-{secrets.token_hex(16)}"
        server.bind(f"\0{name}")
        server.listen()
        server.setblocking(False)
        post(edge, store, "address", name)
        while True:
            ready = wait([server, *pending.waiting], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise edge.silent("connection from the sender")
            if server in ready:
                pending.admit(server, edge)
            for connection in list(pending.waiting):
                if connection in ready and (hello := pending.greeting(connection, edge)):
                    check_hello(hello, edge, token)
                    return PacketSocket(pending.leave(connection))


class PendingConnections:
    """Connections that have not greeted yet; those that are left behind are closed."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.waiting: list[socket.socket] = []

    def __enter__(self) -> PendingConnections:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self.waiting:
            connection.close()

    def admit(self, server: socket.socket, edge: Edge) -> None:
        """Accept a connection, and greet it; one of another user is closed. Beyond MAX_PENDING the oldest is: an end
        of this run greets at once, so that whoever keeps silent for long is none."""
        with suppress(OSError):  # gone again
            connection, _ = server.accept()
            if _peer_uid(connection) != os.geteuid():
                connection.close()
                return
            if len(self.waiting) == MAX_PENDING:
                self.leave(self.waiting[0]).close()
            self.waiting.append(connection)
            connection.setblocking(False)
            connection.send(encode_hello(edge, digest_of_token(self.token)))

    def leave(self, connection: socket.socket) -> socket.socket:
        """The connection, which is the caller's from now on."""
        self.waiting.remove(connection)
        return connection

    def greeting(self, connection: socket.socket, edge: Edge) -> bytes:
        """Read its greeting; empty for one that is no end of this run's, which is closed."""
        hello = b""
        with suppress(OSError):
            hello = connection.recv(HELLO_BYTES)
        if hello.startswith(MAGIC) and not is_strangers(hello, self.token):
            return hello
        self.leave(connection).close()
        return b""


def connect(edge: Edge, store: Store) -> PacketSocket:
    """The sender's end: wait for the receiver's address in `store`, and connect.

    Raises PeerTimeoutError when the receiver does not come in time, PeerLostError where it is gone, TransportError
    where the two ends disagree, or the receiver is another user's.
    """
    name, token = await_posted(edge, store, "address"), await_posted(edge, store, "token")
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(f"\0{name}")
    except ConnectionError as error:
        connection.close()
        raise edge.lost("the receiver is gone") from error
    if (uid := _peer_uid(connection)) != os.geteuid():
        connection.close()
        raise TransportError("the receiver belongs to another user", where=edge.at(), expected=os.geteuid(), got=uid)
    return _greet(PacketSocket(connection), edge, token)


def _greet(packets: PacketSocket, edge: Edge, token: str) -> PacketSocket:
    """Each end says which edge it takes this to be."""
    timeout = edge.timeout.total_seconds()
    try:
        packets.send(encode_hello(edge, token))
        hello, _ = packets.recv(HELLO_BYTES, timeout)
        if not hello:
            raise edge.lost("the other end left before the edge was open")
        check_hello(hello, edge, digest_of_token(token))
    except TimeoutError:
        packets.close()
        raise edge.silent("greeting") from None
    except TransportError:
        packets.close()
        raise
    return packets


def post_token(edge: Edge, store: Store) -> str:
    """Post the receiver's token: only who reaches the store knows it, and an end of an edge is known by it."""
    token = secrets.token_hex(16)
    post(edge, store, "token", token)
    return token


def post(edge: Edge, store: Store, what: str, value: str) -> None:
    """Post what the other end waits for. Raises PeerLostError where the store is gone."""
    try:
        store.set(key_of(edge, what), value)
    except RuntimeError as error:
        raise store_gone_error(edge) from error


def digest_of_token(token: str) -> str:
    """The digest that the receiver sends: it knows the token, and tells it nobody."""
    return hashlib.sha256(token.encode()).hexdigest()


def await_posted(edge: Edge, store: Store, what: str) -> str:
    """Wait for what the receiver posts: its address, or the token. Raises PeerTimeoutError, or PeerLostError where the
    store is gone."""
    deadline = time.monotonic() + edge.timeout.total_seconds()
    try:
        while not store.check([key_of(edge, what)]):
            if time.monotonic() >= deadline:
                raise edge.silent(f"{what} of the receiver")
            time.sleep(POLL_SECONDS)
        return store.get(key_of(edge, what)).decode()
    except TransportError:
        raise
    except RuntimeError as error:
        raise store_gone_error(edge) from error


def store_gone_error(edge: Edge) -> PeerLostError:
    """The error for a store that raises what torch's and Ray's raise when its process has died."""
    return edge.lost("the store through which the ends meet is gone")


def key_of(edge: Edge, what: str) -> str:
    """The key in the store under which an end of this edge posts something to the other."""
    return f"ffdist/{edge.name}/{edge.attempt}/{what}"


def _peer_uid(connection: socket.socket) -> int:
    _pid, uid, _gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return uid
