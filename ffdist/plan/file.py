"""A plan as JSON, read strictly: what `as_json` does not write raises a KeyError, TypeError, ValueError or the like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ffdist.plan.stage import PlanStage, Share
from ffdist.plan.text import MAX_NUMBER

FORMAT = 1


def as_json(lanes: int, stages: Sequence[PlanStage]) -> dict[str, Any]:
    """A plan's lanes and stages, JSON-able."""
    return {"format": FORMAT, "lanes": lanes, "stages": [stage_json(stage) for stage in stages]}


def stage_json(stage: PlanStage) -> dict[str, Any]:
    workers = [{"worker": share.worker, "lanes": [share.lanes[0], share.lanes[-1]]} for share in stage.shares]
    return {"blocks": list(stage.blocks), "workers": workers, **({"by_batch": True} if stage.by_batch else {})}


def from_json(value: Any) -> tuple[int, tuple[PlanStage, ...]]:
    """The lanes and the stages. Raises what the module says for any other value."""
    check_keys(value, "format", "lanes", "stages")
    if isinstance(value["format"], bool) or value["format"] != FORMAT:
        raise ValueError(f"format {value['format']}")
    lanes, stages = whole(value["lanes"]), tuple(stage_from(stage) for stage in filled(value["stages"]))
    if not lanes or not all(share.lanes for stage in stages for share in stage.shares):
        raise ValueError("a worker or a plan without lanes")
    return lanes, stages


def stage_from(value: Any) -> PlanStage:
    """A stage of its JSON. Raises what `Plan.from_json` catches."""
    check_keys(value, "blocks", "workers", "by_batch")
    blocks = filled(value["blocks"])
    if not all(isinstance(name, str) for name in blocks):
        raise ValueError(f"{blocks!r} are no names of blocks")
    shares = [share_from(share) for share in filled(value["workers"])]
    by_batch = true_or_false(value.get("by_batch", False))
    if not by_batch:  # by batch, their order says whose turn it is
        shares.sort(key=lambda share: share.lanes.start)
    return PlanStage(tuple(blocks), tuple(shares), by_batch)


def share_from(value: Any) -> Share:
    check_keys(value, "worker", "lanes")
    first, last = filled(value["lanes"], 2)
    return Share(whole(value["worker"]), range(whole(first), whole(last) + 1))


def whole(value: Any) -> int:
    """The number of a worker or lane. Raises ValueError for what is none."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_NUMBER:
        raise ValueError(f"{value!r} is no number of a worker or lane")
    return value


def filled(value: Any, many: int | None = None) -> list[Any]:
    """A list that is not empty, of `many` values where that is given. Raises ValueError for any other value."""
    if not isinstance(value, list) or not value or len(value) != (many or len(value)):
        raise ValueError(f"{value!r} is no list of {many or 'one or more'}")
    return value


def check_keys(value: Any, *keys: str) -> None:
    """Raises ValueError for a key that is none of these: a newer version may mean something by it."""
    if unknown := [key for key in value if key not in keys]:
        raise ValueError(f"{unknown[0]!r} is none of {', '.join(keys)}")


def true_or_false(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value
