"""Ranks that nobody else watches watch each other: each says by the store that it lives, and looks who does not."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch.distributed as dist

from ffdist.errors import StageLostError, setting
from ffdist.runtime.heartbeat import EVERY, Activity, silence_of
from ffdist.runtime.polling import GRACE
from ffdist.runtime.siblings import end_with_error, place_of_rank, sibling_of_rank
from ffdist.runtime.watchdog import watched
from ffdist.runtime.world import World

ENDED = "ended"


@contextmanager
def watching_each_other(world: World, timeout: float, activity: Activity) -> Iterator[None]:
    """A context in which a rank that gives no sign of life for so many seconds ends this process with an error that
    names it: what the main thread waits for may lie within torch, where no error reaches it."""
    if world.size == 1:
        with watched(timeout, activity):
            yield
        return
    watch = PeerMonitor(world, timeout, activity)
    watch.begin()
    try:
        yield
    finally:
        watch.end()


class PeerMonitor:
    """Watches the other ranks, for one of them."""

    def __init__(self, world: World, timeout: float, activity: Activity) -> None:
        self.world = world
        self.timeout = timeout
        self.activity = activity
        self.limit = silence_of(timeout)
        # of its own, since a wait in the ranks' other one keeps everybody else out of it
        try:
            store = dist.TCPStore(
                os.environ["MASTER_ADDR"],
                int(os.environ["MASTER_PORT"]),
                is_master=False,
                wait_for_workers=False,
                timeout=timedelta(seconds=self.limit),
            )
        except RuntimeError as error:
            raise self._cut_off_error() from error
        self.store = dist.PrefixStore(f"ffdist/{world.run_id}/{world.attempt}/alive", store)
        self.said: dict[int, str] = {}
        """By each other rank, last."""
        begun = time.monotonic()
        self.heard = {rank: begun for rank in range(world.size) if rank != world.rank}
        """When each said something new."""
        self.reached = begun
        """When the store answered last."""
        self.over = threading.Event()

        self.threads = [
            threading.Thread(target=work, name=f"ffdist {name}", daemon=True)
            for name, work in (("alive", self._say), ("others", self._look))
        ]

    def begin(self) -> None:
        for thread in self.threads:
            thread.start()

    def end(self) -> None:
        self.over.set()
        # the last word is the one below; and the interpreter's end, where it finds a thread within torch's C++, aborts
        # the process
        for thread in self.threads:
            thread.join(GRACE)
        # said before this process ends: its silence from here on is no hang
        with suppress(RuntimeError):  # the store is gone
            self.store.set(str(self.world.rank), ENDED)

    def _say(self) -> None:
        count = 0
        with suppress(RuntimeError):  # the store is gone, as `_look` notices
            while not self.over.is_set():
                count += 1
                place = f"process {os.getpid()} of host {platform.node()}"
                self.store.set(str(self.world.rank), f"{count}\n{place}\n{self.activity}")
                self._check_peers()
                self.reached = time.monotonic()
                self.over.wait(EVERY)

    def _check_peers(self) -> None:
        for rank in list(self.heard):
            if self.store.check([str(rank)]):
                said = self.store.get(str(rank)).decode()
                if said != self.said.get(rank):
                    self.said[rank], self.heard[rank] = said, time.monotonic()

    def _look(self) -> None:
        looked = time.monotonic()
        while not self.over.wait(EVERY):
            now = time.monotonic()
            if now - looked > self.limit / 2:  # this process itself was stopped
                self.reached = now
                self.heard = dict.fromkeys(self.heard, now)
            looked = now
            if now - self.reached > self.limit:
                self._leave(self._cut_off_error())
            for rank, heard in self.heard.items():
                # while the store answered: where that is stopped, the others are as silent, and not to be blamed for it
                if self.reached - heard > self.limit and self.said.get(rank) != ENDED:
                    pid = self._pid_here(rank)
                    self._leave(self._hung_error(rank), [pid] if pid else [])

    def _pid_here(self, rank: int) -> int | None:
        """The process of a rank, where that is one of this host."""
        if rank not in self.said:
            return sibling_of_rank(rank)
        place = self.said[rank].split("\n")[1].split()
        return int(place[1]) if place[-1] == platform.node() else None

    def _cut_off_error(self) -> StageLostError:
        return StageLostError(
            "the store through which the ranks meet does not answer",
            where=f"{self.world}, process {os.getpid()} of host {platform.node()}",
            expected=f"an answer within {self.timeout:g} s",
            got=f"silence; this rank was {self.activity}",
            remedy="the host that holds it (node 0) has died, or is cut off; or torchrun's agent there is stopped",
        )

    def _hung_error(self, rank: int) -> StageLostError:
        _, place, activity = (self.said.get(rank, "") + "\n\n").split("\n")[:3]
        return StageLostError(
            f"worker {rank} does not answer",
            where=f"worker {rank}, {place or place_of_rank(rank)}",
            expected=f"a sign of life within {self.timeout:g} s",
            got=f"silence; last it was {activity or 'starting'}; this rank, {self.world.rank}, was {self.activity}",
            remedy="look for what has stopped the process, or what cuts its host off; or raise "
            f"{setting('run.timeout')} where the machine has too much to do",
        )

    def _leave(self, error: StageLostError, hung: Sequence[int] = ()) -> None:
        """End this process, and those of this host that hang."""
        if not self.over.is_set():
            end_with_error(self.world.rank, error, hung)
