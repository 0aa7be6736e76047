"""The baselines by name."""

from __future__ import annotations

from functools import partial
from typing import Any

from ffdist.baselines.base import Baseline, Learner
from ffdist.baselines.checkpointed import checkpointed
from ffdist.baselines.data_parallel import data_parallel
from ffdist.baselines.single import single
from ffdist.errors import ConfigError
from ffdist.known import FAMILIES
from ffdist.options import nearest


def fully_sharded(*args: Any, **tuning: Any) -> Learner:
    """FSDP; imported on the first call, as it takes half of torch's compiler with it."""
    from ffdist.baselines.fully_sharded import fully_sharded

    return fully_sharded(*args, **tuning)


def pipeline_parallel(*args: Any, **tuning: Any) -> Learner:
    """torch.distributed.pipelining; imported on the first call, for the same reason."""
    from ffdist.baselines.pipeline_parallel import pipeline_parallel

    return pipeline_parallel(*args, **tuning)


_tuned = partial(data_parallel, static_graph=True, bucket_views=True, sync_buffers=False)

BASELINES: dict[str, Baseline] = {
    "bp": single,
    "bp-threads": single,
    "bp-checkpoint": checkpointed,
    "ddp": data_parallel,
    "ddp-static": partial(data_parallel, static_graph=True),
    "ddp-views": partial(data_parallel, bucket_views=True, sync_buffers=False),
    "ddp-bucket-5": partial(_tuned, bucket_mib=5),
    "ddp-bucket-25": _tuned,
    "ddp-bucket-100": partial(_tuned, bucket_mib=100),
    "ddp-bf16": partial(_tuned, compress="bf16"),
    "ddp-bf16-bucket-100": partial(_tuned, compress="bf16", bucket_mib=100),
    "ddp-powersgd": partial(_tuned, compress="power-sgd"),
    "ddp-accumulate": partial(_tuned, accumulate=4, static_graph=False),
    "ddp-accumulate-checkpoint": partial(_tuned, accumulate=4, static_graph=False, checkpoint=True),
    "ddp-checkpoint": partial(_tuned, checkpoint=True),
    "fsdp-32": fully_sharded,
    "fsdp-bf16": partial(fully_sharded, bf16=True),
    "fsdp-bf16-gathered": partial(fully_sharded, bf16=True, reshard=False),
    "gpipe-4": partial(pipeline_parallel, style="gpipe", microbatches=4),
    "gpipe-8": partial(pipeline_parallel, style="gpipe", microbatches=8),
    "1f1b-4": partial(pipeline_parallel, style="1f1b", microbatches=4),
    "1f1b-8": partial(pipeline_parallel, style="1f1b", microbatches=8),
    "1f1b-4-once": partial(pipeline_parallel, style="1f1b", microbatches=4, cast_once=True),
    "1f1b-8-once": partial(pipeline_parallel, style="1f1b", microbatches=8, cast_once=True),
    "interleaved-8": partial(pipeline_parallel, style="interleaved", microbatches=8),
    "zero-bubble-8": partial(pipeline_parallel, style="zero-bubble", microbatches=8),
}


def family(name: str) -> tuple[str, ...]:
    """The baselines that `name` stands for. Raises ConfigError, with the nearest name, where there is none."""
    if name not in FAMILIES and name not in BASELINES:
        remedy = nearest(name, {*FAMILIES, *BASELINES})
        raise ConfigError(f"there is no baseline '{name}'", where="--against", remedy=remedy)
    return FAMILIES.get(name, (name,))


def is_serial(name: str) -> bool:
    """True if a baseline runs on one device."""
    return name in ("bp", "bp-threads", "bp-checkpoint")
