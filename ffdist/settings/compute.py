"""Computing: the device and the arithmetic of blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from ffdist.errors import ConfigError, setting
from ffdist.settings.base import SettingsGroup, option

DEVICE = re.compile(r"(?!cpu:|auto:|meta)[a-z][a-z0-9_]*(:\d{1,3})?")


@dataclass(frozen=True)
class ComputeSettings(SettingsGroup):
    """Device and arithmetic."""

    group: ClassVar[str] = "compute"

    device: str = option("auto", free=True)
    """Where blocks live: cpu, cuda, mps, cuda:1. xpu and other kinds likewise. auto: one GPU a stage
    where there are enough, else the CPU."""
    threads: int | None = option(None, least=1, most=1024, free=True)
    """Computing threads a stage. Default: OMP_NUM_THREADS, else the cores divided by the stages."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic. fp32, or autocast to bf16 or fp16; activations then travel so. fp16: each block scales its loss, and
    leaves out the step of a batch whose gradients are not finite."""
    tf32: bool = option(False, rare=True)
    """Float32 products by TF32, where a GPU has it. Faster, with fewer digits. Default: convolutions alone, as torch
    has it."""
    compile: bool = False
    """torch.compile rewrites each block. Other bits than without, the same for every cut. It is for GPUs: a CPU needs
    g++ for it, and convolutions there were slower by it."""

    def check(self) -> None:
        super().check()
        if not DEVICE.fullmatch(self.device):
            raise ConfigError(
                f"{setting('compute.device')} names no device",
                expected="auto, cpu, cuda, mps, xpu, or cuda:1",
                got=self.device,
            )
