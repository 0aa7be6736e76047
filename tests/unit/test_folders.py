"""What is told of a folder that cannot be written, or that goes with its container."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import python_path

from ffdist.cli import main
from ffdist.folders import command, container_note, is_persistent_mount, remedy_unwritable, why_unwritable

IN_CONTAINER = """\
1024 853 0:61 / / rw,relatime master:388 - overlay overlay rw,lowerdir=/l/A:/l/B,upperdir=/o/diff,workdir=/o/work
1027 1024 0:65 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
1031 1024 0:67 / /work/runs rw,nosuid,nodev,noexec,relatime - tmpfs tmpfs rw
1032 1024 254:0 /var/lib/docker/volumes/w/_data /work/data rw,relatime master:1 - ext4 /dev/vda rw
1033 1024 254:0 /srv/my\\040runs /my\\040runs rw,relatime - ext4 /dev/vda rw
"""
DENIED = PermissionError(errno.EACCES, "Permission denied")
READ_ONLY = OSError(errno.EROFS, "Read-only file system")
FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def container(monkeypatch: pytest.MonkeyPatch) -> None:
    """As our images are built."""
    monkeypatch.setenv("FFDIST_IMAGE", "cpu")


@pytest.fixture
def ours() -> Iterator[Path]:
    """A folder that everybody may look into, and its owner alone may write."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("folder", "kept"),
    [
        ("/work", False),
        ("/work/runs/mine", False),  # a tmpfs
        ("/work/data", True),
        ("/work/data/cifar10", True),
        ("/work/data2", False),
        ("/my runs/1", True),
        ("/", False),
    ],
)
def test_a_folder_stays_where_a_mount_of_its_own_keeps_it(folder: str, kept: bool) -> None:
    assert is_persistent_mount(Path(folder), IN_CONTAINER) is kept


@pytest.mark.usefixtures("container")
def test_a_loss_is_noted_only_in_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    text = container_note(Path("/"))
    assert text
    assert "-v ffdist-work:/work" in text
    monkeypatch.delenv("FFDIST_IMAGE")
    assert container_note(Path("/")) is None


def test_a_command_can_be_pasted_whatever_the_folder_is_called() -> None:
    assert command("eval", Path("runs/my run; 1")) == "ffdist eval 'runs/my run; 1'"


def test_whose_a_folder_is_stands_beside_what_the_system_said(ours: Path) -> None:
    text = why_unwritable(ours / "runs" / "mine", DENIED)
    assert text == f"Permission denied: {ours} is of user {os.geteuid()}, mode 755; this is user {os.geteuid()}"
    assert why_unwritable(ours, FULL) == "No space left on device"


def test_a_remedy_names_the_option(ours: Path) -> None:
    for error in (DENIED, READ_ONLY):
        assert remedy_unwritable(ours, error, ["--out"]) == "name another folder with --out"
    assert remedy_unwritable(ours, FULL, ["--out", "--cache"]).startswith("make room there, or ")


def test_a_file_larger_than_this_process_may_write_names_the_limit_and_no_other_folder(ours: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            (ours / "large").write_bytes(bytes(10_000))
        assert "8,192 bytes" in why_unwritable(ours, caught.value)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "ulimit -f" in remedy_unwritable(ours, caught.value, ["--out"])
    assert "--out" not in remedy_unwritable(ours, caught.value, ["--out"])


@pytest.mark.usefixtures("container")
def test_a_remedy_in_a_container_is_one_of_docker(ours: Path) -> None:
    assert "-v ffdist-work:/work" in remedy_unwritable(ours, READ_ONLY, ["--out"])
    os.chown(ours, 1234, -1)
    assert "--user 1234" in remedy_unwritable(ours / "runs", DENIED, ["--out"])


@pytest.fixture
def foreign(ours: Path) -> Path:
    """A folder that this user may not write, where root has no more rights than others."""
    if os.geteuid() == 0:
        os.chown(ours, 1234, -1)
    else:
        ours.chmod(0o555)
    return ours


def without_rights(folder: Path, *words: object, **env: str) -> str:
    """What ffdist says on stderr when it fails in a folder, started by a user who is allowed no more than others."""
    rights = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []
    environment = {**os.environ, "PYTHONPATH": python_path(), "OMP_NUM_THREADS": "1", **env}
    done = subprocess.run(
        [*rights, sys.executable, "-m", "ffdist", *map(str, words)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert list(folder.iterdir()) == []
    return done.stderr


def test_a_folder_of_another_user_is_one_paragraph(foreign: Path) -> None:
    text = without_rights(foreign, "train", "--samples", "64", "--epochs", "1")
    assert "\nffdist: error: the run folder cannot be written\n" in text
    owner, mode = foreign.stat().st_uid, foreign.stat().st_mode & 0o777
    assert f"{foreign} is of user {owner}, mode {mode:o}; this is user {os.geteuid()}" in text
    text = without_rights(foreign, "data", "prepare", "mnist", HOME=str(foreign))
    assert text.startswith("ffdist: error: there is no place to download mnist to\n")
    assert "--cache" in text


def test_no_home_is_one_paragraph(foreign: Path) -> None:
    text = without_rights(foreign, "data", "prepare", "mnist", XDG_CACHE_HOME="~nobody-of-this-name")
    assert text.startswith("ffdist: error: there is no home to keep downloads in\n")
    assert "--cache" in text


def test_no_place_for_temporary_files_is_one_paragraph(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/nowhere"])
    with pytest.raises(SystemExit, match="1"):
        main(["doctor"])
    text = capsys.readouterr().err
    assert text.startswith("ffdist: error: no temporary file can be written\n")
    assert "TMPDIR" in text
