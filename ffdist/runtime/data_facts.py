"""The facts that a run knows of its data, and whether other data are the same."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from ffdist.data import Images
from ffdist.data.decode import Decoding, read_decoding
from ffdist.data.fitting import classes_differ
from ffdist.data.images import ValueSpread
from ffdist.digests import of_json
from ffdist.errors import DataError, SnapshotError, setting
from ffdist.notes import note
from ffdist.regular import read_text
from ffdist.runtime.own_code import own_transforms
from ffdist.snapshot.files import write_durably
from ffdist.trust import check_may_run

FACTS = "data.json"
CHECK = "sha256"
"""In the file: the digest of all else in it."""


@dataclass(frozen=True)
class DataFacts:
    """The facts on its data that a trained network needs."""

    classes: list[str]
    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixels: bool = True
    """Whether it was trained on pictures in whole numbers, which were divided by 255, and not on a user's floats."""
    digest: str | None = None
    """`Images.digest`; None in runs that do not say so."""
    decoding: Decoding | None = None
    """How the pictures were read; None for a user's floats, and in runs that do not say so."""
    splits: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The number of samples and the digest of each split; empty in runs that do not say so."""
    spread: ValueSpread | None = None
    """The spread of a user's floats in training; None for pictures, and in runs that do not say so."""
    in_memory: bool = False
    """Whether the pictures were given in Python: nobody knows what was done to them before."""
    preprocess: tuple[str, ...] = ()
    """Transforms that give every picture its size; empty: it is scaled to `shape`."""

    @classmethod
    def of(cls, images: Images) -> DataFacts:
        """The facts of a data set that is open."""
        splits = {
            name: {"samples": len(split), "digest": images.split_digests[name]} for name, split in images.splits.items()
        }
        return cls(
            list(images.classes),
            tuple(images.shape),
            tuple(images.mean),
            tuple(images.std),
            images.pixels,
            images.digest,
            images.decoding,
            splits,
            images.spread,
            images.in_memory,
            images.preprocess,
        )


def write_facts(run: Path, facts: DataFacts) -> None:
    """Write the facts; they are on disk when this returns. Raises OSError."""
    values = asdict(facts)
    write_durably(run / FACTS, (json.dumps(values | {CHECK: of_json(values)}, indent=1) + "\n").encode())


def read_facts(run: Path) -> DataFacts:
    """Raises SnapshotError for a file that is missing, or not as it was written."""
    try:
        values = json.loads(read_text(run / FACTS))
        if "splits" in values and values.pop(CHECK) != of_json(values):
            raise ValueError("its content does not have its digest")
        facts = _parsed(values)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise SnapshotError(
            "the facts of a run's data cannot be read",
            where=run / FACTS,
            got=error,
            remedy="restore it; another run on the same data has the same",
        ) from error
    check_may_run(own_transforms(facts.preprocess), run / FACTS)
    return facts


def _parsed(values: dict[str, Any]) -> DataFacts:
    """Raises KeyError, TypeError or ValueError for values of other types."""
    classes, shape, mean, std = (values[name] for name in ("classes", "shape", "mean", "std"))
    if not (all(isinstance(part, list) for part in (classes, shape, mean, std)) and len(mean) == len(std)):
        raise TypeError("classes, shape, mean and std are no lists that fit")
    if len(classes) < 2 or not all(isinstance(name, str) for name in classes):
        raise ValueError("these are not class names")
    if not shape or not all(isinstance(n, int) and 0 < n < 2**31 for n in shape):
        raise ValueError("the shape is none")
    if not all(isinstance(x, (int, float)) and abs(x) < 1e300 and isfinite(x) for x in (*mean, *std)) or 0 in std:
        raise ValueError("mean and std are no numbers to normalise by")
    decoding, spread = values.get("decoding"), values.get("spread")
    return DataFacts(
        classes,
        tuple(shape),
        tuple(mean),
        tuple(std),
        bool(values.get("pixels", True)),
        values.get("digest"),
        None if decoding is None else read_decoding(decoding),
        values.get("splits", {}),
        None if spread is None else ValueSpread(*map(float, spread)),
        bool(values.get("in_memory", False)),
        tuple(map(str, values.get("preprocess", ()))),
    )


def check_same_data(facts: DataFacts, images: Images, where: object) -> None:
    """Raises DataError, naming what differs, for other data than a run has learned; where they lie plays no part.

    Of a run that kept no digest less is known: then it is compared by what it has, and stderr says so.
    """
    if facts.digest is not None and facts.digest == images.digest:
        return
    found = differences(facts, DataFacts.of(images))
    if found:
        raise DataError(
            "these are not the data that the run has learned",
            where=where,
            got="; ".join(found),
            expected="the same samples, labels, classes, mean and deviation",
            remedy=f"name the same data, wherever they lie now: {setting('dataset.data')}; or start a new run",
        )
    note("the run does not say which samples it has learned: classes, shape, mean and deviation are the same")


def differences(before: DataFacts, now: DataFacts) -> list[str]:
    """The differences in words; empty where nothing is known to differ."""
    found = []
    if before.classes != now.classes:
        found.append(classes_differ(before.classes, now.classes))
    for name in ("shape", "mean", "std"):
        old, new = getattr(before, name), getattr(now, name)
        if old != new:
            found.append(f"{name} {_shown(old)} was, {_shown(new)} is")
    if before.digest is not None and before.pixels != now.pixels:
        found.append("pictures in whole numbers and floats" if before.pixels else "floats and pictures")
    for name in before.splits.keys() | now.splits.keys() if before.splits else ():
        old, new = (splits.get(name, {"samples": 0, "digest": None}) for splits in (before.splits, now.splits))
        if old["samples"] != new["samples"]:
            found.append(f"{name} split of {old['samples']:,} samples was, of {new['samples']:,} is")
        elif old["digest"] != new["digest"]:
            found.append(f"the {name} split's samples, labels or their order")
    if before.digest is not None and not found:
        found.append("samples, labels or their order")
    return found


def _shown(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"
