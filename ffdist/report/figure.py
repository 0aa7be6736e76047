"""Figures: what matplotlib draws of a run."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ffdist.errors import ConfigError
from ffdist.report.cam import BlockMaps

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float, where: str) -> Figure:
    """An empty figure, in inches, without a display. Raises ConfigError where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ConfigError(
            "a figure needs matplotlib, which is missing", where=where, remedy="pip install 'ffdist[bench]'"
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def draw_curves(records: Sequence[dict[str, Any]]) -> bytes:
    """A PNG of each block's training loss, and validation accuracy where there is some, over the epochs."""
    figure = new_figure(8, 3.4, "--figures")
    losses, accuracies = figure.subplots(1, 2)
    for axes, split, key in ((losses, "train", "loss"), (accuracies, "validation", "accuracy")):
        for name, values in curves(records, split, key).items():
            axes.plot(range(1, len(values) + 1), [np.nan if v is None else v for v in values], label=name)
        axes.set(xlabel="epoch", title=f"{split} {key}")
        axes.grid(alpha=0.3)
    losses.legend(fontsize=7)
    return png_of(figure)


def png_of(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    made = io.BytesIO()
    figure.savefig(made, format="png", dpi=150)
    return made.getvalue()


def curves(records: Sequence[dict[str, Any]], split: str, key: str) -> dict[str, list[float | None]]:
    """Each block's value in each epoch, None where it has none."""
    found: dict[str, list[float | None]] = {}
    for record in records:
        for block in record.get(split, {}).get("blocks", []):
            found.setdefault(block["block"], []).append(block[key])
    return found


def draw_maps(pictures: Tensor, labels: Tensor, blocks: Sequence[BlockMaps], classes: Sequence[str]) -> bytes:
    """A PNG with a row a picture: the picture, then each block's map over it, under the class that it is for the block.

    pictures: float32 [B, C, H, W] of any range; each is stretched to its own.
    """
    rows, columns = len(pictures), len(blocks) + 1
    figure = new_figure(1.3 * columns, 1.45 * rows, "--cam")
    grid = figure.subplots(rows, columns, squeeze=False)
    for row, (picture, label) in enumerate(zip(pictures, labels.tolist(), strict=True)):
        shown = as_shown(picture)
        for column, axes in enumerate(grid[row]):
            axes.set_axis_off()
            axes.imshow(shown, cmap="gray")
            if column == 0:
                axes.set_title(classes[label], fontsize=8, fontweight="bold")
                continue
            block = blocks[column - 1]
            guess = int(block.guesses[row])
            axes.imshow(block.maps[row].numpy(), cmap="inferno", alpha=0.6, vmin=0)
            head = f"{block.block}\n" if row == 0 else ""
            axes.set_title(head + classes[guess], fontsize=8, color="black" if guess == label else "firebrick")
    return png_of(figure)


def as_shown(picture: Tensor) -> np.ndarray:
    """[C, H, W] -> [H, W, 3] of colours where C is 3, else [H, W] of grey; in [0, 1]."""
    values = picture.permute(1, 2, 0).numpy() if len(picture) == 3 else picture.mean(0).numpy()
    low, high = values.min(), values.max()
    return (values - low) / max(high - low, 1e-12)
