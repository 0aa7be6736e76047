"""The finished trainings of a comparison, kept in a folder: a comparison that was stopped does not run them again.

A sitting is one start of the command; several may add to the same folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Mapping
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
from ffdist.locks import lock
from ffdist.runtime.own_code import own_files, with_absolute_paths

if TYPE_CHECKING:
    from typing_extensions import Self

COMPARISON, TRAININGS = "comparison.json", "trainings.jsonl"
FREE = ("rounds", "qualifying", "lrs", "lengths", "recipes", "json", "record", "finished")
"""Settings that do not change what a training gives: trainings are kept and reused whatever these are."""


class Training(NamedTuple):
    """One finished training of one side."""

    epochs: list[Epoch]
    probe: float
    """The lower of the probe's rates before and after it, in cores."""
    free: bool
    """Whether the probe found the machine free."""


@dataclass(frozen=True)
class ComparisonSetup:
    """The choices that are made before the first training, once for all sittings."""

    variant: str
    """The baseline that was fastest."""
    plan: str | None
    lanes: int | None
    blocks: tuple[int, ...]
    """Blocks per module, where there are modules."""


class FinishedTrainings:
    """The trainings so far, by side, recipe and seed, in the folder of `--finished`; without one they are not kept.

    As a context manager it locks the folder. Raises ConfigError for a folder that is locked, cannot be written, or
    holds trainings of other settings, other code or another machine, and DataError for damaged or foreign files.
    """

    def __init__(self, settings: BenchSettings, progress: Progress) -> None:
        self.settings = settings
        self.folder = settings.compare.finished
        self.progress = progress
        self.began = datetime.now().astimezone().isoformat(timespec="minutes")
        self.trainings: dict[str, Training] = {}
        self.lines: list[dict[str, Any]] = []
        """All trainings, as the lines of the file."""

    def __enter__(self) -> Self:
        if self.folder:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self.file = (self.folder / TRAININGS).open("ab")
            except OSError as error:
                remedy = remedy_unwritable(self.folder, error, (setting("compare.finished"),))
                raise unusable_error(self.folder, why_unwritable(self.folder, error), remedy) from error
            try:
                if lock(self.file) == "busy":  # without locks two comparisons at once are the user's care
                    raise unusable_error(self.folder, "another comparison is at work there", "wait for its end")
                self._read(self.folder)
            except BaseException:  # an interrupt, too: the lock goes with the file
                self.file.close()
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.folder:
            self.file.close()
            if error is not None and not isinstance(error, (ConfigError, DataError)):
                count = len(self.lines)
                kept = f"{count} finished {'training is' if count == 1 else 'trainings are'} kept in {self.folder}"
                self.progress(f"{kept}: the same command goes on from there")

    def setup(self, find: Callable[[], ComparisonSetup]) -> ComparisonSetup:
        """The setup of an earlier sitting, or the one that `find` gives now, which is kept."""
        path = self.folder and self.folder / COMPARISON
        facts = identity(self.settings)
        if path is None or not path.exists():
            setup = find()
            if path:
                part = path.with_suffix(".part")
                part.write_text(json.dumps(facts | {"found": asdict(setup)}, indent=1))
                part.rename(path)  # whole or not at all, should this process be killed
            return setup
        try:
            kept = json.loads(path.read_text())
            values = kept.pop("found")
            setup = ComparisonSetup(**values | {"blocks": tuple(map(int, values["blocks"]))})
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise damaged_error(path, error) from error
        if other := difference(kept, facts):
            name, theirs, ours = other
            raise ConfigError(
                f"the trainings there are of another comparison: {name}",
                where=self.folder,
                expected=theirs,
                got=ours,
                remedy=f"go on as it was begun, or begin another with another folder for {setting('compare.finished')}",
            )
        return setup

    def load_or_run(self, side: str, recipe: Recipe, seed: int, run: Callable[[], Training]) -> Training:
        """The training that is kept, or the one that `run` makes now; on disk before it is returned."""
        keys = {"side": side, "recipe": dict(recipe.values), "seed": seed}
        key = json.dumps(keys, sort_keys=True, default=str)
        if key in self.trainings:
            self.progress(f"{side}, seed {seed}: kept, {self.trainings[key].epochs[-1].accuracy:.2%}")
            return self.trainings[key]
        training = self.trainings[key] = run()
        line = keys | {"sitting": self.began, **training._asdict()}
        self.lines.append(line)
        if self.folder:
            self.file.write(json.dumps(line, default=str).encode() + b"\n")
            self.file.flush()
            os.fsync(self.file.fileno())
        return training

    @property
    def notes(self) -> list[str]:
        """Notes on when the trainings were made; none where it was in one sitting."""
        counts: dict[str, int] = {}
        for line in self.lines:
            counts[line["sitting"]] = counts.get(line["sitting"], 0) + 1
        if len(counts) < 2:
            return []
        each = ", ".join(f"{began} ({count} trainings)" for began, count in counts.items())
        return [
            f"taken in {len(counts)} sittings of one machine and one commit, with what was tried beforehand: {each}"
        ]

    def _read(self, folder: Path) -> None:
        lines = JsonLines(folder / TRAININGS)
        for line in lines.read():
            try:
                keys = {name: line[name] for name in ("side", "recipe", "seed")}
                epochs = [Epoch(*map(float, epoch)) for epoch in line["epochs"]]
                line["sitting"].upper()  # raises AttributeError where it is not text
                training = Training(epochs, float(line["probe"]), bool(line["free"] and epochs))
            except (TypeError, KeyError, ValueError, AttributeError) as error:
                raise damaged_error(folder / TRAININGS, error) from error
            self.trainings[json.dumps(keys, sort_keys=True, default=str)] = training
            self.lines.append(line)
        os.truncate(folder / TRAININGS, lines.at)  # a last line that a kill cut off: that training is run again


def with_setup(settings: BenchSettings, setup: ComparisonSetup) -> BenchSettings:
    """The settings with the setup's plan, lanes and blocks in place of `auto` and `modules`."""
    changed = {"plan": setup.plan, "lanes": setup.lanes}
    if settings.train.network.modules:
        changed |= {"blocks": setup.blocks, "modules": ()}
    return settings.changed(**changed)


def identity(settings: BenchSettings) -> dict[str, Any]:
    """All that a training's result depends on: settings, machine, versions, ffdist's code and the user's own files."""
    values = asdict(settings)
    compare = {name: value for name, value in values["compare"].items() if name not in FREE}
    where = {"host": platform.node(), **machine()}
    facts = {"train": values["train"], "compare": compare, "machine": where, "versions": versions()}
    own = {kind: digest_of(path) for kind, path in own_files(with_absolute_paths(settings.train)).items()}
    return json.loads(json.dumps(facts | {"code": code(), "own code": own}, default=str))


def code() -> str:
    """SHA-256 of all of ffdist's own Python files, in hex."""
    folder, digest = Path(ffdist.__file__).parent, hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return sha256(file)


def difference(kept: object, now: object, name: str = "") -> tuple[str, Any, Any] | None:
    """The first value in which nested mappings differ: its dotted name and both values; None where all are equal."""
    if not (isinstance(kept, Mapping) and isinstance(now, Mapping)):
        return None if kept == now else (name, kept, now)
    each = (difference(kept.get(key), now.get(key), f"{name}.{key}".strip(".")) for key in {**now, **kept})
    return next((other for other in each if other), None)


def damaged_error(path: Path, error: Exception) -> DataError:
    """The error for a file that cannot be read as what this module writes."""
    return DataError(
        "a file of finished trainings cannot be read",
        where=path,
        got=f"{type(error).__name__}: {error}",
        remedy=f"put back a copy, or begin with another folder for {setting('compare.finished')}",
    )


def unusable_error(folder: Path, got: str, remedy: str) -> ConfigError:
    """The error for a folder in which trainings cannot be kept."""
    return ConfigError("finished trainings cannot be kept", where=folder, got=got, remedy=remedy)
