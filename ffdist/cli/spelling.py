"""The command line's spelling of settings."""

from __future__ import annotations

from ffdist.settings import as_flag

SWITCHES = {"True": "", "False": "no-"}
"""Values of what takes none."""
OTHERWISE = {"from_dir": "from"}
"""Flags that are no names in Python."""


def as_flags(name: str, value: str | None) -> str:
    """`--lr`, `--stages 2`, `--no-fusion`."""
    flag = as_flag(OTHERWISE.get(name, name))
    if value is None:
        return flag
    return f"--{SWITCHES[value]}{flag[2:]}" if value in SWITCHES else f"{flag} {value}"
