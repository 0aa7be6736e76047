"""How torch, and what needs it, is imported in a process of ffdist's own; and what is told where it is missing."""

from __future__ import annotations

import gc
import sys
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


def missing(error: ModuleNotFoundError) -> str | None:
    """What a user is told of an installation that is not whole; None for a module of other kinds."""
    name = (error.name or "").partition(".")[0]
    if name not in NEEDED:
        return None
    return (
        f"ffdist: error: a package that it needs is not installed\n  got: no module {name}\n"
        f"  remedy: {sys.executable} -m pip install ffdist, without --no-deps"
    )


@contextmanager
def loading() -> Iterator[None]:
    """Around imports: what a module makes lives as long as the process, and to look through all of it for garbage,
    again and again meanwhile and once at the end, would be a quarter of the time that torch takes."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
