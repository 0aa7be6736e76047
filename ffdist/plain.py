"""Text for people: names that users give (of files, runs, classes, blocks) as they are, and never as markup.

rich reads "cat [black]" as a style, ":cat:" as a picture, and cuts a long name with an ellipsis; a console and a table
made here do not. Styles of our own are given as `style=`, or as a `rich.text.Text`.
"""

from __future__ import annotations

import io
import os
import sys

from rich.console import Console
from rich.progress import TextColumn
from rich.table import Column, Table

from ffdist.notes import QUIET

UNBOUND = 10_000
"""Columns where there is no terminal to fill: a file or a pipe gets whole lines."""


class PlainConsole(Console):
    """Prints text as it is: results on the standard output, progress on the standard error unless --quiet is given."""

    def __init__(self, *, stderr: bool = False, quiet: bool = False) -> None:
        quiet = quiet or (stderr and QUIET in os.environ)
        super().__init__(stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False)
        if not self.is_terminal and "COLUMNS" not in os.environ:
            self.width = UNBOUND

    def on_broken_pipe(self) -> None:
        """Nobody reads any more: the command ends by it, as by SIGPIPE; what runs beside its notes goes on."""
        self.quiet = True
        if not self.stderr:
            raise


def table(*headers: str, title: str | None = None, caption: str | None = None) -> Table:
    """An empty table with these columns; what is too long for one is folded, so that no part of a name is lost."""
    return Table(*(Column(header, overflow="fold") for header in headers), title=title, caption=caption)


def text_column(text: str, style: str = "none") -> TextColumn:
    """A column of a progress bar: a format of `task`, whose fields may hold anything."""
    return TextColumn(text, style=style, markup=False)


def levels() -> str:
    """Eight characters from low to high, such as the standard output can show."""
    blocks = "▁▂▃▄▅▆▇█"
    try:
        blocks.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "_.:-=+*#"
    return blocks


def let_any_text_pass() -> None:
    """Characters that a stream cannot encode are written as escapes (\\u2581) from here on, and are no error; a stream
    that was closed is the null device's."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # else the next file opened would take the number, and get what is printed
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
