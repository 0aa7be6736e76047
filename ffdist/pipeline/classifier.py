"""A trained network in one piece, for everything but training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from torch import Tensor, nn

from ffdist.data.alike import BEYOND, as_trained_samples, refuse_bytes
from ffdist.data.decode import Decoding
from ffdist.data.fitting import no_test_error, to_measure
from ffdist.data.given import Data
from ffdist.data.images import ValueSpread
from ffdist.errors import ConfigError, setting
from ffdist.models import Chain, OutputLayout, seeded
from ffdist.objectives import Local, Objective
from ffdist.pipeline.contract import own_code
from ffdist.pipeline.fusion import FUSION, fusion_layer, fusion_spec
from ffdist.pipeline.measure import measure
from ffdist.pipeline.plan import block_specs
from ffdist.pipeline.predictors import PREDICTORS, predictions
from ffdist.pipeline.scalars import history
from ffdist.settings import Settings


class Preprocessing(NamedTuple):
    """The classes and the normalisation of a network's data: `ffdist.data.fitting.DataDescription`."""

    classes: list[str]
    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixels: bool
    preprocess: tuple[str, ...] = ()


class Classifier(nn.Module):
    """All blocks and heads of a network with the normalisation of its pictures: a plain module, in evaluation mode.

    mean, std: per channel of pixels in [0, 1], as the training data's. fusion: whether it has a fusion head.
    """

    mean: Tensor
    std: Tensor
    weights: Tensor
    """The weights of the blocks in the predictor "weighted", float32 [L]."""

    def __init__(
        self,
        chain: Chain,
        objective: Objective,
        *,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        fusion: bool = False,
    ) -> None:
        super().__init__()
        self.objective = objective
        self.num_classes = chain.num_classes
        self.input_shape = chain.input_shape
        self.classes: list[str] = [str(k) for k in range(chain.num_classes)]
        """Their names, where they are known."""
        self.decoding: Decoding | None = None
        """How the pictures were read that it was trained on, where that is known."""
        self.pixels = True
        """Whether it was trained on pictures of whole numbers, and not on a user's floats."""
        self.spread: ValueSpread | None = None
        """The spread of the floats that it was trained on, where that is known."""
        self.predictor = "mean"
        """What `forward` gives: a key of `PREDICTORS`, or a block's name."""
        self.settings = Settings()
        """Those of its training, where they are known: `evaluate` computes as they say."""
        self.records: list[dict[str, Any]] = []
        """The records of the epochs of its training, where they are known: see `history`."""
        self.rates: dict[str, float] = {}
        """Each block's learning rate where its training ended, by name, where it is known."""
        self.block_weights: dict[str, float] | None = None
        """What each block weighs in the predictor "weighted"; None without a validation split."""
        self.moments = tuple(map(float, mean)), tuple(map(float, std))
        places = block_specs(chain)
        self.layouts = [*chain.layouts(), *([OutputLayout.AS_IS] if fusion else [])]
        self.blocks = nn.ModuleList(chain.build(spec.index, seed=0) for spec in places)
        with seeded(0):
            self.heads = nn.ModuleList(objective.head(spec) for spec in places)
        fused = [fusion_spec(places, objective)] if fusion else []
        self.fusion = fusion_layer(fused[0], seed=0) if fused else None
        self.specs = [replace(spec, following=()) for spec in (*places, *fused)]  # whose heads are made
        self.names = [*chain.names, FUSION] if fusion else list(chain.names)
        """The names of the blocks, and of the fusion head."""
        per_channel = (1, -1) + (1,) * (len(chain.input_shape) - 1) if len(mean) > 1 else (1,)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(per_channel))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(per_channel))
        self.register_buffer("weights", torch.full((len(chain),), 1 / len(chain)))
        self.eval()

    @property
    def parts(self) -> list[nn.ModuleDict]:
        """Module and head of each block, as its snapshot file has them; the fusion head's last."""
        pairs = [*zip(self.blocks, self.heads, strict=True), *([(self.fusion, nn.Identity())] if self.fusion else [])]
        return [nn.ModuleDict({"module": module, "head": head}) for module, head in pairs]

    def history(self) -> pa.Table:
        """The history of its training, a row an epoch: "epoch" (from 1), "step", "time", and a column for each number,
        e.g. "validation/accuracy/mean", "train/loss/<block>" or "stage/0/busy"; `.to_pandas()` makes a frame of it. Of
        a network from a file it has no rows."""
        return history(self.records)

    def predict(self, samples: Any) -> Tensor:
        """Classes, int64 [B], of samples as in training: see `Pipeline.predict`. Raises DataError for others."""
        x = self.as_trained(samples)
        with torch.no_grad():
            return self(x.to(self.mean.device)).argmax(1)

    def as_trained(self, samples: Any) -> Tensor:
        """float32 [B, *input_shape] of samples such as `predict` takes, on the CPU."""
        limits = self.decoding.value_range if self.decoding else None
        return as_trained_samples(samples, self.input_shape, self.pixels, self.spread, limits)

    def evaluate(
        self, data: Data, *, batch_size: int | None = None, confusion: bool = False, views: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Loss and accuracies, as fractions, by predictor and by block, as `ffdist eval RUN --json` gives them.

        They are computed as in training (`settings`: batches, precision), so of the run's own test split they are its
        numbers, bit for bit. Nothing of the network is changed.

        data: a data set, of which the test split is measured; or samples with their labels, which all are: pictures as
            in training, or, of a network that has learned from pictures, floats in 0..1.
        batch_size: default: that of the training, or 128 where it is not known.
        confusion: with how often a sample of one class was taken for another by `predictor`: counts [K][K], true
            classes down.
        views: "flip" (mirrored, too), "shift" (by a pixel, both ways along the diagonal): what comes of their averaged
            scores stands apart, as "views"; all else stays as it is.
        Raises DataError for data that do not fit, or have no test split; ConfigError for a batch size below 1, and for
        the confusion of a block.
        """
        if batch_size is not None:
            batch_size = self.settings.changed(batch_size=batch_size, microbatches=1, lanes=None).training.batch_size
        dataset = self.settings.dataset
        learned = Preprocessing(
            list(self.classes), tuple(self.input_shape), *self.moments, self.pixels, dataset.preprocess
        )
        images = to_measure(data, learned, dataset.image_size)
        if images.test is None:
            raise no_test_error(images)
        seen = (views,) if isinstance(views, str) else tuple(views)
        record, confusions = measure(self, images, images.test, batch_size=batch_size, views=seen)
        if not confusion:
            return record
        if self.predictor not in confusions:
            raise ConfigError(
                f"there is no confusion of '{self.predictor}'",
                expected=", ".join(confusions),
                remedy="classifier.choose('mean')",
            )
        counts = confusions[self.predictor].counts.tolist()
        return record | {"confusion": {"predictor": self.predictor, "classes": list(self.classes), "counts": counts}}

    def features(self, samples: Any, *, pooled: bool = True) -> dict[str, Tensor]:
        """The blocks' features of samples such as `predict` takes, by block: float32, without a graph.

        pooled: True: [B, F], what a linear classifier may read of each block: the mean over space or tokens of its
            output, or what its rule offers in place of that; a block of which the rule offers nothing is left out.
            False: the outputs as the rule sees them: maps [N, C, H, W], tokens [N, T, C] or vectors [N, C]. N is B;
            P * B under a rule that shows a sample P times, each label written into it: row p * B + b is sample b with
            label p.
        Raises DataError for other samples.
        """
        x = self.as_trained(samples).to(self.mean.device)
        found: dict[str, Tensor] = {}
        with torch.no_grad(), self._drawing(x):
            for name, head, out, _ in self._passed((x - self.mean) / self.std):
                made = self.objective.features(head, out, x.shape[0]) if pooled else out
                if made is not None:
                    found[name] = made.detach().float()
        return found

    def weigh(self, weights: Mapping[str, float]) -> None:
        """Set the blocks' weights, by name; a block that is not among them weighs nothing."""
        self.block_weights = dict(weights)
        own = [weights.get(name, 0.0) for name in self.names if name != FUSION]
        self.weights.copy_(torch.tensor(own))

    def choose(self, predictor: str) -> Classifier:
        """This network with another predictor; raises ConfigError where it has none of that name."""
        with torch.no_grad():
            given = self.scores(torch.zeros(1, *self.input_shape))
        known = [name for name in PREDICTORS if name != FUSION] + list(given)
        if predictor not in known:
            remedy = f"train with {setting('rule.fusion')}" if predictor == FUSION else None
            raise ConfigError(f"there is no predictor '{predictor}'", expected=", ".join(known), remedy=remedy)
        self.predictor = predictor
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels in [0, 1], float32 [B, *input_shape] -> the predictor's scores [B, K]; argmax is the class.

        Raises DataError for whole numbers, and for pixels that are surely in 0..255: `predict` takes such.
        """
        if not torch.compiler.is_compiling():  # which can follow no branch on values
            refuse_bytes(pixels, self.pixels)
        return self.chosen(self.scores((pixels - self.mean) / self.std))

    def chosen(self, scores: dict[str, Tensor]) -> Tensor:
        """The predictor's scores from the blocks' scores, [B, K]."""
        if self.predictor not in PREDICTORS:
            return scores[self.predictor]
        weights = dict(zip(self.names, self.weights, strict=False))
        return predictions(scores, weights)[self.predictor]

    def scores(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised inputs [B, *input_shape], as a Loader gives them -> scores [B, K] of each block that gives any and
        of the fusion head, by name. A user's code that draws random numbers draws the same for each call."""
        with self._drawing(x):
            return self._scores(x)

    def _drawing(self, x: Tensor) -> AbstractContextManager[None]:
        draws = own_code(self.objective, self.modules()) and not exporting()
        return seeded(0, x.device) if draws else nullcontext()

    def _scores(self, x: Tensor) -> dict[str, Tensor]:
        scores, features = {}, []
        for name, head, out, local in self._passed(x):
            if local.scores is not None:
                scores[name] = local.scores
            if self.fusion is not None:
                features.append(self.objective.features(head, out, x.shape[0]))
        if self.fusion is not None:
            scores[FUSION] = self.fusion(torch.cat([f for f in features if f is not None], 1)).float()
        return scores

    def _passed(self, x: Tensor) -> Iterator[tuple[str, nn.Module, Tensor, Local]]:
        """Each block's name and head, its output as the rule sees it, and what the rule makes of it."""
        next_input: Tensor | None = self.objective.prepare_eval(x, self.num_classes)
        for name, block, head, layout in zip(self.names, self.blocks, self.heads, self.layouts, strict=False):
            assert next_input is not None
            out = layout.to_images(block(next_input))
            local = self.objective.local(head, out, None)
            next_input = None if local.next_input is None else layout.to_next_input(local.next_input)
            yield name, head, out, local


class CheckedClassifier(nn.Module):
    """A classifier that refuses what it was not trained on, also when it has become a torch.export program: other types
    than float32, and, where it takes pixels in [0, 1], numbers beyond them."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, pixels: Tensor) -> Tensor:
        torch.ops.aten._assert_tensor_metadata.default(pixels, dtype=torch.float32)
        if self.classifier.pixels:
            low, high = torch.aminmax(pixels)
            inside = (low >= -BEYOND) & (high <= 1 + BEYOND)  # of which NaN is not
            torch.ops.aten._assert_async.msg(inside, "pixels are beyond 0..1: x / 255 of 0..255, and not normalised")
        return self.classifier(pixels)


def exporting() -> bool:
    """True if this is torch.export at work; torch 2.6 says no more than that its compiler is, of which that is one."""
    return getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()
