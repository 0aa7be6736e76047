"""Data sets of any form, prepared or in memory, and the loader that makes batches of them."""

from __future__ import annotations

from ffdist.data.arrow_table import from_arrow
from ffdist.data.catalog import DatasetEntry, list_data, open_data, verify
from ffdist.data.describe import describe
from ffdist.data.images import ArraySplit, Images, Split
from ffdist.data.kept import list_cache, prune_cache
from ffdist.data.loader import Loader
from ffdist.data.memory import from_tensors
from ffdist.data.prepare import prepare
from ffdist.data.ray_dataset import from_ray
from ffdist.data.sampler import split_indices
from ffdist.data.torch_dataset import from_dataset
from ffdist.renamed import renamed_names

__all__ = [
    "ArraySplit",
    "DatasetEntry",
    "Images",
    "Loader",
    "Split",
    "describe",
    "from_arrow",
    "from_dataset",
    "from_ray",
    "from_tensors",
    "list_cache",
    "list_data",
    "open_data",
    "prepare",
    "prune_cache",
    "split_indices",
    "verify",
]

__getattr__ = renamed_names(__name__, Entry="DatasetEntry")
