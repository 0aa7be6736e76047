"""The cluster that a plan runs on: devices, their speeds, links and memory."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from math import ceil, inf
from typing import NamedTuple

from ffdist.errors import ConfigError, setting
from ffdist.pipeline.halving import halves_pay
from ffdist.pipeline.reduce import slices_pay

MAX_DEVICES = 4096
MAX_SPEEDS = 8
"""Speeds that are tried as the slowest of those that work, about."""


@dataclass(frozen=True)
class NetworkLink:
    """A link between two workers; each has one of its own, which carries both directions at once."""

    rate: float
    """Bytes a second."""
    latency: float = 0.0
    """Seconds that a message takes beside its bytes."""
    sender: float = 0.0
    """Seconds of computing that the sender loses with a byte; of a CPU alone."""
    receiver: float = 0.0
    """The receiver's."""
    wired: bool = True
    """Whether it carries one message at a time; in a host's memory copies go on side by side."""
    message: float = 0.0
    """Seconds of computing that an end of it loses with a message, beside its bytes; of a CPU alone."""

    def sending(self, num_bytes: float, messages: float) -> float:
        """Seconds of computing that the sender loses."""
        return num_bytes * self.sender + messages * self.message

    def receiving(self, num_bytes: float, messages: float) -> float:
        """The receiver's; of a copy within a host all is counted as the sender's."""
        return num_bytes * self.receiver + messages * self.message if self.receiver else 0.0

    def without_cpu(self) -> NetworkLink:
        """The link where sending and reading take nothing of the computing."""
        return replace(self, sender=0.0, receiver=0.0, message=0.0)

    def seconds(self, num_bytes: float) -> float:
        """Seconds that so many bytes take, latency left out."""
        return num_bytes / self.rate

    def on_the_way(self, num_bytes: float) -> float:
        """The same beside what its ends compute: a copy within a host is the sender's own work, where that is a CPU."""
        return num_bytes / self.rate if self.wired or not self.sender else 0.0

    def carrying(self, num_bytes: float) -> float:
        """Seconds in which it can carry nothing else."""
        return num_bytes / self.rate if self.wired else 0.0

    def __str__(self) -> str:
        unit, scale = next((u, s) for u, s in (("gbit", 1e9), ("mbit", 1e6), ("kbit", 0)) if self.rate * 8 >= s)
        text = f"{self.rate * 8 / (scale or 1e3):.4g}{unit}"
        return f"{text},{self.latency * 1e6:.3g}us" if self.latency else text


LOCAL = NetworkLink(rate=5e9, latency=20e-6, sender=1 / 5e9, wired=False)
"""Processes of one host, where nobody has measured them."""
NETWORK_CPU = 1 / 2.4e9
"""Seconds of a CPU's computing that a byte takes at either end of a network, where nobody has measured it."""
MESSAGE_CPU = 100e-6
"""The same of a message, beside its bytes."""


class ExchangeRound(NamedTuple):
    """A part of an exchange: what a worker sends of a block before it waits for as much of others."""

    gradients: float
    """In units of the block's gradients."""
    running: float
    """In units of what one lane makes of running statistics."""
    messages: int


@dataclass(frozen=True)
class ExchangeCost:
    """The exchange of a shared block's gradients between workers, as `pipeline/reduce.py` has it."""

    choice: str = "auto"
    """As `plan.exchange`."""
    short: float = 1.0
    """The part of the gradients' bytes that travels."""

    def is_sliced(self, workers: int) -> bool:
        """True if each adds up a slice of its own."""
        return workers > 1 and slices_pay(workers, self.choice)

    def is_halved(self, workers: int, lanes: int, num_bytes: float) -> bool:
        """True if they add up by halves. num_bytes: of the stage's gradients."""
        return halves_pay(workers, lanes, int(num_bytes), self.choice)

    def parts(self, workers: int) -> int:
        """The number of parts that a block's gradients are cut into, of which a message has one."""
        return workers if self.is_sliced(workers) else 1

    def rounds(self, workers: int, lanes: int, num_bytes: float, *, weights: bool) -> tuple[ExchangeRound, ...]:
        """The rounds in which workers exchange a block; running statistics, which all want, travel with gradients.

        num_bytes: of the stage's gradients. weights: whether new weights are handed on, and not sums of gradients.
        """
        if self.is_halved(workers, lanes, num_bytes):
            levels = range(workers.bit_length() - 1)
            back = 1.0 if weights else self.short
            return (
                *(ExchangeRound(self.short / 2 ** (level + 1), 2.0**level, 1) for level in levels),
                *(ExchangeRound(back / 2 ** (level + 1), 0.0, 1) for level in reversed(levels)),
            )
        running, others = lanes * (workers - 1) / workers, workers - 1
        if not self.is_sliced(workers):
            return (ExchangeRound(self.short * others, running, others),)
        part = others / workers
        return (
            ExchangeRound(self.short * part, running, others),
            ExchangeRound((1.0 if weights else self.short) * part, 0.0, others),
        )

    def added(self, workers: int) -> float:
        """The number of times that a worker adds what others have sent, in units of a block's gradients."""
        return (workers - 1) / workers if self.is_sliced(workers) else workers - 1


@dataclass(frozen=True)
class Cluster:
    """Workers and what joins them."""

    devices: int
    link: NetworkLink = LOCAL
    speeds: tuple[float, ...] = ()
    """The speed of each device, against that of the profile; none for all alike. Their order changes no plan but by
    its workers' numbers."""
    memory_limit: float | None = None
    """Bytes that a worker may hold."""
    queue: int = 2
    """Messages on an edge, at most."""
    collective: NetworkLink | None = None
    """What backpropagation's all-reduce goes by, where that is another: gloo's, say, beside shared memory."""
    exchange: ExchangeCost = ExchangeCost()
    cores: float | None = None
    """How many of the workers compute at once, 1 or more, where they share a host's cores; None: all of them."""

    def __post_init__(self) -> None:
        if not isinstance(self.devices, int) or not 1 <= self.devices <= MAX_DEVICES:
            raise ConfigError(
                "a plan needs devices", where=setting("devices"), expected=f"1 to {MAX_DEVICES}", got=self.devices
            )
        if self.speeds and len(self.speeds) != self.devices:
            raise ConfigError(
                "the number of speeds is not that of the devices",
                where=setting("speeds"),
                expected=f"{self.devices} numbers, of {setting('devices')}",
                got=f"{len(self.speeds)}: {', '.join(f'{speed:g}' for speed in self.speeds)}",
            )
        if not all(0 < speed < float("inf") for speed in self.speeds):
            raise ConfigError(
                "a device's speed is not a positive number",
                where=setting("speeds"),
                expected="> 0, 1 for the measured one's",
                got=", ".join(f"{speed:g}" for speed in self.speeds),
            )
        if self.cores is not None and not self.cores >= 1:
            raise ConfigError("no worker has a core", where="cores", expected=">= 1", got=self.cores)

    @property
    def most_memory(self) -> float:
        """Bytes that a worker may hold."""
        return inf if self.memory_limit is None else self.memory_limit

    def speed(self, worker: int) -> float:
        """The speed of a worker's device, 1 for the measured one's."""
        return self.speeds[worker] if self.speeds else 1.0

    def fastest(self, devices: int) -> tuple[int, ...]:
        """The numbers of so many devices, the fastest ones, from the fastest on; of equal ones those named first."""
        return tuple(sorted(range(self.devices), key=lambda device: -self.speed(device))[:devices])

    def counts_by_speed(self) -> list[int]:
        """Numbers of devices that leave idle all that are slower than some speed, at most MAX_SPEEDS; and of all."""
        in_order = [self.speed(device) for device in self.fastest(self.devices)]
        counts = [n for n in range(1, self.devices) if in_order[n] < in_order[n - 1]]
        return [*counts[:: ceil(len(counts) / MAX_SPEEDS) or 1], self.devices]

    def only(self, devices: Sequence[int]) -> Cluster:
        """The cluster of these devices alone, in this order, by their numbers here."""
        speeds = tuple(self.speeds[device] for device in devices) if self.speeds else ()
        return replace(self, devices=len(devices), speeds=speeds)

    def with_devices(self, devices: int) -> Cluster:
        """The cluster with so many devices; their speeds, where given, are those here from the fastest on, over and
        over."""
        speeds = tuple(islice(cycle(sorted(self.speeds, reverse=True)), devices)) if self.speeds else ()
        return replace(self, devices=devices, speeds=speeds)


RATES = {
    "kbit": 1e3 / 8,
    "mbit": 1e6 / 8,
    "gbit": 1e9 / 8,
    "kb/s": 1e3,
    "mb/s": 1e6,
    "gb/s": 1e9,
    "kib/s": 2**10,
    "mib/s": 2**20,
    "gib/s": 2**30,
}
RATES |= {f"{unit}/s": rate for unit, rate in RATES.items() if unit.endswith("bit")}
RATES |= {f"{unit[0]}bps": rate for unit, rate in RATES.items() if unit.endswith("bit")}
TIMES = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
NUMBER = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([a-zµ/]+)")


def parse_link(text: str, *, on_cpu: bool = False) -> NetworkLink:
    """ "1gbit", "25gbit,50us", "3GB/s": a rate, and what a message takes beside it, 50 us where nothing is said.

    on_cpu: whether the ends' computing suffers. Raises ConfigError for what is none.
    """
    rate, comma, latency = (part.strip().lower() for part in text.partition(","))
    found = quantity(rate, RATES)
    delay = quantity(latency, TIMES) if comma else 50e-6
    if not found or delay is None:
        raise ConfigError(
            "this is not a link",
            where=setting("link"),
            expected="a rate, and a latency where it is known: 1gbit, 25gbit,50us, 3GB/s",
            got=text or "nothing",
        )
    cpu = NETWORK_CPU if on_cpu else 0.0
    return NetworkLink(found, delay, cpu, cpu, message=MESSAGE_CPU if on_cpu else 0.0)


SIZES = {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


def parse_bytes(text: str) -> float:
    """ "8GiB", "500MB". Raises ConfigError for what is no size."""
    found = quantity(text.strip().lower(), SIZES)
    if not found:
        raise ConfigError(
            "this is not a size", where=setting("memory_limit"), expected="8GiB, 500MB", got=text or "nothing"
        )
    return found


def quantity(text: str, units: dict[str, float]) -> float | None:
    """A number with its unit; None for what is none."""
    found = NUMBER.fullmatch(text)
    return float(found[1]) * units[found[2]] if found and found[2] in units else None
