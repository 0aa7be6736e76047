"""Programs of Python for tests, forked from a process that has torch: an interpreter of its own takes seconds for it.

`Forked([sys.executable, "-m", "ffdist", "doctor"], ...)` is `subprocess.Popen`, and `run` is `subprocess.run`: a
process with a number, an environment, a folder and streams of its own, which gets signals and ends with its status.
What it lacks is a beginning: it shows nothing of how modules are imported, nor of what Python reads from its
environment as it starts. Tests of these start interpreters.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.reduction import DupFd
from pathlib import Path
from types import ModuleType
from typing import Any

TESTS = Path(__file__).parent
MODULES = (
    "ffdist.bench.sides",
    "ffdist.cli.bench",
    "ffdist.cli.train",
    "ffdist.runtime.worker_main",
    "ffdist.transport.contract",
)
"""What that process has imported. Members of a `Crew` and of pools are forked from it, too."""


def fork_context() -> Any:
    """Of multiprocessing: its processes are forked from one that has imported these modules."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*MODULES])
    return context


class Forked(subprocess.Popen):
    """The command is this interpreter's, with `-c`, `-m`, `-` or a script next, without other options of Python."""

    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *rest):  # of `Popen`
        *_, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite = rest[:9]
        assert args[0] == sys.executable, args
        streams = [DupFd(own if own != -1 else at) for at, own in enumerate((p2cread, c2pwrite, errwrite))]
        program = [str(word) for word in args[1:]]
        start = (program, streams, dict(os.environ if env is None else env), cwd or os.getcwd(), rest[14])
        self.process: Any = fork_context().Process(target=become, args=start)
        self.process.start()
        self._child_created = True
        self.pid = self.process.pid
        for theirs, ours in ((p2cread, p2cwrite), (c2pwrite, c2pread), (errwrite, errread)):
            if ours != -1:
                os.close(theirs)

    def _try_wait(self, flags):
        self.process.join(0 if flags & os.WNOHANG else None)
        code = self.process.exitcode
        if code is None:
            return 0, 0
        return self.pid, -code if code < 0 else code << 8

    def _internal_poll(self, *_, **__):
        if self.returncode is None:
            pid, status = self._try_wait(os.WNOHANG)
            if pid:
                self._handle_exitstatus(status)
        return self.returncode


def run(words: Sequence[object], *, input: Any = None, timeout: float | None = None, **options: Any):
    """As `subprocess.run`, with both streams captured, as text where nothing else is said."""
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    with Forked(words, **options) as process:
        try:
            out, err = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def become(program: list[str], streams: list[Any], environment: Mapping[str, str], folder: str, session: bool) -> None:
    """The forked process's way to what an interpreter of its own begins with; and its end. streams: descriptors, or
    what they travel by."""
    from ffdist.exiting import end_process
    from ffdist.runtime.fork_server import forget_inherited

    for at, stream in enumerate(streams):
        own = stream if isinstance(stream, int) else stream.detach()
        os.dup2(own, at)
        os.close(own)
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, "r", closefd=False)))
    out, err = (io.BufferedWriter(io.FileIO(at, "w", closefd=False)) for at in (1, 2))
    sys.stdout = sys.__stdout__ = io.TextIOWrapper(out)
    sys.stderr = sys.__stderr__ = io.TextIOWrapper(err, errors="backslashreplace", line_buffering=True)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # found by the environment, once
    os.chdir(folder)
    if session:
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    forget_inherited()
    elsewhere = [each for each in sys.path if each and not Path(each).is_relative_to(TESTS)]
    sys.path[:] = [*filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)), *elsewhere]
    sys.orig_argv = [sys.executable, *program]
    status: Any = 0
    try:
        go(program)
    except SystemExit as end:
        status = end.code
        if isinstance(status, str):
            print(status, file=sys.stderr)
            status = 1
    except KeyboardInterrupt:  # Python ends by the signal itself
        traceback.print_exc()
        sys.stderr.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        status = 1
    end_process(status or 0)


def go(program: list[str]) -> None:
    """Run it as Python does."""
    kind, words = program[0], program[1:]
    if kind == "-m":
        sys.path.insert(0, os.getcwd())
        sys.argv[:] = words
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        return
    sys.argv[:] = ["-c", *words[1:]] if kind == "-c" else program
    main = sys.modules["__main__"] = ModuleType("__main__")
    if kind in ("-c", "-"):
        sys.path.insert(0, "")
        text, name = (words[0], "<string>") if kind == "-c" else (sys.stdin.read(), "<stdin>")
    else:
        sys.path.insert(0, str(Path(kind).resolve().parent))
        text, name = Path(kind).read_text(encoding="utf-8"), str(Path(kind).absolute())
        main.__dict__["__file__"] = name
    exec(compile(text, name, "exec"), main.__dict__)


def serve_here(end: DupFd) -> None:
    """Be the fork server of the process that has started this one. It stands here, as other folders have a `conftest`
    as well, and this one is found by its module's name."""
    from ffdist.runtime.fork_server import serve
    from ffdist.runtime.interrupts import signals_blocked

    with signals_blocked():
        serve(socket.socket(fileno=end.detach()), os.getppid())
