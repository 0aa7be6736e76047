"""Runs of a moment, made by the command itself."""

from __future__ import annotations

from pathlib import Path

from ffdist.cli import main

DIGITS = ["digits", "--samples", "256", "--epochs", "2", "--launcher", "threads", "--threads", "1"]


def train_digits(out: Path, *more: str) -> None:
    """Two epochs of 256 samples in threads, kept in `out`."""
    main(["train", *DIGITS, "--out", str(out), *more])
