"""What a data set is prepared from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ffdist.data.formats import Encoded
from ffdist.data.manifest import HeldOut, LeftOut
from ffdist.data.sampler import split_indices
from ffdist.data.sources.splits import TEST, TRAIN, VALIDATION
from ffdist.errors import ConfigError, setting

TEST_FRACTION = 0.2
"""Held out where a source has no test split, and nobody says otherwise."""


class Item(NamedTuple):
    """One sample, not decoded yet."""

    split: str
    """"train", "validation" or "test"."""
    label: int
    data: Encoded
    where: str
    """What names it in an error: a file, or a file and row."""


class Source(ABC):
    """Samples with labels, listed when it is opened and read when they are asked for."""

    name: str
    classes: list[str]
    counts: dict[str, int]
    """Samples of each split."""
    superclass: tuple[int, ...] | None = None
    held_out: HeldOut | None = None
    """How the test split was drawn, where it is not the source's own."""
    left_out: Sequence[LeftOut] = ()
    """What is not taken, and why."""
    notes: Sequence[str] = ()
    """What a user should know of how it was understood."""

    @abstractmethod
    def items(self) -> Iterator[Item]:
        """Every sample once, always in the same order."""


class Shares:
    """Which training samples become the test split of a source that has none: the same share of each class.

    labels: int [N]; test_fraction: 0 keeps them all, 1 takes them all.
    """

    def __init__(self, labels: np.ndarray, test_fraction: float, seed: int) -> None:
        self.tested = np.full(len(labels), test_fraction == 1)
        if 0 < test_fraction < 1:
            self.tested[split_indices(labels, validation=test_fraction, seed=seed)[1]] = True
        tested = int(self.tested.sum())
        self.counts = {split: count for split, count in ((TRAIN, len(labels) - tested), (TEST, tested)) if count}
        self.held_out = HeldOut(test_fraction, seed) if tested else None
        self.notes = drawn_notes(labels, self.tested, test_fraction)

    @classmethod
    def of(cls, counts: Mapping[str, int], labels: np.ndarray, test_fraction: float | None, seed: int) -> Shares:
        """For a source with `counts` samples in each of its own splits.

        labels: of its training samples. Raises ConfigError for a share asked for where it has a test split, or one that
        leaves no sample to train on.
        """
        if TEST in counts:
            if test_fraction:
                raise ConfigError(
                    "the source has a test split of its own",
                    where=setting("test_fraction"),
                    got=test_fraction,
                    expected="a source without one",
                    remedy="leave it out; or say which folders or files make which split: "
                    f"{setting('splits', 'train=NAME')} ...",
                )
            shares = cls(labels, 0, seed)
            shares.counts, shares.notes = dict(counts), []
            if TRAIN not in counts:
                shares.notes = ["there is no training split: for `ffdist eval RUN --data` alone"]
            return shares
        share = TEST_FRACTION if test_fraction is None else test_fraction
        shares = cls(labels, share, seed)
        if TRAIN not in shares.counts and share < 1:
            raise ConfigError(
                "no sample is left to train on",
                where=setting("test_fraction"),
                expected=f"a smaller share of {len(labels)} samples, or 1 for a test split alone",
                got=share,
            )
        if VALIDATION not in counts:
            return shares
        if TRAIN not in shares.counts:
            raise ConfigError("no sample is left to train on, though there is a validation split",
                              where=setting("test_fraction"), got=test_fraction, expected="less than 1",
                              remedy=f"a smaller share, or {setting('ignore')} the validation split")  # fmt: skip
        shares.counts[VALIDATION] = counts[VALIDATION]
        if TEST in shares.counts:
            shares.notes.append(
                "the source has a validation split and no test split: the test split is drawn from train; to take the "
                f"validation split for it, {setting('splits', 'train=NAME test=NAME')}; "
                f"{setting('test_fraction', '0')} for none"
            )
        return shares

    def split(self, row: int) -> str:
        """Of the sample in that row."""
        return TEST if self.tested[row] else TRAIN


def drawn_notes(labels: np.ndarray, tested: np.ndarray, test_fraction: float) -> list[str]:
    """What a user would not expect of a drawn test split."""
    notes = []
    if test_fraction == 1:
        notes.append("all is the test split, and there is no training split: for `ffdist eval RUN --data` alone")
    elif test_fraction:
        size = int(labels.max(initial=-1)) + 1
        whole, out = np.bincount(labels, minlength=size), np.bincount(labels[tested], minlength=size)
        without = int(((out == 0) & (whole > 0)).sum())
        used_up = int(((out == whole) & (whole > 0)).sum())
        if used_up:
            notes.append(f"{used_up} of {size} classes are in the test split alone")
        if not tested.any():
            notes.append(f"there is no test split: {test_fraction:g} of {len(labels)} samples is none")
        elif without:
            notes.append(f"{without} of {size} classes are too small for a sample in the test split")
    return notes
