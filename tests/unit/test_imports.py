"""Imports point one way."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ffdist
from ffdist.models.meta import OLD

ROOT = Path(ffdist.__file__).parent
ROOMS = {
    "calls": {"errors", "known", "options"},
    "errors": {"spelling"},
    "spelling": set(),
    "device": set(),
    "digests": set(),
    "environment": {"cores"},
    "events": {"errors", "notes"},
    "exiting": set(),
    "folders": {"errors"},
    "json_lines": set(),
    "known": set(),
    "loading": set(),
    "interpreter": set(),
    "locks": set(),
    "scratch": {"locks"},
    "edge_actor": set(),
    "notes": {"spelling"},
    "plain": {"notes"},
    "plan": {"digests", "errors", "regular", "renamed"},
    "planner": {
        "digests",
        "baselines",
        "cores",
        "device",
        "environment",
        "errors",
        "models",
        "renamed",
        "notes",
        "objectives",
        "data",
        "pipeline",
        "plan",
        "settings",
        "transport",
    },
    "posix": set(),
    "process_stat": set(),
    "options": {"errors", "trust"},
    "seeds": {"device", "errors"},
    "trust": {"errors"},
    "models": {"device", "errors", "options", "known", "regular", "renamed", "seeds"},
    "objectives": {"errors", "options", "known", "renamed"},
    "cores": set(),
    "payload": {"errors"},
    "regular": set(),
    "remote": {"errors"},
    "renamed": set(),
    "data": {
        "remote",
        "calls",
        "cores",
        "digests",
        "errors",
        "exiting",
        "interpreter",
        "folders",
        "known",
        "loading",
        "locks",
        "notes",
        "options",
        "payload",
        "plain",
        "process_stat",
        "regular",
        "renamed",
        "scratch",
        "seeds",
    },
    "transport": {"device", "errors", "exiting", "folders", "known", "edge_actor", "options", "renamed"},
    "trackers": {"errors", "events", "pipeline", "regular", "renamed"},
    "pipeline": {
        "options",
        "device",
        "errors",
        "events",
        "models",
        "notes",
        "objectives",
        "data",
        "plan",
        "seeds",
        "settings",
        "transport",
    },
    "settings": {"calls", "errors", "known", "options", "spelling"},
    "presets": {"errors", "options", "settings"},
    "baselines": {"device", "errors", "options", "known", "models", "objectives", "data", "pipeline", "settings"},
    "snapshot": {"data", "folders", "regular", "remote", "digests", "errors", "locks", "notes", "pipeline", "scratch"},
    "report": {"errors", "events", "folders", "json_lines", "plain", "pipeline", "regular"},
    "page": {
        "data",
        "errors",
        "folders",
        "json_lines",
        "notes",
        "options",
        "pipeline",
        "plan",
        "report",
        "runtime",
        "settings",
        "snapshot",
        "trust",
    },
    "runtime": {
        "cores",
        "device",
        "digests",
        "environment",
        "errors",
        "events",
        "exiting",
        "interpreter",
        "folders",
        "json_lines",
        "known",
        "loading",
        "locks",
        "notes",
        "options",
        "models",
        "objectives",
        "data",
        "transport",
        "pipeline",
        "plan",
        "planner",
        "settings",
        "baselines",
        "snapshot",
        "payload",
        "process_stat",
        "regular",
        "report",
        "posix",
        "scratch",
        "trust",
        "calls",
    },
    "arguments": {"errors", "options", "plan", "settings", "objectives", "data", "spelling"},
    "sending": {"errors", "payload", "runtime"},
}
"""What each room may import, besides itself; those in `ABOVE` may import anything."""
ABOVE = {"api", "given_network", "launch", "bench", "cli", "__init__", "__main__"}


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "ffdist" else [node.module]
            )
        rooms |= {name.split(".")[1] for name in names if name.startswith("ffdist.")}
    return rooms


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_only_what_is_below_it(path: Path) -> None:
    room = room_of(path)
    if room not in ABOVE:
        assert imported_rooms(path) - {room} <= ROOMS[room], f"{room} may import {sorted(ROOMS[room])}"


@pytest.mark.parametrize("room", ["models", "objectives", "data"])
def test_these_rooms_know_nothing_of_distribution(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        assert "torch.distributed" not in path.read_text(), path


OF_A_KIND = {"is_cuda", "is_mps", "is_xpu"}
KINDS = {"cuda", "mps", "xpu"}
PLACES = ("ffdist", "benchmarks")


@pytest.mark.parametrize("place", PLACES)
def test_only_the_room_for_devices_calls_what_one_kind_alone_has(place: str) -> None:
    for path in (ROOT.parent / place).rglob("*.py"):
        if path == ROOT / "device.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                assert node.attr not in OF_A_KIND, f"{path}:{node.lineno}"
                of_torch = isinstance(node.value, ast.Name) and node.value.id == "torch"
                assert not (of_torch and node.attr in KINDS), f"{path}:{node.lineno} names torch.{node.attr}"
            if isinstance(node, ast.Compare):
                named = {c.value for c in ast.walk(node) if isinstance(c, ast.Constant) and isinstance(c.value, str)}
                assert not named & KINDS, f"{path}:{node.lineno} asks for a kind of device"


def test_every_public_name_is_there() -> None:
    for name in ffdist.__all__:
        assert getattr(ffdist, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ffdist.nothing


def test_importing_ffdist_alone_imports_no_torch() -> None:
    code = "import sys, ffdist; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def imported_by(code: str, *names: str) -> list[str]:
    """Which of these modules a fresh process has imported after some code."""
    found = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*[n for n in {names} if n in sys.modules])"],
        check=True,
        capture_output=True,
        text=True,
    )
    return found.stdout.split("\n")[-2].split()


HEAVY = ("torchvision", "sklearn", "scipy", "pandas", "torch.distributed.fsdp", "torch.distributed.pipelining")


def test_what_trains_a_network_of_ours_imports_no_library_that_only_others_need() -> None:
    code = """
import benchmarks.gpu_suite
from ffdist import SFF, models, open_data
from ffdist.bench import sides
from ffdist.runtime.start import SettingsJob
from ffdist.settings import Settings
SettingsJob(Settings(), None, 1)()
"""
    assert imported_by(code, *HEAVY) == []


def test_a_network_of_torchvisions_layers_imports_torchvision_when_it_is_built() -> None:
    code = "from ffdist import models; chain = models.resnet18((3, 32, 32), 10)"
    built = f"{code}\nassert 'torchvision' not in sys.modules\nchain.build(0, 0)"
    assert imported_by(built, "torchvision") == ["torchvision"]


def test_help_and_a_mistyped_command_line_import_no_torch() -> None:
    code = """
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from ffdist.cli import COMMANDS, main
for words in ([], ["data", "prepare"], *([name] for name in COMMANDS)):
    for last in ("--help", "--no-such-flag"):
        with suppress(SystemExit), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            main([*words, last])
"""
    assert imported_by(code, "argparse", "tyro", "torch", "numpy", "pyarrow", "ray") == ["argparse"]


def test_every_known_name_is_found_where_it_is_said_to_be() -> None:
    from ffdist.baselines import BASELINES
    from ffdist.known import FAMILIES, baseline_names
    from ffdist.models import MODELS
    from ffdist.objectives import OBJECTIVES

    assert all(callable(MODELS[name]) for name in MODELS)
    assert all(callable(OBJECTIVES[name]) for name in OBJECTIVES)
    assert sorted(baseline_names()) == sorted({*BASELINES, *FAMILIES})


def test_a_run_on_the_command_line_imports_neither_torchs_compiler_nor_sympy(tmp_path: Path) -> None:
    words = [
        "train",
        "--epochs",
        "1",
        "--samples",
        "64",
        "--microbatches",
        "3",
        "--launcher",
        "threads",
        "--out",
        str(tmp_path / "run"),
    ]
    compiler = {"torch._dynamo", "sympy"}
    needed = compiler | {"torch.distributed.fsdp"} if OLD else set()  # an old torch's, before it builds on "meta"
    unwanted = {*compiler, *HEAVY} - needed
    assert imported_by(f"from ffdist.cli import main; main({words})", *unwanted) == []


def test_an_optimisers_steps_and_state_import_no_compiler() -> None:
    code = """
import torch
from ffdist import SFF, models
from ffdist.models.axes import layout_of
from ffdist.objectives import BlockSpec
from ffdist.pipeline.block import BlockConfig, LearningBlock
from ffdist.settings import Settings
chain = models.cnnb((1, 8, 8), 10)
module = chain.build(0, seed=0)
shape = tuple(module(torch.zeros(2, 1, 8, 8)).shape[1:])
spec = BlockSpec(0, "conv1", len(chain), 10, (1, 8, 8), shape)
for name in ("adamw", "adam", "sgd"):
    config = BlockConfig(Settings().changed(optimizer=name), 2)
    block = LearningBlock(spec, module, SFF(), config, layout_of(shape, 1))
    y = torch.arange(4)
    block.update(block.forward(torch.randn(4, 1, 8, 8), y, 0), y, 0)
    block.load_state(*block.state())
"""
    assert imported_by(code, "torch._dynamo", "sympy") == []


def test_loading_leaves_the_collector_of_garbage_as_it_was() -> None:
    for enabled in (True, False):
        code = f"import gc; from ffdist.loading import loading; ({enabled} or gc.disable())\nwith loading(): pass"
        assert imported_by(f"{code}\nassert gc.isenabled() is {enabled}", "gc") == ["gc"]


def test_what_is_imported_from_ffdist_is_loaded_without_looks_for_garbage_and_timed_once() -> None:
    code = """
from ffdist.loading import loading, taken
for _ in range(2):
    from ffdist import StopRun
assert len(taken) == 1, taken
with loading():
    from ffdist import Settings
assert len(taken) == 2, "the one within is part of it"
"""
    assert imported_by(code, "ffdist.settings") == ["ffdist.settings"]


THROUGH_DOORS = """
import json, sys, traceback

found = []
for missing, door in json.loads(sys.argv[1]):
    sys.modules[missing] = None
    try:
        exec(door)
    except ImportError:
        found.append((missing, traceback.format_exc()))
    for name in [missing, *(name for name in sys.modules if name.partition(".")[0] == "ffdist")]:
        del sys.modules[name]  # the next door is gone through as if it were the first
print(json.dumps(found))
"""


def test_where_the_system_lacks_what_ffdist_needs_one_line_says_which_systems_have_it() -> None:
    doors = [
        ("fcntl", "from ffdist import Pipeline"),
        ("fcntl", "from ffdist.api import Pipeline"),
        ("fcntl", "import ffdist; ffdist.load"),
        ("fcntl", "from ffdist.runtime.outcome import Result"),
        ("resource", "from ffdist import Pipeline"),
    ]
    command = [sys.executable, "-c", THROUGH_DOORS, json.dumps(doors)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert [missing for missing, _ in found] == [missing for missing, _ in doors]
    for missing, text in found:
        said = f"ImportError: ffdist runs on Linux and macOS only; this is {sys.platform}, without {missing}"
        assert text.splitlines()[-1] == said
        assert "During handling" not in text


@pytest.mark.parametrize("command", [["train"], ["doctor"], ["--help"]], ids=" ".join)
def test_the_command_says_so_in_that_line_alone(command: list[str], tmp_path: Path) -> None:
    """Without what Windows lacks: modules, signals and functions."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "for name in ('fcntl', 'resource', 'termios', 'pwd', 'grp'): sys.modules[name] = None\n"
        "for name in ('SIGHUP', 'SIGKILL', 'SIGCHLD'): delattr(signal, name)\n"
        "for name in ('geteuid', 'getuid', 'killpg', 'setsid'): delattr(os, name)\n"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT.parent)])}
    done = subprocess.run(
        [sys.executable, "-m", "ffdist", *command], check=False, capture_output=True, text=True, env=env
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"ffdist: error: it runs on Linux and macOS only; this is {sys.platform}, without fcntl\n"


def test_dir_shows_the_public_names_and_the_version_is_the_packages() -> None:
    assert dir(ffdist) == sorted([*ffdist.__all__, "__version__"])
    assert ffdist.__version__[0].isdigit()
