"""Drawn parts of a document, between two marks."""

from __future__ import annotations

from pathlib import Path


def put(document: Path, begin: str, drawn: str, end: str) -> None:
    """Replace the part of a document between two marks, which stay."""
    before, rest = document.read_text(encoding="utf-8").split(begin)
    document.write_text(before + begin + "\n\n" + drawn + "\n" + end + rest.split(end)[1], encoding="utf-8")
