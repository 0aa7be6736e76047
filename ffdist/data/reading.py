"""The reading of a user's items and rows as samples: which part is the picture, where its channels are, what is
drawn."""

from __future__ import annotations

from dataclasses import dataclass

from ffdist.data.decode import Decoding
from ffdist.data.depth import Range
from ffdist.data.survey import SurveyReader


@dataclass(frozen=True)
class Reading:
    """A user's settings on items or rows; by default what is usual."""

    image: str = "image"
    """The column, or key, of samples."""
    label: str = "label"
    channels_last: bool | None = None
    """Whether samples are [H, W, C]; None: not known, and samples that could be either are refused."""
    value_range: Range | None = None
    """Black and white in pictures of more than 8 bits; None: those that their type says."""
    seed: int = 0
    """The seed of what a user's transforms draw from the generators that all share."""

    group: str | None = None
    """The column of groups, whose equal values stay in one split."""

    def __post_init__(self) -> None:
        """Raises ConfigError for a range that is none."""
        self.reader()

    def reader(self) -> SurveyReader:
        """A new decoder with these settings, whose survey is empty."""
        return SurveyReader(Decoding(value_range=self.value_range))


DEFAULT_READING = Reading()
