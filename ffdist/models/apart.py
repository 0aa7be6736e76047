"""Check what each block must have for itself, since each may live in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ffdist.errors import NetworkError, setting
from ffdist.models.sound import check_sound


def check_apart(blocks: Sequence[tuple[str, nn.Module]]) -> None:
    """Raises NetworkError where two blocks share a parameter that learns, or two such parameters of a block lie over
    the same memory, which no copy of the block keeps, and where `check_sound` does. One parameter under several names
    of a block is well.

    blocks: name and module of each.
    """
    owners: dict[tuple[int, int], tuple[str, str, nn.Parameter]] = {}
    for block, module in blocks:
        check_sound(block, module)
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            memory = parameter.untyped_storage()._cdata, int(parameter.storage_offset())
            owner, known, first = owners.setdefault(memory, (block, name, parameter))
            if owner != block:
                raise NetworkError(
                    f"blocks '{owner}' and '{block}' share a parameter",
                    where=f"'{known}' of the one, '{name}' of the other",
                    expected="blocks with parameters of their own, as each may learn in a process of its own",
                    remedy=f"join what shares it in one block ({setting('network.blocks')}), or give each block "
                    "its own",
                )
            if first is not parameter:
                raise NetworkError(
                    f"two parameters of block '{block}' lie over the same memory",
                    where=f"'{known}' and '{name}'",
                    expected="one nn.Parameter under both names, or memory of its own for each",
                    remedy="tie layers by assigning the parameter itself: b.weight = a.weight",
                )
