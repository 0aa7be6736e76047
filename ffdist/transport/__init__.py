"""Edges between stages: one contract (`base`), one wire header (`wire`), several ways (`registry`).

| transport | joins | travels by |
|---|---|---|
| `local` | threads of one process | reference; the oracle that the others are tested against |
| `shared_memory` | processes of one host (CPU) | memory slots, with a unix socket for doorbell and credits |
| `process_group` | any two ranks | torch.distributed: gloo for CPU tensors, NCCL for tensors of a GPU |
| `object_store` | processes of one Ray cluster | Ray's object store, and two actors |

    sender = transport_of("gloo").open_sender(edge, meeting)        receiver = transport_of("gloo").open_receiver(...)
    sender, receiver = open_local(edge)

Opening blocks until the other end opens, so a stage opens its receiver first. An end is used by one thread at a time.
"""

from ffdist.renamed import renamed_names
from ffdist.transport.base import Edge, Frame, Receiver, Sender
from ffdist.transport.local import open_local
from ffdist.transport.registry import TRANSPORTS, transport_of
from ffdist.transport.transport import EdgeContext, Transport, WorkerLocation

__all__ = [
    "TRANSPORTS",
    "Edge",
    "EdgeContext",
    "Frame",
    "Receiver",
    "Sender",
    "Transport",
    "WorkerLocation",
    "open_local",
    "transport_of",
]

__getattr__ = renamed_names(__name__, Meeting="EdgeContext", Place="WorkerLocation")
