"""A network that learns CIFAR-10 in minutes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffdist.errors import ConfigError
from ffdist.models.arguments import checked_arguments
from ffdist.models.chain import Chain, Shape
from ffdist.models.parts import check_picture, check_widths


class Whitening(nn.Conv2d):
    """A fixed convolution whose outputs are uncorrelated and of equal spread over the training pictures' patches.

    Its filters are the eigenvectors of the patches' covariance, divided by the roots of their eigenvalues, and the same
    negated; only the bias learns. They are random until `learn_from`.
    """

    def __init__(self, channels: int, kernel: int = 2, eps: float = 5e-4) -> None:
        super().__init__(channels, 2 * channels * kernel**2, kernel)
        self.eps = eps
        self.weight.requires_grad_(False)
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    @torch.no_grad()
    def learn_from(self, x_bchw: Tensor) -> None:
        """Compute the filters from normalised pictures, float32 [B, C, H, W]; the bias is left as it is."""
        channels, kernel = self.in_channels, self.kernel_size[0]
        patches = x_bchw.unfold(2, kernel, 1).unfold(3, kernel, 1).permute(0, 2, 3, 1, 4, 5)
        flat = patches.reshape(-1, channels * kernel**2).double()
        values, vectors = torch.linalg.eigh(flat.T @ flat / len(flat))
        filters = (vectors / (values + self.eps).sqrt()).T.flip(0).reshape(-1, channels, kernel, kernel)
        self.weight.copy_(torch.cat([filters, -filters]))


class ShiftNorm(nn.BatchNorm2d):
    """Batch norm that learns a shift and no scale, with running statistics of the last few batches [airbench]."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-12, momentum=0.4)
        self.weight.requires_grad_(False)


def dirac_conv(channels: int, width: int) -> nn.Conv2d:
    """A 3x3 convolution that begins by passing its inputs on, as far as there are outputs for them."""
    conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(conv.weight[: min(channels, width)])
    return conv


class SpeednetGroup(nn.Module):
    """Convolution, 2x2 pool, norm, GELU; then `depth` - 1 times convolution, norm, GELU; of three, with a bypass."""

    def __init__(self, channels: int, width: int, depth: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(dirac_conv(channels if i == 0 else width, width) for i in range(depth))
        self.norms = nn.ModuleList(ShiftNorm(width) for _ in range(depth))
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = entry = F.gelu(self.norms[0](self.pool(self.convs[0](x))))
        for i in range(1, len(self.convs)):
            x = self.norms[i](self.convs[i](x))
            x = F.gelu(x + entry if i == 2 else x)
        return x


class MaxClassifier(nn.Module):
    """The largest activity of each channel, then linear, divided by 9 [airbench]: [B, C, H, W] -> [B, K]."""

    def __init__(self, shape: Shape, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(shape[0], num_classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(2).amax(2)) / 9


@checked_arguments
def speednet(
    input_shape: Sequence[int], num_classes: int, widths: Sequence[int] = (64, 256, 256), depth: int = 2
) -> Chain:
    """Three (or `len(widths)`) groups of convolutions after a whitened input, after airbench (Jordan, 2024, arXiv
    2404.00498): a block each, the whitening in the first.

    input_shape: (C, H, W), sides of at least 2 ** len(widths) + 1.
    widths: channels of each group; of airbench96 128, 384, 512.
    depth: convolutions a group, 2 or 3; of three, the last adds the first's output, as in airbench96.

    The whitening is made of the first training pictures when a run starts, and kept in its snapshots.
    """
    channels, _, _ = check_picture("speednet", input_shape, 2 ** len(widths) + 1)
    check_widths("speednet", widths)
    if depth not in (2, 3):
        raise ConfigError(
            "a group has 2 or 3 convolutions", where="model speednet, depth", expected="2 or 3", got=depth
        )
    blocks = [("group1", partial(_first, channels, widths[0], depth))]
    for i in range(1, len(widths)):
        blocks.append((f"group{i + 1}", partial(SpeednetGroup, widths[i - 1], widths[i], depth)))
    return Chain(blocks, input_shape=input_shape, num_classes=num_classes, classifier=MaxClassifier)


def _first(channels: int, width: int, depth: int) -> nn.Module:
    whitening = Whitening(channels)
    return nn.Sequential(whitening, nn.GELU(), SpeednetGroup(whitening.out_channels, width, depth))
