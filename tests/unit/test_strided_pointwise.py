"""A narrow residual block's shortcut, a 1x1 convolution with a stride: oneDNN's own backward pass corrupts the heap."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ffdist.models import Chain
from ffdist.models.strided_pointwise import is_affected


@pytest.mark.parametrize("channels", [1, 7, 15])
@pytest.mark.parametrize("stride", [2, (1, 2)])
def test_a_narrow_strided_shortcut_has_the_gradients_of_plain_strides(
    channels: int, stride: int | tuple[int, int]
) -> None:
    layer = nn.Conv2d(channels, 5, 1, stride)
    chain = Chain.from_sequential(nn.Sequential(layer), input_shape=(channels, 16, 16), num_classes=2)
    block = pickle.loads(pickle.dumps(copy.deepcopy(chain.build(0, seed=0)))).to(memory_format=torch.channels_last)
    x = torch.randn(4, channels, 16, 16)
    last = x.clone(memory_format=torch.channels_last).requires_grad_()
    block(last).square().sum().backward()
    weight, bias = (each.detach().double().requires_grad_() for each in block.parameters())
    wanted = x.double().requires_grad_()
    F.conv2d(wanted, weight, bias, stride).square().sum().backward()
    for got, right in zip((last, *block.parameters()), (wanted, weight, bias), strict=True):
        assert got.grad is not None
        torch.testing.assert_close(got.grad, right.grad, check_dtype=False, rtol=1e-5, atol=1e-5)


def test_no_other_convolution_is_touched() -> None:
    others = [
        nn.Conv2d(16, 5, 1, 2),
        nn.Conv2d(4, 5, 1),
        nn.Conv2d(4, 5, 3, 2),
        nn.Conv2d(4, 4, 1, 2, groups=2),
        nn.Conv2d(4, 5, 1, 2, padding=1),
    ]
    assert not any(is_affected(layer) for layer in others)
    assert is_affected(nn.Conv2d(4, 5, 1, 2))
