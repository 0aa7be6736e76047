"""The rate of an edge between two stages of a Ray cluster, by each transport that can join them.

    python -m benchmarks.ray_transports --record benchmarks/records

This is the measurement behind `--transport auto` on Ray: shared memory within a host, gloo across hosts, and the object
store only where it is asked for. Both ends are on this host, so a network is not in it.
"""

from __future__ import annotations

from pathlib import Path

import ray
import tyro
from ray.cluster_utils import Cluster

from benchmarks.report import report
from ffdist.bench.harness.probe import Probe
from ffdist.bench.harness.result import BenchResult
from ffdist.bench.suites.transport import rate_table
from ffdist.transport.measure import MIB, TransportRate, measure_transport

TRANSPORTS = ("shared-memory", "gloo", "object-store")
STORE = 512 * MIB
"""Bytes of the object store."""


def main(rounds: int = 5, record: Path | None = None) -> None:
    """Measure, print, record.

    Args:
        rounds: Turns of the transports.
        record: Folder for the record.
    """
    cluster = Cluster(True, head_node_args={"num_cpus": 2, "object_store_memory": STORE, "include_dashboard": False})
    try:
        with Probe(2) as probe:
            before = probe.measure()
            rates = measure_transport(TRANSPORTS, (MIB // 4, 4 * MIB), rounds=rounds, cluster=cluster.address)
            lowest = min(before, probe.measure())
    finally:
        cluster.shutdown()
    report(found(rates, lowest), record, {"rounds": rounds})


def found(rates: list[TransportRate], probe: float) -> BenchResult:
    made = rate_table(rates)
    note = f"Ray {ray.__version__}; two processes' matrix products ran at {probe:.2f} of one's around it (2 is ideal)"
    return BenchResult("ray-transport", {"transport": made.drawn_cells(), "probe": probe}, [made], [note])


if __name__ == "__main__":
    tyro.cli(main)
