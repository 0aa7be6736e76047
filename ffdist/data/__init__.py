"""Data sets in, batches out."""

from __future__ import annotations

from ffdist.data.catalog import open_data
from ffdist.data.images import ArraySplit, Images, Split
from ffdist.data.loader import Loader
from ffdist.data.sampler import split_indices
from ffdist.data.users import from_tensors

__all__ = ["ArraySplit", "Images", "Loader", "Split", "from_tensors", "open_data", "split_indices"]
