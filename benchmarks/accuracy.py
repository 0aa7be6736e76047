"""Accuracy rows: train what a row of `accuracy.toml` says, and write its record.

    python benchmarks/accuracy.py sff-cnnb-cifar10 --data-root data --runs runs/accuracy

A run that was cut off goes on where its last snapshot is; one that is finished is only recorded.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import tyro

from ffdist.bench.record import machine, versions
from ffdist.config import TrainSettings, apply, read_toml
from ffdist.runtime.run import load_classifier
from ffdist.snapshot import latest

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    """Train one row of the table and record it."""

    name: Annotated[str, tyro.conf.Positional]
    """A row of accuracy.toml."""
    data_root: Path = Path("data")
    """Folder with the prepared data sets, by their names."""
    runs: Path = Path("runs/accuracy")
    """Folder for the run directories."""
    records: Path = HERE / "records"
    """Folder for the record."""
    note: str = ""
    """A sentence for the record: what else the machine did, say."""


def main() -> None:
    row = tyro.cli(Row)
    rows = tomllib.loads((HERE / "accuracy.toml").read_text())
    if row.name not in rows:
        sys.exit(f"accuracy.toml has no row '{row.name}'; it has: {', '.join(rows)}")
    out, spec = row.runs / row.name, rows[row.name]
    given = [*spec["args"], "--data", str(row.data_root / spec["data"]), "--out", str(out)]
    begun = (out / "config.toml").exists()
    if not (begun and finished(out)):
        args = ["--resume", "--out", str(out)] if begun else given
        subprocess.run([sys.executable, "-m", "ffdist", "train", *args], check=True)
    record = measured(out) | {"row": row.name, "note": row.note, **spec}
    record["command"] = shlex.join(["ffdist", "train", *spec["args"], "--data", f"data/{spec['data']}"])
    path = row.records / f"accuracy-{row.name}-{machine()['name']}-{date.today().isoformat()}"
    path.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    path.with_suffix(".md").write_text(as_markdown(record))
    print(path.with_suffix(".md").read_text())


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def finished(out: Path) -> bool:
    lines = lines_of(out) if (out / "metrics.jsonl").exists() else []
    return bool(lines) and lines[-1].get("reason") == "finished"


def measured(out: Path) -> dict[str, Any]:
    """What the run directory says: accuracies in per cent of the test split, seconds, parameters, settings."""
    *epochs, last = lines_of(out)
    settings = apply(TrainSettings(), read_toml(out / "config.toml"), str(out))
    manifest = latest(out)
    assert manifest is not None, "a finished run has a snapshot"
    blocks = {block["block"]: 100 * block["accuracy"] for block in last["test"]["blocks"]}
    return {
        "mean": 100 * last["test"]["accuracy"]["mean"],
        "last": 100 * last["test"]["accuracy"]["last"],
        "blocks": blocks,
        "samples": last["test"]["samples"],
        "epochs": len(epochs),
        "seconds": round(sum(record["stages"][0]["seconds"] for record in epochs)),
        "stages": len(epochs[-1]["stages"]),
        "parameters": sum(p.numel() for p in load_classifier(out)[0].parameters()),
        "seeds": [settings.seed],
        "settings": {
            k: v for k, v in vars(settings).items() if isinstance(v, (int, float, str, tuple)) and k != "data"
        },
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
        "machine": machine(),
        "versions": versions(),
        "date": date.today().isoformat(),
    }


def as_markdown(r: dict[str, Any]) -> str:
    m, v = r["machine"], r["versions"]
    rows = [
        ("mean of blocks", r["mean"]),
        ("last block", r["last"]),
        *((f"block {k}", a) for k, a in r["blocks"].items()),
    ]
    lines = [
        f"# accuracy, {r['row']}, {r['date']}", "", f"    {r['command']}", "",
        f"{m['processor']}, {m['cores']} cores, {m['memory_gib']} GiB; Python {v['python']}, torch {v['torch']}, "
        f"ffdist {v['ffdist']} at commit {v['commit']}.", "",
        f"Seed {r['seeds'][0]} (n = 1), {r['epochs']} epochs, {r['parameters']:,} parameters, {r['seconds']:,} s in "
        f"{r['stages']} stage(s), {r['samples']:,} test samples.{' ' * bool(r['note'])}{r['note']}", "",
        "| predictor | test accuracy, % |", "|---|---|", *(f"| {name} | {value:.2f} |" for name, value in rows), "",
    ]  # fmt: skip
    if "paper" in r:
        lines += [f"The paper's: {r['paper']:.2f} ({r['source']}).", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
