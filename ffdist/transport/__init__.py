"""Edges between stages: one contract (`base`), one wire header (`wire`), three ways.

| transport | joins | travels by |
|---|---|---|
| `local` | threads of one process | reference; the oracle that the others are tested against |
| `shared_memory` | processes of one host (CPU) | memory slots, with a unix socket for doorbell and credits |
| `process_group` | any two ranks | torch.distributed: gloo for CPU tensors, NCCL for tensors of a GPU |

    sender = shared_memory.open_sender(edge, store)                 receiver = shared_memory.open_receiver(edge, store)
    sender = process_group.open_sender(edge, group, device)         receiver = process_group.open_receiver(...)
    sender, receiver = open_local(edge)

Opening blocks until the other end opens, so a stage opens its receiver first. An end is used by one thread at a time.
"""

from ffdist.transport import process_group, shared_memory
from ffdist.transport.base import Edge, Frame, Receiver, Sender
from ffdist.transport.local import open_local

__all__ = ["Edge", "Frame", "Receiver", "Sender", "open_local", "process_group", "shared_memory"]
