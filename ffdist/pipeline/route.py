"""Fan out and fan in: microbatches go to whoever has their lane, markers go everywhere, and both arrive in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ffdist.errors import TransportError
from ffdist.pipeline.edge import FromEdge, ToEdge, joined
from ffdist.pipeline.message import EndOfEpoch, EvalBatch, Message, Pulse, Snapshot, TrainBatch, Written
from ffdist.plan import EVERY_BATCH


class FanOut:
    """An outbox with an edge for each lane."""

    def __init__(self, by_batch: Sequence[Mapping[int, ToEdge]]) -> None:
        """by_batch: each lane's edge; batch n of the stream takes those at n modulo the number of entries."""
        self.by_batch = list(by_batch)
        self.all = list({id(edge): edge for edges in by_batch for edge in edges.values()}.values())
        self.written: Written | None = None
        """What goes in front of the next message, over the edge that this goes over, or the first of them."""

    @property
    def waited(self) -> float:
        return sum(edge.waited for edge in self.all)

    def send(self, message: Message) -> None:
        if isinstance(message, Written):
            self.written = joined(self.written, message)
            return
        edges = self.all
        if isinstance(message, (TrainBatch, EvalBatch)):
            edges = [self.by_batch[message.order % len(self.by_batch)][message.lane]]
        if self.written:
            edges[0].send(self.written)
            self.written = None
        for edge in edges:
            edge.send(message)


class FanIn:
    """An inbox that reads each lane from whoever sends it: batch by batch, lane by lane, in order.

    A marker is handed on once, when it has come over every edge, with what each of its copies holds. `Written` comes
    over one edge, and is handed on at once.
    """

    def __init__(self, by_batch: Sequence[Mapping[int, FromEdge]], orders: range = EVERY_BATCH) -> None:
        """by_batch: as of `FanOut`, but in the order in which a batch's lanes are read. orders: of the batches that are
        read here."""
        self.by_batch = list(by_batch)
        self.orders = orders
        self.all = list({id(edge): edge for edges in by_batch for edge in edges.values()}.values())

    def __iter__(self) -> Iterator[Message]:
        lanes = list(next(filter(None, self.by_batch)))
        place, orders = 0, iter(self.orders)
        order = next(orders)
        while True:
            message = self.by_batch[order % len(self.by_batch)][lanes[place]].receive()
            if isinstance(message, Written):
                yield message
                continue
            if isinstance(message, (TrainBatch, EvalBatch)):
                if (message.order, message.lane) != (order, lanes[place]):
                    expected = f"lane {lanes[place]} of batch {order} of the stream"
                    raise out_of_order_error(expected, f"lane {message.lane} of batch {message.order}")
                place = (place + message.last) % len(lanes)
                if message.last and not place:
                    order = next(orders)
            elif place:
                raise out_of_order_error(f"lane {lanes[place]}", type(message).__name__)
            else:
                yield from self._merge_into(message, self.by_batch[order % len(self.by_batch)][lanes[place]])
            yield message
            del message  # the memory it lies in goes back before the next is asked for

    def _merge_into(self, marker: Message, read: FromEdge) -> Iterator[Written]:
        """Merge its copies into it, and yield what comes in front of them. read: the edge it came over."""
        for edge in self.all:
            if edge is read:
                continue
            while isinstance(other := edge.receive(), Written):
                yield other
            if type(other) is not type(marker):
                raise out_of_order_error(type(marker).__name__, type(other).__name__)
            merge(marker, other)

    @property
    def waited(self) -> float:
        """Seconds spent so far waiting for something to come."""
        return sum(edge.waited for edge in self.all)

    def take_queued(self, user: str) -> float:
        """The mean over all edges of `FromEdge.take_queued`."""
        return sum(edge.take_queued(user) for edge in self.all) / len(self.all)


def merge(marker: Message, other: Message) -> None:
    """Add to the first marker what the other, a copy of it that came over another edge, holds beside."""
    match marker, other:
        case (EndOfEpoch(), EndOfEpoch()) | (Pulse(), Pulse()):
            marker.stages = united(marker.stages, other.stages, lambda entry: (entry["stage"], entry["worker"]))
        case Snapshot(), Snapshot():
            marker.files = united(marker.files, other.files, lambda entry: block_of(entry["file"]))
            marker.extra_files = united(marker.extra_files, other.extra_files, lambda entry: entry["file"])
            marker.awaited = sorted({*marker.awaited, *other.awaited})
        case _:
            pass  # the workers of a stage agree on what they say of its blocks


def united(
    one: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]], key: Callable[[dict[str, Any]], Any]
) -> list[dict[str, Any]]:
    """The entries of both, each once by its key, in the keys' order: whichever came first changes nothing."""
    entries = {key(entry): entry for entry in (*one, *other)}
    return [entries[place] for place in sorted(entries)]


def block_of(file: str) -> int:
    """The place of the block whose file this is, as `snapshot.files.block_file` names it."""
    return int(file.split("-")[1])


def out_of_order_error(expected: str, got: str) -> TransportError:
    """The error for a stream whose ends do not agree on what comes next."""
    return TransportError(
        "a message does not follow from the one before",
        expected=expected,
        got=got,
        remedy="run the same version of ffdist at every stage",
    )
