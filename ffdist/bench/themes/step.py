"""Where a step's time goes: one process, no pipeline, no loader; FF and backpropagation side by side, by operation."""

from __future__ import annotations

from ffdist.bench.finding import Cell, Finding, Grid, Plot, Progress
from ffdist.bench.operations import Side, Steps, kind_of, steps_of
from ffdist.bench.settings import BenchSettings

MOST = 20
"""Operations that are shown; the rest is summed."""
NAMES = {"ff": "FF", "bp": "BP"}


def step(settings: BenchSettings, progress: Progress) -> Finding:
    """Milliseconds a step by operation and by kind, and how much of the machine's peak the products reach."""
    progress("steps of both sides, in turns")
    return found_out(settings, steps_of(settings))


def found_out(settings: BenchSettings, steps: Steps) -> Finding:
    title = f"{settings.subject}, {settings.precision}, batch {settings.batch_size}, {settings.threads} thread(s)"
    shares = {name: outside_of_products(side) for name, side in steps.sides.items()}
    summary = {
        "network": settings.network,
        "rule": settings.train.rule.objective,
        "batch_size": settings.batch_size,
        "precision": settings.precision,
        "peak_gflops": steps.peak / 1e9,
        "sides": {
            name: {
                "seconds": side.step,
                "all_seconds": side.seconds,
                "gflop": side.flops / 1e9,
                "outside_of_products": shares[name],
                "kinds": side.by_kind(),
                "operations": {of: operation._asdict() for of, operation in side.operations.items()},
            }
            for name, side in steps.sides.items()
        },
    }
    notes = [
        *(f"{NAMES[name]}: {share:.0%} of its operations' time is outside of products" for name, share in
          shares.items()),
        "a step: forward, local loss or loss, backward, update, on one random batch that is prepared beforehand",
        "operations by torch's profiler, in steps of their own; whole steps are timed without it",
        "peak: the fastest square product of this process, in the same precision and with as many threads",
    ]  # fmt: skip
    grids = [whole_grid(steps, title), kind_grid(steps), operation_grid(steps)]
    bars = {NAMES[name]: [("", 1e3 * side.step, 1e3 * min(side.seconds), 1e3 * max(side.seconds))]
            for name, side in steps.sides.items()}  # fmt: skip
    return Finding("step", summary, grids, notes, Plot("bars", title, "", "ms a step", bars))


def outside_of_products(side: Side) -> float:
    kinds = side.by_kind()
    return 1 - kinds["products"] / (sum(kinds.values()) or 1.0)


def whole_grid(steps: Steps, title: str) -> Grid:
    rows: list[dict[str, Cell]] = []
    for name, side in steps.sides.items():
        reached = side.flops / side.step
        in_products = side.by_kind()["products"]
        rows.append({
            "side": NAMES[name], "ms a step": 1e3 * side.step, "least": 1e3 * min(side.seconds),
            "most": 1e3 * max(side.seconds), "n": len(side.seconds), "GFLOP a step": side.flops / 1e9,
            "GFLOP/s": reached / 1e9, "of peak": f"{reached / steps.peak:.0%}",
            "of peak, products alone": f"{side.flops / in_products / steps.peak:.0%}" if in_products else None,
        })  # fmt: skip
    rows.append({"side": "peak", "GFLOP/s": steps.peak / 1e9})
    return Grid(title, rows)


def kind_grid(steps: Steps) -> Grid:
    by_side = {name: side.by_kind() for name, side in steps.sides.items()}
    rows: list[dict[str, Cell]] = []
    for kind in next(iter(by_side.values())):
        row: dict[str, Cell] = {"kind": kind}
        for name, kinds in by_side.items():
            row[f"{NAMES[name]}, ms"] = 1e3 * kinds[kind]
            row[f"{NAMES[name]}, share"] = f"{kinds[kind] / (sum(kinds.values()) or 1.0):.0%}"
        rows.append(row)
    return Grid("by kind", rows)


def operation_grid(steps: Steps) -> Grid:
    """Those that take the most of either side."""
    every = {of for side in steps.sides.values() for of in side.operations}
    largest = sorted(every, key=lambda of: -max(own(side, of) for side in steps.sides.values()))
    rows: list[dict[str, Cell]] = []
    for of in largest[:MOST]:
        row: dict[str, Cell] = {"operation": of, "kind": kind_of(of)}
        for name, side in steps.sides.items():
            row[f"{NAMES[name]}, ms"] = 1e3 * own(side, of)
            row[f"{NAMES[name]}, calls"] = side.operations[of].calls if of in side.operations else None
        rows.append(row)
    if rest := largest[MOST:]:
        row = {"operation": f"{len(rest)} others", "kind": ""}
        for name, side in steps.sides.items():
            row[f"{NAMES[name]}, ms"] = 1e3 * sum(own(side, of) for of in rest)
            row[f"{NAMES[name]}, calls"] = None
        rows.append(row)
    return Grid("by operation, time of its own", rows)


def own(side: Side, operation: str) -> float:
    return side.operations[operation].seconds if operation in side.operations else 0.0
