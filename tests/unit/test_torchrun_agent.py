"""A rank that torchrun started ends with the agent that started it, also where that has died before it could look; and
the stores of a run on one host are for that host alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

from forked import run
from torch.distributed.elastic.rendezvous import c10d_rendezvous_backend as backend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler

from ffdist.runtime.agent import VARIABLE, on_loopback_alone

RANK = "from ffdist.runtime.agent import end_with_agent; end_with_agent(); print('goes on')"


def test_a_rank_whose_agent_has_died_ends_and_another_goes_on() -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    said = {}
    for agent in (dead.pid, os.getpid()):
        env = os.environ | {VARIABLE: f"/proc/{agent}/fd/3"}
        done = run([sys.executable, "-c", RANK], env=env)
        said[agent] = (done.returncode, done.stdout)
    assert said == {dead.pid: (1, ""), os.getpid(): (0, "goes on\n")}


CARELESS = """
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""Starts a program as one does that wants to hear nothing of its children, which is inherited."""


def test_a_killed_rank_is_no_success_where_whoever_starts_the_agent_ignores_sigchld(tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    agent = ["-m", "ffdist.runtime.agent", "--standalone", "--nproc-per-node=1", str(tmp_path / "rank.py")]
    done = subprocess.run([sys.executable, "-c", CARELESS, *agent], stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode != 0
    assert "Signal 9 (SIGKILL)" in done.stderr


AGENT = """
import signal, subprocess, sys, time
signal.signal(signal.SIGCHLD, getattr(signal, sys.argv[1]))
status = subprocess.Popen(sys.argv[2:]).wait()
time.sleep(0 if sys.argv[1] == "SIG_DFL" else 60)
sys.exit(status)
"""
"""Starts a rank as torchrun's own agent does, and goes on for a while."""


def test_a_rank_of_an_agent_that_hears_of_no_failure_is_refused_and_the_agent_told() -> None:
    places = ("RANK", "LOCAL_RANK", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_RUN_ID")
    env = {name: text for name, text in os.environ.items() if name != VARIABLE} | dict.fromkeys(places, "0")
    env |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), "1")
    ended = {}
    for handler in ("SIG_IGN", "SIG_DFL"):
        rank = [sys.executable, "-m", "ffdist", "presets"]
        done = subprocess.run([sys.executable, "-c", AGENT, handler, *rank], env=env, capture_output=True, check=False)
        ended[handler] = done.returncode, b"torchrun does not hear how its ranks end" in done.stderr
    assert ended == {"SIG_IGN": (-signal.SIGTERM, True), "SIG_DFL": (0, False)}


def test_the_stores_of_a_standalone_torchrun_listen_on_the_loopback_alone() -> None:
    before = backend.TCPStore
    with on_loopback_alone():
        make, wait = backend.TCPStore, timedelta(seconds=20)
        first = make("localhost", 0, is_master=True, multi_tenant=True, timeout=wait)
        second = DynamicRendezvousHandler._create_tcp_store_server(None, "any", 0)  # pyright: ignore[reportArgumentType]
    assert backend.TCPStore is before
    for store in (first, second):
        lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()]
        (at,) = [words[1] for words in lines if words[1].endswith(f":{store.port:04X}") and words[3] == "0A"]
        assert at.startswith("0100007F:")
        client = before("127.0.0.1", store.port, is_master=False, timeout=wait)
        client.set("key", "value")
        assert store.get("key") == b"value"
