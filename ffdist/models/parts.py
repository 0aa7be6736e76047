"""The common parts of the builders of networks: a check of the input, and blocks that keep the names of a larger
model."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ffdist.errors import ConfigError, NetworkError, setting


def check_picture(model: str, input_shape: Sequence[int], smallest: int) -> tuple[int, int, int]:
    """(C, H, W) of the pictures a network takes; NetworkError where they are not pictures or are too small for it."""
    if len(input_shape) != 3:
        raise NetworkError(
            f"{model} takes pictures",
            where=f"model {model}",
            expected="an input shape of (C, H, W)",
            got=tuple(input_shape),
            remedy="use the mlp for vectors",
        )
    channels, height, width = input_shape
    if min(height, width) < smallest:
        raise NetworkError(
            f"the pictures are too small for {model}",
            where=f"model {model}",
            expected=f"sides of at least {smallest} pixels",
            got=f"{height} x {width}",
            remedy=f"enlarge them: {setting('dataset.image_size', max(smallest, 32))}",
        )
    return channels, height, width


def check_widths(model: str, widths: Sequence[int]) -> None:
    """ConfigError unless there are widths and all are positive."""
    if not widths or min(widths) < 1:
        raise ConfigError(
            "a block has at least one channel",
            where=f"model {model}, widths",
            expected="positive numbers",
            got=tuple(widths),
        )


def named_path(*parts: tuple[str, nn.Module]) -> nn.Sequential:
    """The parts one after the other, each under its dotted name: ("layer1.0", m) is `block.layer1[0]`.

    So a block cut out of a larger model has the very names in its state that it has there.
    """
    root = nn.Sequential()
    for path, module in parts:
        *folders, leaf = path.split(".")
        at = root
        for folder in folders:
            if folder not in at._modules:
                at.add_module(folder, nn.Sequential())
            inner = at._modules[folder]
            assert isinstance(inner, nn.Sequential)
            at = inner
        at.add_module(leaf, module)
    return root


class SpatialMean(nn.Module):
    """[B, C, H, W] -> [B, C], over the channels-last view: its gradient has that layout, nothing after copies it."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1, 2).mean(1)


class FlatMap(nn.Module):
    """[B, C, H, W] -> [B, H * W * C], as a channels-last map lies in memory, for the same reason."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)
