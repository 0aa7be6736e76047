"""`ffdist train`: its settings. What is done with them is in `ffdist.cli.training`, which imports torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from ffdist.config import TrainSettings, apply, read_toml, without_strange_options
from ffdist.errors import ConfigError
from ffdist.known import MODEL_PLACES, OBJECTIVE_PLACES
from ffdist.loading import loading
from ffdist.presets import listing, with_preset

NAMES = f"""Presets:
{listing()}

Models: {", ".join(MODEL_PLACES)}.
Objectives: {", ".join(OBJECTIVE_PLACES)}, backprop.
"""


@dataclass(frozen=True)
class Train:
    """Train a network through a pipeline of stages. Settings: defaults < preset < TOML file < command line."""

    preset: Annotated[str | None, tyro.conf.Positional] = None
    """Named settings to start from."""
    config: Path | None = None
    """TOML file of settings, laid over the preset."""
    settings: Annotated[TrainSettings, tyro.conf.arg(name="")] = field(default_factory=TrainSettings)


def parse(args: Sequence[str]) -> TrainSettings:
    """The resolved settings. Raises ConfigError for an unknown preset, key or value, and for what --resume forbids."""

    def read(base: TrainSettings) -> Train:
        return tyro.cli(Train, args=list(args), default=Train(settings=base), prog="ffdist train",
                        description=f"{Train.__doc__}\n\n{NAMES}")  # fmt: skip

    first = read(TrainSettings())
    told = {arg.split("=")[0].lstrip("-").replace("-", "_") for arg in args if arg.startswith("--")}
    from_file = read_toml(first.config) if first.config else {}
    resume = first.settings.resume or from_file.get("resume") is True
    out = first.settings.out or (Path(from_file["out"]) if isinstance(from_file.get("out"), str) else None)
    base = recorded = recorded_settings(out) if resume else TrainSettings()
    preset = first.preset
    if preset is None and first.config is None and not resume and first.settings.data == "digits":
        preset = "digits"
    if preset is not None:
        base = with_preset(base, preset)
    if first.config is not None:
        base = replace(apply(base, from_file, str(first.config)), resume=resume)
    settings = read(base).settings
    if "address" in told and settings.launcher != "ray":
        raise ConfigError(
            "--address is a Ray cluster's", expected="--launcher ray", got=f"--launcher {settings.launcher}"
        )
    if not resume:
        return without_strange_options(settings, base, told)
    from ffdist.runtime.folder import check_resumable

    check_resumable(recorded, settings)
    return settings


def recorded_settings(run: Path | None) -> TrainSettings:
    """Of the run that is to go on."""
    from ffdist.runtime.folder import read_recorded

    return read_recorded(run)


def main(args: Sequence[str]) -> None:
    settings = parse(args)
    if "RANK" not in os.environ or os.environ["RANK"] == "0":
        print("ffdist: loading torch, then checking data, network and rule ...", file=sys.stderr, flush=True)
    with loading():
        from ffdist.cli.training import train

    train(settings)
