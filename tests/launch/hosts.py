"""Two hosts on one machine: network namespaces joined by a cable. Needs root and iproute2."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

INTERFACE = "cable0"
HEAD = "10.77.0.1"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@contextlib.contextmanager
def two_hosts(network: str = "10.77.0.{}/24") -> Iterator[list[str]]:
    """Names of two namespaces, at 1 and 2 in the network; skips the test where there can be none."""
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("two hosts need root and iproute2")
    names = [f"ffdist-{os.getpid()}-{i}" for i in range(2)]
    try:
        ip("netns", "add", names[0])
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespace can be made here: {error.stderr.strip()}")
    try:
        ip("netns", "add", names[1])
        ip("-n", names[0], "link", "add", INTERFACE, "type", "veth", "peer", "name", INTERFACE, "netns", names[1])
        for i, name in enumerate(names):
            at_once = ["nodad"] if ":" in network else []  # not after a second of asking whether another one has it
            ip("-n", name, "address", "add", network.format(i + 1), "dev", INTERFACE, *at_once)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", INTERFACE, "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
