"""Files of a folder that others may have filled: regular ones alone are read and written, as a pipe would hold this
process up for ever, and a device may have no end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, TextIO

MAX_BYTES = 1 << 30
"""Bytes that are read as a whole; what is read so is a text, and far smaller."""


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file to read it. Raises OSError for any other kind, a link to such included, as for a missing
    one."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))  # a pipe has no writer yet
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return open(descriptor, "rb")


def append_to(path: Path) -> TextIO:
    """Open a text file, made where it is missing, to write at its end, a line at a time. Raises OSError for any kind
    but a regular one, and for a link: it may have come since the run began."""
    how = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, how, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return open(descriptor, "a", buffering=1, encoding="utf-8", errors="backslashreplace")


def read_bytes(path: Path) -> bytes:
    """Raises OSError as `open_regular` does, and for a file of more than `MAX_BYTES` bytes."""
    with open_regular(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > MAX_BYTES:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, and may have {MAX_BYTES:,}", str(path))
        return file.read()


def read_text(path: Path) -> str:
    """The text of a file in UTF-8. Raises OSError as `read_bytes` does, and UnicodeDecodeError, a ValueError."""
    return read_bytes(path).decode()
