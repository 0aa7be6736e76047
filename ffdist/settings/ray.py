"""Ray: where it places the stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ffdist.settings.base import SettingsGroup, option


@dataclass(frozen=True)
class RaySettings(SettingsGroup):
    """Settings of --launcher ray."""

    group: ClassVar[str] = "ray"

    address: str | None = option(None, free=True)
    """Address of the cluster: auto, or host:port. Default: RAY_ADDRESS, else a Ray of this host alone, for this run."""
    placement: Literal["pack", "spread"] = option("pack", free=True, rare=True)
    """Put stages on few nodes (pack), or on many (spread). pack: on as few as will hold them."""
    cpus_per_stage: float = option(1.0, ge=0.01, free=True, rare=True)
    """CPUs reserved for a stage."""
    gpus_per_stage: float | None = option(None, ge=0, free=True, rare=True)
    """GPUs reserved for a stage. A fraction shares one. Default: 1 on GPUs, and with auto where there are enough;
    else 0."""
    placement_timeout: float = option(120.0, ge=0, le=10**6, free=True, rare=True)
    """Seconds to wait for room in the cluster."""
