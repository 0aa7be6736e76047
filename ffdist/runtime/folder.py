"""A run's folder: how it is begun, locked while a run is at work, and resumed."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from ffdist.data import Images
from ffdist.errors import ConfigError, DataError, Interrupted, NetworkError, SnapshotError, setting
from ffdist.locks import lock
from ffdist.notes import note
from ffdist.regular import append_to
from ffdist.report.log import PULSES, read_run_log
from ffdist.runtime.data_facts import FACTS, DataFacts, check_same_data, read_facts, write_facts
from ffdist.runtime.nonfinite import KEPT
from ffdist.runtime.own_code import CODE, KINDS, check_code, has_moved, keep_code, named_code, with_absolute_paths
from ffdist.runtime.record import ENVIRONMENT
from ffdist.runtime.run import PLAN, SETTINGS, are_of_a_run, read_settings, write_settings, writing_to
from ffdist.settings import GROUP_OF, Settings, is_free
from ffdist.snapshot import Manifest, committed, read_manifest
from ffdist.snapshot.chosen import MARK
from ffdist.snapshot.files import make_folder, write_durably
from ffdist.snapshot.mirror import (
    as_user_named,
    check_free_at,
    forget_own_files,
    lock_address,
    mirror_of,
    push_own_files,
)
from ffdist.snapshot.writers import WRITERS, written_there
from ffdist.trust import trust

LOCK = ".lock"
REFUSALS = (ConfigError, DataError, NetworkError)
"""Errors for what the user has asked for, and not for what has happened."""
LOGS = ("ray.log", "restarts.log", "metrics.jsonl", ENVIRONMENT, PLAN)
"""What is written beside the stages' own logs; a stage opens its own when all stages are ready."""

WRITTEN = {*LOGS, LOCK, WRITERS, PULSES, CODE, KEPT, MARK, SETTINGS, FACTS, "snapshots", "tensorboard"}
WRITTEN |= {"trackers.json", "trace.json", "trace.parts"}
"""What a run writes to in its folder, beside the stages' logs."""
FOLDERS = {"snapshots", "tensorboard", "trace.parts", CODE, KEPT}


def new_folder(settings: Settings) -> Path:
    """The folder of a new run. Raises ConfigError when --out already holds a run."""
    s = settings
    names = (text.rpartition("/")[2] for text in (s.dataset.data, s.network.model, s.rule.objective))
    out = s.run.out or Path("runs") / f"{'-'.join(names).replace(':', '-')}-{datetime.now():%Y%m%d-%H%M%S}"
    out = mirror_of(out)
    check_free(out)
    return out


def check_free(out: Path) -> None:
    """Raises ConfigError for a folder with a run in it that has made a snapshot, also without its settings, and for one
    with settings of somebody else's, which would be written over."""
    check_free_at(out)
    if committed(out):
        whole, go_on = (out / SETTINGS).exists(), f", or go on with {setting('resume', shlex.quote(str(out)))}"
        raise ConfigError(
            "the run folder already holds a run",
            where=out,
            expected="a folder without a run",
            got=None if whole else f"snapshots without their {SETTINGS}",
            remedy=f"choose another {setting('run.out')}" + go_on * whole,
        )
    if (out / SETTINGS).exists() and not are_of_a_run(out / SETTINGS):
        raise ConfigError(
            "a file of another's stands where a run writes its settings",
            where=out / SETTINGS,
            expected=f"a folder without a {SETTINGS}, or a run's",
            remedy=f"choose another {setting('run.out')}, or give the file another name",
        )


def write_run_files(out: Path, settings: Settings, images: Images) -> None:
    """Write what makes a folder a run: the facts of the data, the user's own code, then the resolved settings; on disk
    when this returns.

    Raises ConfigError where the folder cannot be written.
    """
    recorded = with_absolute_paths(settings)
    trust([*named_code(settings), *named_code(recorded)])
    with writing_to(out):
        write_facts(out, DataFacts.of(images))
        keep_code(out, recorded)
    write_settings(out, recorded)


@contextmanager
def new_run(settings: Settings, images: Images) -> Iterator[Path]:
    """A new run's folder, begun, and held while it runs. What is refused, or fails before any stage was ready, leaves
    nothing of it behind.

    Raises ConfigError when --out already holds a run, or somebody else begins one there.
    """
    out = new_folder(settings)
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        with locked(out):
            check_free(out)  # again: nobody else begins one from here on
            with removed_on_failure(out):
                clear(out)
                write_run_files(out, settings, images)
                with lock_address(out):
                    push_own_files(out)
                    yield out
    except BaseException:  # an interrupt, too; raised again
        with suppress(OSError):  # somebody else's files are there, or no folder could be made
            for folder in made:
                folder.rmdir()
        raise


def clear(out: Path) -> None:
    """Remove the parts of a snapshot that a run left which ended before its first. Nothing of it is learned."""
    if (out / SETTINGS).exists():
        note(f"the run in {out} ended before its first snapshot; it is begun anew")
    with writing_to(out):
        (out / SETTINGS).unlink(missing_ok=True)  # so that no moment shows the old settings beside new facts
        for part in (out / "snapshots").glob("step-*"):
            part.unlink() if part.is_symlink() or part.is_file() else shutil.rmtree(part)


@contextmanager
def removed_on_failure(out: Path) -> Iterator[None]:
    """Remove what a new run has written where it is refused, or fails before any stage was ready; what an earlier one
    has left there is as it was."""
    before = {path: path.read_bytes() for path in (out / SETTINGS, out / FACTS) if path.exists()}
    logged = any(out.glob("stage-*.log"))
    try:
        yield
    except BaseException as error:  # an interrupt, too; raised again
        ready = any(out.glob("stage-*.log")) and not logged
        refused = isinstance(error, REFUSALS) or (isinstance(error, Interrupted) and not error.begun)
        if not any(out.glob("snapshots/*/*")) and (refused or not ready):
            _forget(out, before)
            forget_own_files(out)
        raise


def _forget(out: Path, before: dict[Path, bytes]) -> None:
    if before:
        for path, data in before.items():
            write_durably(path, data)
        return
    code = [out / CODE / f"{kind}.py" for kind in KINDS]
    for path in (*out.glob("stage-*.log"), *code, *(out / name for name in (SETTINGS, FACTS, LOCK, WRITERS, *LOGS))):
        path.unlink(missing_ok=True)
    with suppress(OSError):
        (out / CODE).rmdir()


@contextmanager
def resumed_run(settings: Settings, images: Images) -> Iterator[Path]:
    """The folder of a run that goes on, held meanwhile: from its last snapshot, or from its beginning where there is
    none yet. What it says of its settings stays until the stages are ready: `Job.ready`.

    Raises DataError for other data than the run has learned, ConfigError where the user's own code has changed.
    """
    out = settings.run.out
    assert out, "checked when the settings were read"
    with locked(out):
        check_same_data(read_facts(out), images, settings.dataset.data)
        check_code(out, with_absolute_paths(settings), strict=True)
        if not committed(out):
            note(f"the run in {as_user_named(out)} has no snapshot yet: it starts from its beginning")
        with lock_address(out):
            yield out


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """The folder, made where it is missing; nobody else trains in it meanwhile. Raises ConfigError where somebody does,
    or where it cannot be written."""
    with writing_to(out):
        make_folder(out)
        check_places(out)
        file = append_to(out / LOCK)
    with file:
        if lock(file) == "busy":
            raise ConfigError(
                "another run is at work in this folder",
                where=out,
                expected="a folder of one's own",
                remedy=f"wait until it has ended, or choose another {setting('run.out')}",
            )
        if written_there(out):
            raise ConfigError(
                "stages of a run that has lost its launcher are still at work in this folder",
                where=out,
                expected="a folder of one's own",
                remedy="wait until they have ended, or end them",
            )
        yield


def check_places(out: Path) -> None:
    """Raises ConfigError where what a run writes to in its folder is a link, by which it would write somewhere else, or
    neither a file nor a folder, as it has to be: a pipe would hold it up for ever."""
    for path in sorted([*out.iterdir(), *out.glob("snapshots/step-*")]):
        logs = path.name.startswith("stage-") and path.suffix == ".log"
        if path.name not in WRITTEN and path.parent == out and not logs:
            continue
        remedy = f"put what is meant in its place, or remove it; or name another {setting('run.out')}"
        if path.is_symlink():
            raise ConfigError(
                "a run writes nothing through a link in its folder",
                where=path,
                got=f"a link to {path.readlink()}",
                remedy=remedy,
            )
        wanted, fits = (
            ("a file", path.is_file()) if path.name in WRITTEN - FOLDERS or logs else ("a folder", path.is_dir())
        )
        if not fits and path.parent == out:
            raise ConfigError(
                "a run cannot write to what stands in its folder",
                where=path,
                expected=wanted,
                got="a folder" if path.is_dir() else "a file" if path.is_file() else "neither a file nor a folder",
                remedy=remedy,
            )


def read_recorded(run: Path | None) -> Settings:
    """The settings of the run that is to go on."""
    if run is None:
        raise ConfigError(
            "which run is to go on?", where=setting("resume"), remedy=f"name its folder with {setting('run.out')}"
        )
    return read_settings(run).changed(out=run)


def check_resumable(before: Settings, now: Settings, remedy: str = "leave it out") -> None:
    """Raises ConfigError naming the first setting that differs though it decides what the run learns. A network or rule
    of the user's own may have moved."""
    here = with_absolute_paths(now)
    for name, group in GROUP_OF.items():
        old, new = before.value(name), now.value(name)
        if is_free(name) or old in (new, here.value(name)) or (name == "modules" and has_modules(before, now)):
            continue
        if name in KINDS and now.run.out and has_moved(now.run.out, name, old, here.value(name)):
            continue
        raise ConfigError(
            f"{setting(f'{group}.{name}')} cannot change when a run is resumed",
            where=now.run.out,
            expected=old,
            got=new,
            remedy=f"{remedy}, or start a new run",
        )


def has_modules(before: Settings, now: Settings) -> bool:
    """True if the modules that are asked for are those that the run's blocks make."""
    blocks, modules = before.network.blocks, now.network.modules
    return modules in (blocks, (len(blocks),))


def last_seen(run: Path) -> Manifest | None:
    """The last snapshot's manifest, whether its files are whole or not; None for none that can be read."""
    try:
        return read_manifest(committed(run)[-1])
    except (SnapshotError, IndexError):
        return None


def nothing_left_note(now: Settings) -> str | None:
    """The note for a run that is at its end and has no settings that would let it go on; else None.

    Raises ConfigError for fewer epochs than it has begun.
    """
    assert now.run.out, "checked when the settings were read"
    if (manifest := last_seen(now.run.out)) is None:
        return None
    check_epochs(manifest, now.training.epochs)
    recorded = read_settings(now.run.out)
    asked, before = ((s.training.epochs, s.training.early_stop) for s in (now, recorded))
    if not has_ended(now.run.out) or asked != before:
        return None
    if manifest.epoch < now.training.epochs:
        stopped = f"the run stopped early after {manifest.epoch} of {now.training.epochs} epochs"
        return f"nothing left to do: {stopped}; give another {setting('training.early_stop')}"
    return (
        f"nothing left to do: the run has done its {now.training.epochs} epochs; give more {setting('training.epochs')}"
    )


def has_ended(run: Path) -> bool:
    """True if it came to its end, the test included, and has the snapshot of that: without it, it can go on from the
    one before."""
    try:
        epochs, end = read_run_log(run)
    except DataError:  # it will be written anew
        return False
    if end is None or end["reason"] != "finished":
        return False
    manifest = last_seen(run)
    return manifest is None or not epochs or manifest.epoch >= epochs[-1]["epoch"]


def check_epochs(manifest: Manifest, epochs: int) -> None:
    """Raises ConfigError for fewer epochs than a run has begun."""
    if epochs < manifest.epochs_begun:
        raise ConfigError(
            f"{setting('training.epochs')} is less than the run has begun",
            where=manifest.folder,
            expected=f">= {manifest.epochs_begun}",
            got=epochs,
            remedy=f"{setting('training.epochs', manifest.epochs_begun)} or more; or start a new run",
        )
