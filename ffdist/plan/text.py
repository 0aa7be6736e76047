"""A plan as it is typed: `conv1 @ 0 | conv2 conv3 @ 1`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ffdist.errors import ConfigError, setting
from ffdist.plan.names import cut, words_in
from ffdist.plan.stage import PlanStage, Share, spread

NUMBER = "([0-9]{1,9})"
"""More digits are a slip of the pen, too, and Python reads no number of thousands."""
WORKERS = re.compile(rf"{NUMBER}(?:-{NUMBER})?")
SHARE = re.compile(rf"{NUMBER}\s*:\s*{NUMBER}(?:-{NUMBER})?")
BY_BATCH = re.compile(r"\s+by\s+batch$", re.IGNORECASE)
SPELLED = "0, or 0,1 or 0-3; with lanes 0:0,1:1-3; of whole batches '0,1 by batch', which has no lanes"
MAX_NUMBER = 4096
"""Workers or lanes, at most: more is a slip of the pen."""


def parse(text: str, names: Sequence[str], lanes: int | None = None) -> tuple[int, tuple[PlanStage, ...]]:
    """The lanes and stages of a plan, which have still to be checked; arguments and errors as of `Plan.parse`."""
    halves = [tuple(half.strip() for half in cut(part, "@")) for part in stages_of(text)]
    if not all(len(half) == 2 for half in halves):
        raise plan_error(text, "is none", "BLOCKS @ WORKERS | BLOCKS @ WORKERS | ...", text.strip() or "nothing")
    found = lanes or max([last + 1 for _, workers in halves for last in lanes_in(workers)] or [0])
    found = found or max(1 if BY_BATCH.search(workers) else len(workers_in(workers, text)) for _, workers in halves)
    return found, tuple(stage_in(blocks_in(blocks, names, text), workers, found, text) for blocks, workers in halves)


def stages_of(text: str) -> list[str]:
    """The text of each stage."""
    return cut(text, "|")


def stage_in(blocks: tuple[str, ...], workers: str, lanes: int, whole_text: str) -> PlanStage:
    """workers: as text, with what is said of them."""
    if not (by_batch := BY_BATCH.search(workers)):
        return PlanStage(blocks, shares_in(workers, lanes, whole_text))
    found = workers_in(workers[: by_batch.start()], whole_text)
    return PlanStage(blocks, tuple(Share(worker, range(lanes)) for worker in found), by_batch=True)


def blocks_in(text: str, names: Sequence[str], whole_text: str) -> tuple[str, ...]:
    """Names between spaces or commas, in double quotes where they have such; `first..last` for all from one to another,
    `*` for all there are."""
    try:
        words = list(words_in(text))
    except ValueError as error:
        raise plan_error(whole_text, "has a name in quotes that is none", 'names as "a name"', str(error)) from error
    found: list[str] = []
    for word in words:
        if word.text == "*":
            found += names
        elif word.text not in names and word.first in names and word.last in names:
            begin, end = names.index(word.first), names.index(word.last)
            if begin > end:
                raise plan_error(whole_text, "goes backwards", ", ".join(names), word.text)
            found += names[begin : end + 1]
        else:
            found.append(word.first if word.last is None else word.text)
    if not found:
        raise plan_error(whole_text, "has a stage without blocks", "BLOCKS @ WORKERS", f"@ {text}")
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
        if not match or not int(match[1]) <= int(match[2] or match[1]) <= MAX_NUMBER:
            raise plan_error(whole_text, "names no workers", SPELLED, word)
        workers += range(int(match[1]), int(match[2] or match[1]) + 1)
    return workers


def shares_in(text: str, lanes: int, whole_text: str) -> tuple[Share, ...]:
    """Workers with the lanes that are named, in the lanes' order; where none are named, all lanes spread over them."""
    if ":" not in text:
        workers = workers_in(text, whole_text)
        if not workers:
            raise plan_error(whole_text, "has a stage without workers", "BLOCKS @ WORKERS", f"@ {text}")
        if len(workers) > lanes:
            raise plan_error(
                whole_text,
                "has more workers at a stage than lanes",
                f"at most {lanes}, a lane each",
                f"{len(workers)} workers",
            )
        return spread(workers, lanes)
    shares: list[Share] = []
    for word in filter(None, (word.strip() for word in text.split(","))):
        match = SHARE.fullmatch(word)
        if not match or not int(match[2]) <= int(match[3] or match[2]) <= MAX_NUMBER or int(match[1]) > MAX_NUMBER:
            raise plan_error(whole_text, "names no worker with its lanes", SPELLED, word)
        shares.append(Share(int(match[1]), range(int(match[2]), int(match[3] or match[2]) + 1)))
    return tuple(sorted(shares, key=lambda share: share.lanes[0]))


EXAMPLES = (
    "`ffdist plan` prints plans of a network; e.g. 'conv1 @ 0 | conv2 @ 0:0, 1:1-3 | conv3 @ 1', or "
    "'conv1..conv3 @ 0, 1 by batch'"
)


def plan_error(text: str, what: str, expected: object, got: object, remedy: str = EXAMPLES) -> ConfigError:
    """The error for a plan; what: is wrong with it, after "the plan ..."."""
    return ConfigError(
        f"the plan {what}",
        where=setting("plan.plan", repr(text.strip())),
        expected=expected,
        got=got,
        remedy=remedy,
    )
