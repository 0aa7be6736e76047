"""A survey of the pictures of a set while they are decoded: what is refused of it, and what is noted."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ffdist.data.decode import DEFAULT_DECODING, Decoding, Picture, no_range_error, pixels_of, read_picture
from ffdist.data.depth import FULL, SIXTEEN, Range, likely_range
from ffdist.data.formats import Encoded
from ffdist.errors import DataError, setting
from ffdist.notes import note


@dataclass
class Tally:
    """The number of pictures of a kind, and the first one's name."""

    count: int = 0
    first: object = None

    def add(self, where: object, count: int = 1) -> None:
        """Count so many more pictures, of which `where` names the first."""
        if count and not self.count:
            self.first = where
        self.count += count


@dataclass
class Survey:
    """The findings in pictures decoded with the same settings."""

    pictures: int = 0
    low: float = float("inf")
    high: float = float("-inf")
    """Least and greatest value of those of more than 8 bits."""
    deep: Tally = field(default_factory=Tally)
    """Pictures of more than 8 bits, in a range that their file doesn't name."""
    no_range: Tally = field(default_factory=Tally)
    """Pictures of more than 8 bits, in a range that neither file nor user names."""
    beyond: Tally = field(default_factory=Tally)
    """Pictures with values outside of the range."""
    frames: Tally = field(default_factory=Tally)
    """Pictures with more frames or pages than the one that was taken."""
    spare: Tally = field(default_factory=Tally)
    """Pictures with channels that were left out."""
    flat: Tally = field(default_factory=Tally)
    """Pictures of one colour only."""
    changed: Tally = field(default_factory=Tally)
    """Pictures of another size or form than their samples."""
    assumed: Tally = field(default_factory=Tally)
    """Arrays of four channels, the last of which is taken for transparency."""
    vanished: Tally = field(default_factory=Tally)
    """Pictures of one colour only, once they lay over the background."""

    def add(self, picture: Picture, where: object) -> Survey:
        """Take a decoded picture into account; where: its name."""
        self.pictures += 1
        if picture.values is not None:
            self.low = min(self.low, picture.values[0])
            self.high = max(self.high, picture.values[1])
            self.deep.add(where)
            if picture.limits is None:
                self.no_range.add(where)
            elif picture.values[0] < picture.limits[0] or picture.values[1] > picture.limits[1]:
                self.beyond.add(where)
        if picture.frames:
            self.frames.add(where)
        if picture.changed:
            self.changed.add(where)
        if picture.assumed:
            self.assumed.add(where)
        if picture.spare:
            self.spare.add(where)
        if picture.limits is not None and is_flat(picture.pixels):
            (self.vanished if picture.transparent else self.flat).add(where)
        return self

    def merge(self, other: Survey) -> Survey:
        """Add what another saw of the pictures after these."""
        self.pictures += other.pictures
        self.low = min(self.low, other.low)
        self.high = max(self.high, other.high)
        for name in ("deep", "no_range", "beyond", "frames", "spare", "changed", "assumed", "flat", "vanished"):
            theirs = getattr(other, name)
            getattr(self, name).add(theirs.first, theirs.count)
        return self

    def check(self, decoding: Decoding) -> None:
        """Raises DataError for a set whose black and white nobody knows, and for 16 bits that hold so few that pictures
        would be nearly black, unless a range was given."""
        if self.no_range.count:
            raise no_range_error(self.no_range.first, self.low, self.high, self.no_range.count)
        if self.deep.count and decoding.value_range is None and self.high < FULL:
            white = int(likely_range(0, self.high)[1])
            raise DataError(
                "pictures of 16 bits hold far smaller values, and would be nearly black",
                where=self.deep.first,
                expected=f"values up to {SIXTEEN[1]}, or a range",
                got=f"{self.low:g} to {self.high:g} in {self.deep.count:,} such pictures",
                remedy=f"{setting('value_range', f'0 {white}')} where they hold {white.bit_length()} bits; "
                f"{setting('value_range', f'0 {SIXTEEN[1]}')} takes them as they are",
            )

    def notes(self, decoding: Decoding) -> list[str]:
        """A line for each thing that a user may not expect."""
        notes = [
            (self.frames, "hold several frames or pages; the first was taken"),
            (self.spare, "have channels that are neither colour nor transparency; these were left out"),
            (self.assumed, "are arrays of four channels, of which the last was taken for transparency"),
            (self.beyond, f"hold values beyond {range_text(decoding.value_range)}, which were cut off"),
            (
                self.vanished,
                f"are of one colour only over {decoding.background} ({setting('background')} takes another)",
            ),
            (self.flat, "are of one colour only"),
        ]
        return [
            f"{tally.count:,} of {self.pictures:,} pictures {what}; the first: {tally.first}"
            for tally, what in notes
            if tally.count
        ]


@dataclass
class SurveyReader:
    """Decodes the pictures of a set that is held in memory, and holds them to what `prepare` holds files to."""

    decoding: Decoding = DEFAULT_DECODING
    survey: Survey = field(default_factory=Survey)
    files: int = 0
    """How many were files, or the bytes of such."""

    def read(self, data: Encoded, where: object) -> np.ndarray:
        """uint8 [H, W, C], as `decode` does."""
        picture = read_picture(data, where, self.decoding)
        pixels = pixels_of(picture, where)
        self.survey.add(picture, where)
        self.files += isinstance(data, (bytes, Path))
        return pixels

    def finish(self, where: str) -> None:
        """Tell what a user may not expect. Raises DataError for 16 bits that hold so few that pictures would be nearly
        black."""
        self.survey.check(self.decoding)
        for text in self.survey.notes(self.decoding):
            note(f"{where}: {text}")


def is_flat(x_hwc: np.ndarray) -> bool:
    """True if all pixels are one colour; for most pictures two corners are enough to see that they are not."""
    return bool(x_hwc[0, 0, 0] == x_hwc[-1, -1, 0] and (x_hwc == x_hwc[:1, :1]).all())


def range_text(limits: Range | None) -> str:
    """A range of values as text; 16 bits for None."""
    return "{:g}..{:g}".format(*(limits or SIXTEEN))


def constant_channels(counts: np.ndarray) -> list[str]:
    """A line for each channel that never changes. counts: pixels of each level, int [C, 256]."""
    names = {1: ["the grey channel"], 3: ["red", "green", "blue"]}.get(len(counts), [])
    return [
        f"{names[channel] if names else f'channel {channel}'} holds {int(levels.argmax())} in every pixel of the "
        "training pictures: nothing can be learned from it"
        for channel, levels in enumerate(counts)
        if np.count_nonzero(levels) == 1
    ]
