"""The plan: which process computes which block, and what carries activations between them; nothing here changes a
result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from ffdist.errors import ConfigError, setting
from ffdist.known import TRANSPORT_PLACES, TRANSPORTS_OF_RAY
from ffdist.options import nearest
from ffdist.settings.base import SettingsGroup, option

WAYS = (("stages", "cut"), ("plan",), ("replicas",), ("devices",))
"""Ways to say who computes what; at most one of them is given."""
if TYPE_CHECKING:
    Transport = str
else:
    Transport = Literal[("auto", *TRANSPORT_PLACES)] | str


@dataclass(frozen=True)
class PlanSettings(SettingsGroup):
    """Stages and what joins them."""

    group: ClassVar[str] = "plan"

    stages: int | None = option(None, ge=1, free=True)
    """Pipeline stages. A process each, a thread or a Ray actor by --launcher. Default: torchrun's ranks; else one a
    GPU; else 2, or 1 with 1 block or core."""
    plan: str | None = option(None, free=True)
    """Who computes what: a text, a file, or auto. A text such as 'conv1 @ 0 | conv2 @ 0:0, 1:1-3 | conv3 @ 1'
    has blocks, workers, and their lanes of a batch; '* @ 0, 1 by batch': workers that take whole batches in turn; auto:
    the fastest that `ffdist plan` finds. Default: stages."""
    replicas: int | None = option(None, ge=1, free=True)
    """Data parallelism: workers with the whole network. Each has a part of each batch. In place of stages."""
    devices: int | None = option(None, ge=1, free=True)
    """Search the fastest plan for so many workers. In place of stages."""
    cut: tuple[int, ...] = option((), free=True)
    """Blocks in each stage, e.g. 1 2. Default: by measured time."""
    queue: int = option(2, ge=1, free=True, rare=True)
    """Batches that may wait between two stages."""
    transport: Transport = option("auto", free=True)
    """How activations travel. auto: NCCL between GPUs (XCCL between Intel's), shared memory within a
    host, gloo across hosts. object-store: Ray's, for clusters whose nodes reach one another by Ray's own ports
    alone. module:NAME or file.py:NAME: a Transport of your own."""
    exchange: Literal["auto", "slices", "halves", "whole"] = option("auto", free=True, rare=True)
    """How workers that share a stage exchange its gradients. slices: each adds up and updates a part of the weights,
    keeps the optimiser's state of that part alone, and hands it on; halves: the same in rounds with one other worker in
    each, where 2, 4, 8, ... workers have a lane each; whole: each takes all gradients and updates all. auto: whole for
    2 workers, from 16 on halves where they are faster, else slices."""
    launcher: Literal["processes", "threads", "ray"] = option("processes", free=True)
    """What runs the stages. Processes, threads of this process, or actors of Ray; under torchrun they are its ranks."""

    @property
    def is_shared(self) -> bool:
        """True if something else than a pipeline of stages is asked for."""
        return bool(self.plan or self.replicas or self.devices)

    def check(self) -> None:
        super().check()
        if self.cut and self.stages not in (None, len(self.cut)):
            raise ConfigError(
                f"{setting('plan.cut')} and {setting('plan.stages')} disagree",
                expected=f"{len(self.cut)} stages as in {setting('plan.cut')}",
                got=setting("plan.stages", self.stages),
            )
        choices = {
            "stages": self.stages or self.cut,
            "plan": self.plan and self.plan != "auto",
            "replicas": self.replicas,
            "devices": self.devices,
        }
        given = [setting(f"plan.{name}") for name, value in choices.items() if value]
        if len(given) > 1:
            raise ConfigError(
                f"{' and '.join(given)} exclude one another", expected="one of them, to say who computes what"
            )
        if self.plan is not None and not self.plan.strip():
            raise ConfigError(f"{setting('plan.plan')} is empty", expected="a plan, a file, or auto")
        if self.transport not in ("auto", *TRANSPORT_PLACES) and ":" not in self.transport:
            raise ConfigError(
                f"there is no transport '{self.transport}'",
                where=setting("plan.transport"),
                expected=f"auto, {', '.join(TRANSPORT_PLACES)}, module:NAME or file.py:NAME",
                got=self.transport,
                remedy=nearest(self.transport, TRANSPORT_PLACES),
            )
        if self.transport in TRANSPORTS_OF_RAY and self.launcher != "ray":
            raise ConfigError(
                f"{setting('plan.transport', self.transport)} is Ray's",
                expected=setting("plan.launcher", "ray"),
                got=self.launcher,
            )
