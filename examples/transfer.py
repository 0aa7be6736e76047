"""Weights that were learned elsewhere as the beginning of local learning: here by backpropagation on other classes.

python examples/transfer.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import ffdist
from ffdist import Pipeline, from_tensors


def classes(wanted: range) -> ffdist.Images:
    """The embedded digits of some classes, numbered from 0."""
    train = ffdist.open_data("digits").train
    rows = np.flatnonzero(np.isin(train.labels, wanted))
    return from_tensors(train.take(rows), train.labels[rows] - wanted.start, test=0.2, channels_last=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        first, learned = Path(place) / "first", Path(place) / "learned.safetensors"
        Pipeline("cnnb", "backprop", launcher="threads").fit(classes(range(5)), epochs=3, out=first)
        ffdist.export(first, learned)
        for weights in (None, learned):
            pipeline = Pipeline("cnnb", ffdist.SFF(kernel=3), stages=2, launcher="threads")
            result = pipeline.fit(classes(range(5, 10)), epochs=1, batch_size=32, pretrained=weights)
            assert result.test, "a fifth of the samples was held out for it"
            print("from nothing:" if weights is None else "from what was learned:", result.test["accuracy"])
