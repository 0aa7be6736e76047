"""The learning rules by name."""

from __future__ import annotations

from collections.abc import Mapping

from ffdist.errors import ConfigError, users_code
from ffdist.objectives.asge import ASGE
from ffdist.objectives.base import Objective
from ffdist.objectives.cwc import CwC, CwCMod
from ffdist.objectives.deeperforward import DeeperForward
from ffdist.objectives.hinton import Hinton
from ffdist.objectives.hinton_unsupervised import HintonUnsupervised
from ffdist.objectives.local_ce import LocalCE
from ffdist.objectives.mono_forward import MonoForward
from ffdist.objectives.predsim import PredSim
from ffdist.objectives.sel import SELFourier, SELMorphological
from ffdist.objectives.sff import SFF
from ffdist.options import find, typed

OBJECTIVES: dict[str, type[Objective]] = {
    "hinton": Hinton,
    "hinton-unsupervised": HintonUnsupervised,
    "sel-fourier": SELFourier,
    "sel-morphological": SELMorphological,
    "cwc": CwC,
    "cwc-mod": CwCMod,
    "sff": SFF,
    "asge": ASGE,
    "predsim": PredSim,
    "mono-forward": MonoForward,
    "deeperforward": DeeperForward,
    "local-ce": LocalCE,
}


def load_objective(name: str, options: Mapping[str, object] | None = None) -> Objective:
    """The objective called `name`, with its fields set from `options`.

    name: a key of `OBJECTIVES`, or a user's own `Objective` as "package.module:Class" or "path/file.py:Class".
    options: text as typed on a command line, or values as TOML has them, by field name.

    Raises ConfigError for an unknown name or option (with the nearest one), and for a value of another type.
    """
    cls = find(name, OBJECTIVES, "objective")
    if not (isinstance(cls, type) and issubclass(cls, Objective)):
        raise ConfigError(
            f"'{name}' is not an objective", expected="a subclass of ffdist.objectives.Objective", got=cls
        )
    with users_code(ConfigError, "the objective cannot be made", where=f"objective {name}",
                    expected="a dataclass with the methods `head` and `local`, whose fields have defaults",
                    remedy="define what is missing, or set the field: --objective-args NAME=VALUE"):  # fmt: skip
        return cls(**typed(cls, options or {}, f"objective {name}"))
