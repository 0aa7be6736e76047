"""Local learning rules, one a file. `OBJECTIVES` names the classes; a user's own is "module:Class"."""

from __future__ import annotations

from ffdist.objectives.asge import ASGE
from ffdist.objectives.auglocal import AugLocal
from ffdist.objectives.base import BlockSpec, Local, Objective
from ffdist.objectives.cafo import CaFo
from ffdist.objectives.cwc import CwC, CwCMod
from ffdist.objectives.deeperforward import DeeperForward
from ffdist.objectives.dgl import DGL
from ffdist.objectives.hinton import Hinton
from ffdist.objectives.hinton_unsupervised import HintonUnsupervised
from ffdist.objectives.infopro import InfoPro
from ffdist.objectives.load import OBJECTIVES, load_objective
from ffdist.objectives.local_ce import LocalCE
from ffdist.objectives.mono_forward import MonoForward
from ffdist.objectives.predsim import PredSim
from ffdist.objectives.scff import SCFF
from ffdist.objectives.sel import SELFourier, SELMorphological
from ffdist.objectives.sff import SFF
from ffdist.objectives.symba import SymBa
from ffdist.renamed import renamed_names

__all__ = [
    "ASGE",
    "DGL",
    "OBJECTIVES",
    "SCFF",
    "SFF",
    "AugLocal",
    "BlockSpec",
    "CaFo",
    "CwC",
    "CwCMod",
    "DeeperForward",
    "Hinton",
    "HintonUnsupervised",
    "InfoPro",
    "Local",
    "LocalCE",
    "MonoForward",
    "Objective",
    "PredSim",
    "SELFourier",
    "SELMorphological",
    "SymBa",
    "load_objective",
]

__getattr__ = renamed_names(__name__, Site="BlockSpec")
