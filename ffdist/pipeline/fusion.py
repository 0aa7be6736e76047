"""The fusion head: one linear classifier on what all blocks offer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffdist.errors import NetworkError, setting
from ffdist.models import derive_seed, seeded
from ffdist.objectives import BlockSpec, Local, Objective
from ffdist.pipeline.contract import at, check_features, rule_code

FUSION = "fusion"
"""The head's name among the blocks."""


@dataclass(frozen=True)
class Fusion(Objective):
    """Softmax over a linear layer that reads all blocks' detached features [B, F], concatenated.

    It learns like a block after the last one, by its own cross-entropy; no gradient leaves it. With the features that
    `hinton` and the rules like it offer, it is Hinton's linear classifier on the normalised activities of layers 2 .. L
    for a picture with a neutral label (arXiv 2212.13345, section 3.3); with those of `asge`, the sum of linear layers
    on the pooled features of layers 2 .. L that its paper calls fusion, learned as one. For other rules of one pass the
    features are the mean of a block's output over space.

    Our own choice: each sample's features are brought to mean 0 and variance 1 first (a layer norm without parameters),
    since blocks of small activities would otherwise take long to be heard.
    """

    def head(self, spec: BlockSpec) -> nn.Module:
        return nn.Identity()

    def local(self, head: nn.Module, out: Tensor, labels: Tensor | None) -> Local:
        scores = out.float()
        return Local(None if labels is None else F.cross_entropy(scores, labels), scores, None)

    def features(self, head: nn.Module, out: Tensor, samples: int) -> None:
        return None


def fusion_spec(specs: Sequence[BlockSpec], objective: Objective) -> BlockSpec:
    """The head's place after the blocks of `specs`. Raises NetworkError where the blocks have no features for it."""
    first = specs[0]
    samples = 2
    rows = len(objective.prepare_eval(torch.zeros(samples, *first.input_shape), first.num_classes))  # its passes' rows
    width = 0
    with torch.device("meta"):
        for spec in specs:
            where = at(objective, spec)
            with rule_code(objective, where):
                found = objective.features(objective.head(spec).eval(), torch.empty(rows, *spec.output_shape), samples)
            found = check_features(found, where, samples)
            width += 0 if found is None else found.shape[1]
    if not width:
        raise NetworkError(
            "the rule offers no features for a fusion head",
            where=f"{setting('rule.fusion')}, objective {type(objective).__name__}",
            expected="features of one block at least",
            got="None of all blocks",
            remedy="for rules that write labels into pictures: "
            f"{setting('rule.objective_args', 'predict=both')}, or {setting('rule.objective_args', 'predict=linear')}",
        )
    return BlockSpec(len(specs), FUSION, len(specs) + 1, first.num_classes, (width,), (first.num_classes,))


def fusion_layer(spec: BlockSpec, seed: int) -> nn.Module:
    """[B, F] -> [B, K]; its weights come from (seed, place), as any block's."""
    width = spec.input_shape[0]
    with seeded(derive_seed(seed, "weights", spec.index)):
        return nn.Sequential(nn.LayerNorm(width, elementwise_affine=False), nn.Linear(width, spec.num_classes))


def next_tensors(local: Local, features: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """The next block's input, and the features so far with this block's. After the last block of the chain nothing
    else goes on, and the features themselves are what the fusion head gets."""
    if local.features is not None:
        before = [] if features is None else [features.to(local.features.device)]
        features = torch.cat([*before, local.features], 1)
    return (features, None) if local.next_input is None else (local.next_input, features)
