"""Records: every figure as a row, with its machine, versions, commit, command, n, spread and discarded rounds."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from ffdist.bench.harness.result import BenchResult
from ffdist.bench.harness.table import OLD_WORDS, ResultTable, lines_of
from ffdist.cores import available_cores
from ffdist.device import all_seen, name_of, total_bytes
from ffdist.environment import commit, processor_name, version_of

SCHEMA = 2
"""The version of the rows; 1 had tables by their headings."""
Record = dict[str, Any]
"""schema, suite, command, date, machine, versions, settings, notes, tables (part -> title and columns), rows; whatever
else a suite has to say, in words."""


def write_record(
    result: BenchResult,
    folder: Path,
    command: Sequence[str],
    settings: Mapping[str, Any],
    *,
    network: str = "",
    rule: str = "",
) -> list[Path]:
    """`<suite>-<hardware>-<date>.{json,md,svg}` in a folder; a number is added to a name that is taken.

    settings: what the command was given. network, rule: of all rows that do not say their own.
    """
    facts = facts_of(result.suite, command)
    stem = free_stem(folder, f"{result.suite}-{facts['machine']['name']}-{facts['date']}")
    record = facts | {"settings": settings, "notes": result.notes, **tidy(result.tables, network, rule)}
    paths = write(record, stem, plot=result.plot is not None)
    if result.plot:
        from ffdist.bench.plot import draw

        paths.append(stem.with_name(stem.name + ".svg"))
        draw(result.plot, paths[-1])
    return paths


def facts_of(suite: str, command: Sequence[str]) -> Record:
    """The facts that every record begins with."""
    return {
        "schema": SCHEMA,
        "suite": suite,
        "command": shlex.join(command),
        "date": date.today().isoformat(),
        "machine": machine(),
        "versions": versions(),
    }


def tidy(tables: Iterable[ResultTable], network: str = "", rule: str = "") -> Record:
    """The part of a record that tables make: their headings ("tables"), and a row for each figure ("rows")."""
    tables = list(tables)
    usual = {"network": network, "rule": rule, "side": ""}
    return {
        "tables": {table.part: {"title": table.title, "columns": dict(table.columns)} for table in tables},
        "rows": [{"part": row["part"], **usual, **row} for table in tables for row in table.rows()],
    }


def write(record: Record, stem: Path, *, plot: bool = False) -> list[Path]:
    """Write `stem`.json and `stem`.md, with the plot's name in the latter; the paths written."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(stem.name + suffix) for suffix in (".json", ".md")]
    paths[0].write_text(as_json(record))
    paths[1].write_text(as_markdown(record, stem.name if plot else None), encoding="utf-8")
    return paths


def read(path: Path) -> Record:
    """Raises ValueError for a record of another schema."""
    record: Record = json.loads(path.read_text())
    if record.get("schema") != SCHEMA:
        raise ValueError(f"{path} is of schema {record.get('schema', 1)}, and this reads {SCHEMA}")
    return record


def as_json(record: Record) -> str:
    """JSON with one row per line, so that a diff of two records reads well."""
    rows = ",\n  ".join(json.dumps(row) for row in record["rows"])
    head = json.dumps({name: value for name, value in record.items() if name != "rows"}, indent=1, default=str)
    return f'{head[:-2]},\n "rows": [\n  {rows}\n ]\n}}\n'


def as_markdown(record: Record, plot: str | None) -> str:
    """The record as people read it. plot: name of its picture."""
    head = [f"# {record['suite']}, {record['date']}", "", f"    {record['command']}", "", f"{environment(record)}.", ""]
    parts = [part for table in tables_of(record) for part in (table.markdown(), "")]
    picture = [f"![{record['suite']}]({plot}.svg)", ""] if plot else []
    return "\n".join([*head, *parts, *(f"- {note}" for note in record["notes"]), "", *picture])


def environment(record: Record) -> str:
    """The place where the figures were measured, in a line."""
    m, v = record["machine"], record["versions"]
    return (
        f"{m['processor']}, {m['cores']} cores, {m['memory_gib']} GiB{', ' + m['gpu'] if m['gpu'] else ''}; "
        f"Python {v['python']}, torch {v['torch']}, ffdist {v['ffdist']} at commit {v['commit']}"
    )


def tables_of(record: Record) -> list[ResultTable]:
    """The tables with a title, rebuilt from the record's rows; their headings are in today's words."""
    return [
        ResultTable(part, how["title"], current_headings(how["columns"]), {}, lines_of(record["rows"], part))
        for part, how in record["tables"].items()
        if how["title"]
    ]


def current_headings(columns: Mapping[str, str]) -> dict[str, str]:
    """A record's columns; headings that begin with one of `OLD_WORDS` have the new one ("least ratio": "min ratio")."""
    words = ((heading.split(" "), what) for heading, what in columns.items())
    return {" ".join([OLD_WORDS.get(first, first), *rest]): what for (first, *rest), what in words}


def free_stem(folder: Path, name: str) -> Path:
    """A path in `folder` that no record has yet."""
    taken, number = folder / name, 1
    while taken.with_name(taken.name + ".json").exists():
        number += 1
        taken = folder / f"{name}-{number}"
    return taken


def machine() -> dict[str, Any]:
    """The machine that figures were measured on; `name` is short enough for a file's name."""
    processor, cores = processor_name(), available_cores()
    gpus = all_seen()
    gpu = name_of(gpus[0]) if gpus else ""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    name = re.sub(r"[^a-z0-9]+", "-", (gpu or f"{processor} {cores}c").lower()).strip("-")
    memory = {"memory_gib": round(pages / 2**30, 1), "gpu_gib": round(total_bytes(gpus[0]) / 2**30, 1) if gpus else 0}
    return {
        "name": name,
        "processor": processor,
        "cores": cores,
        **memory,
        "gpu": gpu,
        "num_gpus": len(gpus),
        "system": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Versions of Python, torch, ffdist and, where there is a GPU, of CUDA and cuDNN."""
    ours = {"python": platform.python_version(), "torch": torch.__version__, "ffdist": version_of("ffdist")}
    cuda = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()} if all_seen() else {}
    return ours | {name: str(found) for name, found in cuda.items() if found} | {"commit": commit()}
