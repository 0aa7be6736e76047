"""Docstrings and names read at once, and the formatter has its way everywhere."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ["ffdist", "benchmarks", "launch", "examples", "docker"]


def bodies(node: ast.Module | ast.stmt) -> Iterator[list[ast.stmt]]:
    """A module's or a statement's own statements, and those of each, at any depth; expressions are not looked into."""
    for name in ("body", "orelse", "finalbody"):
        if body := getattr(node, name, None):
            yield body
            for inner in body:
                yield from bodies(inner)


@pytest.mark.parametrize("folder", FOLDERS)
def test_docstrings_begin_with_what_a_thing_is_or_does(folder: str) -> None:
    """None of a module, class or function begins as a clause that its name would have to complete; none of an attribute
    with a genitive."""
    clause = re.compile(
        r"(What|Of|That|How|Why|Whom|Whether|Which|Who|Whatever|Where|When|Until|Once|Around|Inside|Within|Without|With|"
        r"Before|Behind|After|To|By|As|For|In|Into|On|From|At|So|Likewise|Nothing|None)\b"
    )
    genitive = re.compile(r"(Of|That)\b")
    dangling, seen = [], 0
    for path in sorted((ROOT / folder).rglob("*.py")):
        for body in bodies(ast.parse(path.read_text())):
            for place, statement in enumerate(body):
                if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                    text, seen = str(statement.value.value), seen + 1
                    if (genitive if place else clause).match(text):
                        dangling.append(f"{path}:{statement.lineno}: {text[:40]}")
    assert not dangling
    assert seen


USERS_ERRORS = {"refuse", "lost", "silent"}
"""The errors of `Transform` and `Edge`, by which users' own transforms and transports raise theirs."""


def names_in(node: ast.expr | None) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} if node else set()


def test_a_function_that_makes_an_error_is_called_so() -> None:
    """By a name that cannot be taken for a question, such as "lost"; one that passes an error on may have another."""
    error, misnamed, seen = re.compile(r"\w+(Error|Exception)"), [], 0
    for path in sorted((ROOT / "ffdist").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef) or not isinstance(node.returns, (ast.Name, ast.BinOp)):
                continue
            given = {name for arg in node.args.args for name in names_in(arg.annotation)}
            if any(map(error.fullmatch, names_in(node.returns))) and not any(map(error.fullmatch, given)):
                seen += 1
                if "error" not in node.name and node.name not in USERS_ERRORS:
                    misnamed.append(f"{path}:{node.lineno}: {node.name}")
    assert not misnamed
    assert seen > 50


def test_nothing_is_kept_from_the_formatter() -> None:
    files = [path for folder in [*FOLDERS, "tests"] for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 500
    mark = re.compile(r"#\s*fmt:\s*(skip|off)")
    assert not [str(path) for path in files if mark.search(path.read_text())]
