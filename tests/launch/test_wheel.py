"""What is published: a source archive and a wheel that needs no source tree."""

from __future__ import annotations

import re
import shutil
import site
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from commands import ROOT, Command, run

pytestmark = pytest.mark.distributed
SOURCES = (
    *("ffdist", "benchmarks", "docker", "docs", "examples", "launch", "tests"),
    *("pyproject.toml", "MANIFEST.in", "Makefile", "mkdocs.yml", "CITATION.cff", "LICENSE"),
    *(path.name for path in ROOT.glob("*.md")),
)
PAGE = {f"ffdist/page/templates/{path.name}" for path in (ROOT / "ffdist/page/templates").iterdir()}
DATA = {"ffdist/py.typed", "ffdist/data/digits.npz", *PAGE}
ALONE = {"PYTHONPATH": ""}
"""Without the source tree."""


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive, and the wheel built from it."""
    tree = tmp_path_factory.mktemp("tree")
    for name in SOURCES:
        source, copy = ROOT / name, tree / name
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy)
    run(Command([sys.executable, "-m", "build", "--no-isolation", tree], {}, cwd=tree.parent))
    return tree / "dist"


def test_the_archives_pass_the_index_own_checks(dist: Path) -> None:
    files = sorted(dist.iterdir())
    assert [file.suffix for file in files] == [".whl", ".gz"]
    run(Command([sys.executable, "-m", "twine", "check", "--strict", *files]))


def test_the_source_archive_has_all_that_documents_tests_and_benchmarks_are_made_of(dist: Path) -> None:
    (archive,) = dist.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    for source in SOURCES:
        files = [ROOT / source] if (ROOT / source).is_file() else (ROOT / source).rglob("*")
        wanted = {str(path.relative_to(ROOT)) for path in files if path.is_file() and "__pycache__" not in path.parts}
        assert wanted <= names, sorted(wanted - names)


def test_the_wheel_holds_every_module_and_nothing_else(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == {str(path.relative_to(ROOT)) for path in (ROOT / "ffdist").rglob("*.py")} | DATA


def test_the_wheel_names_its_command_extras_and_no_test_library_at_run_time(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    packed = zipfile.ZipFile(wheel)
    said = {name.rpartition("/")[2]: packed.read(name).decode() for name in packed.namelist() if ".dist-info/" in name}
    needed = [
        line for line in said["METADATA"].splitlines() if line.startswith("Requires-Dist:") and "extra" not in line
    ]
    assert "Requires-Python: >=3.10" in said["METADATA"]
    assert {f"Provides-Extra: {name}" for name in ("bench", "data", "ray", "dev")} <= set(said["METADATA"].splitlines())
    assert "ffdist = ffdist.__main__:main" in said["entry_points.txt"]
    assert not any(name in line for line in needed for name in ("scikit-learn", "matplotlib", "ray[", "pytest"))


def test_an_installed_wheel_trains_evaluates_and_exports_without_the_source_tree(dist: Path, tmp_path: Path) -> None:
    """The wheel alone is installed; a .pth line lends it this environment's torch and other dependencies."""
    (wheel,) = dist.glob("*.whl")
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    packages = next(home.glob("lib/python*/site-packages"))
    install = ["-m", "pip", "--python", home, "install", "--no-deps", "--no-index", wheel]
    run(Command([sys.executable, *install], ALONE, cwd=tmp_path))
    for words in (["--version"], ["train"]):
        alone = subprocess.run([home / "bin" / "ffdist", *words], env={}, capture_output=True, text=True)
        assert (alone.returncode, alone.stdout) == (1, "")
        assert re.fullmatch("ffdist: error: .*not installed\n  got: .*\n  remedy: .* -m pip install .*\n", alone.stderr)
    (packages / "lent.pth").write_text(f"{site.getsitepackages()[0]}\n")

    def ffdist(*words: object) -> str:
        return run(Command([home / "bin" / "ffdist", *words], ALONE, cwd=tmp_path))[0]

    origin = [home / "bin" / "python", "-c", "import ffdist; print(ffdist.__file__)"]
    assert run(Command(origin, ALONE, cwd=tmp_path))[0].startswith(str(packages))
    ffdist("train", "--samples", "128", "--epochs", "1", "--stages", "2", "--threads", "1", "--out", "run")
    assert '"accuracy"' in ffdist("eval", "run", "--json")
    ffdist("export", "run", "--to", "model.safetensors")
    assert (tmp_path / "model.safetensors").stat().st_size > 0
