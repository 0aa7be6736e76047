"""A transport in one file: a frame is a file in a folder that both ends know; one that is received is deleted."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ffdist.errors import TransportError
from ffdist.transport import wire
from ffdist.transport.base import Edge, Frame, Receiver, Sender
from ffdist.transport.transport import EdgeContext, Transport, WorkerLocation

LOOK = 0.002


class Folder:
    """What both ends share. Each holds a lock on a file of its own, which the system lifts when it dies."""

    def __init__(self, edge: Edge, path: Path, me: str, peer: str) -> None:
        self.edge = edge
        self.path = path
        self.me = me
        self.peer = peer
        made = path / f"{me}.made"  # held before the peer can see it: an open one that nobody holds is a dead one's
        self.lock = os.open(made, os.O_CREAT | os.O_RDWR)
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        made.rename(path / f"{me}.lock")
        self.put(f"{me}.hello", wire.encode_hello(edge))

    def put(self, name: str, *parts: bytes) -> None:
        try:
            (self.path / f"{name}.part").write_bytes(b"".join(parts))
            (self.path / f"{name}.part").rename(self.path / name)
        except FileNotFoundError:
            raise self.edge.lost(f"the {self.peer} closed the edge") from None

    def frames(self) -> list[Path]:
        return sorted(self.path.glob("*.frame"))

    def obituary(self) -> str | None:
        if (self.path / f"{self.peer}.closed").exists():
            return f"the {self.peer} closed the edge"
        try:
            other = os.open(self.path / f"{self.peer}.lock", os.O_RDWR)
        except FileNotFoundError:
            return None if self.path.exists() else f"the {self.peer} closed the edge"
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        finally:
            os.close(other)
        return f"the {self.peer} died"

    def wait(self, ready: Callable[[], object], awaited: str, sequence: int) -> float:
        started = time.monotonic()
        while not ready():
            gone = self.obituary()
            if gone and not ready():
                raise self.edge.lost(gone, sequence)
            if time.monotonic() - started > self.edge.timeout.total_seconds():
                raise self.edge.silent(awaited, sequence)
            time.sleep(LOOK)
        return time.monotonic() - started

    def greet(self) -> None:
        theirs = self.path / f"{self.peer}.hello"
        try:
            self.wait(theirs.exists, "greeting", 0)
            wire.check_hello(theirs.read_bytes(), self.edge)
        except TransportError:
            os.close(self.lock)
            raise

    def close(self) -> None:
        if self.lock >= 0:
            with contextlib.suppress(TransportError):
                self.put(f"{self.me}.closed")
            os.close(self.lock)
            self.lock = -1


class FileSender(Sender):
    def __init__(self, edge: Edge, folder: Folder) -> None:
        self.edge = edge
        self.folder = folder
        self.sequence = 0

    def send(self, frame: Frame) -> None:
        prelude, header, tensors = wire.encode(frame, self.edge, self.sequence)
        parts = [prelude, header]
        for data in (wire.as_bytes(tensor.cpu()).numpy().tobytes() for tensor in tensors):
            parts.append(data.ljust(wire.aligned(len(data)), b"\0"))
        folder, room = self.folder, lambda: len(self.folder.frames()) < self.edge.depth
        self.waited += folder.wait(room, "credit", self.sequence)
        if gone := folder.obituary():
            raise self.edge.lost(gone, self.sequence)
        folder.put(f"{self.sequence:09}.frame", *parts)
        self.sequence += 1

    def close(self) -> None:
        self.folder.close()


class FileReceiver(Receiver):
    def __init__(self, edge: Edge, folder: Folder) -> None:
        self.edge = edge
        self.folder = folder
        self.sequence = 0

    def recv(self) -> Frame:
        if self.folder.lock < 0:
            raise self.edge.lost("this end is closed", self.sequence)
        self.queued = len(self.folder.frames())
        path = self.folder.path / f"{self.sequence:09}.frame"
        self.waited += self.folder.wait(path.exists, "frame", self.sequence)
        data = path.read_bytes()
        start = wire.PRELUDE.size
        prelude = wire.decode_prelude(data[:start], self.edge, self.sequence)
        header = wire.decode_header(data[start : start + prelude.header_bytes], prelude, self.edge)
        start, tensors = start + prelude.header_bytes, []
        for spec in header.tensors:
            memory = torch.empty(spec.nbytes, dtype=torch.uint8)
            memory.numpy()[:] = memoryview(data)[start : start + spec.nbytes]
            tensors.append(wire.from_bytes(memory, spec))
            start += wire.aligned(spec.nbytes)
        path.unlink()
        self.sequence += 1
        return header.frame(tensors)

    def close(self) -> None:
        self.folder.close()
        shutil.rmtree(self.folder.path, ignore_errors=True)


class Files(Transport):
    name = "files"
    speed = 0
    needs = "a file system that both stages see"

    def joins(self, up: WorkerLocation, down: WorkerLocation) -> bool:
        return True

    def open_sender(self, edge: Edge, meeting: EdgeContext) -> FileSender:
        key = f"files/{edge.name}/{edge.attempt}"
        try:
            meeting.store.wait([key], edge.timeout)
        except RuntimeError:
            raise edge.silent("folder") from None
        folder = Folder(edge, Path(meeting.store.get(key).decode()), "sender", "receiver")
        folder.greet()
        return FileSender(edge, folder)

    def open_receiver(self, edge: Edge, meeting: EdgeContext) -> FileReceiver:
        folder = Folder(edge, Path(tempfile.mkdtemp(prefix="edge-")), "receiver", "sender")
        meeting.store.set(f"files/{edge.name}/{edge.attempt}", str(folder.path))
        folder.greet()
        return FileReceiver(edge, folder)


TRANSPORT = Files()
