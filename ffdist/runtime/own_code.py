"""A user's own networks and rules: found again from any folder, and held against what they were when a run began."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from ffdist.calls import calls_of
from ffdist.data.catalog import settled_source
from ffdist.errors import ConfigError, setting
from ffdist.models import MODELS
from ffdist.notes import note
from ffdist.objectives import OBJECTIVES
from ffdist.options import find
from ffdist.settings import Settings
from ffdist.settings.optim import OPTIMIZERS
from ffdist.snapshot.files import write_durably

GIVEN = "(given in Python)"
"""In the settings of a run: a network, rule or data set that has no name by which it could be made again."""
CODE = "code"
"""Folder in a run folder with the texts of a user's own network and rule, as they were when the run began: to look
at and to restore from, never imported."""
KINDS = {"model": {*MODELS, GIVEN}, "objective": {*OBJECTIVES, "backprop", GIVEN}, "optimizer": {*OPTIMIZERS}}
WORDS = {"model": "network", "objective": "rule", "optimizer": "optimiser"}


def named_code(settings: Settings) -> list[str]:
    """All names of a user's own code in settings: of network, rule, optimiser, transforms, callbacks, metrics,
    transport."""
    names = [settings.value(kind) for kind in KINDS if settings.value(kind) not in KINDS[kind]]
    texts = [*settings.dataset.augment, *settings.dataset.preprocess]
    transport = [settings.plan.transport] if ":" in settings.plan.transport else []
    return [*names, *own_transforms(texts), *settings.watch.callback, *settings.watch.metric, *transport]


def own_transforms(texts: Sequence[object]) -> list[str]:
    """The names of a user's own among transforms, as settings have them."""
    return [call.name for call in calls_of(texts, setting("dataset.augment")) if ":" in call.name]


def with_absolute_paths(settings: Settings) -> Settings:
    """The same settings with the paths of data and of a user's own code absolute, so that they hold in any folder."""
    root, transport = settings.dataset.data_root, settings.plan.transport
    return settings.changed(
        data=settings.dataset.data if settings.dataset.data == GIVEN else settled_source(settings.dataset.data),
        data_root=root and root.absolute(),
        model=settled_name("model", settings.network.model),
        objective=settled_name("objective", settings.rule.objective),
        optimizer=settled_name("optimizer", settings.optim.optimizer),
        callback=tuple(settled_name("callback", name) for name in settings.watch.callback),
        metric=tuple(settled_name("metric", name) for name in settings.watch.metric),
        transport=settled_name("transport", transport) if ":" in transport else transport,
    )


def settled_name(kind: str, name: str) -> str:
    """ "FOLDER/file.py:Name" or "FOLDER/package.module:Name" of a user's own; a known name, and one of an installed
    package, as it is. Raises ConfigError for what cannot be imported."""
    if name in KINDS.get(kind, ()):
        return name
    place, _, attribute = name.rpartition(":")
    if Path(place).is_absolute():
        return name
    if Path(place).suffix == ".py":
        return f"{Path(place).absolute()}:{attribute}"
    find(name, {}, kind)
    return settled_module(Path(place).name, attribute) or name


def settled_module(module: str, attribute: str) -> str | None:
    """The file of an imported module. None for one without a file of its own, or of an installed package."""
    file = getattr(sys.modules[module], "__file__", None)
    if module == "__main__" or file is None or Path(file).suffix != ".py" or is_installed(Path(file)):
        return None
    path, parts = Path(file).absolute(), module.split(".")
    if path.name == "__init__.py":
        return f"{path.parents[len(parts)]}/{module}:{attribute}"
    if len(parts) == 1:
        return f"{path}:{attribute}"
    return f"{path.parents[len(parts) - 1]}/{module}:{attribute}"


def is_installed(path: Path) -> bool:
    """True if a file is an installed package's, or Python's own."""
    places = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    own = Path(__file__).parents[1]
    return own in path.parents or any(Path(place) in path.parents for place in places if place)


def file_of(name: str) -> Path | None:
    """The file of a settled name; None for one that is no path."""
    place = Path(name.rpartition(":")[0])
    if not place.is_absolute():
        return None
    if place.suffix == ".py":
        return place
    package = place.parent.joinpath(*place.name.split("."))
    return package / "__init__.py" if package.is_dir() else package.with_suffix(".py")


def keep_code(run: Path, settings: Settings) -> None:
    """Copy the files of a user's own network and rule into the run folder. Raises OSError."""
    for kind, file in own_files(settings).items():
        write_durably(run / CODE / f"{kind}.py", file.read_bytes())


def own_files(settings: Settings) -> dict[str, Path]:
    """The files of a user's own network and rule, by kind, of settled settings."""
    files = {kind: file_of(settings.value(kind)) for kind in KINDS if settings.value(kind) not in KINDS[kind]}
    return {kind: file for kind, file in files.items() if file}


def check_code(run: Path, settings: Settings, *, strict: bool) -> None:
    """A user's own network and rule must be there, and be what they were when the run began.

    strict: raise ConfigError for one that has changed; otherwise stderr says so. Raises ConfigError for one that is
    gone. Of a run that kept no copy nothing is known.
    """
    for kind, file in own_files(settings).items():
        kept = run / CODE / f"{kind}.py"
        if not kept.is_file():
            continue
        back = f"restore it: cp '{kept}' '{file}'"
        if not file.is_file():
            raise ConfigError(
                f"the file of the run's {WORDS[kind]} is gone",
                where=file,
                expected="as it was when the run began",
                got="no such file",
                remedy=back,
            )
        if file.read_bytes() == kept.read_bytes():
            continue
        if strict:
            raise ConfigError(
                f"the run's {WORDS[kind]} has changed since the run began",
                where=file,
                expected=f"what {kept} keeps",
                got="another text",
                remedy=f"{back}; or start a new run",
            )
        note(f"the run's {WORDS[kind]} has changed since the run began: {file}; it was {kept}")


def has_moved(run: Path, kind: str, before: str, now: str) -> bool:
    """True if `now` names the same text at another place."""
    kept, file = run / CODE / f"{kind}.py", file_of(now)
    same_name = before.rpartition(":")[2] == now.rpartition(":")[2]
    return bool(same_name and kept.is_file() and file and file.is_file() and file.read_bytes() == kept.read_bytes())
