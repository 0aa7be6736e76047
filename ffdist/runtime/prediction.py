"""Pictures as a trained network gets them: read as its training data were, and resized as in training."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ffdist.cores import available_cores
from ffdist.data import ArraySplit, Images, Loader
from ffdist.data.ahead import in_order
from ffdist.data.decode import Decoding, Picture, read_picture
from ffdist.data.formats import Encoded, is_picture, quiet_pillow
from ffdist.data.loader import resized
from ffdist.data.survey import Survey
from ffdist.data.transforms import TransformSteps, load_transforms
from ffdist.errors import DataError
from ffdist.options import path_of
from ffdist.pipeline.classifier import Classifier
from ffdist.runtime.data_facts import DataFacts, read_facts
from ffdist.snapshot import pulled
from ffdist.trust import trusting

Given = str | Encoded
"""A picture: the path of a file, its bytes, an opened one, or an array."""


def decoding_of(data: Images | DataFacts) -> tuple[Decoding, bool]:
    """The decoding of pictures for a network trained on these data, and whether that is how its own were read, which
    were files then; otherwise it is assumed.

    Raises DataError where it was not trained on pictures, grey or RGB, of whole numbers.
    """
    if not data.pixels or len(data.shape) != 3 or data.shape[0] not in (1, 3):
        kind = "pictures" if data.pixels else "floats"
        raise DataError(
            "the network was not trained on pictures that can be read from files",
            expected="samples (1|3, H, W) of whole numbers in 0..255",
            got=f"{kind} {data.shape}",
            remedy="make its input as in training, and in Python: ffdist.load(RUN).predict(samples)",
        )
    channels, height, width = data.shape
    assumed = Decoding((height, width), "grey" if channels == 1 else "rgb")
    return data.decoding or assumed, data.decoding is not None and not data.in_memory


def read_pictures(
    pictures: Given | Sequence[Given],
    data: str | Path | Images | DataFacts,
    *,
    workers: int | None = None,
    trust: bool = False,
) -> Tensor:
    """Read pictures of any format, mode and size as a trained network takes them, float32 [B, C, H, W] in [0, 1]:
    for `Classifier`, `Pipeline.predict` and an exported .pt2 program.

    pictures: one or many: paths, bytes, Pillow's or uint8 arrays. data: the run's folder, or the data that it was
    trained on; they say how pictures are read. workers: decoding threads; default: a core each. trust: as `ffdist.load`
    has it.
    Raises DataError naming all that cannot be read.
    """
    with trusting(trust):
        facts = read_facts(pulled(data)) if isinstance(data, (str, Path)) else data
    if not isinstance(facts, (Images, DataFacts)):
        raise DataError(
            "pictures are read as a run's data were",
            where="read_pictures, data",
            expected="the run's folder, or the data that it was trained on",
            got=f"a {type(data).__name__}",
        )
    decoding, _ = decoding_of(facts)
    many = [pictures] if isinstance(pictures, (str, *_ENCODED)) else list(pictures)
    read = [*decoded(((picture, named(picture, i)) for i, picture in enumerate(many)), decoding, workers)]
    bad = [(one.name, one.problem) for one in read if one.problem is not None]
    if bad:
        raise unreadable_error(bad, len(many))
    x_bhwc = in_size([one.picture.pixels for one in read if one.picture], facts)
    return torch.from_numpy(x_bhwc).permute(0, 3, 1, 2).float() / 255


_ENCODED = (Path, bytes, np.ndarray, Image.Image)


class ReadPicture(NamedTuple):
    """A picture that was read, or what is wrong with it."""

    name: object
    picture: Picture | None
    problem: str | None


def named(picture: Given, place: int) -> object:
    return picture if isinstance(picture, (str, Path)) else f"picture {place}"


def decoded(
    pictures: Iterable[tuple[Given, object]], decoding: Decoding, workers: int | None = None
) -> Generator[ReadPicture]:
    """Pictures with their names, decoded ahead by threads, in order."""
    threads = workers or available_cores()
    work = partial(_decoded, decoding=decoding)
    jobs = in_order(work, pictures, threads=threads, ahead=4 * threads, name="ffdist-decode")
    with quiet_pillow(), closing(jobs):
        yield from jobs


def _decoded(given: tuple[Given, object], *, decoding: Decoding) -> ReadPicture:
    picture, name = given
    try:
        read = read_picture(path_of(picture) if isinstance(picture, str) else picture, name, decoding)
    except DataError as error:
        return ReadPicture(name, None, str(error.got))
    if read.limits is None:
        assert read.values
        held = "values {:g} to {:g}".format(*read.values)
        return ReadPicture(name, None, f"{held} of floats, 32 or signed bits; the training data had no --value-range")
    return ReadPicture(name, read, None)


def unreadable_error(bad: Sequence[tuple[object, str]], total: int) -> DataError:
    """All of them, named at once."""
    return DataError(
        "a picture cannot be read" if len(bad) == 1 else f"{len(bad):,} of {total:,} pictures cannot be read",
        where="".join(f"\n    {printable(name)}: {problem}" for name, problem in bad),
        expected="a PNG, JPEG or other picture file",
        remedy="name files that exist and are pictures",
    )


def printable(name: object) -> str:
    """A file's name on one line: what no terminal shows, and what is no UTF-8, as escapes."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace") if isinstance(name, Path) else str(name)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@dataclass
class Predictions:
    """A classifier's predictions on pictures, a batch at a time; and, when all are done, what was seen on the way."""

    classifier: Classifier
    facts: DataFacts
    batch_size: int = 64
    bad: list[tuple[object, str]] = field(default_factory=list)
    """What could not be read, and why."""
    survey: Survey = field(default_factory=Survey)
    decoding: Decoding = field(init=False)
    recorded: bool = field(init=False)
    """Whether the run says how its pictures were read."""

    def __post_init__(self) -> None:
        self.decoding, self.recorded = decoding_of(self.facts)

    def of(self, paths: Iterable[Path]) -> Iterator[tuple[Path, Tensor]]:
        """The path and the scores [K] of every picture that can be read, in order."""
        with closing(decoded(((path, path) for path in paths), self.decoding)) as pictures:
            while batch := list(islice(pictures, self.batch_size)):
                good = [(one.name, one.picture) for one in batch if one.picture is not None]
                self.bad += [(one.name, one.problem) for one in batch if one.problem is not None]
                for name, picture in good:
                    self.survey.add(picture, name)
                if good:
                    scores = self.scores([picture.pixels for _, picture in good])
                    yield from zip((name for name, _ in good), scores, strict=True)  # pyright: ignore[reportReturnType]

    def scores(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """[B, K] of decoded pictures, uint8 [H, W, C], by the very steps of a test split's batch."""
        with torch.no_grad():
            return self.classifier.chosen(self.classifier.scores(network_input(pictures, self.facts)))

    def notes(self) -> list[str]:
        """A line for each thing that a user may not expect."""
        notes = self.survey.notes(self.decoding)
        deep, high = self.survey.deep, self.survey.high
        if deep.count and self.decoding.value_range is None and high < 2**12:
            notes.append(f"{deep.count:,} pictures of 16 bits hold up to {high:g} only; white is 65535, as in training")
        changed = self.survey.changed
        if self.facts.in_memory and changed.count:
            notes.append(
                f"{changed.count:,} of {self.survey.pictures:,} pictures were made like those of the training, which "
                f"were given in Python, and nobody knows how these were made: {self.decoding}; the first: "
                f"{changed.first}; else make them as in training, and give them to ffdist.load(RUN).predict"
            )
        elif not (self.recorded or self.facts.in_memory):
            notes.append(f"the run does not say how its pictures were read; assumed: {self.decoding}")
        return notes


def in_size(pictures: Sequence[np.ndarray], facts: Images | DataFacts) -> np.ndarray:
    """Decoded pictures, uint8 [H, W, C], as `Loader` gives a test split the network's size: [B, h, w, C]."""
    height, width = facts.shape[1:]
    steps = TransformSteps(load_transforms(facts.preprocess), seed=0, wanted=(height, width))
    if steps.pictures:
        return np.stack([steps.picture(picture) for picture in pictures])
    return np.concatenate([resized(np.stack([picture]), (height, width)) for picture in pictures])


def network_input(pictures: Sequence[np.ndarray], facts: DataFacts) -> Tensor:
    """Decoded pictures as `Loader` gives a test split to the first block: float32 [B, C, H, W], resized, normalised."""
    x_bhwc, rows = in_size(pictures, facts), np.arange(len(pictures))
    split = ArraySplit(x_bhwc, np.zeros(len(rows), np.int64))
    images = Images("pictures", split, None, facts.classes, facts.shape, facts.mean, facts.std)
    return Loader(images, split, rows, batch_size=len(rows), seed=0, train=False).batch(rows, 0, 0)[0]


def pictures_at(
    path: Path, bad: list[tuple[object, str]], above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[Path]:
    """The path itself; of a folder, every picture at any depth, sorted, links followed, hidden ones left out.

    bad: gets the folders that cannot be looked into, and links to a folder that they lie in.
    """
    if not os.path.isdir(path):
        yield path
        return
    try:
        status = path.stat()
        names = sorted(name for name in os.listdir(path) if not name.startswith("."))
    except OSError as error:
        bad.append((path, error.strerror or str(error)))
        return
    place = (status.st_dev, status.st_ino)
    if place in above:
        bad.append((path, "a link to a folder that it lies in"))
        return
    for below in (path / name for name in names):
        if os.path.isdir(below):
            yield from pictures_at(below, bad, above | {place})
        elif is_picture(below):
            yield below
