"""Which of several workers runs a test (`pytest -n auto`, by pytest-xdist), and how many there are.

A file's tests go to one worker, so that the file's fixtures are made once. So do all tests of some marks, whatever
their files: two local Ray clusters are in each other's way, and what measures is no neighbour to its kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ffdist.cores import available_cores

MAX_WORKERS = 4
TOGETHER = re.compile(r"\bmark\.(ray|measures)\b")


def queue_of(path: Path) -> str:
    """The queue that the tests of a file stand in. The file's text says it: the marks themselves are known to the
    workers alone, who have nothing but the tests' names to tell of them."""
    marks = TOGETHER.findall(path.read_text(encoding="utf-8"))
    return min(marks, default=str(path))


class Scheduling:
    """A plugin."""

    @pytest.hookimpl
    def pytest_xdist_auto_num_workers(self) -> int:
        return min(available_cores() + 1, MAX_WORKERS)  # many tests wait for processes that start

    @pytest.hookimpl
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Callable[..., None]) -> object:
        from xdist.scheduler import LoadScopeScheduling

        class Queues(LoadScopeScheduling):
            def _split_scope(self, nodeid: str) -> str:
                return queue_of(config.rootpath / nodeid.partition("::")[0])

        config.option.loadscopereorder = False  # a file of few tests may well take the longest
        return Queues(config, log)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Ray's is the longest queue of all: the others are done beside it."""
        items.sort(key=lambda item: queue_of(item.path) != "ray")
