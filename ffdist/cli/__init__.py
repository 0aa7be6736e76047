"""The command line: parses, dispatches, and turns errors into one paragraph and an exit status."""

from __future__ import annotations

import errno
import importlib
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import NoReturn, TextIO

from ffdist.cli.help import wrapped
from ffdist.cli.parsing import UsageError
from ffdist.errors import (
    ConfigError,
    FfdistError,
    Interrupted,
    ObserverError,
    StageLostError,
    TransportError,
    exit_status,
)
from ffdist.exiting import end_process_now, in_own_program
from ffdist.folders import check_current_folder, check_temporary
from ffdist.loading import missing_package_text
from ffdist.notes import quieted, spelled_as_flags
from ffdist.options import nearest
from ffdist.plain import let_any_text_pass
from ffdist.presets import PRESETS
from ffdist.runtime.agent import check_agent, notify_agent
from ffdist.runtime.interrupts import handle_signals, leave_at_once, signals_restored
from ffdist.runtime.world import World
from ffdist.spelling import as_flags

COMMANDS = {
    "train": ("ffdist.cli.train:main", "train a network through a pipeline of stages"),
    "plan": ("ffdist.cli.plan:main", "the fastest plan of a network on so many devices, and what to expect"),
    "eval": ("ffdist.cli.evaluate:main", "accuracy of a trained network"),
    "predict": ("ffdist.cli.predict:main", "classes of pictures"),
    "report": ("ffdist.cli.report:main", "what runs did, as a page: settings, curves, accuracies, mistakes, maps"),
    "watch": ("ffdist.cli.watch:main", "that page live in a browser, of a run or a folder of runs"),
    "export": ("ffdist.cli.export:main", "a trained network as one file, for torch alone"),
    "data": ("ffdist.cli.data:main", "list and prepare data sets"),
    "bench": ("ffdist.cli.bench:main", "measure against backpropagation"),
    "rules": ("ffdist.cli.catalog:rules", "local learning rules, and their options"),
    "models": ("ffdist.cli.catalog:models", "networks, and their options"),
    "transforms": ("ffdist.cli.catalog:transforms", "changes of training pictures, and their options"),
    "presets": ("ffdist.cli.catalog:presets", "named settings"),
    "datasets": ("ffdist.cli.catalog:datasets", "data sets: by name, and prepared ones"),
    "settings": ("ffdist.cli.catalog:settings", "all settings of a training run"),
    "completion": ("ffdist.cli.completion:main", "completion of commands and options in a shell"),
    "doctor": ("ffdist.cli.doctor:main", "check this machine: versions, devices, sends between processes"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command. Exits with 0; 1 for an error; 2 for a wrong command line; 129, 130 or 143 after SIGHUP, Ctrl-C
    or SIGTERM, also where a run has made a snapshot and can be resumed."""
    verbose, args = split_off_flags(VERBOSE, sys.argv[1:] if argv is None else argv)
    quiet, args = split_off_flags(SILENT, args)
    with signals_restored(), spelled_as_flags(), quieted(quiet):
        handle_signals(leave_at_once)
        let_any_text_pass()
        try:
            run(args)
        except (Exception, KeyboardInterrupt) as error:
            status = status_after(error, verbose)
            if status is None:
                raise
            exit_with(status)
        finally:
            try:
                sys.stderr.flush()
            except (OSError, ValueError):  # Python would end with a status of its own
                to_nowhere(sys.stderr)


def run(args: Sequence[str]) -> None:
    """Run the command that the arguments begin with."""
    check_agent()
    command, rest = read(args)
    module, _, function = COMMANDS[command][0].partition(":")
    check_temporary()
    check_current_folder()
    getattr(importlib.import_module(module), function)(rest)
    sys.stdout.flush()  # here, where a closed pipe raises BrokenPipeError, and not at the interpreter's end


def status_after(error: BaseException, verbose: bool) -> int | None:
    """The exit status after what a command has raised, whose error is printed; None where it is one of
    ffdist's own code, which is to show where it comes from."""
    match error:
        case Interrupted():
            return error.status
        case KeyboardInterrupt():
            return exit_status(signal.SIGINT)
        case BrokenPipeError():
            to_nowhere(sys.stdout)
            return exit_status(signal.SIGPIPE)
        case ModuleNotFoundError() if text := missing_package_text(error):
            print(text, file=sys.stderr)
            return 1
    known = as_ffdist_error(error)
    if known is None:
        return None
    if verbose:
        traceback.print_exception(error)
    print_error(known)
    if not isinstance(known, (StageLostError, TransportError)):
        notify_agent(final=True)  # a restart would meet the same error
    return 2 if isinstance(known, UsageError) else 1


def as_ffdist_error(error: BaseException) -> FfdistError | None:
    """The error for users that stands for what a command has raised; None where there is none."""
    match error:
        case FfdistError():
            return error
        case ImportError() if NO_ROOM.search(str(error)):
            return ConfigError(
                "a library cannot be loaded",
                got=error,
                remedy="let this process have more memory (`ulimit -v`, or the job's or container's limit)",
            )
        case OSError() if error.errno in UNREACHABLE and isinstance(error.filename, (str, bytes, os.PathLike)):
            return ConfigError(
                "a path cannot be looked for",
                where=os.fsdecode(error.filename),
                got=error.strerror,
                remedy=UNREACHABLE[error.errno or 0],
            )
        case OSError() if error.errno in UNWRITABLE and not takes_line(sys.stdout):
            to_nowhere(sys.stdout)
            return ConfigError(
                "what is printed cannot be written",
                where="standard output",
                got=error.strerror or error,
                remedy="make room where it goes to; files and folders are as they would be without it",
            )
    return None


NO_ROOM = re.compile("failed to map segment|cannot allocate memory", re.IGNORECASE)
"""What the loader says of a library for which there is no memory."""


UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What the system says where a disk, or a terminal, takes nothing."""


UNREACHABLE = {
    errno.ENAMETOOLONG: "a shorter name",
    errno.EACCES: "let this user reach it, or name another",
}
"""What the system says of paths of which it does not even say whether they are there, and what to do then."""


def takes_line(stream: TextIO) -> bool:
    """True if an empty line can be written there: an error of writing does not say where that was."""
    try:
        print(file=stream, flush=True)
    except (OSError, ValueError):
        return False
    return True


def to_nowhere(stream: TextIO) -> None:
    """Let go of what is left in a stream that takes nothing: Python would fail on it at its end."""
    with suppress(OSError, ValueError):  # none of a file's
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


VERBOSE, SILENT = ("-v", "--verbose"), ("-q", "--quiet")
"""The flags of every command: errors with their tracebacks; nothing but results and errors."""


def split_off_flags(flags: Sequence[str], args: Sequence[str]) -> tuple[bool, list[str]]:
    """True if one of the flags is among the arguments, and the other arguments; after "--" they are names."""
    end = list(args).index("--") if "--" in args else len(args)
    rest = [arg for arg in args[:end] if arg not in flags] + list(args[end:])
    return len(rest) < len(args), rest


def exit_with(status: int) -> NoReturn:
    """Exit; at once where a stage's thread still runs, which the interpreter's own end would crash. A program that has
    called `main` goes on, whatever still runs."""
    if in_own_program() and any(thread.name.startswith("stage-") for thread in threading.enumerate()):
        end_process_now(status)
    sys.exit(status)


def read(args: Sequence[str]) -> tuple[str, list[str]]:
    """The command and its arguments. Exits where help or the version is all that was wanted. Raises UsageError for no
    known command."""
    name, *rest = [*args] or ["--help"]
    if name in ("-h", "--help") or (name == "help" and not rest):
        print(overview())
        sys.exit()
    if name == "--version":
        print(f"ffdist {version('ffdist')}")
        sys.exit()
    if name == "help":
        return read([*rest, "--help"])
    if name not in COMMANDS:
        what = "option" if name.startswith("-") else "command"
        remedy = nearest(name, COMMANDS)
        raise UsageError(f"there is no {what} '{name}'", remedy=hint_for(name) or remedy)
    return name, rest


def hint_for(word: str) -> str | None:
    """A hint where a preset, or another word of `ffdist train`'s, stands in place of a command."""
    if word in PRESETS:
        return f"it is a preset: ffdist train {word}"
    return f"`ffdist COMMAND {word}`; the commands are in ffdist --help" if word.startswith("-") else None


OTHERS_SECONDS = 30.0
"""Seconds within which a host's first rank has come to the same error in the settings as the others have."""


def print_error(error: FfdistError) -> None:
    """Print an error on stderr, in one paragraph.

    Errors in the settings are the same on every rank, so a host's first rank prints them; another one waits to be ended
    with it, and prints its own where nobody ends it. Those of a tracker or callback occur on the last rank alone.
    """
    world = World.from_env()
    if world and world.local_rank > 0 and isinstance(error, ConfigError) and not isinstance(error, ObserverError):
        # torchrun's agent ends all ranks as soon as one has ended: if this were the first to end, nobody would say why.
        # So this one waits to be ended; who still lives then has an error of its own
        handle_signals(leave_at_once)
        time.sleep(OTHERS_SECONDS)
    rank = f" (rank {world.rank})" if world else ""
    with suppress(OSError):  # the status says it, too
        print(f"ffdist: error{rank}: {error.text(as_flags)}", file=sys.stderr, flush=True)


def overview() -> str:
    """The text of `ffdist --help`."""
    commands = [wrapped(f"  {name:<12}{text}", " " * 14) for name, (_, text) in COMMANDS.items()]
    return "\n".join([wrapped(USAGE), *commands, "", wrapped(COMMON_OPTIONS, " " * 4)])


USAGE = """\
usage: ffdist COMMAND [ARGUMENT ...]

Pipeline-parallel training of Forward-Forward and other locally learning networks.
To begin with: ffdist train

commands:"""
COMMON_OPTIONS = """\
options of every command:
  -h, --help     what it does, and its options
  -q, --quiet    nothing but results and errors
  -v, --verbose  errors with their tracebacks
  --version      of ffdist alone

`ffdist help COMMAND` is `ffdist COMMAND --help`.
Completion: eval "$(ffdist completion bash)" in ~/.bashrc; zsh and fish: ffdist completion --help."""
