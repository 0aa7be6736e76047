"""Records: every figure with its machine, versions, commit, command, n, spread and discarded rounds."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import torch

from ffdist.bench.finding import Finding
from ffdist.bench.plot import draw
from ffdist.bench.settings import BenchSettings
from ffdist.cores import available_cores
from ffdist.device import all_seen, name_of
from ffdist.environment import commit, processor_name, version_of


def write_record(
    finding: Finding, settings: BenchSettings, command: Sequence[str], *, told: dict[str, Any] | None = None
) -> list[Path]:
    """`<theme>-<hardware>-<date>.{json,md,svg}` in the folder for records; a number is added to a
    name that is taken. told: what the command was told, where it is not the comparison's settings."""
    assert settings.compare.record
    settings.compare.record.mkdir(parents=True, exist_ok=True)
    facts = {"command": shlex.join(command), "date": date.today().isoformat(), "machine": machine(),
             "versions": versions()}  # fmt: skip
    stem = free_stem(settings.compare.record, f"{finding.theme}-{facts['machine']['name']}-{facts['date']}")
    content = {"theme": finding.theme, **facts, "settings": told or asdict(settings), "notes": finding.notes,
               "summary": finding.summary, "tables": {g.title: g.rows for g in finding.grids}}  # fmt: skip
    paths = [stem.with_suffix(".json"), stem.with_suffix(".md")]
    paths[0].write_text(json.dumps(content, indent=1, default=str) + "\n")
    paths[1].write_text(as_markdown(finding, facts, stem.name))
    if finding.plot:
        paths.append(stem.with_suffix(".svg"))
        draw(finding.plot, paths[-1])
    return paths


def as_markdown(finding: Finding, facts: dict[str, Any], name: str) -> str:
    """The record as people read it."""
    m, v = facts["machine"], facts["versions"]
    head = [
        f"# {finding.theme}, {facts['date']}", "", f"    {facts['command']}", "",
        f"{m['processor']}, {m['cores']} cores, {m['memory_gib']} GiB{', ' + m['gpu'] if m['gpu'] else ''}; "
        f"Python {v['python']}, torch {v['torch']}, ffdist {v['ffdist']} at commit {v['commit']}.", "",
    ]  # fmt: skip
    tables = [part for grid in finding.grids for part in (grid.markdown(), "")]
    plot = [f"![{finding.theme}]({name}.svg)", ""] if finding.plot else []
    return "\n".join(head + tables + [f"- {note}" for note in finding.notes] + [""] + plot)


def free_stem(folder: Path, name: str) -> Path:
    """A path in `folder` that no record has yet."""
    taken, number = folder / name, 1
    while taken.with_suffix(".json").exists():
        number += 1
        taken = folder / f"{name}-{number}"
    return taken


def machine() -> dict[str, Any]:
    """What the figures were measured on; `name` is short enough for a file's name."""
    processor, cores = processor_name(), available_cores()
    gpus = all_seen()
    gpu = name_of(gpus[0]) if gpus else ""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    name = re.sub(r"[^a-z0-9]+", "-", (gpu or f"{processor} {cores}c").lower()).strip("-")
    return {"name": name, "processor": processor, "cores": cores, "memory_gib": round(pages / 2**30, 1), "gpu": gpu,
            "num_gpus": len(gpus), "system": platform.platform()}  # fmt: skip


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": torch.__version__, "ffdist": version_of("ffdist"),
            "commit": commit()}  # fmt: skip
