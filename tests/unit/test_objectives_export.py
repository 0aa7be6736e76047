"""A trained network predicts as a program of its own: `prepare_eval`, the blocks and `local` can be traced."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ffdist.models import Chain, load_model
from ffdist.objectives import OBJECTIVES, BlockSpec, Objective, load_objective


class Predictor(nn.Module):
    def __init__(self, rule: Objective, chain: Chain) -> None:
        super().__init__()
        shapes = chain.shapes()
        inputs = [chain.input_shape, *shapes]
        self.rule = rule
        self.chain = chain
        self.blocks = nn.ModuleList(chain.build(i, seed=0) for i in range(len(chain)))
        self.heads = nn.ModuleList(
            rule.head(BlockSpec(i, name, len(chain), 10, inputs[i], shapes[i], chain.input_shape))
            for i, name in enumerate(chain.names)
        )
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor | None = self.rule.prepare_eval(x, 10)
        scores = []
        for block, head in zip(self.blocks, self.heads, strict=True):
            local = self.rule.local(head, block(h), None)
            scores += [] if local.scores is None else [local.scores]
            h = local.next_input
        return torch.stack(scores).mean(0)


@pytest.mark.parametrize(
    ("name", "model", "options"),
    [(name, "mlp", {"widths": "20,20"}) for name in OBJECTIVES if name != "infopro"]
    + [
        ("infopro", "cnn", {"widths": "20,20"}),
        ("sff", "vit", {"dim": "12", "depth": "2"}),
        ("deeperforward", "cnn", {"widths": "20,20"}),
    ],
)
@pytest.mark.filterwarnings(  # torch's own, while it traces
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore:Attempted to insert a get_attr Node:UserWarning",  # torch 2.6's, as the next
    "ignore:Node lifted_tensor_:UserWarning",
    "ignore:Additional .* warnings suppressed about get_attr:UserWarning",
)
def test_every_rules_prediction_is_exported_for_any_batch_size(name: str, model: str, options: dict[str, str]) -> None:
    predictor = Predictor(load_objective(name), load_model(model, (1, 8, 8), 10, options))
    batch = torch.export.Dim("batch", min=2, max=64)
    shapes = ({0: batch},)
    program = torch.export.export(predictor, (torch.randn(3, 1, 8, 8),), dynamic_shapes=shapes, strict=False).module()
    for size in (2, 7):
        x = torch.randn(size, 1, 8, 8)
        torch.testing.assert_close(program(x), predictor(x))
