"""launch/torchrun.sh, on one node and on two: a killed rank changes nothing of what the run learns."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from commands import LAUNCH, Command, environment, run
from hosts import HEAD, INTERFACE, two_hosts
from traces import read

from ffdist.bench.victims import descendants, is_worker
from ffdist.cli import main
from ffdist.cli.train import Train
from ffdist.cli.training import begin_or_resume
from ffdist.data import open_data
from ffdist.errors import ConfigError
from ffdist.runtime.folder import write_run_files
from ffdist.runtime.torchrun import Rendezvous
from ffdist.runtime.world import World
from ffdist.settings import Settings
from ffdist.snapshot import committed, latest

pytestmark = pytest.mark.distributed
FATAL = f"{Path(__file__).with_name('fatal.py')}:Fatal"
SETTINGS = [
    "--objective",
    FATAL,
    "--objective-args",
    "kernel=1",
    "--samples",
    "256",
    "--batch-size",
    "32",
    "--epochs",
    "3",
    "--threads",
    "1",
    "--timeout",
    "60",
    "--cut",
    "1",
    "2",
]
RANK_1_DIES = {"FATAL": "1:25"}
"""At the end of the second epoch, when the first's snapshot has long come to the disk: the check beforehand takes each
of three blocks once, then rank 1 has two and an epoch has 6 batches."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the snapshot of an undisturbed run says of each block's file: its sha256, too."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    main(["train", *SETTINGS, "--launcher", "threads", "--out", str(out)])
    return files_of(out)


def files_of(out: Path) -> list[dict[str, Any]]:
    manifest = latest(out)
    assert manifest
    assert manifest.epoch == 3
    return manifest.files


def test_a_run_whose_rank_was_killed_goes_on_by_itself_to_the_same_bits(
    undisturbed: list[dict[str, Any]], tmp_path: Path
) -> None:
    """And traced: the second attempt's batches, of both ranks."""
    command = [LAUNCH / "torchrun.sh", *SETTINGS, "--trace", "--trace-steps", "2", "--out", tmp_path / "run"]
    (output,) = run(Command(command, {"NPROC": 2, "RESTARTS": 1, **RANK_1_DIES}))
    assert "exitcode: -9" in output
    assert files_of(tmp_path / "run") == undisturbed
    spans = read(tmp_path / "run")
    steps = {rank: {span["args"]["step"] for span in spans if span["pid"] == rank} for rank in (0, 1)}
    assert steps[0] == steps[1]
    assert len(steps[0]) == 2
    assert "epoch 0" not in (tmp_path / "run" / "stage-0.log").read_text().split("failed")[1]


def test_two_nodes_restart_together_after_one_lost_a_rank(undisturbed: list[dict[str, Any]], tmp_path: Path) -> None:
    common = {"NNODES": 2, "NPROC": 1, "HEAD": f"{HEAD}:29500", "IFACE": INTERFACE, "RESTARTS": 2, **RANK_1_DIES}
    command = [LAUNCH / "torchrun.sh", *SETTINGS, "--out", tmp_path / "run"]
    with two_hosts() as hosts:
        outputs = run(
            *(
                Command(["ip", "netns", "exec", host, *command], {**common, "NODE_RANK": node})
                for node, host in enumerate(hosts)
            )
        )
    assert "exitcode: -9" in "".join(outputs)
    assert files_of(tmp_path / "run") == undisturbed


def test_two_nodes_of_an_ipv6_network_train(tmp_path: Path) -> None:
    common = {"NNODES": 2, "NPROC": 1, "HEAD": "[fd00:77::1]:29500", "IFACE": INTERFACE, "RESTARTS": 0}
    command = [LAUNCH / "torchrun.sh", "--samples", "256", "--epochs", "1", "--threads", "1", "--timeout", "60"]
    with two_hosts("fd00:77::{}/64") as hosts:
        run(
            *(
                Command(
                    ["ip", "netns", "exec", host, *command, "--out", tmp_path / "run"], {**common, "NODE_RANK": node}
                )
                for node, host in enumerate(hosts)
            )
        )
    assert latest(tmp_path / "run")
    assert "gloo" in (tmp_path / "run" / "stage-0.log").read_text()


@pytest.mark.parametrize("head", ["fd00::1", "fd00::1:29500", "[fd00::1]", "10.0.0.1:", "http://head:29500"])
def test_a_head_that_torchrun_would_not_understand_is_refused(head: str) -> None:
    told = subprocess.run(
        [LAUNCH / "torchrun.sh"], env=environment(NNODES=2, HEAD=head), capture_output=True, text=True
    )
    assert told.returncode == 1
    assert told.stderr == (
        "torchrun.sh: HEAD is host:port, with an IPv6 address in brackets ([fd00::1]:29500), not " + head + "\n"
    )


def as_shells_have_it(status: int) -> int:
    """A signal that comes in Python's own start ends the process itself: shells make one number of both ends."""
    return 128 - status if status < 0 else status


def rank_of(launcher: int) -> int:
    """A worker's process."""
    return min(each.pid for each in descendants(launcher) if is_worker(each, "torchrun"))


@pytest.mark.parametrize(
    ("number", "begun"),
    [(signal.SIGHUP, False), (signal.SIGINT, False), (signal.SIGTERM, True)],
    ids=["SIGHUP at once", "SIGINT as ranks start", "SIGTERM to a rank alone while it trains"],
)
def test_asked_to_stop_it_ends_quietly_with_the_signals_status(
    number: signal.Signals, begun: bool, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = [LAUNCH / "torchrun.sh", "--epochs", "1000", "--samples", "256", "--threads", "1", "--out", out]
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(command, env=environment(NPROC=2), stdout=said, stderr=said, start_new_session=True)
    signs = {
        signal.SIGHUP: lambda: Path(f"/proc/{process.pid}/cmdline").read_bytes().startswith(b"python3"),
        signal.SIGINT: lambda: "loading" in (tmp_path / "said").read_text(),
        signal.SIGTERM: lambda: bool(committed(out)),
    }
    try:
        while not signs[number]():
            assert process.poll() is None, (tmp_path / "said").read_text()
            time.sleep(0.05)
        os.kill(rank_of(process.pid) if begun else process.pid, number)
        assert as_shells_have_it(process.wait(30)) == 128 + number
    finally:
        process.kill()
    text = (tmp_path / "said").read_text()
    assert "Traceback" not in text
    assert ("--resume" in text) == begun
    assert out.exists() == begun


@pytest.mark.parametrize(
    ("visible", "stages"), [(None, 3), ("0,2", 2), ("GPU-1a2b,GPU-3c4d", 2), ("1", 1), ("", 2), ("-1", 2)]
)
def test_a_node_gets_a_process_for_each_gpu_that_torch_will_see(
    visible: str | None, stages: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = "GPU 0: H100 (UUID: GPU-1)\n  MIG 1g.10gb Device 0: (UUID: MIG-1)\nGPU 1: H100\nGPU 2: H100"
    for name, body in (("nvidia-smi", f"echo '{listed}'"), ("python3", 'echo "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    (output,) = run(Command([LAUNCH / "torchrun.sh"], {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}))
    assert f"--nproc-per-node={stages} " in output


def test_a_restarted_attempt_never_goes_on_in_a_run_it_did_not_begin(tmp_path: Path) -> None:
    images = open_data("digits")
    write_run_files(tmp_path, Settings(), images)
    snapshot = tmp_path / "snapshots/step-000000001-epoch-00001"
    snapshot.mkdir(parents=True)
    (snapshot / "manifest.json").write_text("{}")
    store = dist.HashStore()
    with ExitStack() as start, pytest.raises(ConfigError, match="already holds a run"):
        begin_or_resume(
            Train(settings=Settings().changed(out=tmp_path)), images, Rendezvous(World(attempt=1), store, store), start
        )
