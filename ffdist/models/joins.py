"""The layers of a row that make a block: one with weights, and what belongs to it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _NormBase as BatchOrInstanceNorm

NORMS = (BatchOrInstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
Children = Sequence[tuple[str, nn.Module]]


def joins(part: nn.Module) -> bool:
    """True if it belongs to the layer before it: norms, activations, and what has no parameters (pools, dropout)."""
    return isinstance(part, (*NORMS, nn.PReLU)) or not any(True for _ in part.parameters())


def joined(parts: Children) -> list[int]:
    """The number of layers in a row that make each block. What stands before the first layer with weights belongs to
    it."""
    counts: list[int] = []
    weighty = False
    for _, part in parts:
        alone = not joins(part)
        if counts and (not alone or not weighty):
            counts[-1] += 1
        else:
            counts.append(1)
        weighty = weighty or alone
    return counts


def describe_joins(parts: Children, counts: Sequence[int]) -> str:
    """Describe how layers were joined to blocks; empty where each is a block."""
    if len(counts) == len(parts):
        return ""
    kinds = [type(part).__name__ for _, part in parts]
    rows, start = [], 0
    for count in counts:
        rows.append("+".join(kinds[start : start + count]))
        start += count
    shown = rows if len(rows) <= 8 else [*rows[:4], "...", *rows[-3:]]
    return f"{len(parts)} layers make {len(counts)} {'block' if len(counts) == 1 else 'blocks'}: {', '.join(shown)}"
