"""Payloads for other processes: plain bytes, so that it needs no shared memory and no descriptors."""

from __future__ import annotations

import io
import pickle
import runpy
import sys
from pathlib import Path
from threading import Event
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from ffdist.errors import ConfigError, FfdistError, described

MODULE = "define it in a module, or take threads as the launcher"
GUARD = "put what starts the run under `if __name__ == '__main__':`, or take threads as the launcher"
OF_SCRIPT = ("__main__", "__mp_main__")
"""What the running script is called: where it was started, and in a process that has loaded it."""
LOADING = Event()
"""Set while a stage's process loads the script that has started the run."""


class Script(NamedTuple):
    """The script that has started the run, where it defines what was passed: by module, or by file."""

    module: str | None
    path: str | None


class Payload(NamedTuple):
    """Something pickled, and the script that defines parts of it, if any are a script's own."""

    data: bytes
    script: Script | None


class Pickler(pickle.Pickler):
    """Plain pickle, which has tensors by value; it notes what only the running script defines."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.of_script: list[str] = []

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, (type, FunctionType)) and obj.__module__ in OF_SCRIPT:
            self.of_script.append(obj.__qualname__)
        return NotImplemented


def pack(thing: object, what: str = "job") -> Payload:
    """Raises ConfigError for what another process could not have: what cannot be pickled, or is defined in a session
    or a script that cannot be loaded there."""
    refuse_while_loading()
    file = io.BytesIO()
    pickler = Pickler(file)
    try:
        pickler.dump(thing)
    except Exception as error:  # whatever a user's own class raises
        raise unsendable_error(what, described(error)) from error
    if not pickler.of_script:
        return Payload(file.getvalue(), None)
    script = script_of(sys.modules["__main__"])
    if script is None:
        raise unsendable_error(
            what, f"{pickler.of_script[0]} is defined in an interactive session, or a script without a file"
        )
    return Payload(file.getvalue(), script)


def unsendable_error(what: str, got: str) -> ConfigError:
    return ConfigError(
        f"the {what} cannot be sent to a process",
        where="launcher processes",
        got=got,
        expected="what a module defines",
        remedy=MODULE,
    )


def script_of(main: ModuleType) -> Script | None:
    """The script by which another process can load the running one; None where it cannot."""
    name = main.__spec__.name if main.__spec__ else "__main__"
    if name != "__main__":
        return Script(name, None)
    path = getattr(main, "__file__", None)
    return Script(None, str(Path(path).absolute())) if path and Path(path).is_file() else None


def unpack(payload: Payload) -> Any:
    """Unpack a payload. Raises ConfigError where this process cannot make it."""
    if payload.script:
        load(payload.script)
    try:
        # bytes that the process which started this one has pickled, over their pipe; no file is ever unpickled
        return pickle.loads(payload.data)
    except FfdistError:
        raise
    except Exception as error:  # a user's module is not here, or fails
        raise ConfigError(
            "what was passed cannot be unpickled in another process",
            where="launcher processes",
            expected="modules that can be imported there",
            got=described(error),
            remedy=MODULE,
        ) from error


def load(script: Script) -> None:
    """Run the script, without what stands under its guard, as multiprocessing does; then it is `__main__` here, too."""
    module = ModuleType("__mp_main__")
    LOADING.set()
    try:
        if script.module:
            names = runpy.run_module(script.module, run_name="__mp_main__", alter_sys=True)
        else:
            names = runpy.run_path(script.path or "", run_name="__mp_main__")
    except FfdistError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(
            "the script cannot be loaded in a stage's process",
            where=script.path or script.module,
            got=f"{type(error).__name__}: {error}",
            remedy=GUARD,
        ) from error
    finally:
        LOADING.clear()
    module.__dict__.update(names)
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module


def refuse_while_loading() -> None:
    """Raises ConfigError where a stage's process, loading the script that defines what was passed, has come to what
    starts the run."""
    if LOADING.is_set():
        raise ConfigError(
            "the script starts the run again when a stage's process loads it",
            where=sys.argv[0] or "the script",
            expected="only definitions, when it is loaded",
            got="a run at its top level",
            remedy=GUARD,
        )
