"""Which transport each edge of a multi-process run uses, and how its ends find one another."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist

from ffdist.errors import ConfigError
from ffdist.runtime.world import World, host_name
from ffdist.transport import Edge, Receiver, Sender, process_group, shared_memory

Kind = Literal["shared-memory", "gloo", "nccl"]


def choose(wanted: str, devices: list[str], hosts: list[str]) -> list[Kind]:
    """The transport of each edge: devices and hosts are each rank's, by rank.

    auto: NCCL where both ends are on GPUs of their own, shared memory within a host, gloo across hosts.
    Raises ConfigError when the transport asked for cannot join two of the ranks.
    """
    kinds: list[Kind] = []
    for i in range(len(hosts) - 1):
        ends = [(hosts[i], devices[i]), (hosts[i + 1], devices[i + 1])]
        gpus = all(d.startswith("cuda") for d in devices[i : i + 2]) and ends[0] != ends[1]
        same_host = hosts[i] == hosts[i + 1]
        if wanted == "nccl" and not gpus or wanted == "shared-memory" and not same_host:
            raise ConfigError(f"{wanted} cannot join stages {i} and {i + 1}", where="--transport", got=ends,
                              expected="two GPUs" if wanted == "nccl" else "one host",
                              remedy="use --transport auto")  # fmt: skip
        if wanted == "auto":
            kinds.append("nccl" if gpus else "shared-memory" if same_host else "gloo")
        else:
            kinds.append(wanted)  # pyright: ignore[reportArgumentType]
    return kinds


class ProcessEdges:
    """One rank's ends; every rank makes its own, in the same order, since process groups are formed by all together."""

    def __init__(
        self, world: World, store: dist.Store, device: torch.device, *, transport: str, depth: int, timeout: timedelta
    ) -> None:
        self.world, self.store, self.depth, self.timeout = world, store, depth, timeout
        store.set(f"place/{world.rank}", f"{device}\n{host_name()}")
        places = [store.get(f"place/{rank}").decode().split("\n") for rank in range(world.size)]
        self.kinds = choose(transport, [p[0] for p in places], [p[1] for p in places])
        self.groups = self._form_groups() if {"gloo", "nccl"} & set(self.kinds) else {}
