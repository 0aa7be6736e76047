"""The snapshot that a run goes on from, and is measured by: the newest that is whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ffdist.errors import DamagedSnapshotError, SnapshotError, setting
from ffdist.notes import listed, note
from ffdist.snapshot.files import check_file
from ffdist.snapshot.manifest import Manifest, committed, passed_over, read_manifest
from ffdist.snapshot.mirror import uncommit
from ffdist.snapshot.writers import written_there

T = TypeVar("T")
ATTEMPTS = 100
"""How often the newest snapshot is looked for anew, where training puts another in its place while it is read."""


def newest(run: Path, use: Callable[[Manifest], T], *, shared: bool = False) -> T | None:
    """Return what `use` makes of the newest committed snapshot; None where there is none.

    shared: whether another process may train there meanwhile: what it is writing then is no damage.

    use: raises DamagedSnapshotError for a snapshot that is not whole: then it gets the one before, and stderr says so,
    as it does of what stands there and is none.
    Where a run at work has committed another meanwhile, it gets that. Raises SnapshotError where none is whole.
    """
    for _ in range(ATTEMPTS):
        folders, damaged = committed(run), list[DamagedSnapshotError]()
        for folder in reversed(folders):
            try:
                result = use(manifest := read_manifest(folder))
            except DamagedSnapshotError as error:
                if committed(run)[-1:] != folders[-1:]:
                    break
                damaged.append(error)
            else:
                _note(damaged, passed_over(run, folder.name, unfinished=not (shared and written_there(run))), manifest)
                return result
        else:
            if not damaged:
                return None
            raise SnapshotError(
                "no snapshot of the run is whole",
                where=run,
                got="; ".join(map(_brief, damaged)),
                remedy=f"restore the files, or start a new run with another {setting('run.out')}",
            )
    raise SnapshotError(
        "the run makes new snapshots faster than one can be read",
        where=run,
        remedy=f"wait until it has ended, or let it keep more: {setting('run.keep', '10')}",
    )


def latest(run: Path) -> Manifest | None:
    """The newest committed snapshot of a run, every file of it compared with its checksum; None when there is none yet.

    Raises SnapshotError as `newest` does.
    """
    return newest(run, whole)


def whole(manifest: Manifest) -> Manifest:
    """The same. Raises DamagedSnapshotError for a file that is missing, or is not as it was written."""
    for entry in (*manifest.files, *manifest.extra_files):
        check_file(manifest.folder / entry["file"], entry)
    return manifest


def set_aside(run: Path, taken: Manifest) -> None:
    """Rename what is newer than the snapshot that a run goes on from: it is not whole, and must not be taken for what
    this run makes next."""
    for folder in committed(run):
        if folder > taken.folder:
            target, count = folder.with_name(f"damaged-{folder.name}"), 1
            while target.exists():
                count += 1
                target = folder.with_name(f"damaged-{count}-{folder.name}")
            folder.rename(target)
            uncommit(folder)


def _note(damaged: list[DamagedSnapshotError], passed: list[str], taken: Manifest) -> None:
    before = f"the one of step {taken.step} is taken (epochs done: {taken.epoch})"
    for error in damaged:
        note(f"a snapshot is not whole, {before}: {_brief(error)}")
    if passed:
        note(f"not all in snapshots/ are snapshots, {before}: {listed(passed)}")


def _brief(error: DamagedSnapshotError) -> str:
    return f"{error.where}: {error.what}" + (f" ({error.got})" if error.got else "")
