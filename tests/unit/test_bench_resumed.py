"""A record that grows: nothing measured is lost, and nothing is measured twice."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

import pytest

from ffdist.bench.harness.record import facts_of
from ffdist.bench.harness.resumed import WHOLE, Resumed, complete, read
from ffdist.bench.harness.table import ResultTable


def opened(file: Path, deadline: float = math.inf, machine: str = "one") -> Resumed:
    table = ResultTable("part", "", {}, {"found": ""})
    facts = facts_of("part", ["test"]) | {"settings": {"machine": machine}}
    return Resumed(file, table, facts, deadline=deadline, recover=lambda: None)


def found(value: Any) -> list[dict[str, Any]]:
    return [{"found": value}]


def rows(file: Path) -> dict[str, Any]:
    return {row["name"]: row["value"] for row in read(file)["rows"]}


def four_lines(file: Path, deadline: float) -> None:
    """The second raises, and the third ends the process when it is first tried; a file names what was begun."""

    def part(record: Resumed) -> None:
        for name in "abcd":
            record.measure(lambda name=name: work(name), group="group", name=name)

    def work(name: str) -> list[dict[str, Any]]:
        with (file.parent / "begun").open("a") as begun:
            begun.write(name)
        if name == "b":
            raise ValueError("of b")
        if name == "c" and "d" not in (file.parent / "begun").read_text():
            os._exit(9)
        return found(name * 2)

    opened(file, deadline).fill(part)


@pytest.mark.distributed
def test_a_line_that_ends_its_process_is_reported_and_the_others_are_measured_once(tmp_path: Path) -> None:
    file = tmp_path / "part.json"
    record = complete(file, four_lines, time.monotonic() + 100)
    assert record == read(file)
    assert rows(file) == {"a": "aa", "d": "dd"}
    assert "ValueError: of b" in record["failed"]["group, b"]
    assert record["failed"]["group, c"] == "its process ended with status 9"
    assert not record["done"]
    assert (tmp_path / "begun").read_text() == "abcd"
    complete(file, four_lines, time.monotonic() + 100)
    assert (tmp_path / "begun").read_text() == "abcdbc", "what failed is tried again, and nothing else"
    assert rows(file) == {"a": "aa", "d": "dd", "c": "cc"}


def test_an_error_outside_of_the_lines_is_reported_too(tmp_path: Path) -> None:
    def part(record: Resumed) -> None:
        record.measure(lambda: found(1), name="a")
        raise ValueError("no networks")

    with pytest.raises(ValueError, match="no networks"):
        opened(tmp_path / "part.json").fill(part)
    assert "no networks" in read(tmp_path / "part.json")["failed"][WHOLE]
    assert rows(tmp_path / "part.json") == {"a": 1}


def test_what_is_left_out_when_the_time_is_over_is_said_and_measured_next_time(tmp_path: Path) -> None:
    file = tmp_path / "part.json"
    late = opened(file)

    def part(record: Resumed) -> None:
        record.measure(lambda: found(1), name="a")
        late.deadline = 0.0  # the time is over
        record.measure(lambda: found(2), name="b")

    late.fill(part)
    record = read(file)
    assert record["left_out"] == "b, and what comes after it"
    assert rows(file) == {"a": 1}
    assert not record["done"]
    opened(file).fill(part)
    record = read(file)
    assert rows(file) == {"a": 1, "b": 2}
    assert record["left_out"] is None
    assert record["done"]


def test_lines_of_another_machine_are_not_mixed(tmp_path: Path) -> None:
    file = tmp_path / "part.json"
    opened(file).fill(lambda record: record.measure(lambda: found(1), name="a"))
    with pytest.raises(SystemExit, match="use another --out"):
        opened(file, machine="two")
