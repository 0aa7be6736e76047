"""Local learning rules, one a file. `OBJECTIVES` names the classes; a user's own is "module:Class"."""

from __future__ import annotations

from ffdist.objectives.base import Local, Objective, Site
from ffdist.objectives.load import OBJECTIVES, load_objective
from ffdist.objectives.sff import SFF

__all__ = ["OBJECTIVES", "SFF", "Local", "Objective", "Site", "load_objective"]
