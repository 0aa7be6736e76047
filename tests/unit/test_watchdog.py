"""A rank that is stopped is ended, with what it was at and its stack: by the process beside it, or by the others."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from forked import Forked

from ffdist.bench.victims import descendants
from ffdist.notes import spelled_as_flags
from ffdist.runtime.heartbeat import STACK

ALONE = """
import os, signal, sys, time
from ffdist.runtime import heartbeat
from ffdist.runtime.heartbeat import Activity
from ffdist.runtime.watchdog import watched

heartbeat.MIN_SILENCE = heartbeat.SLACK = 0.5
outer, inner = Activity(), Activity()
with watched(1.0, outer):
    with watched(1.0, inner):
        inner.set("waiting for batch 7")
        time.sleep(2.5)  # slow, and not stopped
        if sys.argv[1] == "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(60)
print("whole")
"""


def test_one_that_is_stopped_is_ended_and_one_that_is_slow_is_not() -> None:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with spelled_as_flags():
        running = {how: Forked([sys.executable, "-c", ALONE, how], **pipes) for how in ("slow", "stopped")}
    said = {how: process.communicate(timeout=60) for how, process in running.items()}
    assert running["slow"].returncode == 0
    assert said["slow"] == ("whole\n", "")
    assert running["stopped"].returncode == -signal.SIGKILL
    told = said["stopped"][1]
    assert "worker 0 does not answer" in told
    assert "last it was waiting for batch 7" in told
    assert "raise --timeout where" in told
    assert "most recent call first" in told


PEERS = """
import os, signal, sys, time
from ffdist.runtime import heartbeat
from ffdist.runtime.heartbeat import Activity, stacks_to
from ffdist.runtime.peer_monitor import watching_each_other
from ffdist.runtime.world import World
from ffdist.transport.stores import serve_store

heartbeat.MIN_SILENCE = heartbeat.SLACK = 0.5

def rank(number, port):
    os.dup2(os.open(f"{sys.argv[2]}/{number}", os.O_CREAT | os.O_WRONLY), 2)  # both may write at the same moment
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    stacks_to()
    activity = Activity()
    with watching_each_other(World(number, 2), 1.0, activity):
        activity.set("waiting for batch 7")
        time.sleep(1)
        os.write(1, b"%f\\n" % time.monotonic())  # at once: unbuffered, `print` writes a line's end by itself
        if number == 1 and sys.argv[1] == "rank":
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(60)

pipes = [os.pipe(), os.pipe()]  # forked before there is a store, which has threads
for number, (reading, _) in enumerate(pipes):
    if os.fork() == 0:
        rank(number, int(os.read(reading, 9)))
store = serve_store("127.0.0.1")
for _, writing in pipes:
    os.write(writing, str(store.port).encode())
if sys.argv[1] == "store":
    time.sleep(1.2)
    os.kill(os.getpid(), signal.SIGSTOP)
print(sorted(os.waitstatus_to_exitcode(os.wait()[1]) for _ in pipes), time.monotonic(), flush=True)
"""


@pytest.mark.parametrize("stopped", ["rank", "store"])
def test_ranks_notice_one_of_them_and_the_store_that_are_stopped(stopped: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PEERS, stopped, str(tmp_path)]
    with Forked(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            begun = max(float(process.stdout.readline()) for _ in range(2))
            if stopped == "store":
                while descendants(process.pid):
                    time.sleep(0.05)
                assert time.monotonic() - begun < 1 + 5
                process.send_signal(signal.SIGCONT)
            out, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    told = "".join((tmp_path / str(number)).read_text() for number in range(2))
    statuses, _, ended = out.strip().rpartition(" ")
    assert statuses == {"rank": f"[{-signal.SIGKILL}, 1]", "store": "[1, 1]"}[stopped]
    assert stopped == "store" or float(ended) - begun < 1 + 5
    errors = told.count("ffdist: error (rank ")
    if stopped == "rank":
        assert errors == 1
        assert "worker 1 does not answer" in told
        assert "last it was waiting for batch 7; this rank, 0, was waiting for batch 7" in told
        assert "raise run.timeout where" in told
    else:
        assert errors == told.count("the store through which the ranks meet does not answer") == 2
    assert told.count("in rank\n") == 2  # the stacks of both


SIBLING = """
from ffdist.runtime.siblings import end_sibling, place_of_rank, sibling_of_rank
print(place_of_rank(1), place_of_rank(2), sep="; ")
end_sibling(sibling_of_rank(1))
"""


def test_a_rank_that_is_stopped_before_it_has_said_anything_is_known_to_its_siblings_and_ended() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=os.environ | {"RANK": "1"}
    ) as rank:
        rank.send_signal(signal.SIGSTOP)
        done = subprocess.run([sys.executable, "-c", SIBLING], capture_output=True, text=True, check=True)
        assert done.stdout == f"process {rank.pid} of host {platform.node()}; not heard of yet\n"
        assert rank.wait(10) in (-STACK, -signal.SIGKILL)
