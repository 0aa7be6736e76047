"""Ray's object store as a transport: `object_store_ends` has its ends, and needs Ray, which is imported only there."""

from __future__ import annotations

import sys

from ffdist.transport.base import Edge, Receiver, Sender
from ffdist.transport.transport import EdgeContext, Transport, WorkerLocation


class ObjectStore(Transport):
    """Edges between processes of one Ray cluster."""

    name = "object-store"
    speed = 0
    needs = "both stages on one Ray cluster"

    def obstacle(self) -> str | None:
        return None if self.mark() else "this process has joined no Ray cluster"

    def mark(self) -> str | None:
        ray = sys.modules.get("ray")
        return "joined" if ray is not None and ray.is_initialized() else None

    def joins(self, up: WorkerLocation, down: WorkerLocation) -> bool:
        return self.same_mark(up, down)

    def open_sender(self, edge: Edge, meeting: EdgeContext) -> Sender:
        from ffdist.transport.object_store_ends import open_sender

        return open_sender(edge, meeting.store)

    def open_receiver(self, edge: Edge, meeting: EdgeContext) -> Receiver:
        from ffdist.transport.object_store_ends import open_receiver

        return open_receiver(edge, meeting.store)


TRANSPORT = ObjectStore()
