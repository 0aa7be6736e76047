"""How torch, and what needs it, is imported in a process of ffdist's own."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


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
