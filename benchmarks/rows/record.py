"""The record of a row of the accuracy table: accuracies in per cent of the test split, for each seed and over them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.rows.row import Row
from benchmarks.rows.train import cost_of
from ffdist.bench.harness import record as harness
from ffdist.bench.harness.record import Record, environment, facts_of, tidy
from ffdist.bench.harness.table import Line, ResultTable, Value, lines_of, pipes
from ffdist.pipeline.crossed import layers_crossed
from ffdist.pipeline.predictors import PREDICTORS
from ffdist.report.log import read_run_log
from ffdist.runtime.data_facts import read_facts
from ffdist.runtime.run import load_classifier, network, read_settings
from ffdist.settings import Settings

SUITE = "accuracy-row"
ACCURACY = {"accuracy": "%", "deviation": "%"}
COST = {"seconds": "s", "cpu_seconds": "s", "peak_mib": "MiB"}
COUNTS = {"epochs": "", "samples": "", "parameters": "", "commit": ""}


def measured(out: Path) -> dict[str, Any]:
    """Read the results from one finished run's folder."""
    epochs, end = read_run_log(out)
    assert end, "it has finished"
    test = end["test"]
    return {
        "seed": read_settings(out).training.seed,
        "accuracy": {name: round(100 * share, 2) for name, share in test["accuracy"].items()},
        "blocks": {
            b["block"]: None if b["accuracy"] is None else round(100 * b["accuracy"], 2) for b in test["blocks"]
        },
        "samples": test["samples"],
        "epochs": len(epochs),
        "curve": [last_learned(record["train"]["blocks"]) for record in epochs],
        "seconds": round(sum(record["stages"][0]["seconds"] for record in epochs)),
        **cost_of(out),
    }


def last_learned(blocks: Sequence[Mapping[str, Any]]) -> float | None:
    """The training accuracy of the last block that has one, in per cent."""
    found = [block["accuracy"] for block in blocks if block.get("accuracy") is not None]
    return round(100 * found[-1], 2) if found else None


def summed_up(row: Row, outs: Sequence[Path], note: str) -> Record:
    """The record of a row's finished runs, one a seed."""
    runs, settings = [measured(out) for out in outs], read_settings(outs[0])
    parameters = sum(p.numel() for p in load_classifier(outs[0])[0].parameters())
    facts = facts_of(SUITE, shlex.split(row.command))
    facts["versions"] |= {"commit": runs[-1].get("commit", "unknown")}
    about = {
        "row": row.name,
        "data": row.data,
        "args": row.args,
        "form": row.form,
        "paper": row.paper,
        "source": row.source,
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
        "settings": what_decides(settings),
        "notes": [note] if note else [],
    }
    tables = tables_of(runs, parameters, crossed(outs[0]))
    return facts | about | tidy(tables, settings.network.model, settings.rule.objective)


def tables_of(runs: Sequence[Mapping[str, Any]], parameters: int, crossed: Mapping[str, int]) -> list[ResultTable]:
    """The record's tables, over all seeds and of each; none of them is drawn."""
    over = ResultTable("accuracy", "", {}, ACCURACY)
    seeds = ResultTable("seeds", "", {}, ACCURACY)
    blocks = ResultTable("blocks", "", {}, ACCURACY)
    cost = ResultTable("cost", "", {}, COST | COUNTS)
    layers = ResultTable("crossed", "", {}, {"layers": ""})
    curve = ResultTable("curve", "", {}, {"training": "%"})
    for name in runs[0]["accuracy"]:
        found = [run["accuracy"][name] for run in runs]
        deviation = round(stdev(found), 2) if len(runs) > 1 else None
        over.add(
            side="ours",
            predictor=name,
            deviation=deviation,
            accuracy=Value(round(mean(found), 2), len(runs), (min(found), max(found))),
        )
    for run in runs:
        for name, accuracy in run["accuracy"].items():
            seeds.add(side="ours", seed=run["seed"], predictor=name, accuracy=accuracy)
        for name, accuracy in run["blocks"].items():
            blocks.add(side="ours", seed=run["seed"], block=name, accuracy="-" if accuracy is None else accuracy)
        for epoch, accuracy in enumerate(run["curve"], 1):
            curve.add(side="ours", seed=run["seed"], epoch=epoch, training="-" if accuracy is None else accuracy)
        counts = {name: run[name] for name in (*COST, "epochs", "samples", "commit") if name in run}
        cost.add(side="ours", seed=run["seed"], **counts)
    each = {name: round(mean(run[name] for run in runs)) for name in COST if all(name in run for run in runs)}
    cost.add(
        side="ours",
        seed="all",
        **each,
        epochs=max(run["epochs"] for run in runs),
        samples=runs[0]["samples"],
        parameters=parameters,
    )
    for name, count in crossed.items():
        layers.add(side="ours", block=name, layers=count)
    return [over, seeds, blocks, cost, layers, curve]


def crossed(out: Path) -> dict[str, int]:
    """Layers that a gradient crosses in each block and its head."""
    facts = read_facts(out)
    return layers_crossed(*network(read_settings(out), facts.shape, len(facts.classes), run=out))


def what_decides(settings: Settings) -> dict[str, Any]:
    """The settings that decide what is learned: without paths."""
    return {k: v for k, v in settings.items() if isinstance(v, (int, float, str, tuple)) and k != "data"}


def accuracies(record: Record) -> dict[str, Line]:
    """The record's lines by predictor: `accuracy` over the seeds, and its `deviation` where there are several."""
    return {line["predictor"]: line for line in lines_of(record["rows"], "accuracy")}


def costs(record: Record) -> dict[str, Any]:
    """The costs of all seeds: what a seed took, and what was trained."""
    return {name: cell.value for name, cell in lines_of(record["rows"], "cost")[-1].items() if isinstance(cell, Value)}


def seeds(record: Record) -> list[int]:
    return [line["seed"] for line in lines_of(record["rows"], "cost")[:-1]]


def layers(record: Record) -> dict[str, Any]:
    """Layers that a gradient crosses in each block and its head, by the block's name."""
    return {line["block"]: line["layers"].value for line in lines_of(record["rows"], "crossed")}


def write(record: Record, folder: Path) -> Path:
    """`accuracy-<row>-<machine>-<date>.{json,md}`; returns the second's path."""
    path = folder / f"accuracy-{record['row']}-{record['machine']['name']}-{record['date']}.json"
    path.write_text(harness.as_json(record))
    path.with_suffix(".md").write_text(as_markdown(record), encoding="utf-8")
    return path.with_suffix(".md")


def as_markdown(r: Record) -> str:
    """The record as people read it."""
    spent, found = costs(r), seeds(r)
    crosses = f"Layers that a gradient crosses in a block and its head: {', '.join(map(str, layers(r).values()))}."
    paper = f"The paper's: {r['paper']:.2f} ({r['source']})." if r["paper"] else ""
    about = [r["form"], crosses, *r["notes"], paper, learned(r)]
    cost = f"{spent['seconds']:,} s"
    cost += f", {spent['cpu_seconds']:,} s of CPU, {spent['peak_mib']:,} MiB" if "peak_mib" in spent else ""
    lines = [
        f"# accuracy, {r['row']}, {r['date']}",
        "",
        f"    {r['command']}",
        "",
        f"{environment(r)}; {r['threads']} thread(s).",
        "",
        f"Seeds {', '.join(map(str, found))} (n = {len(found)}), {spent['epochs']} epochs, {spent['parameters']:,} "
        f"parameters, {cost} a seed, {spent['samples']:,} test samples.",
        "",
        *(f"{text}\n" for text in about if text),
        *table(r),
        "",
    ]
    return "\n".join(lines)


def learned(r: Record) -> str:
    """The course of the first seed, epoch by epoch; empty for a record that has none."""
    curve = [line for line in lines_of(r["rows"], "curve") if line["seed"] == seeds(r)[0]]
    accuracies_by_epoch = " ".join(f"{line['training'].value}" for line in curve)
    return f"Training accuracy of the last block by epoch, seed {seeds(r)[0]}: {accuracies_by_epoch}." if curve else ""


def table(r: Record) -> list[str]:
    """Predictors and blocks down, seeds across."""
    seed_numbers, several = seeds(r), len(seeds(r)) > 1
    heads = ["predictor", *(f"seed {seed}" for seed in seed_numbers), *["mean ± deviation"] * several]
    cells: dict[str, list[str]] = {}
    for part, what in (("seeds", "predictor"), ("blocks", "block")):
        for line in lines_of(r["rows"], part):
            name = PREDICTORS[line[what]] if part == "seeds" else f"block {line[what]}"
            value = line["accuracy"].value
            cells.setdefault(name, []).append(value if isinstance(value, str) else f"{value:.2f}")
    over = {PREDICTORS[name]: spread(line) for name, line in accuracies(r).items()}
    return pipes(heads, ([name, *shown, *[over.get(name, "")] * several] for name, shown in cells.items()))


def spread(line: Line) -> str:
    """A line's mean, with the standard deviation where there are several seeds, as text."""
    deviation = f" ± {line['deviation'].value:.2f}" if "deviation" in line else ""
    return f"{line['accuracy'].value:.2f}{deviation}"
