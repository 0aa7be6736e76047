"""With what a run was made is in its folder, whoever starts it and however often."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forked import run
from jobs import fingerprint

import ffdist
from ffdist import environment
from ffdist.cli import main
from ffdist.runtime.record import ENVIRONMENT, read_starts

TINY = [
    "--launcher",
    "threads",
    "--stages",
    "1",
    "--threads",
    "1",
    "--samples",
    "64",
    "--model",
    "mlp",
    "--model-args",
    "widths=8,8",
    "--schedule",
    "constant",
]


def train(*args: object) -> None:
    main(["train", *(str(arg) for arg in args), *TINY])


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_each_start_of_a_run_is_kept_and_decides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "mine")
    train("--epochs", 1, "--out", "it's mine")
    train("--resume", "it's mine", "--epochs", 2)
    train("--epochs", 2, "--out", "whole")
    first, second = read_starts(tmp_path / "it's mine")
    assert first["command"] == f"""ffdist train --epochs 1 --out 'it'"'"'s mine' {" ".join(TINY)}"""
    assert second["command"].startswith("""ffdist train --resume 'it'"'"'s mine' --epochs 2""")
    assert (first["launcher"], first["stages"], first["folder"]) == ("threads", 1, str(tmp_path))
    assert first["folder_commit"] == git(tmp_path, "rev-parse", "--short=12", "HEAD")
    assert (first["host"], first["python"]) == (platform.node(), platform.python_version())
    assert (first["torch"], first["ffdist"]) == (torch.__version__, ffdist.__version__)
    assert first["began"] <= second["began"]
    assert fingerprint(tmp_path / "it's mine") == fingerprint(tmp_path / "whole")
    capsys.readouterr()
    main(["report", "it's mine", "--text"])
    text = capsys.readouterr().out
    for word in (first["command"], second["command"], first["began"], f"torch {torch.__version__}", platform.node()):
        assert word in text


def test_a_start_that_is_refused_adds_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train("--epochs", 1, "--out", run)
    before = (run / ENVIRONMENT).read_bytes()
    train("--resume", run)  # it is at its end
    for more in (["--resume", run, "--epochs", 2, "--lr", 3], ["--out", run, "--epochs", 1]):
        with pytest.raises(SystemExit):
            train(*more)
    assert (run / ENVIRONMENT).read_bytes() == before


SCRIPT = """
import sys
from pathlib import Path
from ffdist import Pipeline
from ffdist.runtime.record import read_starts

if __name__ == "__main__":
    options = {"samples": 64, "progress": False, "schedule": "constant", "threads": 1, "model_args": ("widths=8,8",)}
    Pipeline("mlp", "sff", launcher="processes").fit("digits", out="run", epochs=1, **options)
    Pipeline.resume("run", epochs=2, progress=False)
    print(*(start["launcher"] for start in read_starts(Path("run"))))
    Pipeline("mlp", "sff").fit("digits", epochs=1, **options)
"""


def test_a_script_is_named_with_its_arguments_and_its_environment_is_not(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(SCRIPT)
    command = [sys.executable, "own.py", "--token=https://me:secret@host/x"]
    here = os.environ | {"MY_API_KEY": "not to be told"}
    done = run(command, cwd=tmp_path, env=here, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "processes threads"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own.py", "run"]
    text = (tmp_path / "run" / ENVIRONMENT).read_text()
    assert json.loads(text.splitlines()[0])["command"] == f"{sys.executable} own.py '--token=https://***@host/x'"
    assert "secret" not in text
    assert "not to be told" not in text


def test_a_change_anywhere_in_ffdist_marks_its_commit(tmp_path: Path) -> None:
    package = tmp_path / "ffdist"
    (package / "data").mkdir(parents=True)
    for name in ("environment.py", "cores.py", "data/loader.py"):
        (package / name).write_text((Path(ffdist.__file__).parent / name).read_text())
    (package / "__init__.py").touch()
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")

    def printed_commit() -> str:
        code = "from ffdist.environment import commit; print(commit())"
        here = os.environ | {"PYTHONPATH": str(tmp_path), "GIT_DIR": str(tmp_path / "nowhere")}
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=here, cwd=tmp_path, capture_output=True, text=True, check=True).stdout[:-1]

    assert printed_commit() == git(tmp_path, "rev-parse", "--short=12", "HEAD")
    (package / "data/loader.py").write_text("")
    assert printed_commit().endswith("+")


def test_without_git_and_in_a_folder_of_no_checkout_nothing_is_made_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert environment.commit_of(tmp_path) is None
    monkeypatch.delenv("FFDIST_COMMIT", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.commit() == "unknown"


def test_what_was_cut_off_is_left_out_and_what_is_none_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train("--epochs", 1, "--out", run)
    path = run / ENVIRONMENT
    path.write_text(path.read_text() + '{"began": "20')
    assert len(read_starts(run)) == 1
    for text in ("[1]\n", "{]\n", "\0\n"):
        path.write_text(text)
        with pytest.raises(SystemExit):
            main(["report", str(run)])
        assert "remedy: remove the file" in capsys.readouterr().err
    path.unlink()
    main(["report", str(run)])


def test_a_processor_is_named_down_to_its_generation() -> None:
    name = environment.processor_name()
    assert name == platform.machine() or any(letter.isdigit() for letter in name), name
