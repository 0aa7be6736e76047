"""A snapshot's measurement on its test data: confusions, mistakes of high confidence, and evidence maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ffdist.data import Images, Loader, Split
from ffdist.data.fitting import as_trained_images, no_test_error, opened_to_measure
from ffdist.data.preparation import from_texts
from ffdist.errors import DataError, FfdistError, NetworkError
from ffdist.page.pictures import picture, picture_with_map
from ffdist.page.text import evenly
from ffdist.pipeline.classifier import Classifier
from ffdist.pipeline.measure import measure
from ffdist.report.cam import activation_maps
from ffdist.runtime.data_facts import DataFacts
from ffdist.runtime.opened import open_dataset
from ffdist.runtime.own_code import GIVEN
from ffdist.runtime.run import load_classifier, no_data_to_measure_error
from ffdist.settings import Settings

PREDICTOR = "mean"
MAX_BLOCKS = 6
"""Blocks whose maps are drawn, at most: of more, so many evenly from the first to the last."""


@dataclass(frozen=True)
class Mistake:
    """A sample that was taken for another class."""

    index: int
    """Its place in the test split, from 0."""
    label: str
    guess: str
    confidence: float
    """The guess's share, by the softmax of the scores."""
    picture: str | None = None
    """The sample's picture as a `data:` URL; None where samples are no pictures."""


@dataclass(frozen=True)
class PictureMaps:
    """A picture, and where each block sees the evidence for its class."""

    label: str
    picture: str
    blocks: list[tuple[str, str, str]]
    """Each block's name, the class that it takes the picture for, and the picture under its map."""


@dataclass(frozen=True)
class SnapshotMeasurement:
    """A snapshot's measurement on the test split."""

    record: dict[str, Any]
    """Metrics of the test split, in the form in which training records them."""
    classes: list[str]
    counts: list[list[int]]
    """The confusions of `PREDICTOR`: true classes down, predicted ones across."""
    mistakes: list[Mistake] = field(default_factory=list)
    """Mistakes, the most confident first."""
    wrong: int = 0
    snapshot: str = ""
    """The snapshot's name in words."""
    maps: list[PictureMaps] = field(default_factory=list)
    no_maps: str | None = None
    """The reason where there are no maps; None where there are."""


class ConfidentMistakes:
    """Collects the wrong answers with the highest confidence, batch by batch."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.seen = 0
        self.wrong = 0
        self.kept: list[tuple[float, int, int, int]] = []
        """(confidence, index, label, guess) of each mistake that is kept."""

    def add(self, answers: Mapping[str, Tensor], y: Tensor) -> None:
        """Take a batch into account. answers: scores [B, K] by predictor; y: labels, int64 [B]."""
        shares, guesses = answers[PREDICTOR].float().softmax(1).max(1)
        wrong = (guesses != y.to(guesses.device)).nonzero().flatten().tolist()
        self.wrong += len(wrong)
        found = [(float(shares[i]), self.seen + i, int(y[i]), int(guesses[i])) for i in wrong]
        self.kept = sorted(self.kept + found, key=lambda each: (-each[0], each[1]))[: self.limit]
        self.seen += len(y)


def measured(
    run: Path,
    settings: Settings,
    facts: DataFacts,
    *,
    snapshot: str | int = "final",
    data: str | None = None,
    pictures: int = 10,
) -> SnapshotMeasurement:
    """Measure the run's own test split, or other data's. Nothing is downloaded for it.

    Raises FfdistError where the network or the data cannot be had.
    """
    images = data_of(run, data, settings, facts)
    classifier, _, _ = load_classifier(run, snapshot)
    if images.test is None:
        raise no_test_error(images)
    surest = ConfidentMistakes(pictures)
    record, confusions = measure(classifier, images, images.test, on_scores=surest.add)
    maps, no_maps = maps_of(classifier, images, facts, settings, pictures)
    mistakes = mistakes_of(surest, classifier, images, facts, settings)
    counts = confusions[PREDICTOR].counts.tolist()
    return SnapshotMeasurement(
        record, facts.classes, counts, mistakes, surest.wrong, snapshot_text(snapshot), maps, no_maps
    )


def snapshot_text(snapshot: str | int) -> str:
    return f"the {snapshot} snapshot" if isinstance(snapshot, str) else f"the snapshot of step {snapshot}"


def data_of(run: Path, data: str | None, settings: Settings, facts: DataFacts) -> Images:
    """The samples as the network takes them. Raises DataError and ConfigError for those that are not here, or do not
    fit."""
    if data is not None:
        preparation = from_texts(settings.dataset.data_args, "")
        return as_trained_images(opened_to_measure(data, facts, settings.dataset.image_size, preparation), facts, data)
    if settings.dataset.data == GIVEN:
        raise no_data_to_measure_error(run, facts, "report")
    return as_trained_images(open_dataset(settings.changed(download=False).dataset), facts, settings.dataset.data)


def mistakes_of(
    surest: ConfidentMistakes, classifier: Classifier, images: Images, facts: DataFacts, settings: Settings
) -> list[Mistake]:
    """Mistakes with their pictures, where the samples are such."""
    indices = [index for _, index, _, _ in surest.kept]
    drawn: list[str | None] = [None] * len(indices)
    if indices and len(facts.shape) == 3 and images.test is not None:
        x, _ = samples(images, images.test, np.array(indices), settings)
        drawn = [picture(each) for each in x * classifier.std + classifier.mean]
    return [
        Mistake(index, facts.classes[label], facts.classes[guess], confidence, shown)
        for (confidence, index, label, guess), shown in zip(surest.kept, drawn, strict=True)
    ]


def maps_of(
    classifier: Classifier, images: Images, facts: DataFacts, settings: Settings, pictures: int
) -> tuple[list[PictureMaps], str | None]:
    """Maps of a picture of each class in turn; or none, and why."""
    try:
        chosen = of_each_class(images, pictures)
        assert images.test is not None
        x, y = samples(images, images.test, chosen, settings)
        blocks = evenly(activation_maps(classifier, x, y), MAX_BLOCKS)
    except (DataError, NetworkError) as error:
        return [], error.what
    shown, made = x * classifier.std + classifier.mean, list[PictureMaps]()
    for row, label in enumerate(y.tolist()):
        views = [
            (block.block, facts.classes[int(block.guesses[row])], picture_with_map(shown[row], block.maps[row]))
            for block in blocks
        ]
        made.append(PictureMaps(facts.classes[label], picture(shown[row]), views))
    return made, None


def samples(images: Images, split: Split, indices: np.ndarray, settings: Settings) -> tuple[Tensor, Tensor]:
    """Normalised samples [B, *shape] of a split, and their labels, in the order of the indices."""
    loader = Loader(
        images, split, indices, batch_size=len(indices), seed=0, train=False, image_size=settings.dataset.image_size
    )
    return next(iter(loader.epoch(0)))


def of_each_class(images: Images, count: int) -> np.ndarray:
    """Indices of test samples: the first of each class, then the second, ... Raises DataError where there are none."""
    if images.test is None or len(images.shape) != 3:
        raise DataError(
            "there are no test pictures",
            where=images.name,
            expected="a test split of (C, H, W)",
            got=f"samples of {images.shape}",
        )
    labels = torch.from_numpy(images.test.labels)
    rank = torch.zeros_like(labels)
    for label in labels.unique():
        rank[labels == label] = torch.arange(int((labels == label).sum()))
    return np.lexsort((labels.numpy(), rank.numpy()))[: max(1, count)]


def largest_mistakes(counts: Sequence[Sequence[int]], limit: int = 20) -> list[tuple[int, int, int]]:
    """The mistakes as (count, true class, guessed class), the most frequent first."""
    found = [
        (count, true, guess)
        for true, row in enumerate(counts)
        for guess, count in enumerate(row)
        if count and guess != true
    ]
    return sorted(found, key=lambda each: (-each[0], each[1:]))[:limit]


def why_not(error: FfdistError) -> str:
    """The reason that there is none, in one sentence for the page."""
    return f"{error.what}{f' ({error.where})' if error.where else ''}"
