"""torchrun's agent, with ffdist's count of restarts; and what a rank tells it.

torchrun counts restarts, however much was learned between them, and starts anew what would fail again. By this agent a
new snapshot begins the count anew, and an error of the job's own ends the run at once.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

VARIABLE = "FFDIST_AGENT"
"""Names the file in which ranks tell the agent of their node something, a line of JSON each."""


def tell_agent(**said: Any) -> None:
    """run: the run's directory. final: the run is not to be started again. Of no effect under torchrun's own agent."""
    if file := os.environ.get(VARIABLE):
        with suppress(OSError), open(file, "a") as told:
            told.write(json.dumps(said) + "\n")


@contextmanager
def counting() -> Iterator[None]:
    """Within, what torchrun starts is watched by this agent, where this version of torch lets it be."""
    from torch.distributed.launcher import api

    with told_file() as file:
        os.environ[VARIABLE] = file
        before = api.LocalElasticAgent
        api.LocalElasticAgent = agent_of(before, Path(file))  # type: ignore[misc] - there is no other way in
        try:
            yield
        finally:
            api.LocalElasticAgent = before  # type: ignore[misc]


@contextmanager
def told_file() -> Iterator[str]:
    """A file that the ranks of this process can open; on Linux without a name on disk, so that nothing stays behind."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("ffdist-agent")
        try:
            yield f"/proc/{os.getpid()}/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    with tempfile.NamedTemporaryFile(prefix="ffdist-agent-") as file:
        yield file.name


def agent_of(base: type[Any], file: Path) -> type[Any]:
    """torchrun's agent of a node, `base`, which looks at what its ranks have told when they fail."""
    from torch.distributed.elastic.agent.server.api import WorkerState

    from ffdist.runtime.supervise import Budget

    class Agent(base):
        budget: Budget | None = None

        def _monitor_workers(self, worker_group: Any) -> Any:
            result = super()._monitor_workers(worker_group)
            if result.state in (WorkerState.UNHEALTHY, WorkerState.FAILED) and hasattr(self, "_remaining_restarts"):
                self._count(worker_group.spec.max_restarts)
            return result

        def _count(self, most: int) -> None:
            told = [json.loads(line) for line in file.read_text().splitlines()]
            if any(said.get("final") for said in told):
                self._remaining_restarts = 0
                return
            run = next((Path(said["run"]) for said in reversed(told) if "run" in said), None)
            if run is None:
                return
            if self.budget is None:
                self.budget = Budget(run, most)
                self.budget.seen = next((said["newest"] for said in told if "newest" in said), None)
                self.budget.spent = most - self._remaining_restarts
            self.budget.spend()
            self._remaining_restarts = max(0, min(most, most + 1 - self.budget.spent))

    return Agent


def main(words: Sequence[str]) -> None:
    """torchrun with this agent: its arguments are torchrun's."""
    from torch.distributed import run

    with counting():
        run.main([f"--log-dir={os.devnull}", *words])


if __name__ == "__main__":
    main(sys.argv[1:])
