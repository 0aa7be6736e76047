"""Every transport by its name, and which one joins two places.

A user's own is a file with an instance of `Transport`, named by its place: `--transport file.py:NAME`. One of ffdist's
has a line in `ffdist.known.TRANSPORT_PLACES` besides; the settings, their help, `ffdist doctor`, `ffdist bench
transport`, and the tests of the contract read it there, and auto may take it.
"""

from __future__ import annotations

import torch

from ffdist.device import CPU, collective, identity
from ffdist.errors import ConfigError
from ffdist.known import TRANSPORT_PLACES, LazyNames
from ffdist.options import find
from ffdist.transport.process_group import OverDevices
from ffdist.transport.transport import Transport, WorkerLocation

TRANSPORTS: LazyNames[Transport] = LazyNames(TRANSPORT_PLACES)


def transport_of(name: str) -> Transport:
    """The transport of this name: one of the registry's; a user's own, as "package.module:NAME" or "file.py:NAME"; or
    the backend by which torch.distributed joins accelerators of a kind that has none there.

    Raises ConfigError for a user's own that cannot be found, or is none.
    """
    if ":" in name:
        return users_transport(name)
    return TRANSPORTS[name] if name in TRANSPORTS else OverDevices(name)


def users_transport(name: str) -> Transport:
    """Raises ConfigError for what cannot be imported, and for what is no transport."""
    found = find(name, {}, "transport")
    if not isinstance(found, Transport) or found.name in TRANSPORTS:
        raise ConfigError(
            f"'{name}' is no transport of your own",
            expected=f"an instance of ffdist.transport.Transport, of another name than {', '.join(TRANSPORTS)}",
            got=found.name if isinstance(found, Transport) else found,
        )
    return found


def own_location(device: torch.device = CPU, wanted: str = "auto") -> WorkerLocation:
    """The location of this process, which computes on `device`, with the mark of each transport; wanted: one of a
    user's own, perhaps."""
    transports = [*TRANSPORTS.values(), *([transport_of(wanted)] if ":" in wanted else [])]
    marks = {transport.name: mark for transport in transports if (mark := transport.mark()) is not None}
    return WorkerLocation(identity(device), collective(device), marks)


def joining(up: WorkerLocation, down: WorkerLocation) -> list[Transport]:
    """All that can carry frames from one place to the other, the fastest first."""
    others = [up.collective] if up.collective and up.collective not in TRANSPORTS else []
    found = [transport for name in (*TRANSPORTS, *others) if (transport := transport_of(name)).joins(up, down)]
    return sorted(found, key=lambda transport: -transport.speed)


def fastest(up: WorkerLocation, down: WorkerLocation, *, by_host: bool = False) -> Transport:
    """The transport that auto takes; by_host: among those that go through the hosts' memory."""
    return next(transport for transport in joining(up, down) if not (by_host and transport.on_device))


def between_processes() -> list[str]:
    """The names of those that join two processes of this host, as they are, without devices."""
    place = own_location()
    return [name for name in TRANSPORTS if TRANSPORTS[name].joins(place, place)]
