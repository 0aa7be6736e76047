"""Imports point one way."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ffdist

ROOT = Path(ffdist.__file__).parent
ROOMS = {
    "errors": set(),
    "options": {"errors"},
    "models": {"errors", "options"},
    "objectives": {"errors", "options"},
    "data": {"errors", "options"},
    "transport": {"errors"},
    "pipeline": {"errors", "models", "objectives", "data", "transport"},
    "config": {"errors", "options"},
    "arguments": {"errors", "options", "config"},
    "presets": {"errors", "options", "config"},
    "baselines": {"errors", "options", "models", "objectives", "data", "pipeline"},
    "snapshot": {"errors", "pipeline"},
    "report": {"errors", "pipeline"},
    "runtime": {"errors", "options", "models", "objectives", "data", "transport", "pipeline", "config", "baselines",
                "snapshot", "report"},
    "sending": {"errors", "runtime"},
}  # fmt: skip
"""What each room may import, besides itself. What stands above them all (api, bench, cli) may import anything."""
ABOVE = {"api", "bench", "cli", "__init__", "__main__"}


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


def test_every_public_name_is_there() -> None:
    for name in ffdist.__all__:
        assert getattr(ffdist, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ffdist.nothing


def test_importing_ffdist_alone_imports_no_torch() -> None:
    code = "import sys, ffdist; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
