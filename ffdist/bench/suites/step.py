"""The time of a step: one process, no pipeline, no loader; FF and backpropagation side by side, by operation."""

from __future__ import annotations

from ffdist.bench.harness.result import BenchResult, Plot, Progress
from ffdist.bench.harness.summary import Summary
from ffdist.bench.harness.table import ResultTable, spread_of
from ffdist.bench.operations import SideSteps, StepSides, kind_of, steps_of
from ffdist.bench.settings import BenchSettings

MAX_OPERATIONS = 20
"""Operations that are shown; the rest is summed."""
NAMES = {"ff": "FF", "bp": "BP"}


def step(settings: BenchSettings, progress: Progress) -> BenchResult:
    """Milliseconds a step by operation and by kind, and how much of the machine's peak the products reach."""
    progress("steps of both sides, in turns")
    return result_of(settings, steps_of(settings))


def result_of(settings: BenchSettings, steps: SideSteps) -> BenchResult:
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
                "operations": {
                    operation_name: operation._asdict() for operation_name, operation in side.operations.items()
                },
            }
            for name, side in steps.sides.items()
        },
    }
    notes = [
        *(
            f"{NAMES[name]}: {share:.0%} of its operations' time is outside of products"
            for name, share in shares.items()
        ),
        "a step: forward, local loss or loss, backward, update, on one random batch that is prepared beforehand",
        "operations by torch's profiler, in steps of their own; whole steps are timed without it",
        "peak: the fastest square product of this process, in the same precision and with as many threads",
    ]
    tables = [whole(steps, title), kinds(steps), largest(steps)]
    return BenchResult("step", summary, tables, notes, Plot.bars_of(tables[0], "step", "ms a step"))


def outside_of_products(side: StepSides) -> float:
    """The share of a step's time that is not in matrix products and convolutions."""
    kinds = side.by_kind()
    return 1 - kinds["products"] / (sum(kinds.values()) or 1.0)


def whole(steps: SideSteps, title: str) -> ResultTable:
    columns = {
        "side": "side",
        "ms a step": "step",
        **spread_of("step"),
        "GFLOP a step": "operations",
        "GFLOP/s": "reached",
        "of peak": "of_peak:.0%",
        "of peak, products alone": "products_of_peak:.0%",
    }
    units = {"step": "ms", "operations": "GFLOP", "reached": "GFLOP/s", "of_peak": "", "products_of_peak": ""}
    made = ResultTable("step", title, columns, units)
    for name, side in steps.sides.items():
        reached, in_products = side.flops / side.step, side.by_kind()["products"]
        made.add(
            side=NAMES[name],
            step=Summary.of([1e3 * seconds for seconds in side.seconds]),
            operations=side.flops / 1e9,
            reached=reached / 1e9,
            of_peak=reached / steps.peak,
            products_of_peak=side.flops / in_products / steps.peak if in_products else None,
        )
    made.add(side="peak", reached=steps.peak / 1e9)
    return made


def kinds(steps: SideSteps) -> ResultTable:
    columns = {"kind": "kind"}
    for name in NAMES.values():
        columns |= {f"{name}, ms": f"{name}/time", f"{name}, share": f"{name}/share:.0%"}
    made = ResultTable("kinds", "by kind", columns, {"time": "ms", "share": ""})
    for name, side in steps.sides.items():
        by_kind = side.by_kind()
        for kind, seconds in by_kind.items():
            made.add(side=NAMES[name], kind=kind, time=1e3 * seconds, share=seconds / (sum(by_kind.values()) or 1.0))
    return made


def largest(steps: SideSteps) -> ResultTable:
    """The operations that take the most of either side."""
    columns = {"operation": "operation", "kind": "kind"}
    for name in NAMES.values():
        columns |= {f"{name}, ms": f"{name}/time", f"{name}, calls": f"{name}/calls"}
    made = ResultTable("operations", "by operation, time of its own", columns, {"time": "ms", "calls": ""})
    every = {operation_name for side in steps.sides.values() for operation_name in side.operations}
    order = sorted(every, key=lambda operation_name: -max(own(side, operation_name) for side in steps.sides.values()))
    for operation_name in order[:MAX_OPERATIONS]:
        for name, side in steps.sides.items():
            calls = side.operations[operation_name].calls if operation_name in side.operations else None
            made.add(
                side=NAMES[name],
                operation=operation_name,
                kind=kind_of(operation_name),
                time=1e3 * own(side, operation_name),
                calls=calls,
            )
    for name, side in steps.sides.items() if (rest := order[MAX_OPERATIONS:]) else ():
        time = 1e3 * sum(own(side, operation_name) for operation_name in rest)
        made.add(side=NAMES[name], operation=f"{len(rest)} others", kind="", time=time)
    return made


def own(side: StepSides, operation: str) -> float:
    return side.operations[operation].seconds if operation in side.operations else 0.0
