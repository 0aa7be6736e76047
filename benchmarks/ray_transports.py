"""What an edge between two stages of a Ray cluster carries, by each transport that can join them.

    python benchmarks/ray_transports.py --record benchmarks/records

This is the measurement behind `--transport auto` on Ray: shared memory within a host, gloo across hosts, and the object
store only where it is asked for. Both ends are on this host, so a network is not in it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import ray
import tyro
from ray.cluster_utils import Cluster

from ffdist.bench.finding import Finding, Grid
from ffdist.bench.probe import Probe
from ffdist.bench.record import write_record
from ffdist.bench.settings import BenchSettings
from ffdist.plain import PlainConsole
from ffdist.transport.measure import MIB, TransportRate, measure_transport

TRANSPORTS = ("shared-memory", "gloo", "object-store")
STORE = 512 * MIB
"""Bytes of the object store."""


@dataclass(frozen=True)
class Compare:
    """Measure the transports of a run on Ray."""

    rounds: int = 5
    record: Path | None = None
    """Folder for a record."""


def main() -> None:
    compare = tyro.cli(Compare)
    cluster = Cluster(True, head_node_args={"num_cpus": 2, "object_store_memory": STORE, "include_dashboard": False})
    try:
        with Probe(2) as probe:
            before = probe.measure()
            rates = measure_transport(TRANSPORTS, (MIB // 4, 4 * MIB), rounds=compare.rounds, cluster=cluster.address)
            lowest = min(before, probe.measure())
    finally:
        cluster.shutdown()
    finding = found(rates, lowest)
    PlainConsole().print(finding.grids[0].rich(), *finding.notes)
    if compare.record:
        settings = BenchSettings().changed(rounds=compare.rounds, record=compare.record)
        write_record(finding, settings, ["python", *sys.argv])


def found(rates: list[TransportRate], probe: float) -> Finding:
    rows = [{"transport": r.transport, "KiB": r.message_bytes // 1024, "messages/s": r.messages_per_s,
             "MB/s": r.mb_per_s, "of memcpy": r.ratio, "least": r.ratio_min, "most": r.ratio_max, "n": r.num_rounds}
            for r in rates]  # fmt: skip
    note = f"Ray {ray.__version__}; two processes' matrix products ran at {probe:.2f} of one's around it (2 is ideal)"
    return Finding(
        "ray-transport", {"transport": rows, "probe": probe}, [Grid("one producer, one consumer", rows)], [note]
    )


if __name__ == "__main__":
    main()
