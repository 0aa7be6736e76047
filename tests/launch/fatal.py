"""An objective that kills its own process once: FATAL=rank:batch, in the first attempt that its node counts.

A batch counts once for each block of the rank."""

from __future__ import annotations

import itertools
import os
import signal
from dataclasses import dataclass

from torch import Tensor, nn

from ffdist.objectives import SFF, Local

BATCHES = itertools.count(1)


@dataclass(frozen=True)
class Fatal(SFF):
    """SFF, until it dies."""

    def local(self, head: nn.Module, out: Tensor, labels: Tensor | None) -> Local:
        first = head.training and os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0"
        if first and os.environ.get("FATAL") == f"{os.environ['RANK']}:{next(BATCHES)}":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().local(head, out, labels)
