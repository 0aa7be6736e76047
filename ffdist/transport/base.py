"""The contract of an edge between two stages, and its wire header.

An edge has two ends, a `Sender` and a `Receiver`. It delivers frames in order, exactly once, and holds at most
`depth` of them: the sender blocks while `depth` frames are accepted and not yet received. There is no other bound and
no other buffer, so the memory of an edge is its depth. A transport knows nothing of training; it moves frames.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from ffdist.errors import TransportError

WIRE_VERSION = 1
DTYPES = {str(d).removeprefix("torch."): d for d in (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128, torch.uint8,
    torch.int8, torch.int16, torch.int32, torch.int64, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2,
)}  # fmt: skip


@dataclass(slots=True)
class Frame:
    """One message on the wire: its kind, small JSON-able fields, and named tensors of any dtype, shape and layout."""

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Edge:
    """What both ends of an edge agree on before it opens."""

    name: str
    """Unique in a run, e.g. "0-1"; appears in every error."""
    depth: int = 2
    """Frames that are accepted and not yet received, at most; at least 1."""
    timeout: timedelta = timedelta(minutes=10)
    """How long an end waits for the other before it gives up."""
    attempt: int = 0
    """How often the run was restarted; an end of another attempt is refused."""

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise TransportError("an edge needs room for one frame", where=f"edge {self.name}", expected="depth >= 1",
                                 got=self.depth, remedy="set --queue to 1 or more")  # fmt: skip


class Sender(ABC):
    """The upstream end. `waited` counts the seconds spent without a credit."""

    waited: float = 0.0

    @abstractmethod
    def send(self, frame: Frame) -> None:
        """Accept one frame; block while the edge is full. The caller must not change its tensors afterwards.

        Raises PeerLostError when the receiver is gone, PeerTimeoutError when no credit comes within the timeout.
        """

    @abstractmethod
    def close(self) -> None:
        """Deliver what was accepted, then let go. Idempotent; never raises because the peer is gone."""


class Receiver(ABC):
    """The downstream end. `waited` counts the seconds spent without a frame."""

    waited: float = 0.0

    @abstractmethod
    def recv(self) -> Frame:
        """The next frame; block until there is one. Its tensors own their memory and have the sender's strides.

        Raises PeerLostError when the sender is gone, PeerTimeoutError when no frame comes within the timeout.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go; a sender that still sends gets PeerLostError. Idempotent."""
