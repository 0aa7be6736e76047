"""A run's trace, read as Chrome's tools do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema

from ffdist.runtime import tracing

TIME = {"type": "number", "minimum": 0}
PLACE = {"pid": {"type": "integer", "minimum": 0}, "tid": {"type": "integer", "minimum": 0}}
SCHEMA = {
    "type": "object",
    "required": ["traceEvents", "displayTimeUnit", "otherData"],
    "properties": {
        "displayTimeUnit": {"enum": ["ms", "ns"]},
        "otherData": {"type": "object"},
        "traceEvents": {
            "type": "array",
            "minItems": 1,
            "items": {
                "oneOf": [
                    {
                        "type": "object",
                        "required": ["ph", "name", "cat", "ts", "dur", "pid", "tid", "args"],
                        "additionalProperties": False,
                        "properties": {
                            "ph": {"const": "X"},
                            "name": {"type": "string", "minLength": 1},
                            "cat": {
                                "enum": [
                                    "compute",
                                    "receive",
                                    "send",
                                    "exchange",
                                    "no_data",
                                    "no_credit",
                                    "no_gradients",
                                    "snapshot",
                                ]
                            },
                            "ts": TIME,
                            "dur": TIME,
                            "args": {"type": "object"},
                            **PLACE,
                        },
                    },
                    {
                        "type": "object",
                        "required": ["ph", "name", "pid", "args"],
                        "additionalProperties": False,
                        "properties": {
                            "ph": {"const": "M"},
                            "name": {
                                "enum": [
                                    "process_name",
                                    "process_labels",
                                    "process_sort_index",
                                    "thread_name",
                                    "thread_sort_index",
                                ]
                            },
                            "args": {"type": "object", "minProperties": 1},
                            **PLACE,
                        },
                    },
                ]
            },
        },
    },
}
"""Of Chrome's trace format, what we write."""


def read(run: Path) -> list[dict[str, Any]]:
    """The spans of a run's trace, which is whole, and as its schema says."""
    trace = json.loads((run / "trace.json").read_text())
    jsonschema.validate(trace, SCHEMA)
    assert not (run / tracing.PARTS).exists()
    return [event for event in trace["traceEvents"] if event["ph"] == "X"]
