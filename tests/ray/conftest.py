"""One Ray cluster of several nodes on this host for all tests, on the loopback alone, stopped whatever happens."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from multiprocessing.reduction import DupFd
from typing import Any

import pytest

os.environ |= {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on Linux, too: listen on the loopback alone
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",
}

import forked_worker
import ray
from forked import fork_context
from ray.cluster_utils import Cluster

QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "namespace": "ffdist"}
STORE = 640 << 20
"""Bytes of each node's object store."""


class ForkingCluster(Cluster):
    """One whose nodes fork their workers."""

    def add_node(self, *args: Any, **options: Any) -> Any:
        return super().add_node(*args, setup_worker_path=forked_worker.__file__, **options)


@pytest.fixture(scope="session")
def forked_workers() -> Iterator[None]:
    """Workers of the cluster's nodes are forked (`forked_worker`)."""
    folder = tempfile.TemporaryDirectory(dir="/tmp")  # the address of a socket is short
    with folder as path, socket.socket(socket.AF_UNIX) as door, pytest.MonkeyPatch.context() as patch:
        door.bind(f"{path}/workers")
        door.listen(64)
        patch.setenv(forked_worker.ADDRESS, door.getsockname())
        start = (DupFd(door.fileno()), dict(os.environ))
        server = fork_context().Process(target=forked_worker.serve_workers, args=start)
        server.start()
        yield
        server.kill()
        server.join()


@pytest.fixture(scope="session")
def cluster(forked_workers: None) -> Iterator[Cluster]:
    """A head without CPUs, and three nodes of one CPU each."""
    cluster = ForkingCluster()
    elsewhere = {"dashboard_port": 0, "dashboard_agent_listen_port": 0}  # than another cluster of this host
    try:
        cluster.add_node(num_cpus=0, object_store_memory=STORE, include_dashboard=True, **elsewhere)
        for _ in range(3):
            cluster.add_node(num_cpus=1, object_store_memory=STORE)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def driver(cluster: Cluster) -> Iterator[str]:
    """This process as a driver on the cluster."""
    ray.init(cluster.address, **QUIET)
    yield cluster.address
    ray.shutdown()


@pytest.fixture
def driver_of_interpreters(cluster: Cluster) -> Iterator[str]:
    """One whose workers are not forked: they have a runtime environment."""
    ray.init(cluster.address, **QUIET, runtime_env={"env_vars": {"FFDIST_TESTS": "an interpreter of its own"}})
    yield cluster.address
    ray.shutdown()
