"""The record of a row: accuracies in per cent of the test split, for each seed and over them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.rows.row import Row
from benchmarks.rows.train import cost_of, read_lines
from ffdist.bench.record import machine, versions
from ffdist.pipeline.crossed import layers_crossed
from ffdist.pipeline.predictors import PREDICTORS
from ffdist.runtime.data_facts import read_facts
from ffdist.runtime.run import load_classifier, network, read_settings
from ffdist.settings import Settings

Record = dict[str, Any]


def measured(out: Path) -> Record:
    """What one finished run's directory says."""
    *epochs, last = read_lines(out / "metrics.jsonl")
    test = last["test"]
    return {
        "seed": read_settings(out).training.seed,
        "accuracy": {name: round(100 * share, 2) for name, share in test["accuracy"].items()},
        "blocks": {b["block"]: None if b["accuracy"] is None else round(100 * b["accuracy"], 2)
                   for b in test["blocks"]},
        "samples": test["samples"],
        "epochs": len(epochs),
        "seconds": round(sum(record["stages"][0]["seconds"] for record in epochs)),
        **cost_of(out),
    }  # fmt: skip


def summed_up(row: Row, outs: Sequence[Path], note: str) -> Record:
    """The record of a row's finished runs, one a seed."""
    runs = [measured(out) for out in outs]
    settings = read_settings(outs[0])
    trained = load_classifier(outs[0])[0]
    found = {name: [run["accuracy"][name] for run in runs] for name in runs[0]["accuracy"]}
    over: Record = {"accuracy": {name: round(mean(of), 2) for name, of in found.items()}}
    if len(runs) > 1:
        over["spread"] = {name: round(stdev(of), 2) for name, of in found.items()}
    for key in ("seconds", "cpu_seconds", "peak_mib"):
        if all(key in run for run in runs):
            over[key] = round(mean(run[key] for run in runs))
    return over | {
        "row": row.name, "data": row.data, "args": row.args, "command": row.command, "form": row.form,
        "paper": row.paper, "source": row.source, "target": row.target, "note": note,
        "epochs": max(run["epochs"] for run in runs), "samples": runs[0]["samples"],
        "seeds": [run["seed"] for run in runs], "n": len(runs), "runs": runs,
        "parameters": sum(p.numel() for p in trained.parameters()), "crossed": crossed(outs[0]),
        "settings": what_decides(settings), "threads": os.environ.get("OMP_NUM_THREADS", "default"),
        "machine": machine(),
        "versions": versions() | {"commit": runs[-1].get("commit", "unknown")}, "date": date.today().isoformat(),
    }  # fmt: skip


def crossed(out: Path) -> dict[str, int]:
    """Layers that a gradient crosses in each block and its head."""
    facts = read_facts(out)
    return layers_crossed(*network(read_settings(out), facts.shape, len(facts.classes), run=out))


def what_decides(settings: Settings) -> Record:
    """The settings but for where things lie."""
    return {k: v for k, v in settings.items() if isinstance(v, (int, float, str, tuple)) and k != "data"}


def write(record: Record, folder: Path) -> Path:
    """`accuracy-<row>-<machine>-<date>.{json,md}`; returns the second's path."""
    path = folder / f"accuracy-{record['row']}-{record['machine']['name']}-{record['date']}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    path.with_suffix(".md").write_text(as_markdown(record))
    return path.with_suffix(".md")


def as_markdown(r: Record) -> str:
    """The record as people read it."""
    m, v = r["machine"], r["versions"]
    layers = f"Layers that a gradient crosses in a block and its head: {', '.join(map(str, r['crossed'].values()))}."
    about = [r["form"], layers, r["note"], f"The paper's: {r['paper']:.2f} ({r['source']})." if r["paper"] else ""]
    cost = f"{r['seconds']:,} s" + (
        f", {r['cpu_seconds']:,} s of CPU, {r['peak_mib']:,} MiB" if "peak_mib" in r else ""
    )
    lines = [
        f"# accuracy, {r['row']}, {r['date']}", "", f"    {r['command']}", "",
        f"{m['processor']}, {m['cores']} cores, {m['memory_gib']} GiB{', ' + m['gpu'] if m['gpu'] else ''}; "
        f"Python {v['python']}, torch {v['torch']}, ffdist {v['ffdist']} at commit {v['commit']}; "
        f"{r['threads']} thread(s).", "",
        f"Seeds {', '.join(map(str, r['seeds']))} (n = {r['n']}), {r['epochs']} epochs, {r['parameters']:,} "
        f"parameters, {cost} a seed, {r['samples']:,} test samples.", "",
        *(f"{text}\n" for text in about if text),
        *table(r), "",
    ]  # fmt: skip
    return "\n".join(lines)


def table(r: Record) -> list[str]:
    """Predictors and blocks down, seeds across."""
    runs = r["runs"]
    several = len(runs) > 1
    heads = ["predictor", *(f"seed {run['seed']}" for run in runs), *["mean ± deviation"] * several]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, accuracy in r["accuracy"].items():
        over = [f"{accuracy:.2f} ± {r['spread'][name]:.2f}"] if several else []
        cells = [PREDICTORS[name], *(f"{run['accuracy'][name]:.2f}" for run in runs), *over]
        lines.append(f"| {' | '.join(cells)} |")
    for block in runs[0]["blocks"]:
        found = [run["blocks"][block] for run in runs]
        cells = ["-" if a is None else f"{a:.2f}" for a in found]
        lines.append(f"| block {block} | " + " | ".join([*cells, *[""] * several]) + " |")
    return lines
