"""A Ray cluster of several nodes on this host, whose nodes can be killed."""

from __future__ import annotations

import logging
import os
import random
import secrets
import signal
import time
from pathlib import Path
from typing import Any

from ffdist.process_stat import is_alive, parent_of
from ffdist.runtime.interrupts import signals_restored

NODES = 3
"""Nodes of one core each: one more than the run has workers, as a place for the worker of a node that was killed."""
DYING = 10.0
"""Seconds in which a killed process must be gone."""
STORE = 150 << 20
"""Bytes of a node's object store."""
ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on Linux, too: listen on the loopback alone
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_worker_niceness": "0",
    # a node is known to be dead after some checks that failed: with Ray's own numbers, after fifteen seconds
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "3",
}


class RayNodes:
    """A head without cores, and nodes of one core each, all processes of this one's."""

    def __init__(self, folder: Path) -> None:
        """folder: for what Ray writes, named `ray`; short, as sockets lie in it."""
        os.environ |= ENVIRONMENT
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        # Ray notes the newest cluster's address there: else in /tmp/ray, which may be missing, or have another's
        os.environ["RAY_TMPDIR"] = str(folder.parent)
        folder.mkdir(parents=True, exist_ok=True)
        from ray.cluster_utils import Cluster  # reads the environment

        logging.getLogger("ray").setLevel(logging.ERROR)
        self.cluster = Cluster()
        with signals_restored():  # Ray takes SIGTERM for itself, to end this process with status 15
            self.cluster.add_node(
                num_cpus=0, object_store_memory=STORE, include_dashboard=False, temp_dir=str(folder), dashboard_port=0
            )
        for _ in range(NODES):
            self._add()

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def kill(self, draw: random.Random, workers: list[int]) -> None:
        """Kill a node by its raylet, drawn among those that one of the workers' processes is on, else among all."""
        having = [node for node in self._nodes() if any(parent_of(pid) == raylet_of(node) for pid in workers)]
        node = draw.choice(having or self._nodes())
        os.kill(raylet := raylet_of(node), signal.SIGKILL)
        # the signal takes its time; who replaces nodes must find it dead, or it stays a zombie, whose workers take it
        # for alive and live on
        deadline = time.monotonic() + DYING
        while is_alive(raylet) and time.monotonic() < deadline:
            time.sleep(0.005)

    def replace(self) -> None:
        """Replace nodes that were killed by new ones."""
        for node in self._nodes():
            if not is_alive(raylet_of(node)):
                self.cluster.remove_node(node, allow_graceful=False)
                self._add()

    def close(self) -> None:
        self.cluster.shutdown()

    def _nodes(self) -> list[Any]:
        return sorted(self.cluster.worker_nodes, key=raylet_of)

    def _add(self) -> None:
        with signals_restored():
            self.cluster.add_node(num_cpus=1, object_store_memory=STORE)


def raylet_of(node: Any) -> int:
    """The process that is a node of Ray's."""
    return node.all_processes["raylet"][0].process.pid
