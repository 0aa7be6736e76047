"""The place of this process among the workers; read once, then passed."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ffdist.errors import ConfigError


@dataclass(frozen=True, slots=True)
class World:
    """One worker's place; in which stages it serves says the plan."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    attempt: int = 0
    """How often the run was restarted; from the environment, what this node alone has counted."""
    local_size: int = 0
    """Stages on this host; 0: all of them."""
    run_id: str = ""
    """torchrun's name of the run; several runs may share one store."""

    @classmethod
    def from_env(cls) -> World | None:
        """The world torchrun describes in the environment; None when torchrun did not start this process."""
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return None
        try:
            names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RESTART_COUNT", "LOCAL_WORLD_SIZE")
            return cls(*(int(os.environ[name]) for name in names), run_id=os.environ["TORCHELASTIC_RUN_ID"])
        except (KeyError, ValueError) as error:
            raise ConfigError(
                "torchrun's environment is not whole",
                where="environment",
                got=error,
                remedy="start with torchrun --nproc-per-node=N -m ffdist train",
            ) from error

    def __str__(self) -> str:
        return f"worker {self.rank} of {self.size}"

    @property
    def first(self) -> bool:
        """True for rank 0, which decides what all agree on."""
        return self.rank == 0

    @property
    def last(self) -> bool:
        """True for the last rank, where the stream ends: it has the sink and the observers."""
        return self.rank == self.size - 1
