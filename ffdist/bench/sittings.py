"""A comparison of whole trainings in several sittings: each is kept in a folder as it ends, and not run again."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import ffdist
from ffdist.bench.harness.record import machine, versions
from ffdist.bench.harness.result import Progress
from ffdist.bench.recipes import Recipe
from ffdist.bench.settings import BenchSettings
from ffdist.bench.whole_runs import Epoch
from ffdist.digests import sha256
from ffdist.errors import ConfigError, DataError, setting
from ffdist.folders import remedy_unwritable, why_unwritable
from ffdist.json_lines import JsonLines
from ffdist.runtime.own_code import own_files, with_absolute_paths

if TYPE_CHECKING:
    from typing_extensions import Self

COMPARISON, TRAININGS = "comparison.json", "trainings.jsonl"
FREE = ("rounds", "qualifying", "lrs", "lengths", "recipes", "json", "record", "finished")
"""Settings of a comparison by which a finished training is no other one."""


class Training(NamedTuple):
    """A finished one."""

    epochs: list[Epoch]
    probe: float
    """The lower of the rates before and after it, in cores."""
    free: bool
    """Whether the probe found the machine free."""


@dataclass(frozen=True)
class Found:
    """The findings of a comparison before its first training, once for all of its sittings."""

    variant: str
    """The baseline that was fastest."""
    plan: str | None
    lanes: int | None
    blocks: tuple[int, ...]


class Sittings:
    """The trainings so far, by side, recipe and seed. folder: where they are kept; None: nowhere.

    As a context it has the folder for itself. Raises ConfigError where that cannot be, or holds trainings of other
    settings, code or another machine, and DataError for files that are none of ours.
    """

    def __init__(self, settings: BenchSettings, progress: Progress) -> None:
        self.settings = settings
        self.folder = settings.compare.finished
        self.progress = progress
        self.began = datetime.now().astimezone().isoformat(timespec="minutes")
        self.trainings: dict[str, Training] = {}
        self.told: list[dict[str, Any]] = []
        """All trainings as the file has them."""

    def __enter__(self) -> Self:
        if self.folder:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self.file = (self.folder / TRAININGS).open("ab")
            except OSError as error:
                remedy = remedy_unwritable(self.folder, error, (setting("compare.finished"),))
                raise unusable(self.folder, why_unwritable(self.folder, error), remedy) from error
            try:
                self._lock()
                self._read(self.folder)
            except BaseException:
                self.file.close()
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.folder:
            self.file.close()
            if error is not None and not isinstance(error, (ConfigError, DataError)):
                count = len(self.told)
                kept = f"{count} finished {'training is' if count == 1 else 'trainings are'} kept in {self.folder}"
                self.progress(f"{kept}: the same command goes on from there")

    def found(self, find: Callable[[], Found]) -> Found:
        """The findings of an earlier sitting, or those that `find` makes now."""
        path = self.folder and self.folder / COMPARISON
        facts = identity(self.settings)
        if path is None or not path.exists():
            found = find()
            if path:
                part = path.with_suffix(".part")
                part.write_text(json.dumps(facts | {"found": asdict(found)}, indent=1))
                part.rename(path)
            return found
        try:
            kept = json.loads(path.read_text())
            values = kept.pop("found")
            found = Found(**values | {"blocks": tuple(map(int, values["blocks"]))})
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise damaged(path, error) from error
        if other := difference(kept, facts):
            name, theirs, ours = other
            raise ConfigError(
                f"the trainings there are of another comparison: {name}",
                where=self.folder,
                expected=theirs,
                got=ours,
                remedy=f"go on as it was begun, or begin another with another folder for {setting('compare.finished')}",
            )
        return found

    def take(self, side: str, recipe: Recipe, seed: int, run: Callable[[], Training]) -> Training:
        """The training that is kept, or the one that `run` makes now."""
        of = {"side": side, "recipe": dict(recipe.values), "seed": seed}
        key = json.dumps(of, sort_keys=True, default=str)
        if key in self.trainings:
            self.progress(f"{side}, seed {seed}: kept, {self.trainings[key].epochs[-1].accuracy:.2%}")
            return self.trainings[key]
        made = self.trainings[key] = run()
        line = of | {"sitting": self.began, **made._asdict()}
        self.told.append(line)
        if self.folder:
            self.file.write(json.dumps(line, default=str).encode() + b"\n")
            self.file.flush()
            os.fsync(self.file.fileno())
        return made

    @property
    def notes(self) -> list[str]:
        """When the trainings were made, where they were made in several sittings."""
        counts: dict[str, int] = {}
        for line in self.told:
            counts[line["sitting"]] = counts.get(line["sitting"], 0) + 1
        if len(counts) < 2:
            return []
        each = ", ".join(f"{began} ({count} trainings)" for began, count in counts.items())
        return [
            f"taken in {len(counts)} sittings of one machine and one commit, with what was tried beforehand: {each}"
        ]

    def _lock(self) -> None:
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                assert self.folder
                raise unusable(self.folder, "another comparison is at work there", "wait for its end") from None

    def _read(self, folder: Path) -> None:
        lines = JsonLines(folder / TRAININGS)
        for line in lines.read():
            try:
                of = {name: line[name] for name in ("side", "recipe", "seed")}
                epochs = [Epoch(*map(float, epoch)) for epoch in line["epochs"]]
                line["sitting"].upper()
                made = Training(epochs, float(line["probe"]), bool(line["free"] and epochs))
            except (TypeError, KeyError, ValueError, AttributeError) as error:
                raise damaged(folder / TRAININGS, error) from error
            self.trainings[json.dumps(of, sort_keys=True, default=str)] = made
            self.told.append(line)
        os.truncate(folder / TRAININGS, lines.at)  # one that was cut off is run again


def with_found(settings: BenchSettings, found: Found) -> BenchSettings:
    """The settings with what was found in place of what asks for it."""
    changed = {"plan": found.plan, "lanes": found.lanes}
    if settings.train.network.modules:
        changed |= {"blocks": found.blocks, "modules": ()}
    return settings.changed(**changed)


def identity(settings: BenchSettings) -> dict[str, Any]:
    """All by which a finished training would be another one."""
    told = asdict(settings)
    compare = {name: value for name, value in told["compare"].items() if name not in FREE}
    where = {"host": platform.node(), **machine()}
    facts = {"train": told["train"], "compare": compare, "machine": where, "versions": versions()}
    own = {kind: digest_of(path) for kind, path in own_files(with_absolute_paths(settings.train)).items()}
    return json.loads(json.dumps(facts | {"code": code(), "own code": own}, default=str))


def code() -> str:
    """The digest of ffdist's own code."""
    folder, digest = Path(ffdist.__file__).parent, hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return sha256(file)


def difference(kept: object, now: object, name: str = "") -> tuple[str, Any, Any] | None:
    """The first value that differs: its name, and both."""
    if not (isinstance(kept, Mapping) and isinstance(now, Mapping)):
        return None if kept == now else (name, kept, now)
    each = (difference(kept.get(key), now.get(key), f"{name}.{key}".strip(".")) for key in {**now, **kept})
    return next((other for other in each if other), None)


def damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        "a file of finished trainings cannot be read",
        where=path,
        got=f"{type(error).__name__}: {error}",
        remedy=f"put back a copy, or begin with another folder for {setting('compare.finished')}",
    )


def unusable(folder: Path, got: str, remedy: str) -> ConfigError:
    return ConfigError("finished trainings cannot be kept", where=folder, got=got, remedy=remedy)
