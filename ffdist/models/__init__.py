"""Networks as chains of named blocks.

`MODELS` names the builders; each takes (input_shape, num_classes, **options) and returns a `Chain`.
"""

from __future__ import annotations

from ffdist.models.chain import Chain, Shape, derive_seed
from ffdist.models.cnn import cnn, cnnb
from ffdist.models.load import MODELS, load_model
from ffdist.models.mlp import mlp

__all__ = ["MODELS", "Chain", "Shape", "cnn", "cnnb", "derive_seed", "load_model", "mlp"]
