"""The ranks that the same agent of torchrun has started on this host, as the system sees them: one that is stopped
before it has said anything is known by this alone."""

from __future__ import annotations

import os
import platform
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from ffdist.errors import StageLostError, unspelled
from ffdist.notes import failure
from ffdist.process_stat import parent_of
from ffdist.runtime.heartbeat import EVERY, STACK, write_stacks


def sibling_of_rank(rank: int) -> int | None:
    """The process of a rank that this one's agent has started, too; None where there is none to be seen."""
    wanted = f"RANK={rank}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        if parent_of(int(folder.name)) == os.getppid():
            with suppress(OSError):
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    return int(folder.name)
    return None


def place_of_rank(rank: int) -> str:
    """A rank's process and host, as far as they are known without its word."""
    pid = sibling_of_rank(rank)
    return f"process {pid} of host {platform.node()}" if pid else "not heard of yet"


def end_with_error(rank: int, error: StageLostError, hung: Iterable[int]) -> NoReturn:
    """End this process, of that rank, with the error on stderr and its stacks in its log; before it those siblings."""
    with suppress(OSError):  # nobody reads it
        failure(f"error (rank {rank}): {unspelled(error)}")
    write_stacks()
    for pid in hung:  # when one has ended, the agent ends this one, too: so all is said by now
        end_sibling(pid)
    os._exit(1)  # the main thread may wait within torch for ever


def end_sibling(pid: int) -> None:
    """A rank of this host that hangs says where it is, and ends: the agent that has started both would wait for half a
    minute until it does so."""
    if parent_of(pid) != os.getppid():
        return
    with suppress(OSError):
        # a stopped process writes its stacks only when it goes on, and then needs a moment for it; in one that has not
        # begun, nobody handles the signal, which ends it
        for number in (STACK, signal.SIGCONT):
            os.kill(pid, number)
        time.sleep(EVERY)
        os.kill(pid, signal.SIGKILL)
