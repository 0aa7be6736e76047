"""Two hosts on one machine: network namespaces, joined by a link whose rate is set."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ffdist.bench.team import Life, Seat
from ffdist.errors import ConfigError, FfdistError

if TYPE_CHECKING:
    from typing_extensions import Self

CLONE_NEWNET = 0x40000000


def why_not() -> str | None:
    """What this machine lacks for it; None when nothing."""
    if sys.platform != "linux":
        return "network namespaces need Linux"
    missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    if missing:
        return f"{' and '.join(missing)} (of iproute2) is missing"
    return None if os.geteuid() == 0 else "network namespaces need root"


class TwoHosts:
    """Namespaces with an address each; gone when it is left. Raises ConfigError where `why_not` has a reason."""

    def __init__(self) -> None:
        if reason := why_not():
            raise ConfigError("two hosts cannot be set up here", where="bandwidth", got=reason,
                              remedy="run it as root on Linux with iproute2 installed")  # fmt: skip
        self.names = [f"ffdist-{os.getpid()}-{side}" for side in "ab"]
        self.links = [f"ff{os.getpid() % 10**7}{side}" for side in "ab"]

    def __enter__(self) -> Self:
        try:
            for name in self.names:
                command("ip", "netns", "add", name)
            command("ip", "link", "add", self.links[0], "netns", self.names[0], "type", "veth",
                    "peer", "name", self.links[1], "netns", self.names[1])  # fmt: skip
            for i, (name, link) in enumerate(zip(self.names, self.links, strict=True)):
                command("ip", "-n", name, "address", "add", f"10.203.117.{i + 1}/24", "dev", link)
                for device in ("lo", link):
                    command("ip", "-n", name, "link", "set", device, "up")
        except FfdistError:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for name in self.names:
            if Path("/run/netns", name).exists():
                command("ip", "netns", "delete", name)  # its end of the link goes with it

    def limit(self, rate: str) -> None:
        """Both directions to a rate as tc writes it ("1gbit"), or "unlimited"."""
        for name, link in zip(self.names, self.links, strict=True):
            subprocess.run(["tc", "-n", name, "qdisc", "del", "dev", link, "root"], capture_output=True, check=False)
            if rate != "unlimited":
                # a bucket too small for the timer's ticks would hold a fast link below its rate
                command("tc", "-n", name, "qdisc", "add", "dev", link, "root", "tbf", "rate", rate,
                        "burst", "4mb" if rate.endswith("gbit") else "256kb", "latency", "50ms")  # fmt: skip

    def place(self, life: Life) -> Life:
        """The same life, with ranks on the two hosts in turn."""
        return Placed(life, tuple(self.names), tuple(self.links))


@dataclass(frozen=True)
class Placed:
    """A life that first moves its process to its host's namespace."""

    life: Life
    names: tuple[str, ...]
    links: tuple[str, ...]

    def __call__(self, seat: Seat) -> Any:
        host = seat.world.rank % len(self.names)
        with open(Path("/run/netns", self.names[host])) as namespace:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        os.environ["GLOO_SOCKET_IFNAME"] = self.links[host]
        return self.life(seat)


def command(*words: str) -> None:
    """Raises ConfigError with what the tool said."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError("the network cannot be set up", where=" ".join(words), got=done.stderr.strip())
