"""Shares of samples in memory that become splits: by class, or by group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ffdist.data.arrays import as_array
from ffdist.data.groups import group_share
from ffdist.data.labelled import LabelledSplit
from ffdist.data.labels import Labels
from ffdist.data.sampler import split_indices
from ffdist.errors import ConfigError, DataError
from ffdist.notes import note


def is_share(value: Any) -> bool:
    """True if it is a number, of whatever library, and no data."""
    return isinstance(value, (int, float)) or (getattr(value, "ndim", None) == 0 and not isinstance(value, str))


def grouped(split: LabelledSplit, groups: Any, where: str) -> LabelledSplit:
    """The split with a group for each sample. groups: numbers or texts [N]; None: no groups.

    Raises DataError for groups of another type or number, a missing one, or a single one.
    """
    if groups is None:
        return split
    found = as_array(groups, "groups", where)
    if found.shape != (len(split.labels),):
        raise DataError(
            "the number of groups is not that of the samples",
            where=where,
            expected=f"[{len(split.labels)}]",
            got=list(found.shape),
        )
    lacking = [row for row, value in enumerate(found.tolist()) if value is None or value == "" or value != value]
    if lacking:
        raise DataError(
            "a group is missing",
            where=f"{where}, row {lacking[0]}",
            got=found[lacking[0]],
            remedy="leave such rows out",
        )
    names, numbers = np.unique(found.astype(str) if found.dtype.kind == "O" else found, return_inverse=True)
    if len(names) < 2:
        raise DataError("there is one group only", where=where, expected="2 groups or more", got=names[0])
    return split._replace(groups=numbers)


def with_shares(splits: Mapping[str, LabelledSplit], test: Any, validation: Any, seed: int) -> dict[str, LabelledSplit]:
    """The splits, with shares of the training samples as test and validation split where numbers are given.

    Raises ConfigError for shares out of range.
    """
    given = {name: share for name, share in (("test", test), ("validation", validation)) if is_share(share)}
    for name, share in given.items():
        if isinstance(share, (bool, np.bool_)):
            raise ConfigError("a share is a fraction", where=name, expected="a number, 0.2, or a split", got=share)
    shares = {name: float(share) for name, share in given.items()}
    if any(not 0 <= share < 1 for share in shares.values()) or sum(shares.values()) >= 1:
        raise ConfigError(
            "no sample is left to train on" if sum(shares.values()) >= 1 else "a share is a fraction",
            where=" and ".join(shares),
            expected="0 <= x < 1, and less than 1 together",
            got=", ".join(f"{share:g}" for share in shares.values()),
        )
    made, left = dict(splits), 1.0
    for name, share in shares.items():
        if not share:
            continue
        split = made["train"]
        if split.groups is None:
            rows, held = split_indices(split.labels.numbers, validation=share / left, seed=seed)
        else:
            out = group_share(split.labels.numbers, split.groups, share / left, seed)
            rows, held = np.flatnonzero(~out), np.flatnonzero(out)
            note(f"{split.labels.where}: the {name} split has {len(held):,} of {len(out):,} samples, in whole groups")
        if not len(held):
            note(f"{split.labels.where}: there is no {name} split: {share:g} of {len(split.labels)} samples is none")
            continue
        if not len(rows):
            raise ConfigError(
                "no sample is left to train on",
                where=name,
                expected=f"a share that leaves one of {len(split.labels)} samples",
                got=f"{share:g}",
            )
        made["train"], made[name], left = part(split, rows), part(split, held), left - share
    return made


def part(split: LabelledSplit, rows: np.ndarray) -> LabelledSplit:
    """The split of some rows, int [M], in this order."""
    samples = split.samples[rows] if isinstance(split.samples, np.ndarray) else split.samples.part(rows)
    labels = Labels(split.labels.numbers[rows], split.labels.names, split.labels.text, split.labels.where)
    return split._replace(samples=samples, labels=labels, groups=None if split.groups is None else split.groups[rows])
