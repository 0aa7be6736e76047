"""The command line's spelling of settings."""

from __future__ import annotations

from ffdist.settings import as_flag

SWITCHES = {"True": "", "False": "no-"}
"""Prefixes of the flags of switches, which take no value."""
OTHERWISE = {"from_dir": "from"}
"""Settings whose flags are not their names in Python."""


def as_flags(name: str, value: str | None) -> str:
    """`--lr`, `--stages 2`, `--no-fusion`."""
    flag = as_flag(OTHERWISE.get(name, name))
    if value is None:
        return flag
    return f"--{SWITCHES[value]}{flag[2:]}" if value in SWITCHES else f"{flag} {value}"
