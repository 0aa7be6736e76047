"""Whose code may run: what a file names, a run's settings say, is run only where its user has named it before, or says
so now.

Names that a user types, or passes in Python, are the user's word. Those that are read from a run's folder, or an
exported file, may be anybody's: they are doubted, and `options.find` imports nothing that is doubted. Where a user
begins a run with code of their own, its place is written down, so that the run can be resumed, and measured.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from ffdist.errors import ConfigError, setting

DOUBTED: dict[str, str] = {}
"""Places of code, and the file that names each."""
HERE: set[str] = set()
"""Places of code that may run in this process, wherever that is written down."""
TRUSTING: ContextVar[bool] = ContextVar("whether all that is read now may run its code", default=False)
LIST = "trusted-code"
"""A place a line, of code that this user has run; in $FFDIST_CACHE, else in ffdist in $XDG_STATE_HOME."""


def place_of(name: str) -> str:
    """The absolute path of the file for "path/file.py:Name", the module for "package.module:Name", of
    "FOLDER/package.module:Name" its absolute path. Empty for a name of ffdist's own."""
    place = name.rpartition(":")[0]
    path = Path(place)
    return str(path.absolute()) if path.suffix == ".py" or path.parent != Path() else place


def list_file() -> Path | None:
    """The file that keeps the list; None for a user without a home."""
    own, state = os.environ.get("FFDIST_CACHE"), os.environ.get("XDG_STATE_HOME", "")
    try:
        if own:
            return Path(own).expanduser().absolute() / LIST
        return (Path(state) if state.startswith("/") else Path("~/.local/state").expanduser()) / "ffdist" / LIST
    except RuntimeError:
        return None


def trusted() -> set[str]:
    """Places of code that may run; those of this process alone where the list cannot be read."""
    path = list_file()
    try:
        # a path may hold bytes that are no text
        return HERE | set(path.read_text("utf-8", "surrogateescape").splitlines() if path else ())
    except (OSError, ValueError):
        return set(HERE)


def trust(names: Iterable[str], *, for_good: bool = True) -> None:
    """This code may run: its user has named it. for_good: in processes to come, too, where that can be written."""
    places = {place_of(name) for name in names} - {""}
    path, known = list_file(), trusted() - HERE
    HERE.update(places)
    for place in places:
        DOUBTED.pop(place, None)
    fresh = sorted(place for place in places - known if "\n" not in place) if for_good else []
    if path is None or not fresh:
        return
    with suppress(OSError):  # then it is asked for again
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with path.open("a", encoding="utf-8", errors="surrogateescape") as file:
            file.write("".join(f"{place}\n" for place in fresh))


def check_may_run(names: Iterable[str], file: object) -> None:
    """A file names this code; it may run only where its user has run it before, or trusts the file."""
    names = [name for name in names if place_of(name)]
    if TRUSTING.get():
        trust(names)
        return
    known = trusted() if names else set()
    DOUBTED.update({place: str(file) for name in names if (place := place_of(name)) not in known})


@contextmanager
def trusting(trusts: bool) -> Iterator[None]:
    """A context in which what is read may run its code, where its user says so."""
    before = TRUSTING.set(TRUSTING.get() or trusts)
    try:
        yield
    finally:
        TRUSTING.reset(before)


def check_trusted(name: str) -> None:
    """Raises ConfigError for code that is doubted."""
    file = DOUBTED.get(place_of(name))
    if file is not None:
        raise ConfigError(
            "code that a file names is not run unasked",
            where=file,
            expected="code of ffdist's, or such as this user has begun a run with",
            got=name,
            remedy=f"read that code; if it may do all that you may: {setting('trust', True)}",
        )
