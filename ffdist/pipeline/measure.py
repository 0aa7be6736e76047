"""A trained network on a test split: by the stage that trained it, so that the numbers are those of training, bit for
bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ffdist.data import Images, Loader, Split
from ffdist.errors import ConfigError
from ffdist.models import derive_seed, seeded
from ffdist.notes import note
from ffdist.pipeline.block import BlockConfig, LearningBlock
from ffdist.pipeline.contract import own_code
from ffdist.pipeline.fusion import Fusion
from ffdist.pipeline.lanes import MicrobatchRange, parts
from ffdist.pipeline.message import EndOfSplit, EvalBatch
from ffdist.pipeline.own_metrics import OwnMetrics, named_metrics
from ffdist.pipeline.predictors import ScoreTally
from ffdist.pipeline.stage import Stage
from ffdist.pipeline.views import ViewAccuracy
from ffdist.settings import TrainingSettings

if TYPE_CHECKING:
    from ffdist.pipeline.classifier import Classifier


class Confusion:
    """A confusion matrix: counts int64 [K, K], true classes down."""

    def __init__(self, num_classes: int) -> None:
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def add(self, scores: Tensor, y: Tensor) -> None:
        """scores: [B, K]; y: int64 [B]."""
        size = len(self.counts)
        self.counts += torch.bincount(y * size + scores.argmax(1).to(y.device), minlength=size**2).view(size, size)


class SplitMeasurement(NamedTuple):
    """The measurement of a network on a split."""

    record: dict[str, Any]
    """As training makes of a test split."""
    confusions: dict[str, Confusion]
    """Each predictor's."""


def measure(
    classifier: Classifier,
    images: Images,
    split: Split,
    *,
    batch_size: int | None = None,
    views: Sequence[str] = (),
    on_scores: Callable[[Mapping[str, Tensor], Tensor], None] | None = None,
) -> SplitMeasurement:
    """Measure a split in the arithmetic of the training, on the device that it is on, in batches of `batch_size`;
    default: those of its training. Nothing of the network itself is changed.

    views: of `VIEWS`: what comes of their averaged scores stands apart in the record, as "views".
    on_scores: is given the scores [B, K] of each predictor and the labels, int64 [B], of all samples in their order.
    """
    settings = classifier.settings
    size = batch_size or settings.training.batch_size
    loader = Loader(
        images,
        split,
        np.arange(len(split)),
        batch_size=size,
        seed=settings.training.seed,
        train=False,
        workers=settings.dataset.loader_workers,
    )
    stage = stage_of(classifier)
    weights = classifier.block_weights
    tally = ScoreTally(metrics_of(classifier))
    confusions: dict[str, Confusion] = {}
    viewed = ViewAccuracy(views, images.shape, stage_of(classifier)) if views else None
    for number, (part, x, y) in enumerate(in_parts(loader, settings.training)):
        if not len(y):  # of lanes, some may be empty
            continue
        with drawing(classifier):
            prepared = classifier.objective.prepare_eval(x, images.num_classes)
        batch = stage.evaluate(EvalBatch("test", prepared, y, number, part.lane, part.last))
        answers = tally.add(batch, weights)
        if on_scores:
            on_scores(answers, y)
        for name, scores in answers.items():
            confusions.setdefault(name, Confusion(images.num_classes)).add(scores, y)
        if viewed:
            viewed.add(
                (
                    replace(batch, x=seen, scores=None, scored=[], features=None)
                    for seen in each_view(classifier, viewed, x)
                ),
                weights,
            )
    blocks = stage.end_split(EndOfSplit("test", 0)).blocks
    metrics = [block | {"lr": classifier.rates.get(block["block"], 0.0)} for block in blocks]
    return SplitMeasurement(tally.result(metrics) | ({"views": viewed.result()} if viewed else {}), confusions)


def metrics_of(classifier: Classifier) -> OwnMetrics:
    """Those that the settings of its training name, where they are here."""
    names = classifier.settings.watch.metric
    try:
        return OwnMetrics(named_metrics(names, classifier.num_classes), classifier.settings.training.seed)
    except ConfigError as error:
        note(f"measured without metrics of your own: {error.what} ({error.where})")
        return OwnMetrics()


def each_view(classifier: Classifier, viewed: ViewAccuracy, x: Tensor) -> Iterator[Tensor]:
    """The network's input of the samples in each view."""
    for view in viewed.views:
        with drawing(classifier):
            yield classifier.objective.prepare_eval(view.of(x), classifier.num_classes)


def drawing(classifier: Classifier) -> AbstractContextManager[None]:
    """A context for a user's own rule at the source, which may draw random numbers: the same for each batch."""
    if not own_code(classifier.objective, ()):
        return nullcontext()
    return seeded(derive_seed(classifier.settings.training.seed, "evaluation"))


def in_parts(loader: Loader, training: TrainingSettings) -> Iterator[tuple[MicrobatchRange, Tensor, Tensor]]:
    """Batches in the parts in which they went down the pipeline: sums differ by their order."""
    for x, y in loader.epoch(0):
        for part in parts(len(y), training.lanes or 1, training.microbatches):
            yield part, x[part.rows], y[part.rows]


def stage_of(classifier: Classifier) -> Stage:
    """One stage of all its blocks, in copies: a learning block brings weights into channels-last strides."""
    settings = classifier.settings.changed(ema=None, fusion=classifier.fusion is not None)
    config = BlockConfig(settings, 1, classifier.mean.device)
    blocks = []
    for spec, layout, given in zip(classifier.specs, classifier.layouts, classifier.parts, strict=True):
        own = deepcopy(given)
        rule = Fusion() if spec.index == len(classifier.blocks) else classifier.objective
        blocks.append(LearningBlock(spec, own["module"], rule, config, layout, own["head"]))
    return Stage(0, blocks, lambda blocks, marker: {})
