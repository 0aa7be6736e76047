"""docker/compare_hosts.py, as the compose file runs it, on two hosts without Docker."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import ROOT, Command, run
from hosts import HEAD, INTERFACE, two_hosts

from ffdist.bench.harness.record import read
from ffdist.bench.harness.table import lines_of

pytestmark = pytest.mark.distributed


def test_two_hosts_compare_ffdist_with_ddp_and_leave_a_record(tmp_path: Path) -> None:
    what = ["--model", "mlp", "--precision", "fp32", "--against", "ddp-static"]
    what += ["--batches", "4", "--rounds", "2", "--warmup-batches", "1"]
    meeting = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint={HEAD}:29500"]
    command = [ROOT / "docker" / "compare_hosts.py", *what, "--record", tmp_path]
    with two_hosts() as hosts:
        run(
            *(
                Command(
                    [
                        "ip",
                        "netns",
                        "exec",
                        host,
                        "torchrun",
                        *meeting,
                        f"--rdzv-conf=is_host={1 - node}",
                        f"--local-addr=10.77.0.{node + 1}",
                        *command,
                    ],
                    {"GLOO_SOCKET_IFNAME": INTERFACE},
                )
                for node, host in enumerate(hosts)
            )
        )
    (record,) = tmp_path.glob("hosts-*.json")
    lines = {line["side"]: line for line in lines_of(read(record)["rows"], "hosts")}
    assert lines.keys() == {"ours", "ddp-static"}
    assert all(line["throughput"].value > 0 and line["throughput"].n == 2 for line in lines.values())
    assert lines["ddp-static"]["ratio"].n == 2
    assert ", 2 hosts, link unlimited, " in record.with_suffix(".md").read_text()
