"""Where and in which arithmetic blocks compute."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from ffdist.errors import ConfigError, setting
from ffdist.settings.base import Group, option

DEVICE = re.compile(r"(?!cpu:|auto:|meta)[a-z][a-z0-9_]*(:\d{1,3})?")


@dataclass(frozen=True)
class ComputeSettings(Group):
    """Device and arithmetic."""

    group: ClassVar[str] = "compute"

    device: str = option("auto", free=True)
    """Where blocks live: auto, cpu, cuda, mps, xpu, or cuda:1. auto: one GPU a stage where there are enough, else the
    CPU."""
    threads: int | None = option(None, least=1, most=1024, free=True)
    """Computing threads a stage. Default: OMP_NUM_THREADS, else the cores divided by the stages."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """float32, or autocast to bfloat16. Activations then travel as bfloat16."""

    def check(self) -> None:
        super().check()
        if not DEVICE.fullmatch(self.device):
            raise ConfigError(
                f"{setting('compute.device')} names no device",
                expected="auto, cpu, cuda, mps, xpu, or cuda:1",
                got=self.device,
            )
