"""The same networks by backpropagation: what ffdist is compared with. `BASELINES` names them, with their tunings.

| family | what |
|---|---|
| `bp` | one device; `bp-checkpoint` with activation checkpointing |
| `bp-threads` | one process with all the threads that the other side has in its processes together |
| `ddp` | DistributedDataParallel; its tunings are tried in a short qualifying round, and the fastest stands for it |
| `ddp-accumulate`, `ddp-checkpoint` | DDP with gradient accumulation, with activation checkpointing |
| `ddp-accumulate-checkpoint` | DDP with both |
| `fsdp` | FSDP2: gathered as float32 or bfloat16, anew for the backward pass or not; the fastest stands for it |
| `pipeline` | torch.distributed.pipelining: GPipe, 1F1B, interleaved, zero-bubble; the fastest stands for it |
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ffdist.baselines.base import Baseline, BaselineConfig, Learner, RankPlace
    from ffdist.baselines.known import BASELINES, family

_PLACES = {
    **dict.fromkeys(("Baseline", "BaselineConfig", "Learner", "RankPlace"), "ffdist.baselines.base"),
    **dict.fromkeys(("BASELINES", "family"), "ffdist.baselines.known"),
}
"""Looked up on first use: FSDP and pipelining take torch two seconds to import, and a run needs `twin` alone."""

__all__ = ["BASELINES", "Baseline", "BaselineConfig", "Learner", "RankPlace", "family"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'ffdist.baselines' has no attribute '{name}'")
    return getattr(importlib.import_module(_PLACES[name]), name)
