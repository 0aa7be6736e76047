"""Class activation maps: which region of a picture speaks for its class, by each block's own account."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor

from ffdist.errors import NetworkError, setting
from ffdist.pipeline.classifier import Classifier
from ffdist.plain import table


class BlockMaps(NamedTuple):
    """One block's activation maps of B pictures."""

    block: str
    size: tuple[int, int]
    """(H, W) of the block's own map."""
    maps: Tensor
    """Evidence for the labels, float32 [B, height, width] of the pictures; at least 0."""
    guesses: Tensor
    """The block's own classes, int64 [B]."""

    @property
    def focus(self) -> float:
        """Share of the picture that holds half of the evidence, mean over the pictures: the less, the narrower."""
        falling = self.maps.flatten(1).sort(1, descending=True).values.double()
        shares = falling.cumsum(1) / falling.sum(1, keepdim=True).clamp(min=1e-30)
        return float((shares < 0.5).double().mean() + 1 / shares.shape[1])


@torch.no_grad()
def activation_maps(classifier: Classifier, x: Tensor, labels: Tensor) -> list[BlockMaps]:
    """The maps of each block that gives scores and whose output is a map.

    x: normalised pictures [B, C, H, W], as a Loader gives them; labels: int64 [B]. Raises NetworkError where no block
    has maps.
    """
    found, lacking = [], []
    next_input: Tensor | None = classifier.objective.prepare_eval(x, classifier.num_classes)
    size = x.shape[-2:] if x.dim() == 4 else (1, x.shape[-1])  # a signal [B, C, L] is one row
    for name, block, head, layout in zip(
        classifier.names, classifier.blocks, classifier.heads, classifier.layouts, strict=False
    ):
        out = layout.to_images(block(next_input))
        local = classifier.objective.local(head, out, None)
        next_input = None if local.next_input is None else layout.to_next_input(local.next_input)
        if out.dim() != 4 or local.scores is None:
            lacking.append(
                f"{name}: output {list(out.shape[1:])}" if local.scores is not None else f"{name}: no scores"
            )
            continue
        read = lambda out, head=head: classifier.objective.local(head, out, None).scores  # noqa: E731
        evidence = evidence_in(read, out, labels)
        maps = F.interpolate(evidence[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
        found.append(BlockMaps(name, (out.shape[2], out.shape[3]), maps, local.scores.argmax(1)))
    if not found:
        raise NetworkError(
            "no block has class activation maps",
            expected="maps [C, H, W] that scores are read from",
            got="; ".join(lacking),
            remedy=f"train a convolutional network: {setting('network.model', 'cnnb')}",
        )
    return found


def evidence_in(read: Callable[[Tensor], Tensor | None], out: Tensor, labels: Tensor) -> Tensor:
    """The evidence at each place of a block's output for the labels: [N, C, H, W], int64 [B] -> float32 [B, H, W].

    read: the block's scores [B, K] of such an output.

    HiResCAM (Draelos and Carin, arXiv 2011.08891, equation 4) within the block: the gradient of the block's own score
    of the label, times the block's own output, summed over channels; what speaks against the label is left out. Of a
    score that is the mean over space of a linear map this is that map, the class activation map of Zhou et al. (arXiv
    1512.04150); of one that is a mean of squares, twice its terms. No later block plays a part, so the maps
    are the same for every cut. Where the rule makes several passes over a picture, their maps are added.
    """
    leaf = out.detach().requires_grad_()
    with torch.enable_grad():
        scores = read(leaf)
        evidence = None if scores is None else scores.gather(1, labels[:, None]).sum()
    gradient = None
    if evidence is not None and evidence.requires_grad:
        # scores that a head reads from a detached output have a gradient by the head's weights alone
        (gradient,) = torch.autograd.grad(evidence, leaf, allow_unused=True)
    if gradient is None:
        raise NetworkError(
            "the rule's scores have no gradient",
            expected="scores that depend on the block's output",
            got="detached ones",
            remedy="detach them where `head.training` alone",
        )
    places = (gradient * out).float().sum(1).unflatten(0, (-1, len(labels)))
    return places.sum(0).relu()


def focus_table(blocks: Sequence[BlockMaps], labels: Tensor) -> Table:
    """A table beside the pictures: each block's map size, right answers, and how narrow its evidence is."""
    rows = table("block", "map", "right", "half of the evidence in", title=f"Activation maps of {len(labels)} pictures")
    for block in blocks:
        right = int((block.guesses == labels).sum())
        height, width = block.size
        rows.add_row(
            block.block, f"{height} x {width}", f"{right} of {len(labels)}", f"{block.focus:.0%} of the picture"
        )
    return rows
