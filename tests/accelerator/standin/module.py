"""The stand-in accelerator as `torch.standin`, loaded by `import torch` as any other maker's is: by an entry point."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import torch

COUNT = 2


def load() -> None:
    """Once a process."""
    torch.ops.load_library(Path(__file__).with_name("device.so"))
    torch.utils.rename_privateuse1_backend("standin")
    import standin

    torch._register_device_module("standin", standin)
    torch.utils.generate_methods_for_privateuse1_backend()
    from standin import collective

    collective.register()


def is_available() -> bool:
    return True


def device_count() -> int:
    return COUNT


def current_device() -> int:
    return torch.ops.standin.current_device()


def get_device_properties(device: torch.device) -> SimpleNamespace:
    return SimpleNamespace(name="stand-in", total_memory=2**40, uuid=f"standin-{index_of(device)}")


def manual_seed(seed: int) -> None:
    torch.ops.standin.seed(current_device(), seed)


def manual_seed_all(seed: int) -> None:
    for index in range(COUNT):
        torch.ops.standin.seed(index, seed)


def get_rng_state(device: torch.device) -> torch.Tensor:
    return torch.ops.standin.rng_state(index_of(device))


def set_rng_state(state: torch.Tensor, device: torch.device) -> None:
    torch.ops.standin.set_rng_state(index_of(device), state)


def get_amp_supported_dtype() -> list[torch.dtype]:
    return [torch.bfloat16, torch.float16]


def _is_in_bad_fork() -> bool:
    return False


def index_of(device: torch.device) -> int:
    return current_device() if device.index is None else device.index
