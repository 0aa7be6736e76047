"""Records of schema 1, whose tables had headings for a schema, as rows; to be run once on a folder of them.

    python -m benchmarks.convert_records benchmarks/records

Every number, word, note and setting of an old record is in the new one, which is checked.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.rows.record import THEME, tables_of
from benchmarks.rows.record import as_markdown as row_markdown
from ffdist.bench.harness.record import as_json, as_markdown, tidy
from ffdist.bench.harness.table import Table, Value

SAMPLES, MS, MIB = "samples/s", "ms", "MiB"
SPREAD = {"least": "throughput.least", "most": "throughput.most", "n": "throughput.n"}
RATIO = {"ratio": "{}/ratio", "least": "{}/ratio.least", "most": "{}/ratio.most", "n": "{}/ratio.n"}


def against(name: str, **more: str) -> dict[str, str]:
    return {heading: what.format(name) for heading, what in (more | RATIO).items()}


RECIPE = {"recipe": "recipe", "learning rate": "lr", "epochs at most": "epochs_at_most"}
PARTS: dict[str, list[tuple[str, dict[str, str], dict[str, str]]]] = {
    "throughput": [
        (
            "compared",
            {
                "side": "side",
                "samples/s": "throughput",
                **SPREAD,
                "ours / it": "ratio",
                "least ratio": "ratio.least",
                "most ratio": "ratio.most",
            },
            {"throughput": SAMPLES, "ratio": ""},
        ),
        (
            "qualifying",
            {"variant": "side", "samples/s": "throughput", **SPREAD, "taken": "taken"},
            {"throughput": SAMPLES, "taken": ""},
        ),
        (
            "stages",
            {
                "stage": "stage",
                "worker": "worker",
                "blocks": "blocks",
                "busy": "busy",
                "without credit": "no_credit",
                "waits for next": "no_credit",
                "adds gradients": "exchange",
                "waits for gradients": "no_gradients",
                "exchange hidden": "hidden",
            },
            {
                "busy": "ms a batch",
                "no_credit": "ms a batch",
                "exchange": "ms a batch",
                "no_gradients": "ms a batch",
                "hidden": "",
            },
        ),
        (
            "floor",
            {
                "what": "what",
                "GFLOP a batch": "operations",
                "optimiser MB a batch": "optimiser_bytes",
                "products alone, ms": "products",
                "casts alone, ms": "casts",
                "optimiser alone, ms": "optimiser",
                "all alone, ms": "alone",
                "a batch, ms": "batch",
                "GFLOP/s reached": "reached",
            },
            {
                "operations": "GFLOP",
                "optimiser_bytes": "MB",
                "products": MS,
                "casts": MS,
                "optimiser": MS,
                "alone": MS,
                "batch": MS,
                "reached": "GFLOP/s",
            },
        ),
    ],
    "memory": [
        (
            "memory",
            {
                "side": "side",
                "device": "device",
                "peak": "peak",
                "weights": "weights",
                "gradients": "gradients",
                "optimiser": "optimiser",
                "activations": "activations",
                "queue": "queue",
                "resident": "resident",
                "ours / it": "ratio",
            },
            dict.fromkeys(("peak", "weights", "gradients", "optimiser", "activations", "queue", "resident"), MIB)
            | {"ratio": ""},
        )
    ],
    "bandwidth": [
        (
            "bandwidth",
            {
                "link": "link",
                "plan": "ours/plan",
                "ours samples/s": "ours/throughput",
                "DDP": "ddp/side",
                "its samples/s": "ddp/throughput",
                **against("ddp"),
                "PowerSGD samples/s": "ddp-powersgd/throughput",
                "ours / PowerSGD": "ddp-powersgd/ratio",
            },
            {"throughput": SAMPLES, "ratio": "", "plan": ""},
        )
    ],
    "depth": [
        (
            "depth",
            {
                "blocks": "blocks",
                "ours MiB": "ours/peak",
                "of it edges": "ours/queue",
                "ddp of 2, MiB": "ddp/peak",
                "ours / it": "ddp/of_peak",
                "ddp of as many, MiB": "as many/peak",
                "ours / that": "as many/of_peak",
                "2 stages samples/s": "ours/throughput",
                "ddp of 2 samples/s": "ddp, speed/throughput",
                **against("ddp, speed"),
            },
            {"peak": MIB, "queue": MIB, "of_peak": "", "throughput": SAMPLES, "ratio": ""},
        )
    ],
    "scaling": [
        (
            "scaling",
            {
                "devices": "devices",
                "ours samples/s": "ours/throughput",
                "against": "ddp/side",
                "its samples/s": "ddp/throughput",
                **against("ddp"),
                "ours / one": "ours/of_one",
            },
            {"throughput": SAMPLES, "ratio": "", "of_one": ""},
        )
    ],
    "transport": [
        (
            "transport",
            {
                "transport": "side",
                "KiB": "kib",
                "messages/s": "messages",
                "MB/s": "bandwidth",
                "of memcpy": "ratio",
                "least": "ratio.least",
                "most": "ratio.most",
                "n": "ratio.n",
            },
            {"messages": "messages/s", "bandwidth": "MB/s", "ratio": "of memcpy"},
        )
    ],
    "loader": [("loaders", {"what": "side", "samples/s": "throughput", **SPREAD}, {"throughput": SAMPLES})],
    "step": [
        (
            "step",
            {
                "side": "side",
                "ms a step": "step",
                "least": "step.least",
                "most": "step.most",
                "n": "step.n",
                "GFLOP a step": "operations",
                "GFLOP/s": "reached",
                "of peak": "of_peak",
                "of peak, products alone": "products_of_peak",
            },
            {"step": MS, "operations": "GFLOP", "reached": "GFLOP/s", "of_peak": "", "products_of_peak": ""},
        ),
        (
            "kinds",
            {
                "kind": "kind",
                "FF, ms": "FF/time",
                "FF, share": "FF/share",
                "BP, ms": "BP/time",
                "BP, share": "BP/share",
            },
            {"time": MS, "share": ""},
        ),
        (
            "operations",
            {
                "operation": "operation",
                "kind": "kind",
                "FF, ms": "FF/time",
                "FF, calls": "FF/calls",
                "BP, ms": "BP/time",
                "BP, calls": "BP/calls",
            },
            {"time": MS, "calls": ""},
        ),
    ],
    "accuracy": [
        (
            "sides",
            {
                "side": "side",
                **RECIPE,
                "epochs until then": "epochs",
                "seconds an epoch": "epoch_time",
                "n": "epochs.n",
                "reached": "reached",
                "accuracy then": "accuracy",
                "mean of blocks": "mean",
            },
            {"epochs": "", "epoch_time": "s", "reached": "", "accuracy": "", "mean": ""},
        ),
        (
            "levels",
            {
                "to": "level",
                "ours, s": "ours/time",
                "DDP": "baseline/side",
                "its s": "baseline/time",
                **{heading.replace("ratio", "its / ours"): what for heading, what in against("baseline").items()},
            },
            {"time": "s", "ratio": ""},
        ),
        (
            "tried",
            {"side": "side", **RECIPE, "seconds to the target": "time", "accuracy then": "accuracy"},
            {"time": "s", "accuracy": ""},
        ),
    ],
    "floors": [
        (
            "floors",
            {
                "network": "network",
                "FF, GFLOP": "FF/operations",
                "BP, GFLOP": "BP/operations",
                "BP / FF": "BP/operations_ratio",
                "optimiser, MB": "FF/optimiser_bytes",
                "FF alone, ms": "FF/alone",
                "BP alone, ms": "BP/alone",
                "BP / FF by time": "BP/alone_ratio",
                "slower of 2 stages, ms": "FF/slower_stage",
            },
            {
                "operations": "GFLOP",
                "operations_ratio": "BP / FF",
                "optimiser_bytes": "MB",
                "alone": MS,
                "alone_ratio": "BP / FF",
                "slower_stage": MS,
            },
        ),
        (
            "bare",
            {
                "network": "network",
                "BP, ms": "BP/step",
                "FF, ms": "FF/step",
                "FF without heads, ms": "FF without heads/step",
                "BP / FF": "FF/ratio",
                "BP / without heads": "FF without heads/ratio",
                "slower of 2 stages without heads, ms": "FF without heads/slower_stage",
                "samples/s of it": "FF without heads/throughput",
                "n": "BP/step.n",
            },
            {"step": MS, "ratio": "BP / it", "slower_stage": MS, "throughput": SAMPLES},
        ),
    ],
    "changes": [
        (
            "changes",
            {
                "change": "change",
                "network": "network",
                "predicted": "without/predicted",
                "without, ms": "without/step",
                "with, ms": "with/step",
                "gain": "without/gain",
                "least": "without/gain.least",
                "most": "without/gain.most",
                "n": "without/gain.n",
            },
            {"step": MS, "gain": "without / with", "predicted": ""},
        )
    ],
    "workers": [
        (
            "workers",
            {
                "by": "by",
                "workers": "workers",
                "plan": "plan",
                "resumed by": "resumed_by",
                "lanes": "lanes",
                "start s": "start",
                "start ms a worker": "start_each",
                "stopped behind batch": "stopped_behind",
                "same bits as one worker": "same_bits",
            },
            {"start": "s", "start_each": MS, "stopped_behind": "batches", "same_bits": ""},
        )
    ],
    "fuzz": [
        (
            "fuzz",
            {
                "target": "side",
                "seed": "seed",
                "inputs": "inputs",
                "taken": "taken",
                "refused": "refused",
                "findings": "findings",
                "slowest ms": "slowest",
                "memory MiB": "memory",
                "by coverage": "guided",
            },
            dict.fromkeys(("inputs", "taken", "refused", "findings", "guided"), "") | {"slowest": MS, "memory": MIB},
        )
    ],
}
PARTS["ray-transport"] = PARTS["transport"]


def main() -> None:
    folder = Path(sys.argv[1])
    for path in sorted(folder.glob("*.json")):
        old = json.loads(path.read_text())
        if "schema" in old:
            continue
        new, text = of_row(old) if "row" in old else of_theme(old, path)
        known = set(leaves(new))
        if lost := [leaf for leaf in leaves(old) if leaf not in known]:
            sys.exit(f"{path}: lost {lost[:5]}")
        path.write_text(as_json(new))
        path.with_suffix(".md").write_text(text)


def leaves(value: Any) -> Iterator[str]:
    """Every number and word, as JSON has it."""
    if isinstance(value, dict):
        for each in value.values():
            yield from leaves(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from leaves(each)
    elif value is not None and value != "":
        yield json.dumps(value)


def of_theme(old: dict[str, Any], path: Path) -> tuple[dict[str, Any], str]:
    """A record of `ffdist bench`, and of scripts."""
    parts = {part: (columns, units) for part, columns, units in PARTS[old["theme"]]}
    order, tables = iter(parts), list[Table]()
    for title, rows in old["tables"].items():
        part = next(name for name in order) if old["theme"] != "throughput" else part_of(title)
        columns, units = parts[part.partition(" ")[0]]
        tables.append(undrawn(part, title, rows, columns, units))
    summaries = old["summary"] if isinstance(old["summary"], list) else [old["summary"]]
    if old["theme"] == "throughput":
        name_baselines(tables[0], summaries)
        tables.append(rounds_of(summaries))
    if old["theme"] == "accuracy":
        tables.append(runs_of(summaries[0]))
    names = settings_of(old["settings"])
    network = summaries[0].get("model") or names.get("model", "")
    facts = {name: old[name] for name in ("theme", "command", "date", "machine", "versions", "settings", "notes")}
    new = {"schema": 2, **facts, **tidy(tables, network, names.get("objective", ""))}
    known, rest = set(leaves(new)), Table("summary", "", {}, {})
    for place, summary in enumerate(summaries):
        for name, value in paths(summary):
            if json.dumps(value) not in known and value is not None and value != "":
                rest.units = {**rest.units, name: summary.get("unit", "") if isinstance(value, int) else ""}
                rest.add(side=summary.get("variant", ""), against=summary.get("against", str(place)), **{name: value})
    tables += [rest] if rest.lines else []
    new = {"schema": 2, **facts, **tidy(tables, network, names.get("objective", ""))}
    return new, as_markdown(new, path.stem if path.with_suffix(".svg").exists() else None)


def part_of(title: str) -> str:
    if title.endswith(": qualifying rounds"):
        return f"qualifying {title.partition(':')[0]}"
    return {"ffdist's stages, ms a batch": "stages", "what a batch takes at least": "floor"}.get(title, "compared")


def undrawn(
    part: str, title: str, rows: list[dict[str, Any]], columns: Mapping[str, str], units: Mapping[str, str]
) -> Table:
    """The table whose drawing has these rows."""
    heads = {heading: columns[heading] for heading in rows[0]}
    sides = list(dict.fromkeys(what.partition("/")[0] for what in heads.values() if "/" in what)) or [""]
    table = Table(part, title, heads, units)
    for row in rows:
        shared = {
            what: row[heading]
            for heading, what in heads.items()
            if "/" not in what and what not in units and "." not in what and row.get(heading) is not None
        }
        for side in sides:
            line, values = dict(shared), dict[str, dict[str, Any]]()
            if side:
                line["side"] = side
            for heading, what in heads.items():
                of, _, what = what.rpartition("/")
                name, _, aspect = what.partition(".")
                if of != side or row.get(heading) is None:
                    continue
                if name == "side":
                    line |= {"side": row[heading], "against": side} if side else {"side": row[heading]}
                elif name in units:
                    values.setdefault(name, {})[aspect or "value"] = row[heading]
            for name, value in values.items():
                spread = (value["least"], value["most"]) if "least" in value else None
                line[name] = Value(value.get("value"), value.get("n"), spread)
            if side not in ("", "ours", "FF", "BP", "FF without heads", "with", "without") and "against" not in line:
                line |= {"side": "ddp-bucket-25" if side in ("ddp", "as many") else side, "against": side}
            table.lines.append(line)
    return table


def name_baselines(compared: Table, summaries: list[dict[str, Any]]) -> None:
    by_variant = {summary["variant"]: summary for summary in summaries}
    compared.units = {**compared.units, "bound": "", "of_bound": ""}
    for line in compared.lines:
        summary = by_variant.get(line["side"], {})
        line["against"] = summary.get("against", "")
        line["ratio"] = line["ratio"]._replace(n=line["throughput"].n)
        line |= {name: Value(summary[name]) for name in ("bound", "of_bound") if name in summary}


def rounds_of(summaries: list[dict[str, Any]]) -> Table:
    table = Table("rounds", "", {}, {"throughput": SAMPLES})
    for number in range(len(summaries[0]["pairs"])):
        place = {"round": number, "passed": summaries[0]["trusted"]}
        table.add(**place, side="ours", throughput=summaries[0]["pairs"][number][0])
        for summary in summaries:
            table.add(**place, side=summary["variant"], throughput=summary["pairs"][number][1])
    return table


def runs_of(summary: dict[str, Any]) -> Table:
    table = Table("runs", "", {}, {"time": "s", "accuracy": "", "mean": ""})
    for name, of in summary["runs"].items():
        for run, epochs in enumerate(of):
            for epoch, at in enumerate(epochs):
                table.add(
                    side=name, run=run, epoch=epoch + 1, time=at["seconds"], accuracy=at["accuracy"], mean=at["mean"]
                )
    return table


def settings_of(recorded: dict[str, Any]) -> dict[str, Any]:
    groups = [*recorded["train"].values(), recorded["compare"]] if "train" in recorded else [recorded]
    return {name: value for group in groups for name, value in group.items()}


def paths(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves by their names."""
    if isinstance(value, dict | list):
        for name, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(each, f"{path} {name}".strip())
    else:
        yield path, value


def of_row(old: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """A record of the accuracy table."""
    runs = old.get("runs") or [
        {"seed": old["seeds"][0]} | {n: old[n] for n in ("accuracy", "blocks", "samples", "epochs", "seconds")}
    ]
    about = {name: old[name] for name in ("row", "data", "args")} | {
        "form": old.get("form", ""),
        "paper": old.get("paper"),
        "source": old.get("source", ""),
        "target": old.get("target"),
        "threads": old["threads"],
        "settings": old["settings"],
        "notes": [old["note"]] if old["note"] else [],
    }
    facts = {"schema": 2, "theme": THEME, **{name: old[name] for name in ("command", "date", "machine", "versions")}}
    about |= {name: old[name] for name in ("stages",) if name in old}
    tables = tables_of(runs, old["parameters"], old["crossed"])
    settings = old["settings"]
    new = facts | about | tidy(tables, settings["model"], settings["objective"])
    return new, row_markdown(new)


if __name__ == "__main__":
    main()
