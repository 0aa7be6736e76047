"""The results of a script here: printed, and recorded where that is wanted."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ffdist.bench.harness.finding import BenchResult
from ffdist.bench.harness.record import write_record
from ffdist.plain import PlainConsole


def report(finding: BenchResult, record: Path | None, settings: Mapping[str, Any] | None = None) -> None:
    """record: folder for the record. settings: what the script was told beyond its command."""
    console = PlainConsole()
    for table in finding.tables:
        console.print(table.rich())
    for note in finding.notes:
        console.print(f"- {note}", soft_wrap=True)
    if record:
        write_record(finding, record, ["python", *sys.orig_argv[1:]], settings or {})
