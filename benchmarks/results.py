"""The tables of all records, each beside its record, and those of speed and memory in README and docs/RESULTS.md, drawn
from the newest records alone.

python benchmarks/results.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.marks import put
from benchmarks.rows.record import SUITE
from benchmarks.rows.record import as_markdown as row_as_markdown
from ffdist.bench.harness.record import Record, as_markdown, read, tables_of
from ffdist.bench.harness.summary import ratios
from ffdist.bench.harness.table import Cell, Line, cell_text, lines_of, pipes

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "benchmarks/records"
HEADLINE = "<!-- headline: drawn by `python benchmarks/results.py` -->", "<!-- /headline -->"
RESULTS = "<!-- results: drawn by `python benchmarks/results.py` -->", "<!-- /results -->"
WHOLE = Path("docs/RESULTS.md")
"""The document with all of them, below the project's root."""
CHOSEN = (
    ("a large win", "speed", "mlp, plan auto, mnist"),
    ("nearly level", "speed", "cnnb, plan auto, cifar10"),
    ("a loss", "speed", "cnnb, widths=128,16,16, plan auto, cifar10"),
    ("memory", "memory", "resnet18, by block, cifar10"),
)
"""README's rows: what each teaches, what was measured, and the network as the tables of `WHOLE` call it."""
Drawn = list[dict[str, Cell]]
"""The lines of a document's table, by their headings."""


def main() -> None:
    for path in sorted(RECORDS.glob("*.json")):
        path.with_suffix(".md").write_text(drawn(path), encoding="utf-8")
    redraw(ROOT, RECORDS)


def drawn(path: Path) -> str:
    """A record's tables as they stand beside it. path: of its JSON."""
    record = read(path)
    if record["suite"] == SUITE:
        return row_as_markdown(record)
    return as_markdown(record, path.stem if path.with_suffix(".svg").exists() else None)


def redraw(root: Path, folder: Path) -> None:
    """Write the tables between their marks into the documents below `root`: a few rows into README, all into `WHOLE`.

    folder: the records.
    """
    put(root / "README.md", HEADLINE[0], headline(folder), HEADLINE[1])
    put(root / WHOLE, RESULTS[0], draw(folder).replace("](benchmarks/", "](../benchmarks/"), RESULTS[1])


def draw(folder: Path) -> str:
    """All tables in Markdown, section by section; a section without a record is left out."""
    parts = []
    for suite, title, lines_in in SECTIONS:
        records = newest(folder, suite)
        if records:
            parts += [f"## {title}", "", *piped(lines_in(records)), ""]
    return "\n".join(parts)


def headline(folder: Path) -> str:
    """The rows that are `CHOSEN`, of speed and memory in one table."""
    drawn = {"speed": throughput(newest(folder, "throughput")), "memory": memory(newest(folder, "memory"))}
    columns = {"speed": ("samples/s", "DDP", "ours / DDP"), "memory": ("MiB", "it", "ours / it")}
    lines: Drawn = []
    for teaches, measured, name in CHOSEN:
        line = next(line for line in drawn[measured] if line["network"] == name)
        unit, theirs, ratio = columns[measured]
        lines.append(
            {
                "": teaches,
                "network": name,
                "ours": f"{cell_text(line['ours'])} {unit}",
                "DDP": f"{cell_text(line[theirs])} {unit}",
                "ours / DDP": line[ratio],
                "n": line.get("n"),
                "record": line["record"],
            }
        )
    return "\n".join(piped(lines)) + "\n"


def piped(lines: Drawn) -> list[str]:
    return pipes(lines[0], [[cell_text(line.get(column)) for column in lines[0]] for line in lines])


def newest(folder: Path, suite: str) -> list[Record]:
    """The latest record of each network, rule, data set and way of running, with its `file`."""
    found: dict[tuple[Any, ...], Record] = {}
    for path in sorted(folder.glob(f"{suite}-*.json"), key=lambda p: (len(p.name), p.name)):
        record = read(path) | {"file": path.stem}
        s = settings_of(record)
        fields = (
            "model",
            "model_args",
            "split",
            "objective",
            "objective_args",
            "modules",
            "data",
            "microbatches",
            "lr",
            "stages",
            "queue",
            "plan",
            "memory_limit",
            "link",
        )
        key = tuple(str(s.get(name) or None) for name in fields)
        if record["suite"] == suite and record["date"] >= found.get(key, record)["date"]:
            found[key] = record
    return list(found.values())


def settings_of(record: Record) -> dict[str, Any]:
    """A record's settings by name, whether it has them in groups or not; of two with one name, the comparison's."""
    recorded = record.get("settings", {})
    groups = [*recorded["train"].values(), recorded["compare"]] if "train" in recorded else [recorded]
    return {name: value for group in groups for name, value in group.items()}


def network(record: Record) -> str:
    """A record's network as the tables name it, with the settings that differ from the usual ones."""
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
        *([f"memory limit {s['memory_limit']}"] if s.get("memory_limit") else []),
        *([modules_text(s["modules"])] if s.get("modules") else []),
        *([f"link {s['link']}"] if s.get("link") else []),
    ]
    return ", ".join([s["model"], *options, Path(s["data"]).name])


def modules_text(modules: Sequence[int]) -> str:
    """The setting `modules`: one number is how many there are, several are the blocks in each."""
    return f"{modules[0]} modules" if len(modules) == 1 else f"modules of {' and '.join(map(str, modules))} blocks"


def link(record: Record, *, plot: bool = True) -> str:
    """Links to a record's table and plot, in Markdown; and whether other work disturbed every round."""
    base = f"benchmarks/records/{record['file']}"
    disturbed = any(note.startswith("NOT RELIABLE") for note in record.get("notes", ()))
    return f"[table]({base}.md)" + f", [plot]({base}.svg)" * plot + ", NOT RELIABLE" * disturbed


def sides(record: Record) -> dict[str, Line]:
    """The record's lines by what ffdist was compared with."""
    return {line["against"]: line for line in lines_of(record["rows"], "compared") if line["against"]}


def throughput(records: Sequence[Record]) -> Drawn:
    return [throughput_line(record, sides(record)) for record in sorted(records, key=network) if "ddp" in sides(record)]


def throughput_line(record: Record, lines: dict[str, Line]) -> dict[str, Cell]:
    ddp, ff, bp = lines["ddp"], lines.get("ff"), lines.get("bp")
    ours = next(line for line in lines_of(record["rows"], "compared") if not line["against"])
    fastest = max((line for name, line in lines.items() if name != "ff"), key=lambda line: line["throughput"].value)
    others = [lines[name] for name in ("bp-threads", "pipeline", "fsdp") if name in lines]
    ratio = ddp["ratio"]
    return {
        "network": network(record),
        "ours": ours["throughput"].value,
        "DDP": ddp["throughput"].value,
        "ours / DDP": f"**{ratio.value:.2f}** ({ratio.spread[0]:.2f} - {ratio.spread[1]:.2f})",
        "n": ratio.n,
        "ours / fastest BP": f"{fastest['ratio'].value:.2f} ({fastest['side']})",
        "serial FF / BP": paired(record, ff["side"], bp["side"]) if ff and bp else None,
        "ours / serial FF": ff["ratio"].value if ff else None,
        "of what blocks' times allow": ff["of_bound"].value if ff else None,
        "ours / others": ", ".join(f"{o['side']} {o['ratio'].value:.2f}" for o in others) or None,
        "record": link(record),
    }


def paired(record: Record, one: str, other: str) -> float:
    """The median of one's samples/s by the other's, round by round."""
    rates: dict[str, list[float]] = {one: [], other: []}
    rounds = [line for line in lines_of(record["rows"], "rounds") if line.get("side") in rates]
    counted = [line for line in rounds if line.get("passed")] or rounds
    for line in counted:
        rates[line["side"]].append(line["throughput"].value)
    return ratios(rates[one], rates[other]).median


FAMILIES = {
    "leanest DDP": ("ddp",),
    "leanest FSDP": ("fsdp",),
    "leanest on one device": ("bp",),
    "leanest BP pipeline": ("1f1b", "gpipe", "interleaved", "zero-bubble"),
}


def fullest(record: Record, metric: str) -> dict[str, float]:
    """Each side's greatest value, on whichever device has it."""
    found: dict[str, float] = {}
    for line in lines_of(record["rows"], "memory"):
        found[line["side"]] = max(found.get(line["side"], 0.0), line[metric].value)
    return found


def memory(records: Sequence[Record]) -> Drawn:
    lines: Drawn = []
    for record in sorted(records, key=network):
        peaks, resident = fullest(record, "peak"), fullest(record, "resident")
        ours, parts = peaks["ours"], settings_of(record)["microbatches"] > 1
        like = "ddp-accumulate" if parts else "ddp-bucket-25"
        line: dict[str, Cell] = {
            "network": network(record),
            "ours": ours,
            "against": like,
            "it": peaks[like],
            "ours / it": f"**{ours / peaks[like]:.2f}**",
            "ours / plain DDP": ours / peaks["ddp-bucket-25"],
            "ours / it, resident": resident["ours"] / resident[like],
        }
        for label, members in FAMILIES.items():
            leanest = min((name for name in peaks if name.startswith(members)), key=peaks.__getitem__, default=None)
            line[label] = leanest and f"{peaks[leanest]:.1f} ({leanest})"
        lines.append(line | {"record": link(record)})
    return lines


def table_of(record: Record, part: str) -> Drawn:
    """A table of the record, as it draws it itself."""
    return next(table.drawn_cells() for table in tables_of(record) if table.part == part)


def tabled(part: str, *columns: str) -> Callable[[Sequence[Record]], Drawn]:
    """A function that gives a part's lines of all records, with these columns."""

    def lines(records: Sequence[Record]) -> Drawn:
        return [
            {"network": network(record), **{column: line.get(column) for column in columns}, "record": link(record)}
            for record in records
            for line in table_of(record, part)
        ]

    return lines


def to_accuracy(records: Sequence[Record]) -> Drawn:
    return [
        {"network": network(record), **level, "record": link(record)}
        for record in records
        for level in table_of(record, "levels")
    ]


def whole(part: str) -> Callable[[Sequence[Record]], Drawn]:
    """A function that gives a part's table from the last of the records."""

    def lines(records: Sequence[Record]) -> Drawn:
        record = records[-1]
        return [line | {"record": link(record, plot=False)} for line in table_of(record, part)]

    return lines


SECTIONS: list[tuple[str, str, Callable[[Sequence[Record]], Drawn]]] = [
    ("throughput", "Samples a second", throughput),
    ("memory", "Peak MiB of tensors on the fullest device", memory),
    ("accuracy", "Seconds to a validation accuracy, read off between ends of epochs", to_accuracy),
    (
        "bandwidth",
        "Samples a second between two hosts, by the rate of their link",
        tabled(
            "bandwidth",
            "link",
            "plan",
            "ours samples/s",
            "DDP",
            "its samples/s",
            "ratio",
            "min",
            "max",
            "n",
            "ours / PowerSGD",
        ),
    ),
    (
        "depth",
        "Memory and speed as blocks are added, one block a stage",
        tabled(
            "depth",
            "blocks",
            "ours MiB",
            "of it edges",
            "ddp of 2, MiB",
            "ours / it",
            "ddp of as many, MiB",
            "ours / that",
            "2 stages samples/s",
            "ddp of 2 samples/s",
            "ratio",
            "n",
        ),
    ),
    ("floors", "What a batch of 128 costs at least in one process", whole("floors")),
    ("floors", "What it would cost if heads and losses cost nothing, in one process", whole("bare")),
    ("changes", "What the optimisations bring: a serial step of SFF, ms", whole("changes")),
    ("finite", "What a look for NaN in every batch costs of a serial step of SFF", whole("finite")),
    (
        "scaling",
        "Samples a second as devices are added",
        tabled("scaling", "devices", "ours samples/s", "against", "its samples/s", "ratio", "min", "max", "n"),
    ),
]
"""The document's sections: a suite, the section's title, and the function that makes its rows."""


if __name__ == "__main__":
    main()
