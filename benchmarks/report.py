"""The results of a script here: printed, and recorded where that is wanted."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ffdist.bench.harness.record import write_record
from ffdist.bench.harness.result import BenchResult
from ffdist.plain import PlainConsole


def report(result: BenchResult, record: Path | None, settings: Mapping[str, Any] | None = None) -> None:
    """record: folder for the record. settings: what the script was told beyond its command."""
    console = PlainConsole()
    for table in result.tables:
        console.print(table.rich())
    for note in result.notes:
        console.print(f"- {note}", soft_wrap=True)
    if record:
        write_record(result, record, ["python", *sys.orig_argv[1:]], settings or {})
