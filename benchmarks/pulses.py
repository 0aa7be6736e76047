"""What it costs to be told of a run within its epochs: the same training with and without, in turns.

    python -m benchmarks.pulses --every 50 --rounds 9

Each round trains once with a pulse every so many batches, written to pulses.jsonl and heard by an observer, and once
without; which comes first changes. Printed: samples a second of both, and the median of what the rounds cost.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median

from ffdist.runtime.opened import open_dataset
from ffdist.runtime.start import make_job
from ffdist.runtime.threads import run_threads
from ffdist.settings import Settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=50, help="batches between pulses")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--epochs", type=int, default=3, help="of a run; the last but one counts nothing of its start")
    parser.add_argument("--stages", type=int, default=1)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--batch-size", type=int, default=32)
    args = parser.parse_args()
    settings = Settings().changed(
        data=args.data,
        model="cnnb",
        objective="sff",
        stages=args.stages,
        launcher="threads",
        threads=1,
        device="cpu",
        epochs=args.epochs,
        batch_size=args.batch_size,
        validation=0.0,
    )
    speed(settings)  # warms up
    costs = list[float]()
    for number in range(args.rounds):
        order = (args.every, 0) if number % 2 else (0, args.every)
        found = {every: speed(settings.changed(log_every=every)) for every in order}
        costs.append(1 - found[args.every] / found[0])
        print(f"round {number + 1}: {found[0]:,.0f} samples/s without, {found[args.every]:,.0f} with, {costs[-1]:+.2%}")
    print(
        f"a pulse every {args.every} batches costs {median(costs):+.2%} (median of {args.rounds} rounds, "
        f"{min(costs):+.2%} to {max(costs):+.2%})"
    )


def speed(settings: Settings) -> float:
    """Samples a second, the mean of all epochs but the first."""
    with tempfile.TemporaryDirectory(prefix="ffdist-") as folder:
        heard = list[object]()
        job = make_job(settings, open_dataset(settings.dataset), Path(folder), settings.plan.stages or 1)
        result = run_threads(job, heard.append)
    rates = [record["train"]["samples_per_second"] for record in result.records[1:]]
    return sum(rates) / len(rates)


if __name__ == "__main__":
    main()
