"""The number of layers that a gradient crosses: what tells the learning of single layers from that of modules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ffdist.models import Chain, seeded
from ffdist.objectives import Objective
from ffdist.pipeline.block import BlockConfig
from ffdist.pipeline.plan import block_specs, build_block
from ffdist.settings import Settings

LAYERS = ("Convolution", "SlowConv", "Mkldnn", "Cudnn", "Addmm", "Mm", "Bmm", "Baddbmm", "Mv", "Linear", "Embedding")
"""What begin the names of the backward functions of layers with weights."""


def layers_crossed(chain: Chain, rule: Objective) -> dict[str, int]:
    """The layers with learned weights, for each block, on the longest way of a gradient, from the loss through the head
    and the block to its first; by the block's name. 0: nothing is learned there. Computes two samples on the CPU."""
    numbers = torch.Generator().manual_seed(0)
    config = BlockConfig(Settings(), total_steps=1)
    x = torch.randn(2, *chain.input_shape, generator=numbers)
    y = torch.arange(2) % chain.num_classes
    found = {}
    companion = rule.companion(x)
    with seeded(0):
        x = rule.prepare(x, y, chain.num_classes, numbers)
        for spec in block_specs(chain):
            local = build_block(chain, spec, rule, config).forward(x, y, 0, companion=companion)
            found[spec.name] = 0 if local.loss is None else longest_path(local.loss)
            x = x if local.next_input is None else local.next_input
    return found


def longest_path(loss: Tensor) -> int:
    """Layers with weights on the longest way through the graph of a loss."""
    layers: dict[Any, int] = {None: 0}
    weights: dict[Any, bool] = {None: False}
    for node in leaves_first(loss.grad_fn):
        inputs = [each for each, _ in node.next_functions]
        layers[node] = max((layers[each] for each in inputs), default=0)
        # a layer counts where a weight matrix itself comes in (cast or transposed at most), and not activations that
        # other layers have made of one; vectors are biases and norms' scales
        leaf = getattr(node, "variable", None)
        weights[node] = any(weights[each] for each in inputs) if leaf is None else leaf.dim() > 1
        if node.name().startswith(LAYERS) and any(weights[each] and not layers[each] for each in inputs):
            layers[node] += 1
    return layers[loss.grad_fn]


def leaves_first(root: Any) -> Iterator[Any]:
    """Each node of a graph once, after all that it was made of."""
    done, stack = set(), [(root, False)] if root is not None else []
    while stack:
        node, ready = stack.pop()
        if ready:
            yield node
        elif node not in done:
            done.add(node)
            stack.append((node, True))
            stack += [(each, False) for each, _ in node.next_functions if each is not None and each not in done]
