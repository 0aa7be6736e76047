"""The rule by which the blocks learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ffdist.settings.base import SettingsGroup, option


@dataclass(frozen=True)
class RuleSettings(SettingsGroup):
    """The local learning rule."""

    group: ClassVar[str] = "rule"

    objective: str = "sff"
    """A name of `ffdist rules`, or file.py:Class. Or module:Class; "backprop" trains the same network by one
    global loss."""
    objective_args: tuple[str, ...] = ()
    """The rule's options, e.g. kernel=5. Several are separated by spaces; `ffdist rules NAME` lists them."""
    label_smoothing: float = option(0.0, ge=0, lt=1)
    """Share of the target spread over all classes. For rules with a cross-entropy over their scores."""
    fusion: bool = False
    """A linear classifier on all blocks' features, too. It learns as one more block after the last; --cut counts
    it."""
