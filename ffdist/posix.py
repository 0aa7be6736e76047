"""A check for the modules that Linux and macOS alone have: where one is missing, importing this raises ImportError with
a line that says which systems have it."""

from __future__ import annotations

import importlib
import sys

MODULES = ("fcntl", "resource", "termios")

for _name in MODULES:
    try:
        importlib.import_module(_name)
    except ModuleNotFoundError:
        raise ImportError(f"ffdist runs on Linux and macOS only; this is {sys.platform}, without {_name}") from None
