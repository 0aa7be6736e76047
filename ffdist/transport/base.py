"""The contract of an edge between two stages.

An edge has two ends, a `Sender` and a `Receiver`. It delivers frames in order, exactly once, and holds at most
`depth` of them: the sender blocks while `depth` frames are accepted and not yet received. There is no other bound and
no other buffer, so the memory of an edge is its depth. A transport knows nothing of training; it moves frames.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from torch import Tensor

from ffdist.errors import PeerLostError, PeerTimeoutError, TransportError, setting


@dataclass(slots=True)
class Frame:
    """One message on the wire: its kind, small JSON-able fields, and named tensors of any dtype, shape and layout."""

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Edge:
    """The terms that both ends of an edge agree on before it opens."""

    name: str
    """Unique in a run, e.g. "0-1"; appears in every error."""
    depth: int = 2
    """Frames that are accepted and not yet received, at most; at least 1."""
    timeout: timedelta = timedelta(minutes=10)
    """How long an end waits for the other before it gives up."""
    attempt: int = 0
    """How often the run was restarted; an end of another attempt is refused."""
    silence: timedelta | None = None
    """How long a process that carries the edge, and is neither end's, may give no sign of life; None: `timeout`."""

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise TransportError(
                "an edge needs room for one frame",
                where=f"edge {self.name}",
                expected="depth >= 1",
                got=self.depth,
                remedy=f"set {setting('plan.queue')} to 1 or more",
            )

    def at(self, sequence: int | None = None) -> str:
        """The place of an error: the edge, the attempt, and the frame's number from 0."""
        return f"edge {self.name}, attempt {self.attempt}" + ("" if sequence is None else f", frame {sequence}")

    def lost(self, what: str, sequence: int | None = None) -> PeerLostError:
        """The error for a peer that is gone."""
        return PeerLostError(what, where=self.at(sequence), remedy="the log of the stage at the other end says why")

    def silent(self, awaited: str, sequence: int | None = None) -> PeerTimeoutError:
        """The error for a peer that did not answer; `awaited` is what it owed."""
        return PeerTimeoutError(
            f"no {awaited} came in time",
            where=self.at(sequence),
            expected=f"{awaited} within {self.timeout.total_seconds():g} s",
            got="silence",
            remedy=f"look for a hung stage at the other end, or raise {setting('run.timeout')} if it is only slow",
        )


class Sender(ABC):
    """The upstream end. `waited` counts the seconds spent without a credit."""

    waited: float = 0.0

    @abstractmethod
    def send(self, frame: Frame) -> None:
        """Accept one frame; block while the edge is full. The caller must not change its tensors afterwards.

        Raises PeerLostError when the receiver is gone, PeerTimeoutError when no credit comes within the timeout, and
        TransportError for a tensor that cannot travel (sparse, quantised).
        """

    @abstractmethod
    def close(self) -> None:
        """Let go. What was accepted is still delivered, and no `recv` is waited for. Idempotent; never raises because
        the peer is gone."""


class Receiver(ABC):
    """The downstream end. `waited` counts the seconds spent without a frame."""

    waited: float = 0.0
    queued: int = 0
    """Frames that lay here when `recv` was last called: none where it had to wait, `depth` where the edge was full."""

    @abstractmethod
    def recv(self) -> Frame:
        """The next frame; block until there is one. Its tensors have the sender's strides and no graph.

        Raises PeerLostError when the sender is gone or has closed, PeerTimeoutError when no frame comes within the
        timeout, and TransportError for a frame that is not the next one of this attempt.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go; a sender that still sends gets PeerLostError. Idempotent."""
