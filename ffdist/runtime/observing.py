"""The observers of a run: those that a user names, and the trackers."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Iterable
from pathlib import Path

from ffdist.errors import ConfigError, ObserverError, setting, users_code
from ffdist.events import Observer, Observers
from ffdist.known import TRACKERS
from ffdist.options import find
from ffdist.settings import Settings

USUAL = "tensorboard"
"""The tracker of a run whose settings name none, where it is installed."""


def observers(settings: Settings, run: Path | None, own: Iterable[Observer] = ()) -> Observers:
    """The run's own observers, then those of the settings, then the trackers.

    run: its folder; None where none is kept, and then there are no trackers.
    Raises ObserverError for an observer that there is not, or a tracker that is not installed or cannot be opened.
    """
    try:
        named = [named_observer(name) for name in settings.watch.callback]
        return Observers([*own, *named, *(trackers(settings, run) if run else [])])
    except ConfigError as error:
        raise ObserverError(**error.details) from error


def named_observer(name: str) -> Observer:
    """A class is made without arguments. Raises ConfigError for what cannot be made, or cannot be called."""
    found = find(name, {}, "callback")
    if inspect.isclass(found):
        with users_code(ConfigError, "the callback cannot be made", where=setting("watch.callback", name)):
            found = found()
    if not callable(found):
        raise ConfigError(
            "a callback is called with each event",
            where=setting("watch.callback", name),
            expected="a function, or a class with __call__(self, event)",
            got=type(found).__name__,
        )
    return found


def trackers(settings: Settings, run: Path) -> list[Observer]:
    """The trackers that the settings name; by default TensorBoard, where it is installed."""
    names = settings.watch.track
    if names is None:
        names = (USUAL,) if importlib.util.find_spec(USUAL) else ()
    return [open_tracker(name, run, settings) for name in dict.fromkeys(names)]


def open_tracker(name: str, run: Path, settings: Settings) -> Observer:
    """Raises ConfigError for a tracker that is not installed, or that its own package refuses to open."""
    expected = "what the tracker's package takes: see its own environment variables and files of settings"
    with users_code(ConfigError, "the tracker cannot be opened", where=setting("watch.track", name), expected=expected):
        return TRACKERS[name](run, dict(settings.items()))
