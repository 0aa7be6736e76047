"""How failures of stages are told."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from datetime import timedelta
from threading import Event, current_thread
from time import monotonic

import numpy as np
import pytest
import torch
from torch import nn

from ffdist import SFF, Pipeline
from ffdist.errors import ConfigError, PeerLostError, PeerTimeoutError, StageError
from ffdist.runtime import threads
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
    assert "worker 1 of 3" in str(refusal.value)


def test_other_errors_of_a_stage_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), enough_memory(World()):
        torch.ones(2, 3) @ torch.ones(2, 3)


@pytest.mark.parametrize("hung", [0, 1])
def test_a_thread_that_hangs_ends_the_run_whichever_it_is(hung: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that computes holds the generators of the process, for which the others wait, and the next run, too."""
    monkeypatch.setattr(threads, "GRACE", 0.5)
    until = Event()

    class Sleeps(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            if self.training and current_thread().name.startswith("stage-"):
                until.wait(250)
            return super().forward(input)

    layers = [nn.Linear(4, 4), nn.Linear(4, 4)]
    layers[hung] = Sleeps(4, 4)
    pipeline = Pipeline(nn.Sequential(*layers), SFF(), stages=2, launcher="threads", timeout=timedelta(seconds=1))

    def fit(pipeline: Pipeline = pipeline) -> None:
        pipeline.fit((torch.rand(64, 4), torch.arange(64) % 2), epochs=1, batch_size=8)

    def fit_twice() -> None:
        with pytest.raises(StageError, match=f"worker {hung} did not answer"):
            fit()
        with pytest.raises(PeerTimeoutError, match=r"kept the random generators(.|\n)*anew"):
            fit()

    begun = monotonic()
    try:
        copy_context().run(fit_twice)
    finally:
        until.set()
    assert monotonic() - begun < 200, "nobody waited for the one that hangs"
    fit(Pipeline(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), SFF(), launcher="threads"))
