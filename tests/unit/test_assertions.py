"""No test is without something that can fail."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
CHECKS = {"assert_allclose", "assert_array_equal", "assert_close", "check_call", "fail", "raises", "warns"}
BY_RAISING = {
    "test_bad_input_is_an_error_for_users_and_whole_input_is_taken",  # any other error
    "test_what_hypothesis_makes_of_whole_input_is_taken_or_an_error_for_users",
    "test_what_is_no_file_holds_nobody_up",  # any other error, and taking a minute
    "test_the_cluster_file_and_the_runtime_environment_are_what_ray_expects",  # what Ray's own checks say
}
"""Tests that fail by what is raised in them, and have nothing to compare."""


def found_in(function: ast.FunctionDef) -> set[str]:
    """The names of what it calls; "fail" where it asserts something itself, or calls what checks and raises."""
    names = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            names.add("fail")
        elif isinstance(node, ast.Call):
            names.add(node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", ""))
    return names | ({"fail"} if any(name.startswith("check_") for name in names) else set())


def test_every_test_asserts_something_or_calls_what_does() -> None:
    functions = [
        (each.name, f"{path.relative_to(TESTS)}:{each.lineno} {each.name}", found_in(each))
        for path in sorted(TESTS.rglob("*.py"))
        for each in ast.walk(ast.parse(path.read_text()))
        if isinstance(each, ast.FunctionDef)
    ]
    checks, before = set(CHECKS), 0
    while len(checks) > before:  # a helper that calls a helper that asserts is one, too
        before = len(checks)
        checks |= {name for name, _, found in functions if not name.startswith("test_") and found & checks}
    tests = [(name, place, found) for name, place, found in functions if name.startswith("test_")]
    assert len(tests) > 1000
    assert [place for name, place, found in tests if not found & checks and name not in BY_RAISING] == []
