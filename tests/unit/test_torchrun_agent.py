"""A rank that torchrun started ends with the agent that started it, also where that has died before it could look."""

from __future__ import annotations

import os
import subprocess
import sys

from ffdist.runtime.agent import VARIABLE

RANK = "from ffdist.runtime.agent import end_with_agent; end_with_agent(); print('goes on')"


def test_a_rank_whose_agent_has_died_ends_and_another_goes_on() -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    said = {}
    for agent in (dead.pid, os.getpid()):
        env = os.environ | {VARIABLE: f"/proc/{agent}/fd/3"}
        done = subprocess.run([sys.executable, "-c", RANK], env=env, capture_output=True, text=True, check=False)
        said[agent] = (done.returncode, done.stdout)
    assert said == {dead.pid: (1, ""), os.getpid(): (0, "goes on\n")}
