"""The output of `ffdist train --replay`."""

from __future__ import annotations

import json
from pathlib import Path

from ffdist.notes import listed
from ffdist.plain import PlainConsole, table
from ffdist.runtime.replay import Replay, is_bad, replay


def show(run: Path, batch: int | None, *, as_json: bool = False) -> None:
    """Print a replayed batch: a row for each block, and the samples at fault; or one JSON object."""
    found = replay(run, batch)
    if as_json:
        print(json.dumps(found.as_json()))
        return
    console = PlainConsole()
    console.print(table_of(found))
    for line in lines_of(found):
        console.print(line, soft_wrap=True)


def table_of(found: Replay) -> object:
    rows = table(
        "block",
        "loss",
        "largest output",
        "not finite",
        "largest gradient",
        "not finite",
        title=f"Batch {found.batch}, epoch {found.epoch}: {len(found.samples)} samples",
    )
    for each in found.blocks:
        loss = "-" if each.loss is None else f"{each.loss:.6g}"
        rows.add_row(
            each.block,
            loss,
            f"{each.largest_output:.6g}",
            f"{each.bad_outputs:,}",
            f"{each.largest_gradient:.6g}",
            f"{each.bad_gradients:,}",
        )
    return rows


def lines_of(found: Replay) -> list[str]:
    """Lines that say in which block, and with which samples, numbers stop being finite."""
    snapshot = f"the snapshot after batch {found.begun}" if found.begun else "the run's beginning"
    lines = [f"learned from {snapshot} on; samples are named by their places in the training split, from 0"]
    if found.bad_inputs:
        lines.append(f"not finite before the first block: {listed(found.bad_inputs)}")
    first = found.first_bad
    if first is None:
        return [*lines, f"all is finite; its samples: {listed(found.samples)}"]
    lines.append(f"the first block with what is no finite number: {first.block}")
    own = next((each for each in found.blocks if is_bad(each) and each.samples), None)
    if own:
        lines.append(f"samples whose output is not finite in {own.block}: {listed(own.samples)}")
    return [*lines, f"all of its samples: {listed(found.samples)}"]
