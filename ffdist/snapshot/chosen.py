"""The choice of the snapshot of a run that is read: the last that is whole, the best, or that of one step."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from ffdist.digests import with_digest, without_digest
from ffdist.errors import ConfigError, DamagedSnapshotError, SnapshotError, described, setting
from ffdist.notes import note
from ffdist.pipeline.predictors import accuracy_by
from ffdist.regular import read_bytes, read_text
from ffdist.snapshot.files import RESTORE, write_of_snapshot
from ffdist.snapshot.manifest import Manifest, committed, read_manifest, snapshot_folder
from ffdist.snapshot.newest import newest

T = TypeVar("T")
LAST, BEST, FINAL = "last", "best", "final"
MARK = "best.json"
"""In a run's folder, where the best snapshot is kept beside the newest: {"snapshot": NAME, ...}, the name of its folder
in `snapshots`."""
MAX_STEP = 2**63 - 1
"""The greatest step that a manifest may say."""


def as_snapshot(snapshot: object) -> str | int:
    """ "final", "last", "best", or a step, of a text or a number. Raises ConfigError for anything else."""
    if isinstance(snapshot, str) and snapshot in (FINAL, LAST, BEST):
        return snapshot
    if isinstance(snapshot, int) and not isinstance(snapshot, bool) and 0 <= snapshot <= MAX_STEP:
        return snapshot
    if (
        isinstance(snapshot, str)
        and snapshot.isascii()
        and snapshot.isdigit()
        and len(snapshot) < 20
        and int(snapshot) <= MAX_STEP
    ):
        return int(snapshot)
    raise ConfigError(
        "there is no such choice of a snapshot",
        where=setting("snapshot"),
        expected=f"{FINAL}, {LAST}, {BEST}, or the step of one that is kept",
        got=repr(snapshot),
    )


def use_snapshot(run: Path, snapshot: str | int, use: Callable[[Manifest], T]) -> T | None:
    """Return what `use` makes of the snapshot; None where the run has none yet.

    snapshot: as `as_snapshot` gives it. Where the last is not whole, the one before is, as by `newest`; one that is
    named is taken or refused. Raises SnapshotError for a step that is not kept, and for the best where none is marked.
    """
    if snapshot == FINAL:
        snapshot = BEST if ends_with_best(run) else LAST
    if snapshot == LAST:
        return newest(run, use, shared=True)
    if not (kept := committed(run)):
        return None
    if snapshot == BEST:
        return use_best(run, use)
    return use(read_manifest(snapshot_of_step(run, kept, int(snapshot))))


def use_best(run: Path, use: Callable[[Manifest], T]) -> T:
    """Return what `use` makes of the best snapshot; where a run at work has marked another meanwhile, and discarded
    that one, of the other. Raises as `use_snapshot` does."""
    before = None
    while True:
        mark = b""
        with suppress(OSError):  # as `marked_best` says
            mark = read_bytes(run / MARK)
        try:
            return use(read_manifest(marked_best(run, committed(run))))
        except DamagedSnapshotError:
            if mark == before:  # nobody marks another: it is damaged
                raise
            before = mark


def mark_final(run: Path, folder: Path) -> None:
    """The run ends with this snapshot, which is marked as the best, though there are newer ones."""
    write_mark(run, read_mark(run) | {"snapshot": folder.name, "ended_after": committed(run)[-1].name})


def ends_with_best(run: Path) -> bool:
    """True if the run has ended with its best snapshot, and has not gone on since."""
    kept = committed(run)
    mark = read_mark(run) if kept else {}
    return bool(mark) and mark.get("ended_after") == kept[-1].name


def steps(kept: list[Path]) -> list[int]:
    """The steps of snapshots' folders, in order, each once."""
    return list(dict.fromkeys(int(folder.name.split("-")[1]) for folder in kept))


def snapshot_of_step(run: Path, kept: list[Path], step: int) -> Path:
    """The snapshot of a step; at the end of an epoch there may be two: the later one says that the epoch is over."""
    found = [folder for folder in kept if steps([folder]) == [step]]
    if found:
        return found[-1]
    raise SnapshotError(
        "the run keeps no snapshot of that step",
        where=run,
        expected=f"one of the steps {', '.join(map(str, steps(kept)))}",
        got=step,
        remedy=f"{setting('snapshot', steps(kept)[-1])}; a run keeps more with {setting('run.keep', 10)}",
    )


def marked_best(run: Path, kept: list[Path]) -> Path:
    """The folder that the run's own mark names."""
    path = run / MARK
    try:
        name = without_digest(json.loads(read_text(path)))["snapshot"]
        return next(folder for folder in kept if folder.name == name)
    except FileNotFoundError:
        raise SnapshotError(
            "the run keeps no best snapshot",
            where=run,
            expected=f"{MARK}, which says which one it is",
            got=f"snapshots of the steps {', '.join(map(str, steps(kept)))}",
            remedy=f"name one of these: {setting('snapshot', best_of(kept))}"
            " (the most accurate of them on the validation split)"
            if best_of(kept) is not None
            else f"take the last: {setting('snapshot', LAST)}",
        ) from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, StopIteration) as error:
        raise DamagedSnapshotError(
            "the mark of the best snapshot does not name one that is kept",
            where=path,
            expected="the name of one in snapshots, as it was written",
            got=repr(error),
            remedy=f"{RESTORE}: {setting('snapshot', LAST)}",
        ) from error


def mark_if_best(run: Path, manifest: Manifest, predictor: str | None) -> Path | None:
    """The folder of the best snapshot so far, which is marked: this one, where an epoch has just ended better than all
    before; of equal ones the first.

    predictor: by whose validation accuracy; None: no mark is made, and one that is there stays.
    """
    before = read_mark(run)
    ends_epoch = manifest.batch == 0 and manifest.records and "validation" in manifest.records[-1]
    if predictor and ends_epoch:
        value = accuracy_by(predictor, manifest.records[-1]["validation"]["accuracy"])
        comparable = before.get("predictor") == predictor and (run / "snapshots" / before["snapshot"]).is_dir()
        if value > (before["accuracy"] if comparable else -1.0):
            folder = snapshot_folder(run, manifest.step, manifest.epoch)
            before = {"snapshot": folder.name, "predictor": predictor, "accuracy": value, "epoch": manifest.epoch}
            write_mark(run, before)
    return run / "snapshots" / before["snapshot"] if before else None


def read_mark(run: Path) -> dict[str, Any]:
    """Empty where there is none; also where it cannot be read, which is said: then the next epoch's is the best."""
    try:
        mark = without_digest(json.loads(read_text(run / MARK)))
        named = isinstance(mark["snapshot"], str) and "/" not in mark["snapshot"]
        if not (named and isinstance(mark["accuracy"], float)):
            raise TypeError("no name of a snapshot, and its accuracy")
        return mark
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        note(f"which snapshot is the best is not known any more: {run / MARK}: {described(error)}")
        return {}


def write_mark(run: Path, mark: dict[str, Any]) -> None:
    """Write the mark; it is on disk when this returns. Raises SnapshotError."""
    write_of_snapshot(run / MARK, json.dumps(with_digest(mark)).encode())


def best_of(kept: list[Path]) -> int | None:
    """The step of the one whose last epoch was the most accurate on the validation split; None where none says."""
    found: list[tuple[float, int]] = []
    for folder in kept:
        try:
            manifest = read_manifest(folder)
        except SnapshotError:
            continue
        last = manifest.records[-1:] if not manifest.batch else []  # it has learned since
        accuracies = [r["validation"]["accuracy"]["mean"] for r in last if r.get("validation")]
        found += [(accuracy, manifest.step) for accuracy in accuracies]
    return max(found)[1] if found else None
