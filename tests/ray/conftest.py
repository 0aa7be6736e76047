"""One Ray cluster of several nodes on this host for all tests, on the loopback alone, stopped whatever happens."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

os.environ |= {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on Linux, too: listen on the loopback alone
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",
}

import ray
from ray.cluster_utils import Cluster

STORE = 640 << 20
"""Bytes of each node's object store."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A head without CPUs, and three nodes of one CPU each."""
    cluster = Cluster()
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
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR", namespace="ffdist")
    yield cluster.address
    ray.shutdown()
