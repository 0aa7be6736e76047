"""Several hosts on one machine: network namespaces, joined by links whose rate is set."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ffdist.bench.harness.worker_pool import PoolMember
from ffdist.errors import ConfigError, FfdistError
from ffdist.process_stat import is_alive
from ffdist.runtime.child import ProcessStart

if TYPE_CHECKING:
    from typing_extensions import Self

CLONE_NEWNET = 0x40000000
NAMESPACES = Path("/run/netns")
"""What iproute2 keeps of those that it has made."""


def why_not() -> str | None:
    """The reason that this machine cannot do it; None where it can."""
    if sys.platform != "linux":
        return "network namespaces need Linux"
    missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    if missing:
        return f"{' and '.join(missing)} (of iproute2) is missing"
    return None if os.geteuid() == 0 else "network namespaces need root"


class Hosts:
    """Namespaces with an address each, removed on exit; those of a process that was killed go with the next one's.
    Two are joined by a cable, more by a switch.

    Raises ConfigError where `why_not` has a reason.
    """

    def __init__(self, many: int = 2) -> None:
        if reason := why_not():
            raise ConfigError(
                "several hosts cannot be set up here",
                where="bandwidth",
                got=reason,
                remedy="run it as root on Linux with iproute2 installed",
            )
        sides = ascii_lowercase[:many]
        self.names = [f"ffdist-{os.getpid()}-{side}" for side in sides]
        self.links = [f"ff{os.getpid() % 10**7}{side}" for side in sides]
        self.switch = f"ffdist-{os.getpid()}-switch"

    def __enter__(self) -> Self:
        remove_left()
        try:
            for name in self.names:
                command(f"ip netns add {name}")
            self._join()
            for i, (name, link) in enumerate(zip(self.names, self.links, strict=True)):
                command(f"ip -n {name} address add 10.203.117.{i + 1}/24 dev {link}")
                for device in ("lo", link):
                    command(f"ip -n {name} link set {device} up")
        except FfdistError:  # namespaces outlive the process: remove those that were made
            self.__exit__(None, None, None)
            raise
        return self

    def _join(self) -> None:
        if len(self.names) == 2:
            veth(self.names[0], self.links[0], self.names[1], self.links[1])
            return
        command(f"ip netns add {self.switch}")
        command(f"ip -n {self.switch} link add bridge type bridge")
        command(f"ip -n {self.switch} link set bridge up")
        for i, (name, link) in enumerate(zip(self.names, self.links, strict=True)):
            veth(name, link, self.switch, f"port{i}")
            command(f"ip -n {self.switch} link set port{i} master bridge up")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for name in (*self.names, self.switch):
            if (NAMESPACES / name).exists():
                command(f"ip netns delete {name}")  # its end of the link goes with it

    def limit(self, rate: str) -> None:
        """Limit the links in both directions. rate: as tc writes it ("1gbit"), or "unlimited"."""
        for name, link in zip(self.names, self.links, strict=True):
            # fails where no limit is set yet
            subprocess.run(["tc", "-n", name, "qdisc", "del", "dev", link, "root"], capture_output=True, check=False)
            if rate != "unlimited":
                # a bucket too small for the timer's ticks would hold a fast link below its rate
                burst = "4mb" if rate.endswith("gbit") else "256kb"
                command(f"tc -n {name} qdisc add dev {link} root tbf burst {burst} latency 50ms rate", rate)

    def place(self, main: Callable[..., Any]) -> Callable[..., Any]:
        """The same main function, with ranks on the hosts in turn."""
        return OnHost(main, tuple(self.names), tuple(self.links))


@dataclass(frozen=True)
class OnHost:
    """A main function that first moves its process to its host's namespace."""

    main: Callable[..., Any]
    """A member of a `WorkerPool`, or a stage's process."""
    names: tuple[str, ...]
    links: tuple[str, ...]

    def __call__(self, member: PoolMember | ProcessStart, *more: Any) -> Any:
        host = member.world.rank % len(self.names)
        with open(NAMESPACES / self.names[host]) as namespace:
            # setns moves this thread alone; those that are started later are in its namespace, too
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        os.environ["GLOO_SOCKET_IFNAME"] = self.links[host]
        return self.main(member, *more)


def remove_left() -> None:
    """Remove the namespaces that no process is in, and whose maker has ended without removing them."""
    for path in NAMESPACES.glob("ffdist-*-*"):
        maker = path.name.split("-")[1]
        if not maker.isdigit() or is_alive(int(maker)):
            continue
        with suppress(ConfigError):  # another has removed it meanwhile
            if not command(f"ip netns pids {path.name}"):
                command(f"ip netns delete {path.name}")


def veth(one: str, link: str, other: str, end: str) -> None:
    """Join two namespaces by a pair of virtual interfaces."""
    command(f"ip link add {link} netns {one} type veth peer name {end} netns {other}")


def command(text: str, *more: str) -> str:
    """Run a command line, and return what it prints. more: arguments that a user gave, not to be split. Raises
    ConfigError with its stderr."""
    words = [*text.split(), *more]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError("the network cannot be set up", where=" ".join(words), got=done.stderr.strip())
    return done.stdout
