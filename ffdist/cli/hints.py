"""Hints on a word that stands where a preset could."""

from __future__ import annotations

from pathlib import Path

from ffdist.errors import ConfigError
from ffdist.folders import command
from ffdist.known import DATA_SETS, MODEL_PLACES, OBJECTIVE_PLACES
from ffdist.options import nearest
from ffdist.presets import PRESETS


def stray_word_error(word: str) -> ConfigError:
    """An error for a word that is no preset, whose remedy is the argument that it seems to be meant for."""
    return ConfigError(f"there is no preset '{word}'", where="ffdist train", remedy=remedy_for(word))


def remedy_for(word: str) -> str:
    """The argument or command that takes such a word: a run, a data set, a network, a rule, a file, a folder."""
    path = Path(word)
    if (path / "config.toml").is_file():
        return f"it is a run: to go on with it, {command('train', '--resume', word)}"
    if (path / "manifest.json").is_file():
        return f"it is a data set: {command('train', '--data', word)}"
    if word in DATA_SETS:
        return f"it is a data set: ffdist train --data {word}"
    if word in MODEL_PLACES:
        return f"it is a network: ffdist train --model {word}"
    if word in OBJECTIVE_PLACES or word == "backprop":
        return f"it is a rule: ffdist train --objective {word}"
    if path.suffix == ".toml":
        return f"it is a settings file: {command('train', '--config', word)}"
    if path.is_dir():
        return f"it is a folder: {command('train', '--data', word)}, if it holds pictures or tables"
    near = nearest(word, PRESETS)
    return near if "did you mean" in near else "ffdist presets lists them"
