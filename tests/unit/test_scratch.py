"""Folders and files that a process needs for a while."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ffdist import Pipeline
from ffdist.events import RunEvent
from ffdist.locks import lock
from ffdist.scratch import PREFIX, scratch_folder, write_whole

MADE = """
import sys, tempfile, time
from ffdist.scratch import scratch_folder
tempfile.tempdir = sys.argv[1]
with scratch_folder() as folder:
    (folder / "file").touch()
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


def test_what_a_killed_process_has_left_is_removed_by_the_next_one_and_nothing_else(temporary: Path) -> None:
    """A run in Python without a folder takes its own: who else trains meanwhile leaves that."""
    others = [temporary / "ffdist-abcdefgh", temporary / f"{PREFIX}file"]
    others[0].mkdir()
    others[1].touch()
    process = subprocess.Popen([sys.executable, "-c", MADE, temporary], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    with process.stdout as said:
        folder = Path(said.readline().strip())
        with scratch_folder() as mine:
            assert sorted(temporary.iterdir()) == sorted([*others, folder, mine])
        process.kill()
        process.wait()
    assert (folder / "file").exists()

    seen = list[Path]()

    def look(_: RunEvent) -> None:
        with scratch_folder() as other:
            seen.extend(path for path in temporary.iterdir() if path not in (*others, other))

    Pipeline("cnnb", "sff").fit("digits", samples=64, epochs=1, callbacks=[look], progress=False)
    assert len({*seen}) == 1
    assert folder not in seen
    assert sorted(temporary.iterdir()) == sorted(others)


def test_who_writes_a_file_removes_what_killed_processes_have_left_of_it_and_leaves_what_others_write(
    tmp_path: Path,
) -> None:
    left, written, another = (tmp_path / name for name in (".x.json.7.partial", ".x.json.8.partial", ".y.7.partial"))
    left.touch()
    another.touch()
    with written.open("wb") as file:
        assert lock(file) == "held"
        write_whole(tmp_path / "x.json", b"new")
    assert sorted(tmp_path.iterdir()) == [written, another, tmp_path / "x.json"]
    assert (tmp_path / "x.json").read_bytes() == b"new"
