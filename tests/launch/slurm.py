"""A real Slurm cluster of two nodes on this machine: munged, slurmctld and two slurmd, on ports of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

DAEMONS = ("munged", "slurmctld", "slurmd")
CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/%n
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
NodeName=node0 NodeHostName={host} NodeAddr=127.0.0.1 Port={node0} CPUs=2 State=UNKNOWN
NodeName=node1 NodeHostName={host} NodeAddr=127.0.0.1 Port={node1} CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Path]:
    """The cluster's slurm.conf; skips the test where Slurm is not installed. Each daemon returns when it is ready."""
    if os.geteuid() != 0 or not all(map(shutil.which, DAEMONS)):
        pytest.skip("a Slurm cluster needs root and Debian's slurmctld, slurmd, slurm-client and munge")
    for name in ("state", "node0", "node1"):
        (folder / name).mkdir()
    key, conf = folder / "munge.key", folder / "slurm.conf"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    ports = dict(zip(("controller", "node0", "node1"), free_ports(3), strict=True))
    conf.write_text(CONF.format(host=socket.gethostname().split(".")[0], folder=folder, **ports))
    munge = {
        "key": key,
        "socket": folder / "munge.socket",
        "pid": folder / "munged.pid",
        "log": folder / "munged.log",
        "seed": folder / "munged.seed",
    }
    files = [f"--{name}{'' if name == 'socket' else '-file'}={path}" for name, path in munge.items()]
    try:
        start("munged", "--force", *files)
        start("slurmctld", "-f", conf)
        for node in ("node0", "node1"):
            start("slurmd", "-N", node, "-f", conf)
        yield conf
    finally:
        for name in ("node0", "node1", "slurmctld", "munged"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                os.kill(int((folder / f"{name}.pid").read_text()), signal.SIGTERM)


def start(*words: object) -> None:
    devnull = subprocess.DEVNULL  # a daemon would keep a pipe open
    subprocess.run([str(word) for word in words], check=True, stdin=devnull, stdout=devnull, stderr=devnull)
