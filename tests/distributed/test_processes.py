"""Whatever ends a run of processes, and wherever it was started: none of them is left."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pickle import PicklingError
from typing import Any

import pytest
from jobs import QUIET, DigitsJob
from torch import nn

from ffdist import SFF, Pipeline, open_data
from ffdist.runtime.processes import run_processes

pytestmark = pytest.mark.distributed


@pytest.fixture(autouse=True)
def no_child_is_left() -> Iterator[None]:
    yield
    left = multiprocessing.active_children()
    for child in left:
        child.kill()
        child.join()
    assert not left


def test_a_pipeline_of_processes_is_fitted_in_any_thread() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
    pipeline = Pipeline(network, SFF(), stages=2, blocks=[3, 2], launcher="processes", threads=1)
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(pipeline.fit, open_data("digits"), epochs=1, progress=False).result()
    assert result.reason == "finished"


def test_told_twice_to_stop_it_ends_at_once() -> None:
    def interrupt_twice(event: dict[str, Any]) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_processes(DigitsJob(settings={"stages": 2}), 2, interrupt_twice)


class SentOnce:
    """A job that can be sent to one process, and to no second."""

    def __init__(self) -> None:
        self.sent = 0

    def __reduce__(self) -> tuple[type, tuple[()]]:
        self.sent += 1
        if self.sent > 1:
            raise PicklingError("sent before")
        return DigitsJob, ()


def test_a_stage_that_cannot_be_started_takes_the_others_with_it() -> None:
    with pytest.raises(PicklingError, match="sent before"):
        run_processes(SentOnce(), 2, QUIET)  # type: ignore[arg-type]
