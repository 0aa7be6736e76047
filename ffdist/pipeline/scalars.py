"""The numbers of an epoch's record, each under a name of its own: for trackers, and for tables of a run's history."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

STAGE = ("seconds", "busy", "no_data", "no_credit", "exchange", "no_gradients", "queued", "run_bytes", "process_bytes")
"""The numbers of a stage's record that are passed on, where it has them."""


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """ "train/loss/<block>", "train/accuracy/<block>", "train/samples_per_second", "validation/accuracy/<predictor>",
    "validation/accuracy/<block>" and "validation/top5/..." likewise, "validation/metric/<name>" of a user's own,
    "stage/<number>/<what>" in seconds or bytes; of a stage of several workers "stage/<number>/worker/<number>/<what>".
    What an epoch does not have is left out."""
    return dict(_numbers(record))


def _numbers(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    train = record.get("train", {})
    if (speed := train.get("samples_per_second")) is not None:
        yield "train/samples_per_second", speed
    for name in ("train", "validation"):
        yield from _of_split(name, record.get(name, {}))
    stages = record.get("stages", [])
    places = [stage["stage"] for stage in stages]
    for stage in stages:
        worker = f"/worker/{stage['worker']}" if places.count(stage["stage"]) > 1 else ""
        for what in STAGE:
            if what in stage:
                yield f"stage/{stage['stage']}{worker}/{what}", stage[what]


def of_test(test: Mapping[str, Any] | None) -> dict[str, float]:
    """ "test/accuracy/<predictor or block>", "test/top5/..."; empty without a test split."""
    return dict(_of_split("test", test or {}))


def _of_split(name: str, split: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for kind in ("accuracy", "top5"):
        for predictor, share in split.get(kind, {}).items():
            yield f"{name}/{kind}/{predictor}", share
    for metric, value in split.get("metrics", {}).items():
        if value is not None:
            yield f"{name}/metric/{metric}", value
    for block in split.get("blocks", []):
        for kind in ("loss", "accuracy", "top5"):
            if block.get(kind) is not None:
                yield f"{name}/{kind}/{block['block']}", block[kind]


def history(records: Iterable[Mapping[str, Any]]) -> pa.Table:
    """A row an epoch: "epoch" (from 1), "step", "time", and a column for each of `scalars`; null where an epoch has
    none. `.to_pandas()` makes a frame of it."""
    rows = [{name: record.get(name) for name in ("epoch", "step", "time")} | scalars(record) for record in records]
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["epoch", "step", "time"]
    return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})
