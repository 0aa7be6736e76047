"""The share held out of the training samples of a source that has no such splits of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ffdist.data.groups import group_share
from ffdist.data.manifest import HeldOut
from ffdist.data.sampler import split_indices
from ffdist.data.sources.name_groups import check_pattern
from ffdist.data.sources.splits import SPLITS, TEST, TRAIN, VALIDATION
from ffdist.errors import ConfigError, setting

TEST_FRACTION = 0.2
"""Default share of the test split, where the source has none."""


@dataclass(frozen=True)
class HoldOutOptions:
    """A user's settings of held-out shares. Raises ConfigError for shares out of range."""

    test_fraction: float | None = None
    """Share of each class for testing; 1: all. None: a fifth where the source has no test split."""
    validation_fraction: float | None = None
    """Share of each class for validation; None: none."""
    seed: int = 0
    group_pattern: str | None = None
    """A regular expression that finds a sample's group in its name; no group is in two splits then."""

    def __post_init__(self) -> None:
        check_pattern(self.group_pattern)
        for name, share, upper in (
            ("test_fraction", self.test_fraction, 1),
            ("validation_fraction", self.validation_fraction, 0.99),
        ):
            if share is not None and not 0 <= share <= upper:
                raise ConfigError(
                    f"the {name.partition('_')[0]} split is a fraction",
                    where=setting(name),
                    expected="0 <= x <= 1" if upper == 1 else "0 <= x < 1",
                    got=share,
                )

    @property
    def named(self) -> str | None:
        """The name for users of groups that a pattern finds in names; None without a pattern."""
        return None if self.group_pattern is None else f"names like '{self.group_pattern}'"

    @property
    def given_option(self) -> str | None:
        """The first of these settings that the user has given; None where none is."""
        asked = {
            "test_fraction": self.test_fraction,
            "validation_fraction": self.validation_fraction,
            "group_pattern": self.group_pattern,
        }
        return next((name for name, share in asked.items() if share), None)


class Shares:
    """The training samples that become the test and validation splits: the same share of each class, or whole groups.

    labels: of the training samples, int [N]. counts: samples of each of the source's own splits. groups: int [N], of
    which none is in two splits; named: what they are called for users.
    Raises ConfigError for a share asked for where the source has such a split, and for one that leaves no sample to
    train on.
    """

    def __init__(
        self,
        counts: Mapping[str, int],
        labels: np.ndarray,
        holding: HoldOutOptions,
        groups: np.ndarray | None = None,
        named: str | None = None,
    ) -> None:
        for split in (TEST, VALIDATION):
            if split in counts and getattr(holding, f"{split}_fraction"):
                raise own_split_error(split, getattr(holding, f"{split}_fraction"))
        test = 0.0 if TEST in counts else TEST_FRACTION if holding.test_fraction is None else holding.test_fraction
        validation = holding.validation_fraction or 0.0
        if test < 1 and test + validation >= 1:
            raise ConfigError(
                "no sample is left to train on",
                where=setting("validation_fraction"),
                expected=f"less than {1 - test:g}, beside the test split",
                got=validation,
            )
        if TRAIN not in counts:
            labels, groups = labels[:0], None
        self.places = assign_splits(labels, test, validation, holding.seed, groups)
        """int8 [N], in `SPLITS`."""
        drawn = {split: int((self.places == place).sum()) for place, split in enumerate(SPLITS)}
        if not drawn[TRAIN] and test < 1 and TRAIN in counts:
            raise ConfigError(
                "no sample is left to train on",
                where=setting("test_fraction"),
                expected=f"a smaller share of {len(labels)} samples, or 1 for a test split alone",
                got=test,
            )
        self.counts = {
            split: drawn[split] + (counts.get(split, 0) if split != TRAIN else 0)
            for split in SPLITS
            if drawn[split] or (split != TRAIN and counts.get(split))
        }
        self.held_out = HeldOut(test, holding.seed, validation, named) if drawn[TEST] or drawn[VALIDATION] else None
        self.notes = self.notes_of(counts, labels, test, validation, named)
        if VALIDATION in counts and TRAIN not in self.counts:
            raise ConfigError(
                "no sample is left to train on, though there is a validation split",
                where=setting("test_fraction"),
                got=test,
                expected="less than 1",
                remedy=f"a smaller share, or {setting('ignore')} the validation split",
            )

    def notes_of(
        self, counts: Mapping[str, int], labels: np.ndarray, test: float, validation: float, named: str | None
    ) -> list[str]:
        """Notes on the drawn splits. named: the groups' name, where whole groups are drawn."""
        if TRAIN not in counts:
            return ["there is no training split: for `ffdist eval RUN --data` alone"]
        notes = []
        for split, share in ((TEST, test), (VALIDATION, validation)):
            if share and split not in counts:
                notes += drawn_notes(split, labels, self.places == SPLITS.index(split), share, named)
        if named and VALIDATION not in self.counts and TRAIN in self.counts:
            notes.append(
                "a training holds out its own share for validation by class, not in groups; of whole groups: "
                f"{setting('validation_fraction', 0.1)}"
            )
        if VALIDATION in counts and TEST in self.counts and TEST not in counts:
            notes.append(
                "the source has a validation split and no test split: the test split is drawn from train; to take the "
                f"validation split for it, {setting('splits', 'train=NAME test=NAME')}; "
                f"{setting('test_fraction', '0')} for none"
            )
        return notes

    def split(self, row: int) -> str:
        """The split of the training sample in that row."""
        return SPLITS[self.places[row]]


def assign_splits(
    labels: np.ndarray, test: float, validation: float, seed: int, groups: np.ndarray | None
) -> np.ndarray:
    """int8 [N], in `SPLITS`: the test samples are drawn first, and those for validation from the rest."""
    places = np.full(len(labels), SPLITS.index(TEST if test == 1 else TRAIN), np.int8)
    for split, share in ((TEST, test), (VALIDATION, validation / (1 - test) if test < 1 else 0)):
        rest = np.flatnonzero(places == SPLITS.index(TRAIN))
        if not 0 < share < 1 or not len(rest):
            continue
        if groups is None:
            out = split_indices(labels[rest], validation=share, seed=seed)[1]
        else:
            out = np.flatnonzero(group_share(labels[rest], groups[rest], share, seed))
        places[rest[out]] = SPLITS.index(split)
    return places


def own_split_error(split: str, share: float) -> ConfigError:
    """The error for a share of a split that the source has itself."""
    return ConfigError(
        f"the source has a {split} split of its own",
        where=setting(f"{split}_fraction"),
        got=share,
        expected="a source without one",
        remedy=f"leave it out; or say which folders or files make which split: {setting('splits', 'train=NAME')} ...",
    )


def drawn_notes(split: str, labels: np.ndarray, out: np.ndarray, share: float, groups: str | None = None) -> list[str]:
    """Notes on what a user would not expect of a drawn split.

    out: whether a sample is in it, bool [N]. groups: what they are called, where whole ones were drawn.
    """
    if share == 1:
        return ["all is the test split, and there is no training split: for `ffdist eval RUN --data` alone"]
    size = int(labels.max(initial=-1)) + 1
    whole, taken = np.bincount(labels, minlength=size), np.bincount(labels[out], minlength=size)
    without = int(((taken == 0) & (whole > 0)).sum())
    used_up = int(((taken == whole) & (whole > 0)).sum())
    notes = []
    if groups is not None and out.any():
        notes.append(f"the {split} split has {out.sum() / len(out):.3g} of the samples, in whole groups of {groups}")
    if used_up:
        notes.append(f"{used_up} of {size} classes are in the {split} split alone")
    if not out.any():
        notes.append(f"there is no {split} split: {share:g} of {len(labels)} samples is none")
    elif without:
        notes.append(f"{without} of {size} classes are too small for a sample in the {split} split")
    return notes
