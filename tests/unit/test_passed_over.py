"""What stands among a run's snapshots and is none is never taken for one, never removed, and told."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ffdist.errors import ConfigError, SnapshotError
from ffdist.runtime.folder import check_free, check_places
from ffdist.runtime.run import HEAD, SETTINGS, read_settings, with_snapshot, write_settings
from ffdist.runtime.threads import run_threads
from ffdist.settings import Settings
from ffdist.snapshot import latest
from ffdist.snapshot.manifest import MANIFEST, Manifest, commit, committed, discard_others, snapshot_folder
from ffdist.snapshot.writers import writing_there, written_there
from tests.jobs import DigitsJob


def made(run: Path, *steps: int) -> list[Path]:
    """Committed snapshots without blocks."""
    folders = [snapshot_folder(run, step, 1) for step in steps]
    for step, folder in zip(steps, folders, strict=True):
        folder.mkdir(parents=True)
        commit(run, Manifest(step, 1, 0, [], []))
    return folders


def test_the_newest_says_what_it_passes_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, third, fourth = made(tmp_path, 1, 2, 3, 4)
    third.rename(tmp_path / "elsewhere")
    third.symlink_to(tmp_path / "elsewhere")
    (fourth / MANIFEST).unlink()
    shutil.copytree(second, second.with_name(f"{second.name}.bak"))
    (second.parent / "step-last").write_text("")
    manifest = latest(tmp_path)
    assert manifest
    assert manifest.folder == second
    said = capsys.readouterr().err
    assert f"{third.name} is a link" in said
    assert f"{fourth.name} has no manifest.json" in said
    assert f"{second.name}.bak has no name that a run gives" in said
    assert "step-last is no folder" in said
    assert "the one of step 2 is taken" in said
    assert first.name not in said


def test_what_a_run_at_work_is_writing_is_no_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path, 1, 2)
    (snapshot_folder(tmp_path, 3, 1)).mkdir()
    with writing_there(tmp_path):
        assert with_snapshot(tmp_path, lambda manifest: manifest.step) == 2
        assert not capsys.readouterr().err
        assert latest(tmp_path)  # who goes on there is told: it is what an attempt before has left
        assert "epoch-00001 has no manifest.json" in capsys.readouterr().err
    assert with_snapshot(tmp_path, lambda manifest: manifest.step) == 2
    assert "epoch-00001 has no manifest.json" in capsys.readouterr().err


def test_threads_hold_the_folder_that_they_write(tmp_path: Path) -> None:
    held = list[bool]()
    run_threads(
        DigitsJob(tmp_path, epochs=1, settings={"samples": 64})(), lambda _: held.append(written_there(tmp_path))
    )
    assert held
    assert all(held)
    assert not written_there(tmp_path)


def test_whole_runs_say_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path, 1, 2)
    assert latest(tmp_path)
    assert not capsys.readouterr().err


def test_where_only_links_stand_the_error_says_so(tmp_path: Path) -> None:
    (only,) = made(tmp_path, 5)
    only.rename(tmp_path / "elsewhere")
    only.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SnapshotError, match=f"no snapshot yet(.|\n)*{only.name} is a link"):
        with_snapshot(tmp_path, lambda manifest: manifest)


def test_a_users_copy_beside_the_snapshots_stays(tmp_path: Path) -> None:
    folders = made(tmp_path, 1, 2, 3)
    copy = folders[0].with_name(f"{folders[0].name}-mine")
    shutil.copytree(folders[0], copy)
    discard_others(tmp_path, Manifest(3, 1, 0, [], []), keep=1)
    assert committed(tmp_path) == folders[2:]
    assert (copy / MANIFEST).exists()


@pytest.mark.parametrize("text", ["[model]\nname = 'mine'\n", "not toml", "\ufefflr = 1"])
def test_settings_of_anothers_are_never_written_over(tmp_path: Path, text: str) -> None:
    (tmp_path / SETTINGS).write_text(text)
    with pytest.raises(ConfigError, match="a file of another's stands where a run writes its settings"):
        check_free(tmp_path)
    (tmp_path / SETTINGS).write_text(f"{HEAD}0\n")  # a run's, which ended before its first snapshot
    check_free(tmp_path)


@pytest.mark.parametrize(
    ("name", "kind"), [("metrics.jsonl", "folder"), ("stage-0.log", "pipe"), ("snapshots", "file")]
)
def test_a_run_begins_nowhere_it_cannot_write(tmp_path: Path, name: str, kind: str) -> None:
    place = tmp_path / name
    match kind:
        case "folder":
            place.mkdir()
        case "pipe":
            os.mkfifo(place)
        case _:
            place.write_text("")
    with pytest.raises(ConfigError, match="cannot write to what stands in its folder"):
        check_places(tmp_path)


@pytest.mark.parametrize("change", [lambda b: b.replace(b"\n", b"\r\n"), lambda b: b"\xef\xbb\xbf" + b])
def test_settings_saved_by_another_editor_are_the_same_settings(
    tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    write_settings(tmp_path, Settings())
    path = tmp_path / SETTINGS
    path.write_bytes(change(path.read_bytes()))
    assert read_settings(tmp_path) == Settings()
    path.write_bytes(path.read_bytes().replace(b"seed = 0", b"seed = 1"))
    with pytest.raises(SnapshotError, match="not as they were written"):
        read_settings(tmp_path)


def test_an_error_for_settings_in_another_encoding_says_what_they_should_be(tmp_path: Path) -> None:
    (tmp_path / SETTINGS).write_text("[training]\nepochs = 3\n", encoding="utf-16")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_settings(tmp_path)
