"""The same networks by backpropagation: what ffdist is compared with. `BASELINES` names them, with their tunings.

| family | what |
|---|---|
| `bp` | one device; `bp-checkpoint` with activation checkpointing |
| `ddp` | DistributedDataParallel; its tunings are tried in a short qualifying round, and the fastest stands for it |
| `ddp-accumulate`, `ddp-checkpoint` | DDP with gradient accumulation, with activation checkpointing |
| `fsdp` | FSDP2 |
| `pipeline` | torch.distributed.pipelining: GPipe, 1F1B, interleaved, zero-bubble; the fastest stands for it |
"""

from __future__ import annotations

from ffdist.baselines.base import Baseline, BaselineConfig, Learner, Place
from ffdist.baselines.known import BASELINES, family

__all__ = ["BASELINES", "Baseline", "BaselineConfig", "Learner", "Place", "family"]
