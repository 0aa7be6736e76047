"""Networks as chains of named blocks.

`MODELS` names the builders; each takes (input_shape, num_classes, **options) and returns a `Chain`.
"""

from __future__ import annotations

from collections.abc import Callable

from ffdist.models.chain import Chain, Shape, derive_seed
from ffdist.models.cnn import cnn, cnnb
from ffdist.models.mlp import mlp

MODELS: dict[str, Callable[..., Chain]] = {
    "mlp": mlp,
    "cnn": cnn,
    "cnnb": cnnb,
}

__all__ = ["MODELS", "Chain", "Shape", "cnn", "cnnb", "derive_seed", "mlp"]
