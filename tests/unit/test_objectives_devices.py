"""Rules on a GPU that is only made up: torch knows of its tensors where they are and no values, and refuses to mix."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ffdist.objectives import OBJECTIVES, BlockSpec, Objective
from ffdist.objectives.threshold import LabelledInput

pytestmark = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 9),
    reason="needs torch 2.9: before, a made-up GPU's tensors ask for a driver",
)
MAPS, TOKENS, VECTORS = (20, 4, 4), (6, 20), (20,)
BATCH, CLASSES = 4, 10


def variants(rule: Objective) -> list[Objective]:
    """The rule, and in its other ways of predicting."""
    others = [replace(rule, predict=way) for way in ("linear", "both")] if isinstance(rule, LabelledInput) else []
    return [rule, *others]


def rows(rule: Objective, *, training: bool) -> int:
    """Of a batch as the source prepares it."""
    x, labels = torch.zeros(BATCH, 3, 16, 16), torch.arange(BATCH)
    if training:
        return len(rule.prepare(x, labels, CLASSES, torch.Generator().manual_seed(0)))
    return len(rule.prepare_eval(x, CLASSES))


REFUSED = {("hinton", MAPS), ("infopro", TOKENS), ("infopro", VECTORS)}


@pytest.mark.parametrize(
    ("name", "shape"), [(n, s) for n in OBJECTIVES for s in (MAPS, TOKENS, VECTORS) if (n, s) not in REFUSED]
)
def test_what_a_rule_computes_is_where_its_block_is(name: str, shape: tuple[int, ...]) -> None:
    spec = BlockSpec(1, "block", 3, CLASSES, shape, shape, (3, 16, 16))
    for rule in variants(OBJECTIVES[name]()):
        for training in (True, False):
            count = rows(rule, training=training)
            with FakeTensorMode():
                with torch.device("cuda"):
                    head = rule.head(spec).train(training)
                    out = torch.randn(count, *shape, requires_grad=True)
                    labels = torch.zeros(BATCH, dtype=torch.int64)
                local = rule.local(head, out, labels)
                found = [*local, rule.features(head, out, BATCH), rule.forward_frozen(head.eval(), out)]
            tensors = [tensor for tensor in found if isinstance(tensor, Tensor)]
            assert {tensor.device.type for tensor in tensors} == {"cuda"}
            assert local.loss is not None
            assert local.next_input is not None
