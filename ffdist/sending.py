"""A job that was made in Python, sent whole to the processes of its stages."""

from __future__ import annotations

import os
import pickle
import sys
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from ffdist.errors import ConfigError
from ffdist.runtime.job import Job


class Sender(pickle.Pickler):
    """Refuses classes and functions of a session without a file, which no other process can import."""

    def reducer_override(self, obj: Any) -> Any:
        in_session = isinstance(obj, (type, FunctionType)) and obj.__module__ == "__main__"
        if in_session and not hasattr(sys.modules["__main__"], "__file__"):
            raise pickle.PicklingError(f"{obj.__qualname__} is defined in an interactive session")
        return NotImplemented


def check_sendable(job: Job) -> None:
    """Raises ConfigError for a rule or network that cannot be sent to another process."""
    for what, part in (("objective", job.objective), ("network", job.chain)):
        try:
            with open(os.devnull, "wb") as nowhere:
                Sender(nowhere).dump(part)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ConfigError(f"the {what} cannot be sent to a process", where="launcher='processes'", got=error,
                              expected="what a module defines",
                              remedy="define it in a module, or take launcher='threads'") from error  # fmt: skip


@dataclass(frozen=True)
class GivenJob:
    """Makes the job it holds; sent whole to a stage's process."""

    job: Job

    def __call__(self) -> Job:
        return self.job
