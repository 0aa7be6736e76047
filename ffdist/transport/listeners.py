"""Sockets that listen: strangers find room while those who should connect do so, and then find them deaf."""

from __future__ import annotations

import ctypes
import os
import resource
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SO_ATTACH_FILTER = 26
"""Linux's; Python's socket module has no name for it."""
DROP = struct.pack("HBBI", 0x06, 0, 0, 0)
"""A filter of one instruction, "return 0": nothing that comes is let in (linux/filter.h)."""
MANY = 1 << 16
"""Open files."""


def allow_many_descriptors() -> None:
    """Raise this process's limit of open files to what it may be, 65,536 at most: whoever connects to it holds one, and
    where none is left, gloo aborts the process and a store of torch's takes nobody. One host has fewer ports."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY if hard == resource.RLIM_INFINITY else min(hard, MANY)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # the system has another limit yet
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextmanager
def deaf_afterwards() -> Iterator[None]:
    """A context after which what began to listen inside takes no connection; those that it has are as they were.

    gloo listens as long as a group lives, though its ranks connect when they form it, takes whoever comes, and aborts
    the process when there are no descriptors left for them. It cannot be told to stop listening. On Linux; elsewhere of
    no effect.
    """
    before = listening()
    yield
    program = ctypes.create_string_buffer(DROP, len(DROP))
    for descriptor in listening() - before:
        with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as listener:  # a sandbox without filters
            listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program)))


def listening() -> set[int]:
    """This process's descriptors that listen; none where the system does not tell."""
    found = set[int]()
    with suppress(OSError):
        for entry in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                if os.readlink(entry).startswith("socket:") and listens(int(entry.name)):
                    found.add(int(entry.name))
    return found


def listens(descriptor: int) -> bool:
    """True if it is a socket that listens. Raises OSError where it is gone."""
    with socket.socket(fileno=os.dup(descriptor)) as one:
        return bool(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
