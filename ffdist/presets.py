"""Named settings. A preset is laid over the defaults, a TOML file over the preset, the command line over both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ffdist.config import TrainSettings, apply
from ffdist.errors import ConfigError
from ffdist.options import nearest


@dataclass(frozen=True)
class Preset:
    """Named settings, with a line that says what they are for."""

    summary: str
    settings: dict[str, Any]


PRESETS: dict[str, Preset] = {
    "digits": Preset(
        "the embedded 8x8 digits, in seconds",
        {"data": "digits", "model": "cnnb", "objective_args": ["kernel=3"], "epochs": 30, "batch_size": 32,
         "augment": ["crop"]},
    ),
    "sff-cnnb-mnist": Preset(
        "a small CNNB on MNIST",
        {"data": "mnist", "model": "cnnb", "objective_args": ["kernel=3"], "epochs": 12, "augment": ["crop"],
         "precision": "bf16"},
    ),
    "sff-cnnb-fashion-mnist": Preset(
        "a small CNNB on Fashion-MNIST",
        {"data": "fashion-mnist", "model": "cnnb", "objective_args": ["kernel=3"], "epochs": 20, "augment": ["flip"],
         "precision": "bf16"},
    ),
    "sff-cnnb-cifar10": Preset(
        "the SFF paper's CNNB with its 150,174 parameters on CIFAR-10 (arXiv 2501.03176, table 2)",
        {"data": "cifar10", "model": "cnnb", "objective_args": ["kernel=5"], "epochs": 60, "lr": 3e-3,
         "augment": ["crop", "flip"],
         "precision": "bf16"},
    ),
}  # fmt: skip


def with_preset(settings: TrainSettings, name: str) -> TrainSettings:
    """`settings` with a preset laid over them. Raises ConfigError, with the nearest name, when there is none such."""
    if name not in PRESETS:
        raise ConfigError(f"there is no preset '{name}'", where="ffdist train PRESET", remedy=nearest(name, PRESETS))
    return apply(settings, PRESETS[name].settings, f"preset {name}")
