"""Data sets that draw at random, or end the process that reads them; without torchvision, which takes a reader as long
to import as torch does."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

FLOATS = np.random.default_rng(1).random((24, 3, 8, 8), np.float32)
LABELS = np.arange(24) % 3
OF_MODULE = np.random.default_rng(7)


def of_shared() -> float:
    return torch.rand(1).item() + np.random.random() + random.random()


def of_module() -> float:
    return OF_MODULE.random()


def of_closure() -> Callable[[], float]:
    own = random.Random(3)
    return lambda: own.random()


def of_torch(own: torch.Generator) -> float:
    return torch.rand(1, generator=own).item()


class Noisy(Dataset):
    """Samples with a number added that is drawn whenever an item is read."""

    def __init__(self, draw: Callable[[], float] = of_shared, stop_at: int | None = None) -> None:
        self.draw = draw
        self.stop_at = stop_at
        self.readings = 0

    def __len__(self) -> int:
        return len(FLOATS)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        self.readings += 1
        if self.readings == self.stop_at:
            raise RuntimeError("the disk is gone")
        return FLOATS[index] + np.float32(self.draw()), int(LABELS[index])


class Pair(Dataset):
    """Two floats, of which one is drawn; and the process that has read it."""

    def __init__(self, ending: Path, at: int) -> None:
        self.ending = ending
        self.at = at

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        if index == self.at and self.ending.exists():
            if self.ending.read_text() == "die":
                os._exit(3)
            if number := {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP}.get(self.ending.read_text()):
                os.kill(os.getpid(), number)
            if self.ending.read_text() == "slow":
                time.sleep(2.5)
                return self.at_rest(index)
            raise RuntimeError("the disk is gone")
        return self.at_rest(index)

    def at_rest(self, index: int) -> tuple[np.ndarray, int]:
        return np.array([index, torch.rand(1).item(), os.getpid()], np.float32), index % 2
