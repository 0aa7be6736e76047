"""Locks on files and folders."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ffdist.locks import lock

HOLD = """
import os, sys, time
from ffdist.locks import lock
print(lock(os.open(sys.argv[1], os.O_RDONLY)), flush=True)
time.sleep(600)
"""


def test_one_that_is_held_is_busy_until_it_is_closed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path):
        descriptor = os.open(path, os.O_RDONLY)
        other = os.open(path, os.O_RDONLY)
        assert lock(descriptor) == "held"
        assert lock(other) == "busy"
        assert lock(other, shared=True) == "busy"
        os.close(descriptor)
        assert lock(other) == "held"
        os.close(other)


def test_those_who_share_one_keep_out_who_would_not(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with file.open("a") as one, file.open("a") as two, file.open() as three:
        assert lock(one, shared=True, wait=True) == "held"
        assert lock(two, shared=True, wait=True) == "held"
        assert lock(three) == "busy"


def test_a_kill_leaves_none_behind(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout
    with holder.stdout as said:
        assert said.readline() == "held\n"
        descriptor = os.open(tmp_path, os.O_RDONLY)
        assert lock(descriptor) == "busy"
        holder.kill()
        holder.wait()
    assert lock(descriptor) == "held"
    os.close(descriptor)


def test_where_there_are_no_locks_it_says_so(tmp_path: Path) -> None:
    """Linux refuses to lock what is open by its path only."""
    descriptor = os.open(tmp_path, os.O_PATH)
    assert lock(descriptor) == "unsupported"
    os.close(descriptor)
