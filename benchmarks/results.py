"""The tables of speed and memory in README and docs/RESULTS.md, drawn from the newest records alone.

python benchmarks/results.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from itertools import chain
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
WHOLE = Path("docs/RESULTS.md")
"""The document with all of them, below the project's root."""
CHOSEN = ("mlp, mnist", "vgg8, cifar10", "cnnb, cifar10", "cnnb, widths=128,16,16, cifar10")
"""README's rows, for what they teach: a large win, an even one, a level one, a loss."""
MIB = 2**20
Record = dict[str, Any]
Rows = list[dict[str, Cell]]


def main() -> None:
    redraw(ROOT, RECORDS)


def redraw(root: Path, folder: Path) -> None:
    """Puts the tables between their marks: in README a few rows, in `WHOLE` all of them."""
    put(root / "README.md", HEADLINE[0], headline(folder), HEADLINE[1])
    put(root / WHOLE, RESULTS[0], draw(folder).replace("](benchmarks/", "](../benchmarks/"), RESULTS[1])


def draw(folder: Path) -> str:
    parts = []
    for theme, title, rows_of in SECTIONS:
        records = newest(folder, theme)
        if records:
            parts += [Grid(title, rows_of(records)).markdown().replace("###", "##", 1), ""]
    return "\n".join(parts)


def headline(folder: Path) -> str:
    """Of the first table, what a reader asks first."""
    columns = ("network", "ours", "DDP", "ours / DDP", "ours / fastest BP", "n", "record")
    found = {str(row["network"]): row for row in throughput(newest(folder, "throughput"))}
    rows = [{column: found[name][column] for column in columns} for name in CHOSEN]
    return Grid("", rows).markdown().split("\n\n", 1)[1] + "\n"


def newest(folder: Path, theme: str) -> list[Record]:
    """The latest record of each network, rule, data set and way of running, with its `file`."""
    found: dict[tuple[Any, ...], Record] = {}
    for path in sorted(folder.glob(f"{theme}-*.json"), key=lambda p: (len(p.name), p.name)):
        record: Record = json.loads(path.read_text()) | {"file": path.stem}
        s = settings_of(record)
        told = ("model", "model_args", "split", "objective", "objective_args", "modules", "data", "microbatches", "lr",
                "stages", "queue", "plan", "memory_limit", "link")  # fmt: skip
        key = tuple(str(s.get(name) or None) for name in told)
        if record.get("theme") == theme and record["date"] >= found.get(key, record)["date"]:
            found[key] = record
    return list(found.values())


def settings_of(record: Record) -> dict[str, Any]:
    """By their own names, whether the record has them in groups or not; where two groups have one, the comparison's."""
    told = record.get("settings", {})
    groups = [*told["train"].values(), told["compare"]] if "train" in told else [told]
    return {name: value for group in groups for name, value in group.items()}


def network(record: Record) -> str:
    """As people name it, with what differs from the usual."""
    s = settings_of(record)
    rule, parts, stages, queue = (s.get(name) for name in ("objective", "microbatches", "stages", "queue"))
    options = [
        *s["model_args"],
        *([f"by {s['split']}"] if s["split"] else []),
        *([rule] if rule != "sff" else []),
        *s["objective_args"],
        *([f"{parts} microbatches"] if parts and parts > 1 else []),
        *([f"{stages} stages"] if stages else []),
        *([f"queue {queue}"] if queue not in (None, 2) else []),
        *([f"plan {s['plan']}"] if s.get("plan") else []),
        *([f"{s['modules'][0]} modules"] if s.get("modules") else []),
        *([f"link {s['link']}"] if s.get("link") else []),
    ]
    return ", ".join([s["model"], *options, Path(s["data"]).name])


def link(record: Record, *, plot: bool = True) -> str:
    base = f"benchmarks/records/{record['file']}"
    return f"[table]({base}.md)" + f", [plot]({base}.svg)" * plot


def summaries(record: Record) -> dict[str, dict[str, Any]]:
    """By what ffdist was compared with."""
    told = record["summary"] if isinstance(record["summary"], list) else [record["summary"]]
    return {summary["against"]: summary for summary in told}


def throughput(records: Sequence[Record]) -> Rows:
    with_ddp = [record for record in records if "ddp" in summaries(record)]
    return [throughput_row(record, summaries(record)) for record in sorted(with_ddp, key=network)]


def throughput_row(record: Record, told: dict[str, dict[str, Any]]) -> dict[str, Cell]:
    ddp, ff, bp = told["ddp"], told.get("ff"), told.get("bp")
    serial = None
    if ff and bp:
        serial = ratios([b for _, b in ff["pairs"]], [b for _, b in bp["pairs"]]).median
    fastest = max((side for name, side in told.items() if name != "ff"), key=lambda side: side["theirs"])
    others = [told[name] for name in ("bp-threads", "pipeline", "fsdp") if name in told]
    return {
        "network": network(record), "ours": ddp["ours"], "DDP": ddp["theirs"],
        "ours / DDP": f"**{ddp['ratio']:.2f}** ({ddp['ratio_min']:.2f} - {ddp['ratio_max']:.2f})", "n": ddp["n"],
        "ours / fastest BP": f"{fastest['ratio']:.2f} ({fastest['variant']})",
        "serial FF / BP": serial, "ours / serial FF": ff["ratio"] if ff else None,
        "of what blocks' times allow": ff["of_bound"] if ff else None,
        "ours / others": ", ".join(f"{o['variant']} {o['ratio']:.2f}" for o in others) or None, "record": link(record),
    }  # fmt: skip


FAMILIES = {"DDP at least": ("ddp",), "FSDP at least": ("fsdp",), "one device at least": ("bp",),
            "BP pipeline at least": ("1f1b", "gpipe", "interleaved", "zero-bubble")}  # fmt: skip


def fullest(record: Record, column: str) -> dict[str, float]:
    """Of each side, that of the device with the most."""
    found: dict[str, float] = {}
    for row in chain.from_iterable(record["tables"].values()):
        found[row["side"]] = max(found.get(row["side"], 0.0), row[column])
    return found


def memory(records: Sequence[Record]) -> Rows:
    rows: Rows = []
    for record in sorted(records, key=network):
        peaks, resident = fullest(record, "peak"), fullest(record, "resident")
        ours, parts = peaks["ours"], settings_of(record)["microbatches"] > 1
        like = "ddp-accumulate" if parts else "ddp-bucket-25"
        row: dict[str, Cell] = {"network": network(record), "ours": ours, "against": like, "it": peaks[like],
                                "ours / it": f"**{ours / peaks[like]:.2f}**",
                                "ours / plain DDP": ours / peaks["ddp-bucket-25"],
                                "ours / it, resident": resident["ours"] / resident[like]}  # fmt: skip
        for label, members in FAMILIES.items():
            least = min((name for name in peaks if name.startswith(members)), key=peaks.__getitem__, default=None)
            row[label] = least and f"{peaks[least]:.1f} ({least})"
        rows.append(row | {"record": link(record)})
    return rows


def tabled(*columns: str) -> Callable[[Sequence[Record]], Rows]:
    """The records' own first tables, with these columns."""

    def rows_of(records: Sequence[Record]) -> Rows:
        return [
            {"network": network(record), **{column: row.get(column) for column in columns}, "record": link(record)}
            for record in records for row in next(iter(record["tables"].values()))
        ]  # fmt: skip

    return rows_of


def to_accuracy(records: Sequence[Record]) -> Rows:
    return [{"network": network(record), **level, "record": link(record)}
            for record in records for level in record["summary"].get("levels", ())]  # fmt: skip


def whole(table: int = 0) -> Callable[[Sequence[Record]], Rows]:
    """One of the last record's tables."""

    def rows_of(records: Sequence[Record]) -> Rows:
        record = records[-1]
        return [row | {"record": link(record, plot=False)} for row in list(record["tables"].values())[table]]

    return rows_of


SECTIONS: list[tuple[str, str, Callable[[Sequence[Record]], Rows]]] = [
    ("throughput", "Samples a second", throughput),
    ("memory", "Most MiB of tensors alive at once on the fullest device", memory),
    ("accuracy", "Seconds to a validation accuracy, read off between ends of epochs", to_accuracy),
    ("bandwidth", "Samples a second between two hosts, by the rate of their link",
     tabled("link", "plan", "ours samples/s", "DDP", "its samples/s", "ratio", "least", "most", "n",
            "ours / PowerSGD")),
    ("depth", "Memory and speed as blocks are added, one block a stage",
     tabled("blocks", "ours MiB", "of it edges", "ddp of 2, MiB", "ours / it", "ddp of as many, MiB", "ours / that",
            "2 stages samples/s", "ddp of 2 samples/s", "ratio", "n")),
    ("floors", "What a batch of 128 costs at least in one process", whole()),
    ("floors", "What it would cost if heads and losses cost nothing, in one process", whole(1)),
    ("changes", "What the optimisations bring: a serial step of SFF, ms", whole()),
    ("scaling", "Samples a second as devices are added",
     tabled("devices", "ours samples/s", "against", "its samples/s", "ratio", "least", "most", "n")),
]  # fmt: skip
"""Theme, title, rows."""


if __name__ == "__main__":
    main()
