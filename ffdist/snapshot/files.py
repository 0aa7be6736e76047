"""One file per block: safetensors, written durably, read back checked. Nothing is ever unpickled."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ffdist.digests import sha256
from ffdist.errors import DamagedSnapshotError, SnapshotError, setting
from ffdist.folders import LARGER_FILES, system_reason
from ffdist.regular import open_regular

FIELDS = "ffdist"
"""The one key of the files' metadata: with several, safetensors would write them in any order."""
RESTORE = "restore the file; where the snapshot before is whole, that is taken"


def block_file(index: int, name: str) -> str:
    """The file name of block `index`: its place in the whole network, not in a stage."""
    return f"block-{index:03d}-{''.join(c if c.isalnum() or c in '._-' else '_' for c in name)}.safetensors"


def write_durably(path: Path, data: bytes, *, make_parents: bool = True, writer: str = "") -> None:
    """The whole file or none of it, on disk when this returns. A link at its place, or planted beside it, is replaced,
    and never written through. make_parents: whether the folders above it are made where they are missing. writer: the
    name of who writes, where several may write this file at once.

    Raises OSError when it cannot be written; an older file of that name stays whole.
    """
    temporary = path.with_name(f".{path.name}{writer and '.'}{writer}.partial")
    try:
        if make_parents:
            make_folder(path.parent)
        temporary.unlink(missing_ok=True)  # what a crash has left, or a link
        new = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(temporary, new, 0o666), "wb") as file:
            file.write(data)
            file.flush()
            # the bytes before the name: after a crash the name must not stand for a file that was never written
            os.fsync(file.fileno())
        temporary.replace(path)
        # the new name itself is on disk only with its folder
        sync_folder(path.parent)
    except BaseException:  # an interrupt, too
        temporary.unlink(missing_ok=True)
        raise


REMEDIES = {
    errno.EFBIG: LARGER_FILES,
    errno.ENOENT: "let nothing remove a run's files while it is at work",
    errno.EACCES: "let this user write there",
    errno.EPERM: "let this user write there",
    errno.EROFS: "let this user write there",
}
"""What to do first about an error of a disk."""


def write_of_snapshot(path: Path, data: bytes, run: Path | None = None) -> None:
    """`write_durably` into a folder that is there, or is made in `run`. Raises SnapshotError when the disk has no room
    or cannot be written."""
    try:
        if run:
            make_folder_in(run, path.parent)
        write_durably(path, data, make_parents=False)
    except OSError as error:
        no_room = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = REMEDIES.get(error.errno or 0, "make room there")
        raise SnapshotError(
            "no room on the disk for a snapshot" if no_room else "a snapshot file cannot be written",
            where=path,
            expected=f"{len(data)} bytes written",
            got=system_reason(error, path),
            remedy=f"{remedy}, then go on with {setting('resume')}: the snapshot before, where there was one, is whole",
        ) from error


def make_folder(folder: Path) -> None:
    """The folder, and those above it that are missing; their names are on disk when this returns."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    # from the top down: a name is of no use before the folder that holds it is there
    for made in reversed(missing):
        sync_folder(made.parent)


def make_folder_in(run: Path, folder: Path) -> None:
    """The folder below `run`, on disk when this returns; `run` itself is not made again where somebody has taken it
    away meanwhile. Raises OSError."""
    made = run
    for part in folder.relative_to(run).parts:
        made /= part
        try:
            made.mkdir()
        except FileExistsError:
            continue
        sync_folder(made.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def detached_copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as safetensors takes them: contiguous, on the CPU, no two over the same memory (tied weights are)."""
    result: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        result[name] = value.clone() if value.untyped_storage().data_ptr() in storages else value
        storages.add(value.untyped_storage().data_ptr())
    return result


class BlockCopy:
    """A block as it is now, whatever it learns from here on: a copy, as safetensors takes tensors (contiguous, on the
    CPU, no two over the same memory, as tied weights are)."""

    def __init__(self, tensors: Mapping[str, Tensor], fields: dict[str, Any]) -> None:
        self.tensors = {name: copied(tensor) for name, tensor in tensors.items()}
        self.fields = json.dumps(fields)

    def write(self, path: Path, run: Path | None = None) -> dict[str, Any]:
        """Write the file, and return its entry in the manifest: name, bytes, sha256; it is on disk when this
        returns. run: in which its folder is made; None for one that is there."""
        data = save(self.tensors, metadata={FIELDS: self.fields})
        self.tensors = {}
        write_of_snapshot(path, data, run)
        return {"file": path.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def copied(tensor: Tensor) -> Tensor:
    """A copy on the CPU, contiguous and without a graph."""
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())


def check_file(path: Path, entry: dict[str, Any]) -> None:
    """Raises DamagedSnapshotError unless the file's size and sha256 are those of the manifest's `entry`."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            digest = sha256(file) if size == entry["bytes"] else "not computed"
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise DamagedSnapshotError(
            "a snapshot file is missing" if missing else "a snapshot file cannot be read",
            where=path,
            got=error.strerror,
            remedy=RESTORE,
        ) from error
    if (size, digest) != (entry["bytes"], entry["sha256"]):
        raise DamagedSnapshotError(
            "a snapshot file is corrupt",
            where=path,
            remedy=RESTORE,
            expected=f"{entry['bytes']} bytes, sha256 {entry['sha256'][:12]}...",
            got=f"{size} bytes, sha256 {digest[:12]}...",
        )


def read_block(path: Path, entry: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The inverse of `BlockCopy.write`. Raises DamagedSnapshotError as `check_file` does."""
    check_file(path, entry)
    try:
        with safe_open(path, framework="pt") as file:
            fields = json.loads((file.metadata() or {})[FIELDS])
            # copies: what the file gives is mapped, and a file cut off would end whoever looks at it by SIGBUS
            return {name: file.get_tensor(name).clone() for name in file.keys()}, fields  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        # since it was checked: a run at work has discarded the snapshot. torch opens it anew, and has no type for that
        if isinstance(error, FileNotFoundError) or "No such file or directory" in str(error):
            raise DamagedSnapshotError("a snapshot file is missing", where=path, remedy=RESTORE) from error
        raise DamagedSnapshotError(
            "a snapshot file was not written by ffdist", where=path, got=error, remedy=RESTORE
        ) from error


def check_same_tensors(path: Path, tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Raises SnapshotError unless the file holds the block's own parameters and buffers, by name and shape."""
    state_prefixes = ("optimizer.", "metrics.", "average.")
    found = {name: tuple(t.shape) for name, t in tensors.items() if not name.startswith(state_prefixes)}
    wanted = {name: tuple(t.shape) for name, t in expected.items()}
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise SnapshotError(
                "the snapshot is of another model",
                where=f"{path.name}, tensor {name}",
                expected=f"shape {wanted[name]}" if name in wanted else "no such tensor",
                got=f"shape {found[name]}" if name in found else "no such tensor",
                remedy="resume with the model, objective and data the run was started with",
            )


def check_numbers(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raises DamagedSnapshotError for NaN, from which nothing can be learned, and with which nothing is measured. Sums
    of losses may hold one, of a batch that was skipped."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not name.startswith("metrics.") and tensor.isnan().any():
            raise DamagedSnapshotError(
                "a snapshot holds NaN",
                where=f"{path}, tensor {name}",
                expected="numbers",
                got=f"NaN in {int(tensor.isnan().sum())} of {tensor.numel()}",
                remedy=f"remove the snapshot's folder, {path.parent}: the one before is taken then",
            )
