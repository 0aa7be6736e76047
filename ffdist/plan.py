"""Who computes which block for which part of each batch: a value that is made once, saved, and read again.

A batch is cut into lanes. A stage is some consecutive blocks, and the workers that compute them, each for a range of
lanes, or each for whole batches in turn. Pipeline, data parallelism and anything between are plans, and no plan changes
a bit of what is learned:

    conv1 @ 0 | conv2 conv3 @ 1                        a pipeline of two workers
    conv1..conv3 @ 0:0-1, 1:2-3                        two replicas, each with two of four lanes
    conv1 @ 0 | conv2 @ 0:0, 1:1-3 | conv3 @ 1         a heavy block shared by two workers
    conv1..conv3 @ 0, 1 by batch                       two workers that take batches in turn, and hand on the weights
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import lcm
from pathlib import Path
from typing import Any

from ffdist.errors import ConfigError, described, setting
from ffdist.renamed import renamed_arguments

FORMAT = 1
WORKERS = re.compile(r"(\d+)(?:-(\d+))?")
SHARE = re.compile(r"(\d+)\s*:\s*(\d+)(?:-(\d+))?")
EVERY_BATCH = range(2**63 - 1)
"""The orders of all batches there may be in a stream."""
BY_BATCH = re.compile(r"\s+by\s+batch$", re.IGNORECASE)
SPELLED = "0, or 0,1 or 0-3; with lanes 0:0,1:1-3; of whole batches '0,1 by batch', which has no lanes"
MOST = 4096
"""Workers or lanes, at most: more is a slip of the pen."""


@dataclass(frozen=True, slots=True)
class Share:
    """One worker's part of a stage: consecutive lanes."""

    worker: int
    lanes: range

    def __str__(self) -> str:
        first, last = self.lanes[0], self.lanes[-1]
        return f"{self.worker}:{first}" + (f"-{last}" if last > first else "")


@dataclass(frozen=True, slots=True)
class PlanStage:
    """Consecutive blocks, and who computes them."""

    blocks: tuple[str, ...]
    shares: tuple[Share, ...]
    """In the order of their lanes; together they have every lane once. By batch, the worker at place p computes
    batches p, p + W, ... of the stream, and each has every lane."""
    by_batch: bool = False
    """Whether each worker computes whole batches in turn, and hands the blocks' weights on to the next."""

    @property
    def workers(self) -> list[int]:
        return [share.worker for share in self.shares]

    @property
    def batch_stride(self) -> int:
        """The distance between two batches of one worker; 1 where each has a part of every batch."""
        return len(self.shares) if self.by_batch else 1

    def worker_of(self, lane: int, order: int = 0) -> int:
        """order: of the batch in the stream."""
        if self.by_batch:
            return self.shares[order % len(self.shares)].worker
        return next(share.worker for share in self.shares if lane in share.lanes)

    def lanes_of(self, worker: int) -> range:
        return next(share.lanes for share in self.shares if share.worker == worker)

    def orders_of(self, worker: int, batches: range = EVERY_BATCH) -> range:
        """The orders, of those of `batches`, in which a worker has a part."""
        return batches[self.workers.index(worker) if self.by_batch else 0 :: self.batch_stride]

    @property
    def shared_out(self) -> str:
        """The workers with their parts, as text."""
        if self.by_batch:
            return f"{', '.join(map(str, self.workers))} by batch"
        return str(self.shares[0].worker) if len(self.shares) == 1 else ", ".join(map(str, self.shares))

    def __str__(self) -> str:
        return f"{' '.join(self.blocks)} @ {self.shared_out}"


@dataclass(frozen=True, slots=True)
class Plan:
    """Stages in order. As text it is what `Plan.parse` reads."""

    lanes: int
    stages: tuple[PlanStage, ...]

    def __str__(self) -> str:
        return " | ".join(map(str, self.stages))

    @property
    def workers(self) -> int:
        """The number of workers; they are numbered from 0."""
        return 1 + max(share.worker for stage in self.stages for share in stage.shares)

    @property
    def blocks(self) -> list[str]:
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
        """Where a worker serves."""
        return [i for i, stage in enumerate(self.stages) if worker in stage.workers]

    def routes(self, stage: int) -> list[tuple[int, int]]:
        """(from, to) for each two workers between which microbatches go from `stage` to the next, in order of lanes."""
        here, there = self.stages[stage], self.stages[stage + 1]
        pairs = (
            (here.worker_of(lane, order), there.worker_of(lane, order))
            for order in range(lcm(here.batch_stride, there.batch_stride))
            for lane in range(self.lanes)
        )
        return list(dict.fromkeys(pairs))

    @classmethod
    @renamed_arguments(cut="blocks_per_stage")
    def pipeline(cls, names: Sequence[str], blocks_per_stage: Sequence[int], lanes: int = 1) -> Plan:
        """Stage i by worker i alone. blocks_per_stage: blocks in each stage."""
        ends = list(accumulate(blocks_per_stage))
        groups = [tuple(names[end - size : end]) for size, end in zip(blocks_per_stage, ends, strict=True)]
        return cls(lanes, tuple(PlanStage(group, (Share(i, range(lanes)),)) for i, group in enumerate(groups)))

    @classmethod
    def replicated(cls, names: Sequence[str], replicas: int, lanes: int) -> Plan:
        """Data parallelism: every worker has all blocks, and its part of each batch."""
        return cls(lanes, (PlanStage(tuple(names), spread(range(replicas), lanes)),))

    @classmethod
    def parse(cls, text: str, names: Sequence[str], lanes: int | None = None) -> Plan:
        """names: of all blocks in order. lanes: None for as many as the text speaks of.

        Raises ConfigError for what is no plan of these blocks and lanes.
        """
        parts = [part.strip() for part in text.split("|")]
        if not all(part.count("@") == 1 for part in parts):
            raise refused(text, "is none", "BLOCKS @ WORKERS | BLOCKS @ WORKERS | ...", text.strip() or "nothing")
        halves = [tuple(half.strip() for half in part.split("@")) for part in parts]
        found = lanes or max([last + 1 for _, workers in halves for last in lanes_in(workers)] or [0])
        found = found or max(1 if BY_BATCH.search(workers) else len(workers_in(workers, text)) for _, workers in halves)
        stages = tuple(stage_in(blocks_in(blocks, names, text), workers, found, text) for blocks, workers in halves)
        plan = cls(found, stages)
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
                raise refused(text, "names an unknown block", ", ".join(names), name)
            if planned.count(name) > 1:
                raise refused(text, "has a block twice", "each block once", name)
        if missing := [name for name in names if name not in planned]:
            raise refused(text, "leaves blocks out", ", ".join(names), f"none of {', '.join(missing)}")
        for before, after in pairwise(planned):
            if places[before] > places[after]:
                raise refused(text, "goes backwards", ", ".join(names), f"{before} before {after}")
        for stage in self.stages:
            self._check_shares(stage, text)
        used = {share.worker for stage in self.stages for share in stage.shares}
        if idle := sorted(set(range(self.workers)) - used):
            raise refused(
                text, "leaves workers out", f"work for each of 0 to {self.workers - 1}", f"none for {idle[0]}"
            )

    def _check_shares(self, stage: PlanStage, text: str) -> None:
        where = " ".join(stage.blocks)
        if len(set(stage.workers)) < len(stage.workers):
            raise refused(text, "has a worker twice in a stage", f"each worker once at {where}", sorted(stage.workers))
        if stage.by_batch:
            if len(stage.shares) < 2 or any(share.lanes != range(self.lanes) for share in stage.shares):
                got = f"{stage.workers}, lanes {', '.join(map(str, stage.shares))}"
                raise refused(
                    text, "shares out no batches", f"two workers or more at {where}, each with every lane", got
                )
            return
        had = [lane for share in stage.shares for lane in share.lanes]
        if out := [lane for lane in range(self.lanes) if lane not in had]:
            raise refused(
                text, "leaves lanes out", f"each of lanes 0 to {self.lanes - 1} at {where}", f"no lane {out[0]}"
            )
        if len(had) > self.lanes:
            more = next((lane for lane in had if lane >= self.lanes), None)
            twice = next((lane for lane in had if had.count(lane) > 1), None)
            got = f"lane {more} of {self.lanes} lanes" if more is not None else f"lane {twice} twice"
            raise refused(
                text, "has lanes that there are not, or twice", f"lanes 0 to {self.lanes - 1}, each once", got
            )

    def check_ranks(self, ranks: int, where: str) -> None:
        """Raises ConfigError unless there are as many processes as workers."""
        if self.workers != ranks:
            raise refused(
                str(self),
                "is for another number of workers",
                f"{ranks} workers, one a rank ({where})",
                f"{self.workers}",
            )

    def as_json(self) -> dict[str, Any]:
        """The plan in the form that `from_json` reads."""
        return {
            "format": FORMAT,
            "lanes": self.lanes,
            "stages": [
                {
                    "blocks": list(stage.blocks),
                    "workers": [
                        {"worker": share.worker, "lanes": [share.lanes[0], share.lanes[-1]]} for share in stage.shares
                    ],
                    **({"by_batch": True} if stage.by_batch else {}),
                }
                for stage in self.stages
            ],
        }

    @classmethod
    def from_json(cls, value: Any, where: object = None) -> Plan:
        """Raises ConfigError for what `as_json` does not make."""
        try:
            check_keys(value, "format", "lanes", "stages")
            if isinstance(value["format"], bool) or value["format"] != FORMAT:
                raise ValueError(f"format {value['format']}")
            plan = cls(whole(value["lanes"]), tuple(stage_from(stage) for stage in filled(value["stages"])))
            if not plan.lanes or not all(share.lanes for stage in plan.stages for share in stage.shares):
                raise ValueError("a worker or a plan without lanes")
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise ConfigError(
                "a file is no plan",
                where=where,
                expected=f"what `ffdist plan --json` prints, of format {FORMAT}",
                got=described(error),
                remedy="make it anew with `ffdist plan ... --json > FILE`",
            ) from error
        return plan


def read_plan(path: Path) -> Plan:
    """A plan's file; it has still to be checked against a network. Raises ConfigError where it is none."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            "a plan cannot be read",
            where=path,
            expected="a JSON file",
            got=described(error),
            remedy="make it anew with `ffdist plan ... --json > FILE`",
        ) from error
    return Plan.from_json(value.get("plan", value) if isinstance(value, dict) else value, path)


def spread(workers: Iterable[int], lanes: int) -> tuple[Share, ...]:
    """The lanes shared out evenly, in order."""
    many = list(workers)
    return tuple(
        Share(worker, range(lanes * i // len(many), lanes * (i + 1) // len(many))) for i, worker in enumerate(many)
    )


def whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST:
        raise ValueError(f"{value!r} is no number of a worker or lane")
    return value


def filled(value: Any, many: int | None = None) -> list[Any]:
    if not isinstance(value, list) or not value or len(value) != (many or len(value)):
        raise ValueError(f"{value!r} is no list of {many or 'one or more'}")
    return value


def check_keys(value: Any, *keys: str) -> None:
    if unknown := [key for key in value if key not in keys]:
        raise ValueError(f"{unknown[0]!r} is none of {', '.join(keys)}")


def stage_from(value: Any) -> PlanStage:
    """A stage of its JSON. Raises what `Plan.from_json` catches."""
    check_keys(value, "blocks", "workers", "by_batch")
    blocks = filled(value["blocks"])
    if not all(isinstance(name, str) for name in blocks):
        raise ValueError(f"{blocks!r} are no names of blocks")
    shares = tuple(share_from(share) for share in filled(value["workers"]))
    return PlanStage(tuple(blocks), shares, true_or_false(value.get("by_batch", False)))


def share_from(value: Any) -> Share:
    check_keys(value, "worker", "lanes")
    first, last = filled(value["lanes"], 2)
    return Share(whole(value["worker"]), range(whole(first), whole(last) + 1))


def true_or_false(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def refused(text: str, what: str, expected: object, got: object) -> ConfigError:
    return ConfigError(
        f"the plan {what}",
        where=setting("plan.plan", repr(text.strip())),
        expected=expected,
        got=got,
        remedy="`ffdist plan` prints plans of a network; e.g. 'conv1 @ 0 | conv2 @ 0:0, 1:1-3 | conv3 @ 1', or "
        "'conv1..conv3 @ 0, 1 by batch'",
    )


def blocks_in(text: str, names: Sequence[str], whole_text: str) -> tuple[str, ...]:
    """Names between spaces or commas; `first..last` for all from one to another, `*` for all there are."""
    words = re.split(r"[\s,]+", text.strip())
    found: list[str] = []
    for word in words:
        first, dots, last = word.partition("..")
        if word == "*":
            found += names
        elif dots and word not in names and first in names and last in names:
            begin, end = names.index(first), names.index(last)
            if begin > end:
                raise refused(whole_text, "goes backwards", ", ".join(names), word)
            found += names[begin : end + 1]
        elif word:
            found.append(word)
    if not found:
        raise refused(whole_text, "has a stage without blocks", "BLOCKS @ WORKERS", f"@ {text}")
    return tuple(found)


def lanes_in(text: str) -> Iterator[int]:
    """The numbers of the last lanes that are named."""
    for match in SHARE.finditer(text):
        yield int(match[3] or match[2])


def workers_in(text: str, whole_text: str) -> list[int]:
    """Workers that are named without lanes."""
    workers: list[int] = []
    for word in filter(None, (word.strip() for word in text.split(","))):
        match = WORKERS.fullmatch(word)
        if not match or not int(match[1]) <= int(match[2] or match[1]) <= MOST:
            raise refused(whole_text, "names no workers", SPELLED, word)
        workers += range(int(match[1]), int(match[2] or match[1]) + 1)
    return workers


def stage_in(blocks: tuple[str, ...], workers: str, lanes: int, whole_text: str) -> PlanStage:
    """workers: as text, with what is said of them."""
    if not (by_batch := BY_BATCH.search(workers)):
        return PlanStage(blocks, shares_in(workers, lanes, whole_text))
    found = workers_in(workers[: by_batch.start()], whole_text)
    return PlanStage(blocks, tuple(Share(worker, range(lanes)) for worker in found), by_batch=True)


def shares_in(text: str, lanes: int, whole_text: str) -> tuple[Share, ...]:
    if ":" not in text:
        workers = workers_in(text, whole_text)
        if not workers:
            raise refused(whole_text, "has a stage without workers", "BLOCKS @ WORKERS", f"@ {text}")
        if len(workers) > lanes:
            raise refused(
                whole_text,
                "has more workers at a stage than lanes",
                f"at most {lanes}, a lane each",
                f"{len(workers)} workers",
            )
        return spread(workers, lanes)
    shares: list[Share] = []
    for word in filter(None, (word.strip() for word in text.split(","))):
        match = SHARE.fullmatch(word)
        if not match or not int(match[2]) <= int(match[3] or match[2]) <= MOST or int(match[1]) > MOST:
            raise refused(whole_text, "names no worker with its lanes", SPELLED, word)
        shares.append(Share(int(match[1]), range(int(match[2]), int(match[3] or match[2]) + 1)))
    return tuple(sorted(shares, key=lambda share: share.lanes[0]))
