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
    """Device to compute on: cpu, cuda, mps, cuda:1. Or xpu, or another kind that torch knows. auto: one GPU a stage
    where there are enough, else the CPU."""
    threads: int | None = option(None, ge=1, le=1024, free=True)
    """CPU threads that each stage computes with. Default: OMP_NUM_THREADS, else the cores divided by the stages."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic. fp32, or autocast to bf16 or fp16, in which activations then travel, too. fp16: each block scales its
    loss, and leaves out the step of a batch whose gradients are not finite."""
    tf32: bool = option(False, rare=True)
    """Matrix products of float32 by TF32, on GPUs that have it. Faster, with fewer digits. Default: convolutions alone,
    as torch has it."""
    compile: bool = False
    """Compile each block by torch.compile. Other bits than without, the same under every plan. It is for GPUs: a CPU
    needs g++ for it, and convolutions there were slower by it."""

    def check(self) -> None:
        super().check()
        if not DEVICE.fullmatch(self.device):
            raise ConfigError(
                f"{setting('compute.device')} names no device",
                expected="auto, cpu, cuda, mps, xpu, or cuda:1",
                got=self.device,
            )
