"""The logs of a run that goes on: what its snapshot knows, each epoch once; nothing else is lost without a word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ffdist.errors import SnapshotError
from ffdist.events import PulseReported
from ffdist.json_lines import remove_cut_off
from ffdist.report.log import PULSES, RUN_LOG, line_of, read_pulses, read_run_log
from ffdist.runtime.resumed_log import begin_logs

RECORDS = [{"epoch": n, "step": 3 * n, "train": {"blocks": []}, "stages": []} for n in (1, 2, 3)]
LINES = [line_of(record) for record in RECORDS]
LATER = line_of(RECORDS[0] | {"epoch": 4, "step": 12})
END = json.dumps({"schema": 1, "time": "", "reason": "finished", "test": None}) + "\n"


@pytest.mark.parametrize(
    ("found", "expected", "is_kept"),
    [
        ("".join(LINES), "", False),
        ("".join([*LINES, END]), "", False),
        ("".join(LINES).rstrip("\n") + "\r\n", "", False),
        ("".join(LINES)[: 3 * len(LINES[0]) // 2], "2 lines are missing, the last line is cut off", False),
        ("".join([LINES[0], LINES[0], *LINES[1:]]), "1 line is duplicated", False),
        ("".join([*LINES, LATER, LATER[:20]]), "has epoch 4, which the snapshot of step 9 does not know", False),
        ("".join([LINES[0], "\0\x01\n", *LINES[1:]]), "1 line is none of this run's", True),
        ("".join([*LINES, '{"loss": 3}\nnull\n{"epoch": "x"}\n']), "3 lines are none of this run's", True),
        (LINES[0].replace("[]", "[0]", 1) + "".join(LINES[1:]), "1 line is missing, 1 line is none of this", True),
        ("".join(LINES).encode("utf-16"), "lines are none of this run's", True),
        (None, "3 lines are missing", False),
    ],
)
def test_a_run_log_is_what_the_snapshot_knows_and_what_else_stood_there_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], found: str | bytes | None, expected: str, is_kept: bool
) -> None:
    data = found.encode() if isinstance(found, str) else found
    if data is not None:
        (tmp_path / RUN_LOG).write_bytes(data)
    begin_logs(tmp_path, RECORDS, 9)
    assert (tmp_path / RUN_LOG).read_text() == "".join(LINES)
    assert read_run_log(tmp_path) == (list(map(json.loads, LINES)), None)
    said = capsys.readouterr().err
    assert expected in said
    assert bool(expected) == bool(said)
    kept = tmp_path / f"{RUN_LOG}.kept"
    assert (kept.read_bytes() if kept.exists() else None) == (data if is_kept else None)


def test_what_is_kept_is_never_written_over(tmp_path: Path) -> None:
    for text in ("mine\n", "mine, too\n"):
        (tmp_path / RUN_LOG).write_text(text)
        begin_logs(tmp_path, [], 0)
    assert (tmp_path / f"{RUN_LOG}.kept").read_text() == "mine\n"
    assert (tmp_path / f"{RUN_LOG}.kept-2").read_text() == "mine, too\n"


def test_pulses_up_to_the_snapshot_stay_and_foreign_ones_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [json.dumps(PulseReported(step, 1, "", None, []).to_json()) + "\n" for step in (1, 2, 2, 3)]
    (tmp_path / PULSES).write_text("".join([*texts[:2], "no pulse\n", *texts[2:], texts[0][:9]]))
    begin_logs(tmp_path, [], 2)
    assert [pulse["step"] for pulse in read_pulses(tmp_path)] == [1, 2]
    assert "1 line is duplicated, 1 line is none of this run's, the last line is cut off" in capsys.readouterr().err
    assert "no pulse" in (tmp_path / f"{PULSES}.kept").read_text()


def test_a_log_that_is_no_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / RUN_LOG).mkdir()
    with pytest.raises(SnapshotError, match="a log of the run cannot be written"):
        begin_logs(tmp_path, RECORDS, 9)


@pytest.mark.parametrize(
    ("found", "left", "removed"),
    [
        (b'{"a": 1}\n{"b":', b'{"a": 1}\n', True),
        (b'{"a": 1}\n{"b": 2}', b'{"a": 1}\n{"b": 2}\n', False),
        (b'{"a"', b"", True),
        (b'{"a": 1}\n' + b" " * 100_000 + b"[", b'{"a": 1}\n', True),
        (b"", b"", False),
    ],
)
def test_a_line_that_is_cut_off_is_never_joined_to_the_next(
    tmp_path: Path, found: bytes, left: bytes, removed: bool
) -> None:
    path = tmp_path / "lines"
    path.write_bytes(found)
    assert remove_cut_off(path) == removed
    assert path.read_bytes() == left
