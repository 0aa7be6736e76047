"""launch/slurm.sbatch, on a real cluster where there is one to be had, and its branches everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import LAUNCH, Command, run
from slurm import cluster, free_ports

from ffdist.snapshot import latest

pytestmark = pytest.mark.distributed


@pytest.fixture
def shims(tmp_path: Path) -> Path:
    """A folder with an srun that prints what it would run, and a scontrol that knows two nodes."""
    for name, script in {
        "srun": 'printf "%s " "$HEAD" "$RUN_ID" "$@"',
        "scontrol": "printf 'node7\\nnode8\\n'",
    }.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    return tmp_path / "bin"


def batch(shims: Path, folder: Path, **env: object) -> str:
    job = {
        "SLURM_JOB_ID": 1042,
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_JOB_NUM_NODES": 2,
        "SLURM_SUBMIT_DIR": "/here",
    }
    path = {"PATH": f"{shims}:/usr/local/bin:/usr/bin:/bin"}
    return run(Command([LAUNCH / "slurm.sbatch", "--epochs", "2"], {**job, **path, **env}, cwd=folder))[0]


def test_nodes_meet_at_the_first_one_by_a_port_of_the_job(shims: Path, tmp_path: Path) -> None:
    output = batch(shims, tmp_path)
    assert output.startswith("node7:29542 1042 ")
    assert "/here/launch/torchrun.sh --out runs/slurm-1042 --epochs 2" in output


def test_a_requeued_job_goes_on_and_deletes_nothing(shims: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "slurm-1042"
    run.mkdir(parents=True)
    (run / "stage-0.log").touch()
    assert "--resume" not in batch(shims, tmp_path, SLURM_RESTART_COUNT=1)  # it had not begun
    (run / "config.toml").touch()
    assert "--out runs/slurm-1042 --resume --epochs 2" in batch(shims, tmp_path, SLURM_RESTART_COUNT=1)
    assert (run / "stage-0.log").exists()


def test_a_job_on_two_slurm_nodes_trains(tmp_path: Path) -> None:
    env = {"HEAD": f"127.0.0.1:{free_ports(1)[0]}", "NPROC": 1, "FFDIST_LAUNCH": LAUNCH}
    job = [LAUNCH / "slurm.sbatch", "--samples", "256", "--epochs", "1", "--threads", "1"]
    with cluster(tmp_path) as conf:
        submit = ["sbatch", "--wait", "--nodes=2", "--cpus-per-task=1", *job]
        run(Command(submit, {**env, "SLURM_CONF": conf}, cwd=tmp_path))
    manifest = latest(tmp_path / "runs" / "slurm-1")
    assert manifest
    assert manifest.epoch == 1
