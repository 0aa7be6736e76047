"""A run directory: the settings, what the data looked like, logs, snapshots."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from ffdist.baselines.twin import Backprop, twin
from ffdist.config import FREE_ON_RESUME, TrainSettings, apply, read_toml, write_toml
from ffdist.data import Images
from ffdist.data.decode import Decoding, read_decoding
from ffdist.errors import ConfigError, DataError, NetworkError, SnapshotError
from ffdist.folders import remedy_unwritable, why_unwritable
from ffdist.models import Chain, load_model, weights_file, with_weights
from ffdist.objectives import Objective, load_objective
from ffdist.pipeline.classifier import Classifier
from ffdist.snapshot import Manifest, SnapshotStore, committed, newest
from ffdist.snapshot.files import make_folder, write_durably

T = TypeVar("T")
SETTINGS = "config.toml"
FACTS = "data.json"
LOCK = ".lock"
REFUSALS = (ConfigError, DataError, NetworkError)
"""Errors for what the user has told, and not for what has happened."""
LOGS = ("ray.log", "restarts.log", "metrics.jsonl")
"""What is written beside the stages' own logs; a stage opens its own when all stages are ready."""


@dataclass(frozen=True)
class DataFacts:
    """What a trained network must know of its data."""

    classes: list[str]
    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixels: bool = True
    """Whether it was trained on pictures in whole numbers, which were divided by 255, and not on a user's floats."""
    digest: str | None = None
    """`Images.digest`; None in runs that do not say so."""
    decoding: Decoding | None = None
    """How the pictures were read; None for a user's own tensors, and in runs that do not say so."""

    @classmethod
    def of(cls, images: Images) -> DataFacts:
        return cls(
            list(images.classes),
            tuple(images.shape),
            tuple(images.mean),
            tuple(images.std),
            images.pixels,
            images.digest,
            images.decoding,
        )


def network(
    settings: TrainSettings, shape: tuple[int, ...], num_classes: int, *, start: bool = False
) -> tuple[Chain, Objective]:
    """The chain and the rule the settings name; for "backprop", the twin of one block and a global loss.

    start: whether a run starts with it, by --pretrained weights if told so; otherwise a snapshot's will be loaded.
    """
    chain = load_model(settings.model, shape, num_classes, pairs(settings.model_args, "--model-args"))
    if start and settings.pretrained:
        chain = with_weights(chain, weights_file(settings.pretrained, settings.model))
    if settings.objective == "backprop":
        return twin(chain), smoothed(Backprop(), settings)
    objective = load_objective(settings.objective, pairs(settings.objective_args, "--objective-args"))
    return chain, smoothed(objective, settings)


def smoothed(objective: Objective, settings: TrainSettings) -> Objective:
    """The rule with --label-smoothing. Raises ConfigError for one that has no such setting."""
    if not settings.label_smoothing:
        return objective
    if not (is_dataclass(objective) and any(f.name == "label_smoothing" for f in fields(objective))):
        raise ConfigError("label smoothing is for rules with a cross-entropy over their scores",
                          where="--label-smoothing", expected="such a rule: sff, cwc, local-ce, ...",
                          got=f"--objective {settings.objective}", remedy="leave it out")  # fmt: skip
    return replace(objective, label_smoothing=settings.label_smoothing)


def pairs(args: tuple[str, ...], where: str) -> dict[str, str]:
    """key=value texts as a mapping."""
    for arg in args:
        if "=" not in arg:
            raise ConfigError("an option is key=value", where=where, got=arg)
    return dict(arg.split("=", 1) for arg in args)


def new_folder(settings: TrainSettings) -> Path:
    """Where a new run goes. Raises ConfigError when --out already holds a run."""
    name = f"{Path(settings.data).name}-{settings.model}-{settings.objective}".replace(":", "-").replace("/", "-")
    out = settings.out or Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    check_free(out)
    return out


def check_free(out: Path) -> None:
    """Raises ConfigError for a folder with a run in it."""
    if (out / SETTINGS).exists():
        raise ConfigError("the run directory already holds a run", where=out, expected="a folder without a run",
                          remedy="choose another --out, or go on with --resume")  # fmt: skip


def begin(out: Path, settings: TrainSettings, images: Images) -> None:
    """Write what makes a folder a run: the facts of the data, then the resolved settings; on disk when this returns.

    Raises ConfigError where the folder cannot be written.
    """
    facts = json.dumps(asdict(DataFacts.of(images)), indent=1) + "\n"
    with writing_to(out):
        write_durably(out / FACTS, facts.encode())
    write_settings(out, settings)


def write_settings(out: Path, settings: TrainSettings) -> None:
    """With what makes them a run's own left out. Raises ConfigError where the folder cannot be written."""
    with writing_to(out):
        write_durably(out / SETTINGS, write_toml(replace(settings, out=None, resume=False, dry_run=False)).encode())


@contextmanager
def writing_to(out: Path) -> Iterator[None]:
    """Raises ConfigError for the OSError of a folder that cannot be written."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            "the run directory cannot be written",
            where=out,
            got=why_unwritable(out, error),
            remedy=remedy_unwritable(out, error, ["--out"]),
        ) from error


@contextmanager
def beginning(settings: TrainSettings, images: Images) -> Iterator[Path]:
    """A new run's folder, begun, and held while it runs. What is refused, or fails before any stage was ready, leaves
    nothing of it behind.

    Raises ConfigError when --out already holds a run, or somebody else begins one there.
    """
    out = new_folder(settings)
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        with held(out):
            check_free(out)  # again: nobody else begins one from here on
            with forgotten_if_refused(out):
                begin(out, settings, images)
                yield out
    except BaseException:  # an interrupt, too; raised again
        with suppress(OSError):  # somebody else's files are there, or no folder could be made
            for folder in made:
                folder.rmdir()
        raise


@contextmanager
def forgotten_if_refused(out: Path) -> Iterator[None]:
    """Remove what a new run has written where it is refused, or fails before any stage was ready."""
    try:
        yield
    except BaseException as error:  # an interrupt, too; raised again
        if not any(out.glob("snapshots/*/*")) and (isinstance(error, REFUSALS) or not any(out.glob("stage-*.log"))):
            for path in (*out.glob("stage-*.log"), *(out / name for name in (SETTINGS, FACTS, LOCK, *LOGS))):
                path.unlink(missing_ok=True)
        raise


@contextmanager
def going_on(settings: TrainSettings) -> Iterator[Path]:
    """The folder of a run that goes on, held meanwhile; its settings are those of now, unless they are refused."""
    assert settings.out, "checked when the settings were read"
    with held(settings.out):
        before = read_settings(settings.out)
        write_settings(settings.out, settings)
        try:
            yield settings.out
        except REFUSALS:
            write_settings(settings.out, before)
            raise


@contextmanager
def held(out: Path) -> Iterator[None]:
    """The folder, made where it is missing; nobody else trains in it meanwhile. Raises ConfigError where somebody does,
    or where it cannot be written."""
    with writing_to(out):
        make_folder(out)
        file = (out / LOCK).open("a")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError("another run is at work in this folder", where=out, expected="a folder of one's own",
                              remedy="wait until it has ended, or choose another --out") from error  # fmt: skip
        except OSError:  # a file system without locks
            pass
        yield


def read_recorded(run: Path | None) -> TrainSettings:
    """The settings of the run that is to go on."""
    if run is None:
        raise ConfigError("which run is to go on?", where="--resume", remedy="name its directory with --out")
    return replace(read_settings(run), out=run, resume=True)


def check_resumable(before: TrainSettings, now: TrainSettings) -> None:
    """Raises ConfigError naming the first setting that differs though it decides what the run learns."""
    for f in fields(TrainSettings):
        old, new = getattr(before, f.name), getattr(now, f.name)
        if f.name not in FREE_ON_RESUME and old != new:
            raise ConfigError(f"--{f.name.replace('_', '-')} cannot change when a run is resumed", where=now.out,
                              expected=old, got=new, remedy="leave it out, or start a new run")  # fmt: skip


def read_settings(run: Path) -> TrainSettings:
    if not (run / SETTINGS).exists():
        raise SnapshotError("there is no run here", where=run, expected=f"a directory with {SETTINGS}",
                            remedy="name the run directory that `ffdist train` printed")  # fmt: skip
    return apply(TrainSettings(), read_toml(run / SETTINGS), str(run / SETTINGS))


def read_facts(run: Path) -> DataFacts:
    try:
        values = json.loads((run / FACTS).read_text())
        decoding = values.get("decoding")
        return DataFacts(
            values["classes"],
            tuple(values["shape"]),
            tuple(values["mean"]),
            tuple(values["std"]),
            values.get("pixels", True),
            values.get("digest"),
            None if decoding is None else read_decoding(decoding),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SnapshotError("the facts of a run's data cannot be read", where=run / FACTS, got=error,
                            remedy="restore it; another run on the same data has the same") from error  # fmt: skip


def with_snapshot(run: Path, use: Callable[[Manifest], T]) -> T:
    """What `use` makes of the run's last whole snapshot, as `newest`. Raises SnapshotError where there is none yet."""
    if not committed(run):
        raise SnapshotError("the run has no snapshot yet", where=run, remedy="wait for the first epoch to end")
    made = newest(run, lambda manifest: (use(manifest),))
    assert made, "a snapshot stays until another is committed"
    return made[0]


def load_classifier(run: Path) -> tuple[Classifier, TrainSettings, DataFacts]:
    """The network of a run's last snapshot, on the CPU in evaluation mode."""
    settings, facts = read_settings(run), read_facts(run)
    chain, objective = network(settings, facts.shape, len(facts.classes))
    classifier = Classifier(chain, objective, mean=facts.mean, std=facts.std, fusion=settings.fusion)
    store = SnapshotStore(run, classifier.names)
    with_snapshot(run, lambda manifest: store.load_weights(classifier, manifest))
    return classifier, settings, facts
