"""The plan: a value with a text and a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from math import lcm
from pathlib import Path
from typing import Any

from ffdist.digests import without_digest
from ffdist.errors import ConfigError, described
from ffdist.plan.file import FORMAT, as_json, from_json
from ffdist.plan.stage import PlanStage, Share, spread
from ffdist.plan.text import parse, plan_error
from ffdist.regular import read_bytes
from ffdist.renamed import renamed_arguments


@dataclass(frozen=True, slots=True)
class Plan:
    """Stages in order. As text it is what `Plan.parse` reads."""

    lanes: int
    """L, the parts of each batch that different workers may compute."""
    stages: tuple[PlanStage, ...]

    def __str__(self) -> str:
        return " | ".join(map(str, self.stages))

    @property
    def workers(self) -> int:
        """The number of workers; they are numbered from 0."""
        return 1 + max(share.worker for stage in self.stages for share in stage.shares)

    @property
    def blocks(self) -> list[str]:
        """The names of all blocks, in order."""
        return [name for stage in self.stages for name in stage.blocks]

    @property
    def blocks_per_stage(self) -> list[int]:
        """Blocks in each stage."""
        return [len(stage.blocks) for stage in self.stages]

    @property
    def is_pipeline(self) -> bool:
        """True if worker i is stage i, alone."""
        return [stage.workers for stage in self.stages] == [[i] for i in range(len(self.stages))]

    def stages_of(self, worker: int) -> list[int]:
        """The stages in which a worker serves, by their places."""
        return [i for i, stage in enumerate(self.stages) if worker in stage.workers]

    def routes(self, stage: int) -> list[tuple[int, int]]:
        """(from, to) for each two workers between which microbatches go from `stage` to the next, in order of lanes."""
        here, there = self.stages[stage], self.stages[stage + 1]
        pairs = (
            pair
            for order in range(lcm(here.batch_stride, there.batch_stride))
            for pair in zip(here.workers_of_lanes(order), there.workers_of_lanes(order), strict=True)
        )
        return list(dict.fromkeys(pairs))

    def renumbered(self, numbers: Sequence[int]) -> Plan:
        """The same with each worker i as numbers[i]; these are 0 and on without a gap."""
        return replace(self, stages=tuple(stage.renumbered(numbers) for stage in self.stages))

    @classmethod
    @renamed_arguments(cut="blocks_per_stage")
    def pipeline(cls, names: Sequence[str], blocks_per_stage: Sequence[int], lanes: int = 1) -> Plan:
        """A pipeline: stage i by worker i alone. names: of all blocks. blocks_per_stage: consecutive blocks in each."""
        ends = list(accumulate(blocks_per_stage))
        groups = [tuple(names[end - size : end]) for size, end in zip(blocks_per_stage, ends, strict=True)]
        return cls(lanes, tuple(PlanStage(group, (Share(i, range(lanes)),)) for i, group in enumerate(groups)))

    @classmethod
    def replicated(cls, names: Sequence[str], replicas: int, lanes: int) -> Plan:
        """Data parallelism: every worker has all blocks, and its part of each batch."""
        return cls(lanes, (PlanStage(tuple(names), spread(range(replicas), lanes)),))

    @classmethod
    def parse(cls, text: str, names: Sequence[str], lanes: int | None = None) -> Plan:
        """The plan that a text says, such as "conv1 @ 0 | conv2 conv3 @ 1" (`ffdist.plan` has more of them).

        names: of all blocks in order. lanes: None for as many as the text speaks of.

        Raises ConfigError for what is no plan of these blocks and lanes.
        """
        plan = cls(*parse(text, names, lanes))
        plan.check(names, text)
        return plan

    def check(self, names: Sequence[str], text: str | None = None) -> None:
        """Raises ConfigError unless every block is computed once, in order, for every lane once, by workers that are
        numbered without a gap."""
        text = text or str(self)
        planned = self.blocks
        places = {name: index for index, name in enumerate(names)}
        for name in planned:
            if name not in places:
                raise plan_error(text, "names an unknown block", ", ".join(names), name)
            if planned.count(name) > 1:
                raise plan_error(text, "has a block twice", "each block once", name)
        if missing := [name for name in names if name not in planned]:
            raise plan_error(text, "leaves blocks out", ", ".join(names), f"none of {', '.join(missing)}")
        for before, after in pairwise(planned):
            if places[before] > places[after]:
                raise plan_error(text, "goes backwards", ", ".join(names), f"{before} before {after}")
        for stage in self.stages:
            self._check_shares(stage, text)
        used = {share.worker for stage in self.stages for share in stage.shares}
        if idle := sorted(set(range(self.workers)) - used):
            raise plan_error(
                text, "leaves workers out", f"work for each of 0 to {self.workers - 1}", f"none for {idle[0]}"
            )

    def _check_shares(self, stage: PlanStage, text: str) -> None:
        where = " ".join(stage.blocks)
        if len(set(stage.workers)) < len(stage.workers):
            raise plan_error(
                text, "has a worker twice in a stage", f"each worker once at {where}", sorted(stage.workers)
            )
        if stage.by_batch:
            if len(stage.shares) < 2 or any(share.lanes != range(self.lanes) for share in stage.shares):
                got = f"{stage.workers}, lanes {', '.join(map(str, stage.shares))}"
                raise plan_error(
                    text, "shares out no batches", f"two workers or more at {where}, each with every lane", got
                )
            return
        had = [lane for share in stage.shares for lane in share.lanes]
        if out := [lane for lane in range(self.lanes) if lane not in had]:
            raise plan_error(
                text, "leaves lanes out", f"each of lanes 0 to {self.lanes - 1} at {where}", f"no lane {out[0]}"
            )
        if len(had) > self.lanes:
            more = next((lane for lane in had if lane >= self.lanes), None)
            twice = next((lane for lane in had if had.count(lane) > 1), None)
            got = f"lane {more} of {self.lanes} lanes" if more is not None else f"lane {twice} twice"
            raise plan_error(
                text, "has lanes that there are not, or twice", f"lanes 0 to {self.lanes - 1}, each once", got
            )

    def check_ranks(self, ranks: int, where: str) -> None:
        """Raises ConfigError unless there are as many processes as workers."""
        if self.workers != ranks:
            raise plan_error(
                str(self),
                "is for another number of workers",
                f"{ranks} workers, one a rank ({where})",
                f"{self.workers}",
                f"{self.workers} ranks (torchrun --nproc-per-node), or a plan of {ranks} workers, as `ffdist plan "
                f"--devices {ranks}` prints",
            )

    def as_json(self) -> dict[str, Any]:
        """The plan in the form that `from_json` reads."""
        return as_json(self.lanes, self.stages)

    @classmethod
    def from_json(cls, value: Any, where: object = None) -> Plan:
        """Raises ConfigError for what `as_json` does not make."""
        try:
            return cls(*from_json(value))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise ConfigError(
                "the file is not a plan",
                where=where,
                expected=f"what `ffdist plan --json` prints, of format {FORMAT}",
                got=described(error),
                remedy="make it anew with `ffdist plan ... --json > FILE`",
            ) from error


def read_plan(path: Path) -> Plan:
    """A plan's file, a run's own too; it has still to be checked against a network. Raises ConfigError where it is
    none."""
    try:
        value = json.loads(read_bytes(path).decode("utf-8-sig"))
        value = without_digest(value) if isinstance(value, dict) else value
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            "a plan cannot be read",
            where=path,
            expected="a JSON file",
            got=described(error),
            remedy="make it anew with `ffdist plan ... --json > FILE`",
        ) from error
    plan = Plan.from_json(value.get("plan", value) if isinstance(value, dict) else value, path)
    if isinstance(value, dict) and value.get("text", str(plan)) != str(plan):
        raise ConfigError(
            "the file's text is another plan than its plan, which counts",
            where=path,
            expected=str(plan),
            got=value["text"],
            remedy="leave the text out; or give the text itself as the plan",
        )
    return plan
