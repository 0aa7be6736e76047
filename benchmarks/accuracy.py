"""The accuracy table: train a row of `accuracy.toml` and write its record, or say what it would cost.

    python benchmarks/accuracy.py sff-cnnb-cifar10                  # says what it will cost, trains, records
    python benchmarks/accuracy.py sff-cnnb-cifar10 --seeds 0 1 2    # mean and spread over three
    python benchmarks/accuracy.py --estimate                        # what each row would cost here; trains nothing
    python benchmarks/accuracy.py table                             # draws README's and docs/ACCURACY.md's

A run that was cut off goes on where its last snapshot is; one that is finished is only recorded.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rows.cost import estimate
from benchmarks.rows.record import summed_up, write
from benchmarks.rows.row import Row, find_row, read_rows
from benchmarks.rows.table import redraw
from benchmarks.rows.train import exported, finished, train
from ffdist.cli import print_error
from ffdist.errors import DataError, FfdistError

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Accuracy:
    """Train a row of the accuracy table and record it."""

    row: Annotated[str | None, tyro.conf.Positional] = None
    """A row of accuracy.toml; "table" draws the documents' tables; none, with --estimate, means all rows."""
    seeds: tuple[int, ...] = (0,)
    """A run each; several give mean and spread."""
    estimate: bool = False
    """Only say what it would cost on this machine."""
    rows: Path = HERE / "accuracy.toml"
    """File of the rows."""
    data_root: Path = Path("data")
    """Folder with the prepared data sets, by their names."""
    runs: Path = Path("runs/accuracy")
    """Folder for the run folders."""
    records: Path = HERE / "records"
    """Folder for the record."""
    note: str = ""
    """A sentence for the record: what else the machine did, say."""


def main() -> None:
    command = tyro.cli(Accuracy, description=__doc__)
    try:
        rows = read_rows(command.rows)
        if command.row == "table":
            redraw(HERE.parent, rows, command.records)
        elif command.estimate:
            for row in [find_row(command.row, rows)] if command.row else rows.values():
                print(forecast(row, command), flush=True)
        elif command.row is None:
            sys.exit("accuracy: name a row of accuracy.toml, or --estimate for what each costs")
        else:
            measure(find_row(command.row, rows), rows, command)
    except FfdistError as error:
        print_error(error)
        sys.exit(1)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode if error.returncode > 0 else 128 - error.returncode)


def forecast(row: Row, command: Accuracy) -> str:
    """The cost of one seed of a row on this machine, in a line; or why it cannot be known."""
    try:
        cost = estimate(row.settings(command.data_root))
    except DataError as error:
        return f"{row.name}: {error}"
    return f"{row.name}: {cost} a seed"


def measure(row: Row, rows: dict[str, Row], command: Accuracy) -> None:
    """Train all seeds, then write the record.

    The record's folder is made first, so that a path that cannot be written fails before hours are spent.
    """
    command.records.mkdir(parents=True, exist_ok=True)
    outs = [command.runs / row.name / f"seed-{seed}" for seed in command.seeds]
    if not all(map(finished, outs)):
        print(forecast(row, command), file=sys.stderr, flush=True)
    weights = None if row.begins_with is None else weights_of(find_row(row.begins_with, rows), command)
    for seed, out in zip(command.seeds, outs, strict=True):
        train(row.flags(command.data_root, seed, weights), out)
    print(write(summed_up(row, outs, command.note), command.records).read_text())


def weights_of(row: Row, command: Accuracy) -> Path:
    """The file of a row's trained weights, of seed 0; the row is trained first where it has not been."""
    out = command.runs / row.name / "seed-0"
    train(row.flags(command.data_root, 0), out)
    return exported(out)


if __name__ == "__main__":
    main()
