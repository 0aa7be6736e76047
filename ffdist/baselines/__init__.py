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

from ffdist.baselines.base import Baseline, BaselineConfig, Learner, Place
from ffdist.baselines.known import BASELINES, family

__all__ = ["BASELINES", "Baseline", "BaselineConfig", "Learner", "Place", "family"]
