"""`ffdist doctor`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from ffdist import plain
from ffdist.cli.help import Flag
from ffdist.cli.parsing import parsed
from ffdist.cores import available_cores, cpu_quota
from ffdist.errors import ConfigError, FfdistError
from ffdist.runtime.interrupts import handle_signals, unwind

OPTIONAL = {
    "matplotlib": "plots of `ffdist bench`: pip install 'ffdist[bench]'",
    "ray": "Ray clusters: pip install 'ffdist[ray]'",
}


@dataclass(frozen=True)
class Doctor:
    """Check this machine: versions, devices, and sends between local processes over each transport."""

    processes: int = 3
    """Processes in the chain that sends."""
    json: Flag = False
    """Print one JSON object."""


@dataclass(frozen=True)
class DoctorCheck:
    """One thing that was checked: what was found, and the remedy where something is wrong."""

    what: str
    ok: bool
    found: str
    remedy: str = ""


def main(args: Sequence[str]) -> None:
    command = parsed(Doctor, args, "ffdist doctor")
    if command.processes < 2:
        raise ConfigError(
            "a chain has at least two processes", where="--processes", expected=">= 2", got=command.processes
        )
    handle_signals(unwind)  # its processes end with it
    findings = [*environment_checks(), *device_checks(), *package_checks(), *transport_checks(command.processes)]
    if command.json:
        print(json.dumps([vars(finding) for finding in findings]))
    else:
        plain.PlainConsole().print(checks_table(findings))
    if not all(finding.ok for finding in findings):
        sys.exit(1)


def environment_checks() -> list[DoctorCheck]:
    versions = {name: importlib.metadata.version(name) for name in ("ffdist", "torch", "torchvision", "pyarrow")}
    room = shutil.disk_usage(".").free
    return [
        DoctorCheck("python", sys.version_info >= (3, 10), platform.python_version(), "install Python 3.10 or newer"),
        *(DoctorCheck(name, True, found) for name, found in versions.items()),
        DoctorCheck("cores", True, cores()),
        DoctorCheck("room on this disk", room > 2**30, f"{room / 2**30:.0f} GiB", "free 1 GiB at least for runs"),
    ]


def cores() -> str:
    quota, threads = cpu_quota(), os.environ.get("OMP_NUM_THREADS", "not set")
    limit = "" if quota is None else f" (control groups allow the time of {quota:g})"
    return f"{available_cores()}{limit}, OMP_NUM_THREADS={threads}"


def device_checks() -> list[DoctorCheck]:
    from ffdist import device  # after the parsing: it imports torch

    found = [DoctorCheck(f"GPU {each}", True, device.name_of(each)) for each in device.all_seen()]
    return [*(found or [DoctorCheck("GPU", True, "none; stages run on the CPU")]), *precision_checks()]


def precision_checks() -> list[DoctorCheck]:
    """The speed of this machine's devices in the short types."""
    from ffdist import device  # after the parsing: these import torch
    from ffdist.pipeline.precision import SLOW, slowdown

    found: list[DoctorCheck] = []
    for each in device.all_seen() or [device.CPU]:
        for precision in ("bf16", "fp16"):
            times = slowdown(each, precision)
            speed = f"{times:.0f} times as slow" if times > SLOW else f"{1 / times:.1f} times as fast"
            found.append(DoctorCheck(f"{precision} on {each}", True, f"{speed} as fp32, in a product of matrices"))
    return found


def package_checks() -> list[DoctorCheck]:
    found = {name: importlib.util.find_spec(name) is not None for name in OPTIONAL}
    return [
        DoctorCheck(name, True, "found" if found[name] else f"not installed ({OPTIONAL[name]})") for name in OPTIONAL
    ]


def transport_checks(count: int) -> list[DoctorCheck]:
    """A tensor passed down a chain of processes, by every transport that joins them; why the others do not."""
    from ffdist.transport import registry  # after the parsing: it imports torch

    place = registry.own_location()
    best = registry.fastest(place, place).name
    found: list[DoctorCheck] = []
    for name, transport in registry.TRANSPORTS.items():
        if transport.joins(place, place):
            found.append(_send(name, count))
        else:
            why = transport.obstacle() or f"it needs {transport.needs}"
            found.append(DoctorCheck(f"processes by {name}", True, f"not here, so stages use {best} ({why})"))
    return found


def _send(kind: str, count: int) -> DoctorCheck:
    from ffdist.runtime.chain_check import passed_whole

    what = f"{count} processes by {kind}"
    try:
        whole = passed_whole(kind, count)
    except FfdistError as error:
        found = "; ".join(str(part) for part in (error.what, error.where, error.got) if part is not None)
        return DoctorCheck(what, False, found, error.remedy or "let processes of this user open local sockets")
    return DoctorCheck(what, whole, "sent and received" if whole else "arrived broken", "check this machine's memory")


def checks_table(findings: list[DoctorCheck]) -> Table:
    rows = plain.table("", "what", "found", "remedy")
    for finding in findings:
        mark = Text("ok", "green") if finding.ok else Text("no", "red")
        rows.add_row(mark, finding.what, finding.found, "" if finding.ok else finding.remedy)
    return rows
