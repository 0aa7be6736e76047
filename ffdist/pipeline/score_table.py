"""The blocks' scores of training samples, on their way back from the last stage to the source.

    source    makes batch s, knowing the scores of the batches up to s - lag, however the stages are cut
    sink      sends back the scores of every batch that arrives, and waits for nothing

The lag is fixed, so that the pipeline changes nothing here either; and it is no less than the batches that can be on
their way (`check_lag`), so that nobody waits: the scores asked for are there, and there is room for those that come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ffdist.data import Loader
from ffdist.errors import ConfigError, setting
from ffdist.pipeline.message import Snapshot, TrainBatch
from ffdist.transport.base import Frame, Receiver, Sender

Write = Callable[[Snapshot, str, dict[str, Tensor], dict[str, Any]], list[dict[str, Any]]]
"""Writes tensors and fields durably beside the blocks of a snapshot, by name; returns what the manifest says."""
KNOWN, RECENT = "predictions", "feedback"
"""The files of the source and of the sink in a snapshot."""


class ScoreTable:
    """The source's end: for each training sample the newest scores that it may know, zeros before there are any.

    recent: float32 [n, B, K], the scores of the last batches before a snapshot, whose own scores are not sent again.
    """

    def __init__(
        self,
        loader: Loader,
        num_classes: int,
        lag: int,
        receiver: Receiver,
        write: Write,
        recent: Iterable[Tensor] = (),
    ) -> None:
        self.scores = torch.zeros(len(loader.split), num_classes)
        self.num_batches = len(loader)
        self.batch_size = loader.batch_size
        self.lag = lag
        self.order = lru_cache(2)(loader.order)
        self.receiver = receiver
        self.write = write
        self.recent = deque(recent)
        self.step = 0
        """The last batch whose scores are taken in."""

    def before(self, step: int) -> Tensor:
        """Scores of the samples of batch `step`, as known when it is made: float32 [B, K]."""
        self._take_in(step - self.lag)
        return self.scores[self._rows(step)]

    def drain(self, last: int) -> None:
        """Take what the sink still sends, up to the last batch there was; then both ends may close."""
        self._take_in(last)

    def save(self, marker: Snapshot) -> list[dict[str, Any]]:
        """Write the table beside a snapshot; its entry in the manifest."""
        return self.write(marker, KNOWN, {"scores": self.scores}, {"step": self.step})

    def load_state(self, tensors: dict[str, Tensor], fields: dict[str, Any]) -> None:
        """The inverse of `save`."""
        self.scores.copy_(tensors["scores"])
        self.step = fields["step"]

    def _take_in(self, step: int) -> None:
        while self.step < step:
            self.step += 1
            scores = self.recent.popleft() if self.recent else self.receiver.recv().tensors["scores"]
            self.scores[self._rows(self.step)] = scores

    def _rows(self, step: int) -> np.ndarray:
        epoch, batch = divmod(step - 1, self.num_batches)
        return self.order(epoch)[batch * self.batch_size : (batch + 1) * self.batch_size]


class ScoreSender:
    """The sink's end: sends back the mean of the blocks' scores, and keeps the last `lag` batches' for a snapshot."""

    def __init__(self, senders: Sequence[Sender], lag: int, write: Write, recent: Iterable[Tensor] = ()) -> None:
        self.senders = list(senders)
        self.write = write
        self.recent = deque(recent, maxlen=lag)
        self.parts: list[Tensor] = []

    def send(self, batch: TrainBatch) -> None:
        """Send a batch's scores back, once its last microbatch is here."""
        assert batch.scores is not None
        self.parts.append((batch.scores / max(1, batch.scored)).float().cpu())
        if batch.complete:
            scores, self.parts = torch.cat(self.parts), []
            self.recent.append(scores)
            for sender in self.senders:
                sender.send(Frame("Feedback", {"step": batch.step}, {"scores": scores}))

    def save(self, marker: Snapshot) -> list[dict[str, Any]]:
        """Write the last `lag` batches' scores, which are not sent again; their entry in the manifest."""
        return self.write(marker, RECENT, {"scores": torch.stack(list(self.recent))} if self.recent else {}, {})


def check_lag(lag: int, in_flight: int, where: str) -> None:
    """Raises ConfigError where more batches can be on their way than the rule's lag: the source would wait for them."""
    if lag and lag < in_flight:
        raise ConfigError(
            "predictions would come back too late for hard negatives",
            where=where,
            expected=f"a lag of at least {in_flight} batches, which is what the pipeline can hold",
            got=lag,
            remedy=f"{setting('rule.objective_args', f'lag={in_flight}')}, or fewer stages, or a shorter queue",
        )
