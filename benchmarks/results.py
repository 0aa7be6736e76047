"""The README's tables of speed and memory, drawn from the newest records alone.

python benchmarks/results.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.marks import put
from ffdist.bench.finding import Cell, Grid
from ffdist.bench.summary import ratios

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "benchmarks/records"
HEADLINE = "<!-- headline: drawn by `python benchmarks/results.py` -->", "<!-- /headline -->"
RESULTS = "<!-- results: drawn by `python benchmarks/results.py` -->", "<!-- /results -->"
MIB = 2**20
Record = dict[str, Any]
Rows = list[dict[str, Cell]]


def main() -> None:
    redraw(ROOT / "README.md", RECORDS)


def redraw(readme: Path, folder: Path) -> None:
    """Puts the tables between their marks."""
    for (begin, end), drawn in ((HEADLINE, headline(folder)), (RESULTS, draw(folder))):
        put(readme, begin, drawn, end)


def draw(folder: Path) -> str:
    parts = []
    for theme, (title, rows_of) in SECTIONS.items():
        records = newest(folder, theme)
        if records:
            parts += [Grid(title, rows_of(records)).markdown().replace("###", "####", 1), ""]
    return "\n".join(parts)


def headline(folder: Path) -> str:
    """Of the first table, what a reader asks first."""
    columns = ("network", "ours, 2 stages", "DDP, 2 ranks", "ours / DDP", "n", "record")
    rows = [{column: row[column] for column in columns} for row in throughput(newest(folder, "throughput"))]
    return Grid("", rows).markdown().split("\n\n", 1)[1] + "\n"


def newest(folder: Path, theme: str) -> list[Record]:
    """The latest record of each network, data set and number of microbatches, with its `file`, in the files' order."""
    found: dict[tuple[Any, ...], Record] = {}
    for path in sorted(folder.glob(f"{theme}-*.json"), key=lambda p: (len(p.name), p.name)):
        record: Record = json.loads(path.read_text()) | {"file": path.stem}
        s = record.get("settings", {})
        key = (s.get("model"), str(s.get("model_args")), s.get("split"), s.get("data"), s.get("microbatches", 1))
        if record.get("theme") == theme and record["date"] >= found.get(key, record)["date"]:
            found[key] = record
    return list(found.values())


def network(record: Record) -> str:
    """As people name it, with what differs from the usual."""
    s = record["settings"]
    options = [*s["model_args"], *([f"by {s['split']}"] if s["split"] else []),
               *([f"{s['microbatches']} microbatches"] if s.get("microbatches", 1) > 1 else [])]  # fmt: skip
    return ", ".join([s["model"], *options, Path(s["data"]).name])


def link(record: Record, *, plot: bool = True) -> str:
    base = f"benchmarks/records/{record['file']}"
    return f"[table]({base}.md)" + f", [plot]({base}.svg)" * plot


def summaries(record: Record) -> dict[str, dict[str, Any]]:
    """By what ffdist was compared with."""
    told = record["summary"] if isinstance(record["summary"], list) else [record["summary"]]
    return {summary["against"]: summary for summary in told}


def throughput(records: Sequence[Record]) -> Rows:
    return [throughput_row(record, summaries(record)) for record in records if "ddp" in summaries(record)]


def throughput_row(record: Record, told: dict[str, dict[str, Any]]) -> dict[str, Cell]:
    ddp, ff, bp = told["ddp"], told.get("ff"), told.get("bp")
    serial = None
    if ff and bp:
        serial = ratios([b for _, b in ff["pairs"]], [b for _, b in bp["pairs"]]).median
    others = [told[name] for name in ("pipeline", "fsdp") if name in told]
    return {
        "network": network(record), "ours, 2 stages": ddp["ours"], "DDP, 2 ranks": ddp["theirs"],
        "ours / DDP": f"**{ddp['ratio']:.2f}** ({ddp['ratio_min']:.2f} - {ddp['ratio_max']:.2f})", "n": ddp["n"],
        "serial FF / BP": serial, "ours / serial FF": ff["ratio"] if ff else None,
        "of the cut's bound": ff["of_bound"] if ff else None,
        "ours / others": ", ".join(f"{o['variant']} {o['ratio']:.2f}" for o in others) or None, "record": link(record),
    }  # fmt: skip


def memory(records: Sequence[Record]) -> Rows:
    rows: Rows = []
    for record in records:
        peaks: dict[str, float] = {}
        for table in record["tables"].values():
            for row in table:
                peaks[row["side"]] = max(peaks.get(row["side"], 0.0), row["peak"])
        ours, ddp = peaks["ours"], peaks["ddp-bucket-25"]
        others: dict[str, Cell] = {name: peaks.get(name) for name in ("ddp-accumulate", "ddp-checkpoint", "fsdp",
                                                                      "1f1b-4", "bp")}  # fmt: skip
        rows.append({"network": network(record), "ours": ours, "ddp": ddp, "ours / ddp": f"**{ours / ddp:.2f}**",
                     **others, "record": link(record)})  # fmt: skip
    return rows


def tabled(*columns: str) -> Callable[[Sequence[Record]], Rows]:
    """The records' own first tables, with these columns."""

    def rows_of(records: Sequence[Record]) -> Rows:
        return [
            {"network": network(record), **{column: row.get(column) for column in columns}, "record": link(record)}
            for record in records for row in next(iter(record["tables"].values()))
        ]  # fmt: skip

    return rows_of


def against(record: Record) -> str:
    return str(record["summary"]["variant"])


def to_accuracy(records: Sequence[Record]) -> Rows:
    return [
        {"network": network(r), "to": f"{r['summary']['target']:.0%}", "ours, s": r["summary"]["ours"],
         f"{against(r)}, s": r["summary"]["theirs"], "DDP's / ours": r["summary"]["ratio"],
         "least": r["summary"]["ratio_min"], "most": r["summary"]["ratio_max"], "n": r["summary"]["n"],
         "record": link(r)}
        for r in records
    ]  # fmt: skip


def whole(records: Sequence[Record]) -> Rows:
    """The last record's first table."""
    record = records[-1]
    return [row | {"record": link(record, plot=False)} for row in next(iter(record["tables"].values()))]


SECTIONS: dict[str, tuple[str, Callable[[Sequence[Record]], Rows]]] = {
    "throughput": ("Samples a second", throughput),
    "memory": ("Most MiB of tensors alive at once on a device", memory),
    "accuracy": ("Seconds to a validation accuracy", to_accuracy),
    "bandwidth": ("Samples a second between two hosts, by the rate of their link",
                  tabled("link", "ours samples/s", "DDP", "its samples/s", "ratio", "least", "most", "n")),
    "depth": ("Memory and speed as blocks are added, one block a stage",
              tabled("blocks", "ours MiB", "ddp MiB", "ratio", "ours samples/s", "ddp samples/s")),
    "floors": ("What a batch of 128 costs at least in one process", whole),
    "changes": ("What the optimisations bring: a serial step of SFF, ms", whole),
    "scaling": ("Samples a second as devices are added",
                tabled("devices", "ours samples/s", "against", "its samples/s", "ratio", "least", "most", "n")),
}  # fmt: skip


if __name__ == "__main__":
    main()
