"""Networks and rules given in Python, as settings by which the command line finds them again; and those without such a
name, told apart from another by a digest."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any

from ffdist.baselines.twin import BackpropRule, twin
from ffdist.data import Images, open_data
from ffdist.data.preparation import from_texts
from ffdist.errors import ConfigError, FfdistError, setting
from ffdist.models import Chain, load_model
from ffdist.objectives import OBJECTIVES, Objective, load_objective
from ffdist.objectives.load import known_objective
from ffdist.options import pairs, text_of
from ffdist.runtime.opened import with_preprocessing
from ffdist.runtime.own_code import GIVEN, WORDS, settled_module
from ffdist.runtime.run import smoothed
from ffdist.settings import DatasetSettings, Settings
from ffdist.trust import trust

BACKPROP = "backprop"
"""The name of the twin: the same network, learning by one loss."""
RULE = ("objective", "objective_args", "label_smoothing")
NETWORK = ("model", "model_args", "blocks", "pretrained")


def network_settings(chain: Chain, blocks: Sequence[int] | None) -> dict[str, Any]:
    """blocks: how many layers or blocks were joined to one, of a network without a recipe."""
    if chain.recipe is None:
        return {"model": GIVEN, "model_args": (layers_digest(chain),), "blocks": tuple(blocks or ())}
    recipe = chain.recipe
    return {
        "model": recipe.name,
        "model_args": recipe.options,
        "blocks": recipe.blocks,
        "pretrained": recipe.pretrained,
    }


def rule_settings(rule: Objective | str) -> dict[str, Any]:
    """The rule's name and fields, where it can be made again of these."""
    if isinstance(rule, str):
        return {"objective": rule}
    name = rule_name(type(rule))
    trust([name or ""], for_good=False)  # it is here already
    args = tuple(f"{key}={text_of(value)}" for key, value in given_fields(rule).items())
    try:
        if name and load_objective(name, pairs(args, "")) == rule:
            return {"objective": name, "objective_args": args}
    except FfdistError:  # it has fields that no text says
        pass
    return {"objective": GIVEN, "objective_args": (rule_digest(rule),)}


def given_fields(rule: Objective) -> dict[str, Any]:
    """The fields that are not at their default."""
    if not is_dataclass(rule):
        return {}
    return {
        f.name: getattr(rule, f.name)
        for f in fields(rule)
        if f.init and (f.default is MISSING or getattr(rule, f.name) != f.default)
    }


def rule_name(kind: type[Objective]) -> str | None:
    """A known name, or where a module defines it; None for what a script, a session or a function defines."""
    known = known_objective(kind)
    module = sys.modules.get(kind.__module__)
    if known or module is None or kind.__module__ == "__main__" or getattr(module, kind.__qualname__, None) is not kind:
        return known
    return settled_module(kind.__module__, kind.__qualname__) or f"{kind.__module__}:{kind.__qualname__}"


def data_settings(images: Images, dataset: DatasetSettings) -> dict[str, Any]:
    """The name or folder by which these very images can be opened again, presented as `dataset`."""
    made = images.prepared
    try:
        if images.source is not None:
            args, root = (made.args, made.root) if made else ((), None)
            place = (made and made.folder) or images.source
            opened = open_data(place, prepared_as=from_texts(args if place == images.source else (), ""))
            size = None if opened.shape == images.shape else images.shape[-1]
            size = dataset.image_size if dataset.preprocess else size
            if with_preprocessing(opened, replace(dataset, image_size=size)).digest == images.digest:
                return {"data": images.source, "image_size": size, "data_args": args, "data_root": root}
    except FfdistError:  # not to be opened by any name: they count as given in Python
        pass
    return {"data": GIVEN, "data_args": (), "data_root": None}


def layers_digest(chain: Chain) -> str:
    """A digest of the kinds and settings of all layers, by what they print; not of their weights."""
    return digest("layers", [repr(chain.build_meta(index)) for index in range(len(chain))])


def rule_digest(rule: Objective) -> str:
    """A digest of the class's name and its fields, by what they print."""
    return digest(type(rule).__qualname__, repr(rule))


def digest(name: str, said: object) -> str:
    """NAME=DIGEST of a text, but for the addresses of objects in it, which are others in each process."""
    text = re.sub(r" at 0x[0-9a-f]+", "", str(said))
    return f"{name}={hashlib.sha256(text.encode()).hexdigest()[:12]}"


def as_recorded(settings: Settings, recorded: Settings, chain: Chain, rule: Objective | str) -> Settings:
    """`settings` with the network and the rule in the words of the run that goes on, where they are the same.

    Raises ConfigError where they have other options.
    """
    if recorded.network.model != GIVEN:
        made = load_model(
            recorded.network.model,
            chain.input_shape,
            chain.num_classes,
            pairs(recorded.network.model_args, setting("network.model_args")),
        )
        made = made.regroup(recorded.network.blocks) if recorded.network.blocks else made
        if made.recipe and chain.recipe and made.recipe == chain.recipe._replace(pretrained=None):
            settings = settings.changed(**{name: recorded.value(name) for name in NETWORK})
    if recorded.rule.objective not in (GIVEN, BACKPROP) and not isinstance(rule, str):
        named = load_objective(
            recorded.rule.objective, pairs(recorded.rule.objective_args, setting("rule.objective_args"))
        )
        if type(named) is type(rule) and smoothed(named, recorded) == rule:
            settings = settings.changed(**{name: recorded.value(name) for name in RULE})
    for kind in ("model", "objective"):
        names = (kind, f"{kind}_args")
        if settings_of(settings, names[:1]) == settings_of(recorded, names[:1]) != (GIVEN,) and (
            settings_of(settings, names) != settings_of(recorded, names)
        ):
            raise other_part_error(kind)
    return settings


def settings_of(settings: Settings, names: Sequence[str]) -> tuple[Any, ...]:
    return tuple(settings.value(name) for name in names)


def given_network(settings: Settings, network: Chain, rule: Objective) -> tuple[Chain, Objective]:
    """The chain and the rule of a run, of a network and rule that are given: for "backprop" the twin.

    Raises ConfigError for a network or rule that is another than the run's.
    """
    rule = smoothed(rule, settings)
    check_given(settings, network, rule)
    if settings.rule.objective == BACKPROP:
        return twin(network), smoothed(BackpropRule(), settings)
    return network, rule


def check_given(settings: Settings, network: Chain, rule: Objective) -> None:
    """Raises ConfigError for another network or rule than was given when the run began."""
    for kind, given in (("model", layers_digest(network)), ("objective", rule_digest(rule))):
        recorded = settings.value(f"{kind}_args")
        if settings.value(kind) == GIVEN and recorded and recorded != (given,):
            raise other_part_error(kind)
    if settings.rule.objective in OBJECTIVES:
        named = load_objective(
            settings.rule.objective, pairs(settings.rule.objective_args, setting("rule.objective_args"))
        )
        if smoothed(named, settings) != rule:
            raise other_part_error("objective")


def other_part_error(kind: str) -> ConfigError:
    """The error for a network or a rule (kind: "model" or "objective") that is not the run's."""
    return ConfigError(
        f"this is not the {WORDS[kind]} that the run has learned with",
        where="given in Python",
        expected="layers, options and fields as when the run began",
        got="others",
        remedy="give it as it was; or start a new run",
    )
