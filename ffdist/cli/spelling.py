"""How the command line spells settings."""

from __future__ import annotations

from ffdist.settings import as_flag

SWITCHES = {"True": "", "False": "no-"}
"""Values of what takes none."""


def as_flags(name: str, value: str | None) -> str:
    """`--lr`, `--stages 2`, `--no-fusion`."""
    flag = as_flag(name)
    if value is None:
        return flag
    return f"--{SWITCHES[value]}{flag[2:]}" if value in SWITCHES else f"{flag} {value}"
