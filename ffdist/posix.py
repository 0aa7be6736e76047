"""Modules that Linux and macOS alone have. Whoever imports this elsewhere is told so in one line where it is not
there."""

from __future__ import annotations

import importlib
import sys

MODULES = ("fcntl", "resource", "termios")

for _name in MODULES:
    try:
        importlib.import_module(_name)
    except ModuleNotFoundError:
        raise ImportError(f"ffdist runs on Linux and macOS only; this is {sys.platform}, without {_name}") from None
