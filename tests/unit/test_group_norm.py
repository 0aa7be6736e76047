"""A block that begins with a group norm learns, whatever the strides of what comes in; on the oldest torch, too."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ffdist.pipeline.block import module_to


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_group_norm_of_detached_input_has_the_gradients_of_its_formula(layout: torch.memory_format) -> None:
    norm = nn.GroupNorm(2, 6)
    module_to(norm, torch.device("cpu"))
    x, weights = torch.randn(4, 6, 5, 5).to(memory_format=layout), torch.randn(4, 6, 5, 5)
    (norm(x) * weights).sum().backward()
    normal = torch.nn.functional.group_norm(x.double().contiguous(), 2).to(torch.float32)
    assert norm.weight.grad is not None
    assert norm.bias.grad is not None
    torch.testing.assert_close(norm.weight.grad, (normal * weights).sum((0, 2, 3)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(norm.bias.grad, weights.sum((0, 2, 3)), rtol=1e-4, atol=1e-4)
    assert x.grad is None
    with torch.no_grad():
        assert not norm(x).requires_grad


def test_a_group_norm_without_weights_makes_no_graph() -> None:
    norm = nn.GroupNorm(2, 6, affine=False)
    module_to(norm, torch.device("cpu"))
    assert not norm(torch.randn(4, 6, 5, 5)).requires_grad
