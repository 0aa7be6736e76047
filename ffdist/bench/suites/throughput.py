"""Samples a second in the steady state: ffdist's pipeline against baselines with as many devices."""

from __future__ import annotations

from contextlib import ExitStack
from statistics import median
from typing import Any

from ffdist.bench.alone import OperationTimes, alone, slowest_stage, total
from ffdist.bench.best import with_plan
from ffdist.bench.bound import best_speedup
from ffdist.bench.floor import Floor, floor_table, floors
from ffdist.bench.harness.probe import Probe
from ffdist.bench.harness.result import BenchResult, Plot, Progress
from ffdist.bench.harness.rounds import PoolSide, Rounds, take_turns
from ffdist.bench.harness.table import SIDES, ResultTable
from ffdist.bench.settings import BenchSettings
from ffdist.bench.sides import Family, open_baseline, open_pipeline
from ffdist.bench.traced import draw_timelines
from ffdist.bench.weighed import pipeline_memory, worst
from ffdist.planner.cluster import parse_bytes

SERIAL = "ff"
TIMES = ("busy", "no_credit", "exchange", "no_gradients")
"""The times of a stage in the run log, in seconds."""


def throughput(settings: BenchSettings, progress: Progress) -> BenchResult:
    """Every side's samples/s, and ffdist's ratio to each baseline, pair by pair."""
    settings = with_plan(settings, progress)
    with ExitStack() as ends:
        probe = ends.enter_context(Probe(settings.compare.devices))
        ours, notes = best_of_ours(ends, settings, progress)
        families: dict[str, Family] = {}
        serial = [open_pipeline(ends, settings, 1, SERIAL)] if SERIAL in settings.compare.against else []
        for name in (n for n in settings.compare.against if n != SERIAL):
            families[name] = fastest(ends, settings, name, progress)
        sides = [ours, *serial, *(family.side for family in families.values())]
        rounds = take_turns(sides, probe, settings.compare.rounds, progress)
        ours.pool.finish()
    notes += rounds.notes()
    if settings.compare.memory_limit is not None:
        notes.append(memory_note(settings, progress))
    if settings.by_plan:
        notes.append(f"ours by the plan {settings.plan_text}")
    if settings.train.watch.trace:
        notes.append(f"both sides' stages at work are drawn in {draw_timelines(settings, progress)}")
    return result_of(settings, rounds, ours.name, families, notes)


def result_of(
    settings: BenchSettings, rounds: Rounds, ours: str, families: dict[str, Family], notes: list[str]
) -> BenchResult:
    found, timed = floors(settings), alone(settings)
    summary = [summarise(settings, rounds, ours, name, families.get(name)) for name in settings.compare.against]
    floor_rate = settings.batch_size / slowest_stage(timed["ff"], settings.num_stages).seconds
    notes = [
        *notes,
        limit_note(found, timed),
        *(bound_note(result) for result in summary if "bound" in result),
        *(ceiling_note(result, floor_rate) for result in summary if "bound" not in result),
    ]
    rates = {name: rounds.rate(name).median for name in found if name in rounds.names}
    tables = [
        compared(settings, rounds, ours, summary),
        *map(table_of_variants, families.items()),
        stages(rounds, ours),
        floor_table(found, timed, rates, settings.num_stages, settings.batch_size),
        rounds.table(),
    ]
    facts, plot = summary[0] if len(summary) == 1 else summary, Plot.bars_of(tables[0], "throughput", "samples/s")
    return BenchResult("throughput", facts, [table for table in tables if table.lines], notes, plot)


def best_of_ours(ends: ExitStack, settings: BenchSettings, progress: Progress) -> tuple[PoolSide, list[str]]:
    """ffdist as it is, or compiled where that was asked for and is faster in short rounds."""
    progress(f"starting {settings.num_stages} stages")
    plain = open_pipeline(ends, settings, settings.num_stages)
    if not settings.compare.compiled:
        return plain, []
    compiled = open_pipeline(ends, settings, settings.num_stages, "ours, compiled", compiled=True)
    best, rates = faster(plain, compiled, settings)
    return best, [f"ours: {rates[0]:,.0f} samples/s as it is, {rates[1]:,.0f} compiled, in the qualifying rounds"]


def fastest(ends: ExitStack, settings: BenchSettings, name: str, progress: Progress) -> Family:
    """A baseline at its best, compiled or not."""
    plain = open_baseline(ends, settings, name, progress)
    if not settings.compare.compiled:
        return plain
    compiled = open_baseline(ends, settings, name, progress, compiled=True)
    best, _ = faster(plain.side, compiled.side, settings)
    compiled.side.name += ", compiled"
    return plain if best is plain.side else compiled


def faster(plain: PoolSide, compiled: PoolSide, settings: BenchSettings) -> tuple[PoolSide, list[float]]:
    """The faster side by the medians of short rounds, and these medians; the other's processes are ended."""
    turns = [(plain.measure().rate, compiled.measure().rate) for _ in range(settings.compare.qualifying)]
    rates = [median(values) for values in zip(*turns, strict=True)]
    best, other = (plain, compiled) if rates[0] >= rates[1] else (compiled, plain)
    other.pool.finish()
    return best, rates


def summarise(
    settings: BenchSettings, rounds: Rounds, ours: str, against: str, family: Family | None
) -> dict[str, Any]:
    """One comparison as `--json` prints it."""
    theirs = family.side.name if family else against
    ratio = rounds.ratio(ours, theirs)
    result = {
        **settings.facts,
        "against": against,
        "variant": theirs,
        "ours": rounds.rate(ours).median,
        "theirs": rounds.rate(theirs).median,
        **ratio.facts("ratio"),
        "discarded": rounds.discarded,
        "trusted": rounds.trusted,
        "qualifying": {k: v.median for k, v in family.qualifying.items()} if family else {},
        "refused": family.refused if family else {},
        "pairs": [[a, b] for a, b in zip(rounds.rates(ours), rounds.rates(theirs), strict=True)],
    }
    if family is None:
        bound, cut = best_speedup(settings)
        result |= {"bound": bound, "of_bound": ratio.median / bound, "best_cut": cut}
    return result


def limit_note(found: dict[str, Floor], timed: dict[str, list[OperationTimes]]) -> str:
    """Note the limit of serial FF's lead over serial BP as all else is spared on both sides."""
    by_time = total(timed["bp"]).seconds / total(timed["ff"]).seconds
    counted = found["bp"].operations / found["ff"].operations
    return (
        f"of serial FF and BP only the heavy operations: BP takes {counted:.2f} times as many, and with "
        f"casts and optimiser {by_time:.2f} times as long, each run alone"
    )


def ceiling_note(result: dict[str, Any], floor_rate: float) -> str:
    """Note the ratio's ceiling, were the slowest stage's heavy operations all it has to do."""
    return (
        f"the slowest stage's heavy operations alone allow {floor_rate:,.0f} samples/s, "
        f"{floor_rate / result['theirs']:.2f} times {result['variant']}"
    )


def memory_note(settings: BenchSettings, progress: Progress) -> str:
    """Note what ours holds under the limit by which its plan was searched."""
    progress("weighing ours")
    limit, held = (
        parse_bytes(settings.compare.memory_limit or ""),
        worst(pipeline_memory(settings, settings.num_stages)),
    )
    kept = "within" if held.peak <= limit else "BEYOND"
    return (
        f"memory: the fullest worker of ours holds {held.peak / 2**20:.1f} MiB of tensors, {kept} the limit of "
        f"{limit / 2**20:.1f} MiB"
    )


def bound_note(result: dict[str, Any]) -> str:
    """Note the bound that the cut sets, and the share of it that was reached."""
    return (
        f"by the blocks' times alone, the best cut ({' + '.join(map(str, result['best_cut']))} blocks) could be "
        f"{result['bound']:.2f} times as fast as one process; ours has {result['of_bound']:.2f} of it"
    )


def compared(settings: BenchSettings, rounds: Rounds, ours: str, summary: list[dict[str, Any]]) -> ResultTable:
    title = f"{settings.subject}, {settings.compare.devices} devices, {settings.precision}, batch {settings.batch_size}"
    columns = SIDES | {"min ratio": "ratio.min", "max ratio": "ratio.max"}
    made = ResultTable(
        "compared", title, columns, {"throughput": "samples/s", "ratio": "", "bound": "", "of_bound": ""}
    )
    by_variant = {result["variant"]: result for result in summary}
    for name in rounds.names:
        result = by_variant.get(name, {"against": ""})
        bound = {key: result[key] for key in ("bound", "of_bound") if key in result}
        made.add(
            side=name, against=result["against"], throughput=rounds.rate(name), ratio=rounds.ratio(ours, name), **bound
        )
    return made


def table_of_variants(item: tuple[str, Family]) -> ResultTable:
    """All the variants that were tried."""
    name, family = item
    columns = {
        "variant": "side",
        "samples/s": "throughput",
        "min": "throughput.min",
        "max": "throughput.max",
        "taken": "taken",
    }
    title = f"{name}: qualifying rounds"
    made = ResultTable(f"qualifying {name}", title, columns, {"throughput": "samples/s", "taken": ""})
    for variant, rate in family.qualifying.items():
        made.add(side=variant, throughput=rate, taken="yes" if family.side.variant == variant else "")
    for variant, why in family.refused.items():
        made.add(side=variant, taken=why.splitlines()[0])
    return made


def stages(rounds: Rounds, ours: str) -> ResultTable:
    """A table of where the stages' time went: medians over the rounds that count, warm-up and tail included."""
    measured = rounds.measured[ours]
    stages = measured[0].details["stages"] if measured else []
    columns = {"stage": "stage", "worker": "worker", "blocks": "blocks", "busy": "busy", "waits for next": "no_credit"}
    if any("exchange" in stage for stage in stages):
        columns |= {"exchanges": "exchange", "waits for others": "no_gradients"}
    made = ResultTable(
        "stages", "ffdist's stages, ms a batch", columns, dict.fromkeys(TIMES, "ms a batch") | {"hidden": ""}
    )
    for index, stage in enumerate(stages):
        times = {
            key: median(1e3 * window.details["stages"][index][key] / window.details["batches"] for window in measured)
            for key in TIMES
            if key in stage
        }
        if hidden := [
            each for window in measured if (each := window.details["stages"][index].get("hidden")) is not None
        ]:
            times["hidden"] = median(hidden)
            columns["exchange hidden"] = "hidden:.0%"
        made.add(side=ours, stage=stage["stage"], worker=stage["worker"], blocks=" ".join(stage["blocks"]), **times)
    return made
