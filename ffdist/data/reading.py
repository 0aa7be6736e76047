"""How a user's items and rows become samples: which part is the picture, where its channels are, what is drawn."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from ffdist.data.decode import Decoding
from ffdist.data.depth import Range
from ffdist.data.survey import Reader


@dataclass(frozen=True)
class Reading:
    """What a user says of items or rows; by default what is usual."""

    image: str = "image"
    """The column, or key, of samples."""
    label: str = "label"
    channels_last: bool | None = None
    """Whether samples are [H, W, C]; None: nobody says, and what could be either is refused."""
    value_range: Range | None = None
    """Black and white in pictures of more than 8 bits; None: those that their type says."""
    seed: int = 0
    """Of what a user's transforms draw from the generators that all share."""

    group: str | None = None
    """The column of groups, whose equal values stay in one split."""

    def __post_init__(self) -> None:
        """Raises ConfigError for a range that is none."""
        self.reader()

    def reader(self) -> Reader:
        return Reader(Decoding(value_range=self.value_range))


USUAL = Reading()


@contextmanager
def seeded_draws(seed: int) -> Iterator[None]:
    """Inside, Python's, NumPy's and torch's generators begin at `seed`; afterwards they are as they were. Those of
    accelerators are left alone: transforms run on the CPU."""
    state, of_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            random.seed(seed)
            np.random.seed(seed)
            torch.default_generator.manual_seed(seed)
            yield
    finally:
        random.setstate(state)
        np.random.set_state(of_numpy)
