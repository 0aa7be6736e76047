"""A rank that is alone, and is stopped, is ended by the process beside it, with what it was at and its stack."""

from __future__ import annotations

import signal
import subprocess
import sys

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
    running = {
        how: subprocess.Popen(
            [sys.executable, "-c", ALONE, how], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for how in ("slow", "stopped")
    }
    said = {how: process.communicate(timeout=60) for how, process in running.items()}
    assert running["slow"].returncode == 0
    assert said["slow"] == ("whole\n", "")
    assert running["stopped"].returncode == -signal.SIGKILL
    told = said["stopped"][1]
    assert "worker 0 does not answer" in told
    assert "last it was waiting for batch 7" in told
    assert "most recent call first" in told
