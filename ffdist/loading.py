"""The import of torch, and of what needs it, in a process of ffdist's own; and the error where it is missing."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

NEEDED = {
    "PIL",
    "fsspec",
    "jinja2",
    "markupsafe",
    "numpy",
    "pyarrow",
    "rich",
    "safetensors",
    "tomli",
    "torch",
    "torchvision",
}
"""Modules of the packages that ffdist is installed with."""


def missing_package_text(error: ModuleNotFoundError) -> str | None:
    """The error text for an installation that is not whole; None for a module of other kinds."""
    name = (error.name or "").partition(".")[0]
    if name not in NEEDED:
        return None
    return (
        f"ffdist: error: a package that it needs is not installed\n  got: no module {name}\n"
        f"  remedy: {sys.executable} -m pip install ffdist, without --no-deps"
    )


taken: list[float] = []
"""Seconds of each `loading` of this process."""


@contextmanager
def loading() -> Iterator[None]:
    """A context for imports: what a module makes lives as long as the process, and to look through all of it for
    garbage, again and again meanwhile and once at the end, would be a quarter of the time that torch takes."""
    enabled, before, begun = gc.isenabled(), len(taken), time.monotonic()
    gc.disable()
    try:
        yield
    finally:
        taken[before:] = [time.monotonic() - begun]  # in the place of those within
        gc.freeze()
        if enabled:
            gc.enable()


def import_seconds(*, forget: bool = False) -> float:
    """Seconds that imports have taken in this process; forget: they count no more, as an attempt that begins later in
    the same process has them already."""
    seconds = sum(taken)
    if forget:
        taken.clear()
    return seconds
