"""The control service of a Ray cluster, its gcs_server: while it is away, Ray neither tells who has died nor ends
anybody, and after a minute it ends each driver with words of its own. What drivers and actors say to one another goes
past it: so a run can make its snapshot by then."""

from __future__ import annotations

import os
import socket

import ray

from ffdist.errors import StageLostError

EVERY = 1.0
"""Seconds between two looks whether it is there, and within which it accepts a connection."""
VARIABLE = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""Names the seconds after which Ray ends a driver; 60 where it is not set."""
SHARE = 0.25
"""The share of them for which it may be away: one that is kept up by others is back by then."""


def listens(address: str, timeout: float) -> bool:
    """True if host:port accepts connections, within so many seconds; where an address is no host:port, Ray shall say
    what it is."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return True
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=timeout).close()
    except OSError:
        return False
    return True


def answers() -> bool:
    """True if the gcs_server of the cluster that this process has joined is there."""
    return listens(ray.get_runtime_context().gcs_address, EVERY)


class GcsMonitor:
    """Counts the looks at which it was away."""

    def __init__(self) -> None:
        self.address: str = ray.get_runtime_context().gcs_address
        given = os.environ.get(VARIABLE, "")
        self.timeout = SHARE * (int(given) if given.isdigit() else 60)
        """Seconds for which it may be away."""
        self.missed = 0
        """Looks in a row at which it was away: none are counted while this process itself is stopped."""

    def look(self) -> bool:
        """True where it has been away for too long; for good then."""
        if not self.lost:
            self.missed = 0 if listens(self.address, EVERY) else self.missed + 1
        return self.lost

    @property
    def lost(self) -> bool:
        """True where it has been away for too long."""
        return self.missed * EVERY > self.timeout

    def lost_error(self) -> StageLostError:
        """The error of a run that cannot go on without it."""
        return StageLostError(
            "the Ray cluster has lost its gcs_server",
            where=self.address,
            expected=f"an answer within {self.timeout:g} s",
            got="nothing listens there",
            remedy=f"start the cluster again; for one that brings it back by itself, {VARIABLE} is how long that may "
            "take, of which a run waits for a quarter",
        )
