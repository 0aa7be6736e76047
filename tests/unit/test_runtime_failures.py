"""How failures of stages are told."""

from __future__ import annotations

import faulthandler
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Event, current_thread
from time import monotonic

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import TCPStore

from ffdist import SFF, Pipeline
from ffdist.data import open_data
from ffdist.errors import ConfigError, PeerLostError, PeerTimeoutError, StageAwayError, StageError
from ffdist.presets import with_preset
from ffdist.runtime import threads
from ffdist.runtime.heartbeat import STACK, write_stacks
from ffdist.runtime.meeting import await_key, set_key
from ffdist.runtime.outcome import root_cause
from ffdist.runtime.start import make_job
from ffdist.runtime.tracing import common_clock
from ffdist.runtime.worker import enough_memory
from ffdist.runtime.world import World
from ffdist.settings import Settings
from ffdist.transport import Edge, EdgeContext
from ffdist.transport.shared_memory import TRANSPORT
from ffdist.transport.stores import serve_store


def test_the_error_that_explains_the_others_is_the_one_raised() -> None:
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


EDGE = Edge("0-1", timeout=timedelta(seconds=20))
THROUGH_A_STORE: dict[str, Callable[[dist.Store], object]] = {
    "a word": lambda store: set_key(store, "key", "value", where="stage 1"),
    "a wait": lambda store: await_key(store, "key", timedelta(seconds=20), failure="it stays away", where="stage 1"),
    "a clock that is asked": lambda store: common_clock(store, World(0, 2), timedelta(seconds=20)),
    "a clock that asks": lambda store: common_clock(store, World(1, 2), timedelta(seconds=20)),
    "an address": lambda store: TRANSPORT.open_receiver(EDGE, EdgeContext(store)),
    "a connection": lambda store: TRANSPORT.open_sender(EDGE, EdgeContext(store)),
}


@pytest.mark.parametrize("use", THROUGH_A_STORE.values(), ids=THROUGH_A_STORE)
def test_a_store_that_is_gone_is_a_lost_stage_to_whoever_uses_it(use: Callable[[dist.Store], object]) -> None:
    server = serve_store("127.0.0.1")
    store = TCPStore("127.0.0.1", server.port, is_master=False, timeout=timedelta(seconds=20))
    del server
    with suppress(RuntimeError):
        while True:  # the first words still find room in the connection
            store.set("key", "value")
    with pytest.raises((PeerLostError, StageAwayError), match=r"the store through which the .* meet is gone"):
        use(store)


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


def test_stacks_that_are_asked_for_when_the_stages_logs_are_closed_go_to_stderr(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A log's descriptor is another file's by then."""
    told = with_preset(Settings(), "digits").changed(samples=64, epochs=1, threads=1)
    try:
        threads.run_threads(replace(make_job(told, open_data("digits"), tmp_path, 2), watched=True), lambda event: None)
        write_stacks()
    finally:
        faulthandler.unregister(STACK)
    assert "in test_stacks_that_are_asked_for" in capfd.readouterr().err
