"""One split of samples with their labels, as it was read."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ffdist.data.decode import DEFAULT_DECODING, Decoding
from ffdist.data.images import Split
from ffdist.data.labels import Labels


class LabelledSplit(NamedTuple):
    """One split as it was read, before its labels are numbered."""

    samples: np.ndarray | Split
    """uint8 [N, H, W, C], float32 [N, *shape], or a split that gives such."""
    labels: Labels
    decoding: Decoding = DEFAULT_DECODING
    """How its pictures were read."""
    from_files: bool = False
    """Whether all samples came as files or their bytes, so that they were not changed before."""
    numbers: bool = False
    """Whether its samples are a table's columns of plain numbers, each in a unit of its own."""
    columns: tuple[str, ...] = ()
    """Their names, where it is so; other splits are brought into the order of the first."""
    groups: np.ndarray | None = None
    """int [N]: samples of one group stay together where a share is held out."""
