"""`ffdist doctor`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.table import Table
from rich.text import Text

from ffdist import plain
from ffdist.errors import ConfigError, FfdistError
from ffdist.runtime.world import World, available_cores

OPTIONAL = {
    "matplotlib": "plots of `ffdist bench`: pip install 'ffdist[bench]'",
    "ray": "Ray clusters: pip install ray",
}


@dataclass(frozen=True)
class Doctor:
    """Check this machine: versions, devices, and sends between local processes over each transport."""

    processes: int = 3
    """Processes in the chain that sends."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    what: str
    ok: bool
    found: str
    remedy: str = ""


def main(args: Sequence[str]) -> None:
    command = tyro.cli(Doctor, args=list(args), prog="ffdist doctor")
    if command.processes < 2:
        raise ConfigError("a chain has two processes at least", where="--processes", expected=">= 2",
                          got=command.processes)  # fmt: skip
    findings = [*environment(), *devices(), *optional(), *sends(command.processes)]
    if command.json:
        print(json.dumps([vars(finding) for finding in findings]))
    else:
        plain.PlainConsole().print(table(findings))
    if not all(finding.ok for finding in findings):
        sys.exit(1)


def environment() -> list[Finding]:
    versions = {name: importlib.metadata.version(name) for name in ("ffdist", "torch", "torchvision", "pyarrow")}
    room = shutil.disk_usage(".").free
    return [
        Finding("python", sys.version_info >= (3, 11), platform.python_version(), "install Python 3.11 or newer"),
        *(Finding(name, True, found) for name, found in versions.items()),
        Finding("cores", True, f"{available_cores()}, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')}"),
        Finding("room on this disk", room > 2**30, f"{room / 2**30:.0f} GiB", "free 1 GiB at least for runs"),
    ]


def devices() -> list[Finding]:
    import torch  # behind the parsing

    if not torch.cuda.is_available():
        return [Finding("GPU", True, "none; stages run on the CPU")]
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [Finding(f"GPU {i}", True, name) for i, name in enumerate(names)]


def optional() -> list[Finding]:
    found = {name: importlib.util.find_spec(name) is not None for name in OPTIONAL}
    return [Finding(name, True, "found" if found[name] else f"not installed ({OPTIONAL[name]})") for name in OPTIONAL]


def sends(count: int) -> list[Finding]:
    """A tensor passed down a chain of processes, by every transport this machine has."""
    kinds = ["gloo", *(["shared-memory"] if sys.platform == "linux" else [])]
    return [_send(kind, count) for kind in kinds]


def _send(kind: str, count: int) -> Finding:
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="ffdist-") as folder:
        here, there = context.Pipe(duplex=False)
        chain = [context.Process(target=_pass_on, args=(kind, World(rank, count, rank), folder, there))
                 for rank in range(count)]  # fmt: skip
        for process in chain:
            process.start()
        there.close()
        for process in chain:
            process.join(60)
            process.kill()
        answer = here.recv_bytes().decode() if here.poll() else "nothing arrived"
    ok = answer == "whole"
    remedy = "let processes of this user open local sockets; set GLOO_SOCKET_IFNAME to a working interface"
    return Finding(f"{count} processes by {kind}", ok, "sent and received" if ok else answer, remedy)


def _pass_on(kind: Any, world: World, folder: str, answer: Any) -> None:
    """One process of the chain: rank 0 sends 1 MiB, the last says whether it arrived whole."""
    import torch
    import torch.distributed as dist

    from ffdist.runtime.edges import ProcessEdges
    from ffdist.transport.base import Frame

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        store = dist.FileStore(str(Path(folder) / "store"), world.size)
        timeout = timedelta(seconds=30)
        edges = ProcessEdges(world, store, torch.device("cpu"), transport=kind, timeout=timeout)
        expected = torch.arange(2**18, dtype=torch.float32)
        frame = Frame("check", {}, {"x": expected}) if world.first else edges.upstream().recv()
        if world.last:
            answer.send_bytes(b"whole" if torch.equal(frame.tensors["x"], expected) else b"arrived broken")
        else:
            sender = edges.downstream()
            sender.send(frame)
            sender.close()
    except FfdistError as error:
        answer.send_bytes(str(error).encode())


def table(findings: list[Finding]) -> Table:
    rows = plain.table("", "what", "found", "remedy")
    for finding in findings:
        mark = Text("ok", "green") if finding.ok else Text("no", "red")
        rows.add_row(mark, finding.what, finding.found, "" if finding.ok else finding.remedy)
    return rows
