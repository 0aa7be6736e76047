"""Folders: why one cannot be written and what helps, and whether it outlives the container that this process is in."""

from __future__ import annotations

import errno
import os
import shlex
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ffdist.errors import ConfigError

VOLUME = "-v ffdist-work:/work"
"""A volume of Docker's own: it takes the owner and the mode of the image's folder, so any user may write there."""
FULL = (errno.ENOSPC, errno.EDQUOT)
DENIED = (errno.EACCES, errno.EPERM)
UNWRITABLE = (*FULL, *DENIED, errno.EROFS, errno.ENOTDIR)
"""What the system says of a folder that cannot be written."""
LARGER_FILES = "raise the limit of a file's size (ulimit -f)"


def in_container() -> bool:
    """True if this process is in a container of our images, which say so: there is no sure sign of any container."""
    return "FFDIST_IMAGE" in os.environ


def container_note(folder: Path) -> str | None:
    """The note on a folder that goes when its container goes; None for one that stays."""
    if not in_container() or is_persistent_mount(folder, Path("/proc/self/mountinfo").read_text()):
        return None
    return f"{folder} is in this container, and goes with it; a volume keeps it: docker run {VOLUME} ..."


def is_persistent_mount(folder: Path, mounts: str) -> bool:
    """True if a folder is on a mount of its own that keeps what it holds.

    mounts: lines of proc(5)'s mountinfo. A later line lies over an earlier one at the same place.
    """
    place, kind = "/", ""
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        mounted = fields.split()[4].encode().decode("unicode_escape")  # a blank is \\040 there
        if folder.resolve().is_relative_to(mounted) and len(mounted) >= len(place):
            place, kind = mounted, rest.split()[0]
    return place != "/" and kind != "tmpfs"


def command(*words: object) -> str:
    """A command of ffdist's as its user types it: where one that is in a container was itself the container's, its
    next is another container's."""
    line = shlex.join(map(str, words))
    return f"docker run ... IMAGE {line}" if ends_with_container() else f"ffdist {line}"


def ends_with_container() -> bool:
    """True if this process's command is its container's own, and not typed in a shell there."""
    return in_container() and b"ffdist" in Path("/proc/1/cmdline").read_bytes()


def system_reason(error: OSError, place: Path) -> str:
    """The system's reason; where a file system has room for bytes and for no more files, or this process's files may
    not be as large, that too, as most tools that look for room do not show it."""
    said = error.strerror or str(error)
    if error.errno == errno.EFBIG and (limit := file_limit()) is not None:
        return f"{said}: a file of this process may have {limit:,} bytes"
    try:
        there = os.statvfs(nearest(place))
    except OSError:
        return said
    if error.errno != errno.ENOSPC or not there.f_files or there.f_favail:
        return said
    return f"{said}: {there.f_bavail * there.f_frsize / 2**20:,.0f} MiB are free, and no inodes (df -i)"


def file_limit() -> int | None:
    """Bytes that a file of this process may have; None where there is no such limit."""
    from resource import RLIM_INFINITY, RLIMIT_FSIZE, getrlimit  # here, for systems that have none

    limit, _ = getrlimit(RLIMIT_FSIZE)
    return None if limit == RLIM_INFINITY else limit


def remedy_of(error: OSError, otherwise: str) -> str:
    """The remedy for a file that cannot be written: `otherwise`, but where it is larger than this process's may be."""
    return LARGER_FILES if error.errno == errno.EFBIG else otherwise


def why_unwritable(folder: Path, error: OSError) -> str:
    """The system's reason, and the folder's owner where that is why."""
    said = system_reason(error, folder)
    if error.errno not in DENIED or not hasattr(os, "geteuid"):
        return said
    there = nearest(folder)
    owner, mode = there.stat().st_uid, stat.S_IMODE(there.stat().st_mode)
    return f"{said}: {there} is of user {owner}, mode {mode:o}; this is user {os.geteuid()}"


def remedy_unwritable(folder: Path, error: OSError, options: Sequence[str]) -> str:
    """The remedy; options: those that name another folder."""
    another = "name another folder with " + " or ".join(options)
    if error.errno == errno.EFBIG:
        return LARGER_FILES
    if error.errno in FULL:
        return f"make room there, or {another}"
    if not in_container() or error.errno not in (*DENIED, errno.EROFS):
        return another
    owner = nearest(folder).stat().st_uid
    if error.errno in DENIED and owner not in (0, os.geteuid()):
        return f"docker run --user {owner}, or a volume of Docker's own: {VOLUME}"
    return f"mount what user {os.geteuid()} may write, as a volume of Docker's own is: {VOLUME}"


def nearest(folder: Path) -> Path:
    """The folder, or the first above it that is there."""
    return next((place for place in (folder, *folder.absolute().parents) if os.path.exists(place)), Path("/"))


def check_temporary() -> None:
    """Raises ConfigError where no temporary file can be written: torch needs one to be imported."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        remedy = "set TMPDIR to a folder that can be written"
        raise ConfigError(
            "no temporary file can be written",
            where="$TMPDIR, /tmp, /var/tmp, and the folder of this process",
            got="a file system without room, or read-only",
            remedy=f"docker run --tmpfs /tmp, or {remedy}" if in_container() else remedy,
        ) from error


def check_current_folder() -> None:
    """Raises ConfigError where the folder of this process was removed: libraries that look for their parts from there
    end the process then."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise ConfigError(
            "the folder that this was started in is gone",
            where="the current folder",
            got=error.strerror,
            remedy="go to one that is there: cd",
        ) from error
