"""The rows of a part of the GPU suite: nothing measured is lost, and nothing is measured twice."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import pytest

from benchmarks.gpu.rows import WHOLE, Rows, complete, read


def four_rows(file: Path, deadline: float) -> None:
    """The second raises, and the third ends the process; each row notes beside the file that it was begun."""

    def part(rows: Rows) -> None:
        for name in "abcd":
            rows.row(lambda name=name: work(name), "group", name)

    def work(name: str) -> str:
        with (file.parent / "begun").open("a") as begun:
            begun.write(name)
        if name == "b":
            raise ValueError("of b")
        if name == "c":
            os._exit(9)
        return name * 2

    Rows(file, {"machine": 1}, {}, deadline, lambda: None).fill(part)


@pytest.mark.distributed
def test_a_row_that_ends_its_process_is_told_and_the_others_are_measured_once(tmp_path: Path) -> None:
    file = tmp_path / "part.json"
    record = complete(file, four_rows, time.monotonic() + 100)
    assert record == read(file)
    assert record["result"] == {"group": {"a": "aa", "d": "dd"}}
    assert "ValueError: of b" in record["failed"]["group, b"]
    assert record["failed"]["group, c"] == "its process ended with status 9"
    assert not record["done"]
    assert (tmp_path / "begun").read_text() == "abcd"
    complete(file, four_rows, time.monotonic() + 100)
    assert (tmp_path / "begun").read_text() == "abcdbc", "what failed is tried again, and nothing else"


def test_an_error_outside_of_the_rows_is_told_too(tmp_path: Path) -> None:
    def part(rows: Rows) -> None:
        rows.row(lambda: 1, "a")
        raise ValueError("no networks")

    with pytest.raises(ValueError, match="no networks"):
        Rows(tmp_path / "part.json", {}, {}, math.inf, lambda: None).fill(part)
    record = read(tmp_path / "part.json")
    assert "no networks" in record["failed"][WHOLE]
    assert record["result"] == {"a": 1}


def test_what_is_left_out_when_the_time_is_over_is_said_and_measured_next_time(tmp_path: Path) -> None:
    file = tmp_path / "part.json"
    late = Rows(file, {}, {}, math.inf, lambda: None)

    def part(rows: Rows) -> None:
        rows.row(lambda: 1, "a")
        late.deadline = 0.0  # the time is over
        rows.row(lambda: 2, "b")

    late.fill(part)
    record = read(file)
    assert record["left_out"] == "b, and what comes behind it"
    assert record["result"] == {"a": 1}
    assert not record["done"]
    Rows(file, {}, {}, math.inf, lambda: None).fill(part)
    record = read(file)
    assert record["result"] == {"a": 1, "b": 2}
    assert record["left_out"] is None
    assert record["done"]


def test_rows_of_another_machine_are_not_mixed(tmp_path: Path) -> None:
    file = tmp_path / "part.json"
    Rows(file, {"gpu": "one"}, {}, math.inf, lambda: None).fill(lambda rows: rows.row(lambda: 1, "a"))
    with pytest.raises(SystemExit, match="use another --out"):
        Rows(file, {"gpu": "two"}, {}, math.inf, lambda: None)
