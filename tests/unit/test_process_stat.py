"""What /proc says of a process: its parent, and whether it is stopped, or has ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from ffdist.process_stat import is_alive, is_stopped, parent_of, stat_of

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's /proc")


def test_a_process_lives_until_it_ends_stopped_or_not_and_a_zombie_has_ended() -> None:
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    assert is_alive(child.pid)
    assert parent_of(child.pid) == os.getpid()
    assert not is_stopped(child.pid)
    child.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED)
    assert is_stopped(child.pid)
    assert is_alive(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has asked for its status
    assert not is_alive(child.pid)
    child.communicate()
    assert stat_of(child.pid) is None
    assert parent_of(child.pid) is None
    assert not is_alive(child.pid)
