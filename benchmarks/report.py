"""The results of a script here: printed, and recorded where that is wanted."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ffdist.bench.harness.result import BenchResult
from ffdist.cli.bench import record as write_record
from ffdist.cli.bench import show


def report(result: BenchResult, record: Path | None, settings: Mapping[str, Any] | None = None) -> None:
    """Print a result, and record it. record: folder; None: no record. settings: what its command does not say."""
    show(result, as_json=False)
    if record:
        write_record(result, record, ["python", *sys.orig_argv[1:]], settings or {})
