"""Settings as a TOML file, and back."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ffdist.errors import ConfigError
from ffdist.options import path_of
from ffdist.settings import GROUPS, Settings, apply

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]


MAX_BYTES = 1 << 24
"""Bytes of a settings file, at most: a device has no end."""


def read_bytes(path: Path) -> bytes:
    """The contents of a file, or of a pipe, as `<(command)` gives one. Raises OSError, also for more than `MAX_BYTES`
    bytes, and for a pipe into which nobody writes."""
    # to open a pipe that has no writer would take for ever
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb") as file:
        os.set_blocking(descriptor, True)
        data = file.read(MAX_BYTES + 1)
        if not data and stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            raise OSError(errno.EPIPE, "nobody writes into this pipe", str(path))
    if len(data) > MAX_BYTES:
        raise OSError(errno.EFBIG, f"it has more than {MAX_BYTES:,} bytes", str(path))
    return data


def read_toml(path: Path, read: Callable[[Path], bytes] = read_bytes) -> dict[str, Any]:
    """The keys of a TOML file. Raises ConfigError for one that cannot be read."""
    try:
        return tomllib.loads(read(path).decode("utf-8-sig"))  # some editors begin a text with a mark
    except OSError as error:
        raise ConfigError("a settings file cannot be read", where=path, got=error.strerror) from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, or a number of thousands of digits
        raise ConfigError("a settings file is not TOML", where=path, expected="a text in UTF-8", got=error) from error


def settings_in(path: str | Path, base: Settings | None = None) -> Settings:
    """A settings file, such as `ffdist train --print-config` prints, in place of others; default: in place of the
    defaults. Raises ConfigError for what is no such file."""
    return apply(base or Settings(), read_toml(path_of(path)), str(path))


def parsed(text: str) -> dict[str, Any]:
    """The keys of a TOML text. Raises ValueError for what is none."""
    return tomllib.loads(text)


def write_toml(settings: Settings) -> str:
    """A table for each group; `read_toml` and `apply` turn it back into the settings."""
    return "\n".join(_table(name, vars(getattr(settings, name))) for name in GROUPS)


def _table(name: str, values: dict[str, Any]) -> str:
    lines = [f"{key} = {_toml(value)}" for key, value in values.items() if value is not None]
    return "\n".join([f"[{name}]", *lines, ""])


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, (int, float)):
        return repr(value)
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
