"""A run where the system has what macOS has: no memory files, no /proc, no cores to be bound to."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
from jobs import fingerprint

from ffdist.cli import main
from ffdist.runtime.processes import meeting_place

pytestmark = pytest.mark.distributed
TRAIN = ["train", "--samples", "128", "--epochs", "1", "--stages", "2", "--threads", "1"]
HIDING = """
import builtins, ctypes, io, os, sys, sysconfig
import torch

sysconfig.get_config_vars()  # those of the system that is here: Python 3.10 reads them from a file of its name

for name in ("memfd_create", "sched_getaffinity", "sched_setaffinity", "pidfd_open", "pipe2", "eventfd", "fdatasync",
             "posix_fallocate", "posix_fadvise"):
    if hasattr(os, name):
        delattr(os, name)

def hiding(call):
    def hiding(path, *args, **options):
        if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(("/proc/", "/sys/", "/dev/shm/")):
            raise FileNotFoundError(2, "hidden", os.fspath(path))
        return call(path, *args, **options)
    return hiding

class Library(ctypes.CDLL):
    def __init__(self, name, *args, **options):
        assert name is not None, "what is called here is the C library of Linux"
        super().__init__(name, *args, **options)

io.open = builtins.open = hiding(builtins.open)
os.readlink = hiding(os.readlink)
ctypes.CDLL = Library
sys.platform = "darwin"
"""
"""Run by every interpreter before anything else."""


@pytest.fixture
def elsewhere(tmp_path: Path) -> dict[str, str]:
    """The environment of such a system; its loopback has Linux's name all the same."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(HIDING)
    path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path, "GLOO_SOCKET_IFNAME": "lo"}


def ffdist(environment: dict[str, str], *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ffdist", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)


def test_stages_send_by_gloo_and_learn_the_same(elsewhere: dict[str, str], tmp_path: Path) -> None:
    done = ffdist(elsewhere, *TRAIN, "--out", tmp_path / "there")
    assert done.returncode == 0, done.stderr
    assert "edges of the run: gloo" in (tmp_path / "there/stage-0.log").read_text()
    main([*TRAIN, "--launcher", "threads", "--out", str(tmp_path / "here")])
    assert fingerprint(tmp_path / "there") == fingerprint(tmp_path / "here")


def test_shared_memory_is_refused_with_a_remedy(elsewhere: dict[str, str], tmp_path: Path) -> None:
    done = ffdist(elsewhere, *TRAIN, "--transport", "shared-memory", "--out", tmp_path / "there")
    assert done.returncode == 1
    assert "expected: both stages on one Linux host" in done.stderr
    assert "use --transport auto" in done.stderr
    assert not (tmp_path / "there").exists()


def test_doctor_says_what_is_missing(elsewhere: dict[str, str]) -> None:
    done = ffdist(elsewhere, "doctor", "--processes", "2")
    assert done.returncode == 0, done.stdout
    assert "stages use gloo (it needs Linux, and this is darwin)" in done.stdout


CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 1 << 14, 1 << 18
DENIED = 2


def without_proc() -> bool:
    """Give this process mounts of its own, and nothing in its /proc; return whether it may have that."""
    of_system = ctypes.CDLL(None)
    return not (
        of_system.unshare(CLONE_NEWNS)
        or of_system.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
        or of_system.mount(b"none", b"/proc", b"tmpfs", 0, None)
    )


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
def test_where_a_sandbox_has_no_proc_processes_meet_by_a_file_with_a_name() -> None:
    if (child := os.fork()) == 0:
        status = 1
        try:
            if not without_proc():
                os._exit(DENIED)
            with meeting_place() as (store, descriptors):
                status = int(bool(descriptors) or not Path(store).parent.is_dir())
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == DENIED:
        pytest.skip("this user may not mount")
    assert status == 0
