"""How failures of stages are told."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ffdist.errors import ConfigError, PeerLostError, PeerTimeoutError, StageError
from ffdist.runtime.outcome import root_cause
from ffdist.runtime.rank import enough_memory
from ffdist.runtime.world import World


def test_the_error_that_explains_the_others_is_the_one_told() -> None:
    lost, silent, died, told = PeerLostError("l"), PeerTimeoutError("s"), StageError("d"), ConfigError("c")
    assert root_cause([lost, silent]) is silent
    assert root_cause([lost, died, silent]) is died
    assert root_cause([silent, lost, died, told]) is told


@pytest.mark.parametrize("make", [torch.empty, np.empty])
def test_a_stage_without_enough_memory_says_so(make: Callable[[int], object]) -> None:
    with pytest.raises(StageError, match="not enough memory") as refusal, enough_memory(World(1, 3)):
        make(2**50)
    assert "stage 1 of 3" in str(refusal.value)


def test_other_errors_of_a_stage_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), enough_memory(World()):
        torch.ones(2, 3) @ torch.ones(2, 3)
