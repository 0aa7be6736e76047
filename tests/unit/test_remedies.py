"""What the program's own words name is there: commands, their flags, functions, arguments."""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import re
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import torch

import ffdist
from ffdist.cli import COMMANDS, main
from ffdist.models import MODELS
from ffdist.objectives import OBJECTIVES
from ffdist.pipeline.optim import OptimConfig

ROOT = Path(ffdist.__file__).parent
DATA = ("list", "prepare", "check")
PROSE = {"against", "and", "as", "at", "can", "did", "does", "edge", "import", "in", "is", "itself", "line", "needs",
         "pass", "raises", "runs", "signals", "stop", "that", "uses", "what", "with"}  # fmt: skip
"""Words behind "ffdist" where the program is spoken of, and not called."""
OF_OTHERS = {
    "torchrun": {"--nproc-per-node"},
    "ray": {"--head", "--object-store-memory", "--working-dir"},
    "docker": {"--tmpfs", "--user"},
    "git": {"--error-unmatch", "--porcelain", "--short", "--untracked-files"},
    "tyro": {"--tyro-print-completion"},
    "every command": {"--help", "--version"},
}


def strings(tree: ast.AST) -> Iterator[str]:
    """All texts in a piece of code, with {} for what is put in."""
    pieces: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            pieces |= {id(part) for part in node.values}
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in pieces:
            yield node.value


@cache
def said() -> list[tuple[str, str]]:
    """Each text of the package with its file."""
    trees = ((path, ast.parse(path.read_text())) for path in sorted(ROOT.rglob("*.py")))
    return [(str(path.relative_to(ROOT)), text) for path, tree in trees for text in strings(tree)]


@cache
def advice() -> list[tuple[str, str]]:
    """What errors expect, and what they tell to do."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg in ("remedy", "expected"):
                found += [(f"{path.relative_to(ROOT)}:{node.value.lineno}", text) for text in strings(node.value)]
    assert len(found) > 400
    return found


@cache
def flags(*command: str) -> frozenset[str]:
    """The flags of a command, as its help shows them."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([*command, "--help"])
    return frozenset(re.findall(r"--[a-z][a-z0-9-]*", out.getvalue()))


def all_flags() -> frozenset[str]:
    commands = [(name,) for name in COMMANDS if name != "data"] + [("data", name) for name in DATA]
    return frozenset().union(*(flags(*command) for command in commands), *OF_OTHERS.values())


def test_every_flag_that_a_text_names_is_one() -> None:
    known = all_flags()
    unknown = {(file, flag) for file, text in said() for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text)
               if flag not in known}  # fmt: skip
    assert not unknown


def test_every_command_that_a_text_names_is_one_and_has_the_flags_behind_it() -> None:
    called = 0
    for file, text in said():
        for name, rest in re.findall(r"\bffdist ([a-z][\w-]*)((?: [^;`|\n]*)?)", text):
            if name in PROSE:
                continue
            assert name in COMMANDS, f"{file}: {text}"
            words = rest.split()
            if name == "data" and words and words[0].isalpha() and words[0].islower():
                assert words[0] in DATA, f"{file}: {text}"
            of = (name, words[0]) if name == "data" and words and words[0] in DATA else (name,)
            behind = re.split(r", then |, or | and ", rest)[0]
            for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", behind):
                assert flag in flags(*of), f"{file}: {text}"
            called += 1
    assert called > 40


def test_every_name_of_the_library_that_advice_names_is_there() -> None:
    rooms = {
        "ffdist": ffdist, "models": ffdist.models, "objectives": ffdist.objectives, "Pipeline": ffdist.Pipeline,
        "Images": ffdist.Images, "Classifier": ffdist.Classifier, "Chain": ffdist.Chain, "torch": torch,
    }  # fmt: skip
    found = 0
    for place, text in advice():
        for room, rest in re.findall(r"(?<![\w.])(" + "|".join(rooms) + r")\.([A-Za-z_][\w.]*\w)", text):
            value: Any = rooms[room]
            for name in rest.split("."):
                assert hasattr(value, name), f"{place}: {room}.{rest}"
                value = getattr(value, name)
            found += 1
    assert found > 5


def test_every_argument_that_advice_names_is_one() -> None:
    known = arguments()
    for place, text in advice():
        for name in re.findall(r"(?<![\w.-])([a-z_]{2,})=(?![=\s])", text):
            assert name in known, f"{place}: {text}"


def arguments() -> set[str]:
    """Of what users call and set: the library's functions, rules and networks, the settings, and what others have."""
    callables = [getattr(ffdist, name) for name in ffdist.__all__ if callable(getattr(ffdist, name))]
    callables += [ffdist.Pipeline.fit, ffdist.Chain.from_sequential, ffdist.Chain.regroup, ffdist.models.with_weights]
    found = {name for each in callables for name in inspect.signature(each).parameters}
    found |= {f.name for f in fields(OptimConfig)}
    found |= {f.name for rule in OBJECTIVES.values() for f in fields(rule)}  # pyright: ignore[reportArgumentType]
    found |= {name for build in MODELS.values() for name in inspect.signature(build).parameters}
    of_others = {"batch_first", "return_inverse", "inplace", "seconds"}  # torch's, numpy's, timedelta's
    return found | of_others | {"train", "test"}  # --splits train=...
