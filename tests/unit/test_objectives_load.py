from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import Literal

import pytest

from ffdist.errors import ConfigError
from ffdist.objectives import OBJECTIVES, SFF, load_objective
from ffdist.options import convert

OWN = """
from __future__ import annotations
from dataclasses import dataclass
from torch import nn
from ffdist.objectives import Local, Objective

@dataclass(frozen=True)
class Own(Objective):
    power: float = 2.0
    steps: tuple[int, ...] = ()

    def head(self, spec):
        return nn.Identity()

    def local(self, head, out, labels):
        return Local(None, None, out.detach())

other = 3
"""


def test_every_name_loads_with_its_defaults() -> None:
    for name, cls in OBJECTIVES.items():
        assert load_objective(name) == cls()


def test_options_take_the_types_of_the_fields() -> None:
    assert load_objective("sff", {"kernel": "5", "goodness": "mean"}) == SFF(5, "mean")
    assert load_objective("sff", {"kernel": 5}) == SFF(5)


@pytest.mark.parametrize(
    ("value", "kind", "result"),
    [
        ("3", int, 3),
        ("1e-3", float, 1e-3),
        (2, float, 2.0),
        ("no", bool, False),
        ("b", Literal["a", "b"], "b"),
        ("3", Literal[1, 3], 3),
        ("none", int | None, None),
        ("7", int | None, 7),
        ("1, 2,3", tuple[int, ...], (1, 2, 3)),
        ([1, 2], tuple[int, ...], (1, 2)),
        ("", tuple[int, ...], ()),
        ("0,11;0,16", tuple[tuple[int, int], ...], ((0, 11), (0, 16))),
        ([[0, 11]], tuple[tuple[int, int], ...], ((0, 11),)),
    ],
)
def test_text_becomes_the_declared_type(value: object, kind: object, result: object) -> None:
    assert convert(value, kind) == result
    assert type(convert(value, kind)) is type(result)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("x", int),
        ("1.5", int),
        (1.5, int),
        (True, int),
        ("maybe", bool),
        (1, bool),
        ("c", Literal["a", "b"]),
        (3, str),
        ("1,2,3", tuple[int, int]),
        ("0,1,2", tuple[tuple[int, int], ...]),
        (3, tuple[int, ...]),
    ],
)
def test_a_value_of_another_type_is_refused(value: object, kind: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  convert names no setting: its caller does
        convert(value, kind)


def test_a_mistyped_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'sff'"):
        load_objective("sfff")
    with pytest.raises(ConfigError, match="did you mean 'kernel'"):
        load_objective("sff", {"kernal": "3"})
    with pytest.raises(ConfigError, match="a whole number"):
        load_objective("sff", {"kernel": "three"})
    with pytest.raises(ConfigError, match="square or mean"):
        load_objective("sff", {"goodness": "cube"})


def test_a_users_own_class_loads_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "rule_in_a_file.py"
    path.write_text(OWN)
    own = load_objective(f"{path}:Own", {"power": "3", "steps": "1,2"})
    assert {f.name: getattr(own, f.name) for f in fields(own)} == {"power": 3.0, "steps": (1, 2)}  # type: ignore[arg-type]
    assert type(load_objective("rule_in_a_file:Own")) is type(own)
    with pytest.raises(ConfigError, match="did you mean 'Own'"):
        load_objective(f"{path}:Owm")
    with pytest.raises(ConfigError, match="not an objective"):
        load_objective(f"{path}:other")


def test_a_file_or_module_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file .*gone\.py"):
        load_objective(f"{tmp_path}/gone.py:Own")
    with pytest.raises(ConfigError, match="cannot import 'no_such_module'"):
        load_objective("no_such_module:Own")


def test_a_file_that_another_module_hides_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "json.py").write_text(OWN)
    with pytest.raises(ConfigError, match="another module is called 'json'"):
        load_objective(f"{tmp_path}/json.py:Own")


BROKEN = {
    "no_syntax": ("class Own(\n", "SyntaxError"),
    "no_such_import": ("import no_such_package\n", "No module named 'no_such_package'"),
    "raises": ("x = 1\ny = x / 0\n", r"ZeroDivisionError: .*raises\.py line 2"),
}


UNFINISHED = {
    "no_local": (
        "class Own(Objective):\n    def head(self, spec): return nn.Identity()",
        r"Can't instantiate .*local",
    ),
    "no_default": (
        "@dataclass(frozen=True)\nclass Own(SFF):\n    def __init__(self, power): pass",
        "argument: 'power'",
    ),
    "refuses": (
        "@dataclass(frozen=True)\nclass Own(SFF):\n    def __post_init__(self): raise KeyError('x')",
        "KeyError",
    ),
}


CASES = {name: (text, rf"{name}\.py' cannot be imported(.|\n)*{why}") for name, (text, why) in BROKEN.items()} | {
    name: (OWN.replace("import Local", "import SFF, Local").split("@")[0] + text, rf"cannot be made(.|\n)*{why}")
    for name, (text, why) in UNFINISHED.items()
}


@pytest.mark.parametrize("name", CASES)
def test_a_file_that_cannot_be_imported_or_a_class_that_cannot_be_made_is_one_error_that_says_why(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    text, message = CASES[name]
    (tmp_path / f"{name}.py").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_objective(f"{tmp_path}/{name}.py:Own")
    assert not isinstance(caught.value.__cause__, ConfigError)
