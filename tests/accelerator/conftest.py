"""A stand-in accelerator for the tests of this folder, compiled where there is a compiler; `standin/device.cpp` says
what it is. Processes that have its folder on their path find it as any maker's: by an entry point of `import torch`.

What it covers: the ways through ffdist's own code that a GPU takes and a CPU does not, and whether streams wait for one
another where they must. What only `tests/gpu` can: kernels and what they round, NCCL and how it fails, work that really
overlaps, the allocator's real figures, autocast's real lists, speed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

SOURCES = Path(__file__).parent / "standin"
ENTRY = "[torch.backends]\nstandin = standin:load\n"


@pytest.fixture(scope="session")
def standin(request: pytest.FixtureRequest) -> Path:
    """The folder to be put on a path; compiled once for each version of torch."""
    if not hasattr(torch.accelerator, "memory_allocated"):
        pytest.skip("a maker's accelerator counts its memory from torch 2.9 on: the stand-in cannot be built before")
    if shutil.which("g++") is None:
        pytest.skip("the stand-in accelerator needs g++")
    sources = b"".join(path.read_bytes() for path in sorted(SOURCES.iterdir()))
    key = hashlib.sha256(sources + torch.__version__.encode()).hexdigest()[:16]
    folder = request.config.cache.mkdir(f"standin-{key}")
    if not (folder / "standin" / "device.so").exists():
        build(folder)
    return folder


@pytest.fixture(scope="module")
def on_path(standin: Path) -> Iterator[Path]:
    """Processes that the tests of this folder start have the accelerator."""
    before = os.environ.get("PYTHONPATH")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(standin), *([before] if before else [])]))
        patch.syspath_prepend(str(standin))  # what multiprocessing hands on
        yield standin


def build(folder: Path) -> None:
    package, about = folder / "standin", folder / "standin-1.dist-info"
    for each in (package, about):
        each.mkdir(exist_ok=True)
    shutil.copy(SOURCES / "module.py", package / "__init__.py")
    shutil.copy(SOURCES / "collective.py", package / "collective.py")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: standin\nVersion: 1\n")
    (about / "entry_points.txt").write_text(ENTRY)
    made = package / f"device-{os.getpid()}.so"
    done = subprocess.run(command(made), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:4000]
    made.rename(package / "device.so")  # whole, whoever else builds it


def command(out: Path) -> list[str]:
    """As torch's own extensions are compiled, without its build tools."""
    here = Path(torch.__file__).parent
    includes = [f"-I{here / 'include'}", f"-I{here / 'include/torch/csrc/api/include'}"]
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    libraries = [f"-L{here / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{here / 'lib'}"]
    flags = ["-std=c++20", "-O1", "-fPIC", "-shared", "-w", abi]
    return ["g++", *flags, *includes, str(SOURCES / "device.cpp"), *libraries, "-o", str(out)]
