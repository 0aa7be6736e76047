"""A network of one's own: any nn.Sequential, cut into blocks that each learn by themselves, through two stages.

python examples/own_network.py
"""

from __future__ import annotations

from torch import nn

from ffdist import SFF, Pipeline, open_data


def network() -> nn.Sequential:
    """[N, 1, 8, 8] -> features; each layer with weights begins a block, what follows it belongs to it."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 2 * 2, 64),
        nn.ReLU(),
    )


if __name__ == "__main__":
    pipeline = Pipeline(network(), SFF(kernel=3), stages=2)
    result = pipeline.fit(open_data("digits"), epochs=5, batch_size=32, lr=3e-3)
    print(result.test)
