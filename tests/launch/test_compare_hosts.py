"""docker/compare_hosts.py, as the compose file runs it, on two hosts without Docker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import ROOT, Command, run
from hosts import HEAD, INTERFACE, two_hosts

pytestmark = pytest.mark.distributed


def test_two_hosts_compare_ffdist_with_ddp_and_leave_a_record(tmp_path: Path) -> None:
    what = ["--model", "mlp", "--against", "ddp-static", "--batches", "4", "--rounds", "2", "--warmup-batches", "1"]
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
    summary = json.loads(record.read_text())["summary"]
    assert (summary["hosts"], summary["n"], summary["variant"]) == (2, 2, "ddp-static")
    assert summary["ours"] > 0 < summary["theirs"]
