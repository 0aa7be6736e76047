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

import pytest
import torch
from torch import nn

import ffdist
from ffdist import SFF, Pipeline, from_tensors, models
from ffdist.cli import COMMANDS, main
from ffdist.errors import DataError, DivergedError, NetworkError, setting, spelled
from ffdist.models import MODELS
from ffdist.objectives import OBJECTIVES, CwC
from ffdist.pipeline.plan import check_objective
from ffdist.settings import GROUP_OF
from ffdist.spelling import as_flags

ROOT = Path(ffdist.__file__).parent
DATA = ("list", "prepare", "check")
PROSE = {"and", "at", "help", "that"}
"""Words behind "ffdist" in advice that speaks of the program, and name none of its commands."""
OF_OTHERS = {
    "torchrun": {"--nproc-per-node"},
    "pip": {"--no-deps"},
    "ray": {"--head", "--object-store-memory", "--working-dir"},
    "docker": {"--tmpfs", "--user"},
    "env": {"--default-signal"},
    "every command": {"--help", "--version", "--quiet", "--verbose"},
    "switches turned off": {"--no-fusion", "--no-resume"},
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
    prose = [(file, text) for file, text in said() if " " in text.strip()]
    named = [(file, flag) for file, text in prose for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text)]
    assert len(named) > 80
    assert not {(file, flag) for file, flag in named if flag not in known}


def test_every_setting_that_an_error_names_is_one_in_its_group() -> None:
    found = 0
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setting" and node.args:
                name = node.args[0]
                if isinstance(name, ast.Constant) and "." in name.value:
                    group, _, field = name.value.partition(".")
                    assert GROUP_OF.get(field, "compare") == group, f"{path}: {name.value}"
                    found += 1
    assert found > 100


def test_every_command_that_a_text_names_is_one_and_has_the_flags_after_it() -> None:
    called = 0
    in_ticks = [(file, call) for file, text in said() for call in re.findall(r"`(ffdist [a-z][^`]*)`", text)]
    for file, text in [*advice(), *in_ticks]:
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
                assert flag in flags(*of) | OF_OTHERS["every command"], f"{file}: {text}"
            called += 1
    assert called > 40


def test_every_name_of_the_library_that_advice_names_is_there() -> None:
    rooms = {
        "ffdist": ffdist,
        "models": ffdist.models,
        "objectives": ffdist.objectives,
        "Pipeline": ffdist.Pipeline,
        "Images": ffdist.Images,
        "Classifier": ffdist.Classifier,
        "Chain": ffdist.Chain,
        "torch": torch,
    }
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
    found |= set(GROUP_OF)
    found |= {f.name for rule in OBJECTIVES.values() for f in fields(rule)}  # pyright: ignore[reportArgumentType]
    found |= {name for build in MODELS.values() for name in inspect.signature(build).parameters}
    of_others = {
        "batch_first",
        "return_inverse",
        "inplace",
        "seconds",
        "track_running_stats",
    }  # torch's, numpy's, timedelta's
    return found | of_others | {"train", "test"}  # --splits train=...


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("compute.precision", "bf16", 'compute.precision="bf16"'),
        ("training.batch_size", "2", "training.batch_size=2"),
        ("dataset.validation", 0.1, "dataset.validation=0.1"),
        ("rule.fusion", True, "rule.fusion=True"),
        ("plan.stages", None, "plan.stages"),
        ("plan.cut", "1 2", "plan.cut=[1, 2]"),
        ("dataset.augment", "crop", 'dataset.augment=["crop"]'),
        ("optim.no_decay", "bias norm", 'optim.no_decay=["bias", "norm"]'),
        ("rule.objective_args", "kernel=3 hard=yes", "rule.objective_args=dict(kernel=3, hard=True)"),
        ("network.model_args", "widths=4,8 split=block", 'network.model_args=dict(widths=(4, 8), split="block")'),
        ("rule.objective", "sff", 'objective="sff"'),
        ("network.model", "mlp", 'network="mlp"'),
        ("network.pretrained", "5", 'network.pretrained="5"'),
        ("dataset.data", "FOLDER", 'data="FOLDER"'),
        ("splits", "none", 'splits="none"'),
        ("splits", "train=a 'test=b c'", 'splits=["train=a", "test=b c"]'),
        ("ignore", "1 'a b'", 'ignore=["1", "a b"]'),
        ("value_range", "0 4095", "value_range=(0, 4095)"),
        ("out", 'a "b"', r'out="a \"b\""'),
    ],
)
def test_a_value_is_python_where_errors_are_raised_in_python(name: str, value: object, expected: str) -> None:
    assert spelled(setting(name, value)) == expected


X, Y = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 4
FIT: dict[str, Any] = {"epochs": 1, "progress": False}


def remedy(error: BaseException) -> str:
    return str(error).partition("remedy: ")[2]


def test_samples_that_a_network_does_not_take_are_reshaped_by_the_remedy() -> None:
    pipeline = Pipeline(models.mlp((1, 8, 8), 4, widths=(8,)), SFF())
    pipeline.fit((X, Y), **FIT)
    x = X.flatten(1)
    with pytest.raises(DataError, match="unlike those") as refused:
        pipeline.predict(x)
    x = eval(remedy(refused.value).partition(", where")[0])
    assert torch.equal(pipeline.predict(x), pipeline.predict(X))
    with pytest.raises(DataError, match="resized"):
        pipeline.predict(torch.rand(3, 1, 9, 9))
    vectors = Pipeline(models.mlp((64,), 4, widths=(8,)), SFF())
    vectors.fit((X.flatten(1), Y), **FIT)
    with pytest.raises(DataError, match=r"x\[None\]"):
        vectors.predict(X[0].flatten())


def test_widths_that_go_into_the_classes_are_named_with_a_network_that_has_them() -> None:
    for shape in ((3, 8, 8), (64,)):
        network = MODELS["sel-cnn"](shape, 10, depth=2) if len(shape) == 3 else models.mlp(shape, 10, widths=(13,))
        with pytest.raises(NetworkError, match="evenly") as refused:
            check_objective(network, CwC())
        found = re.search(r"--model (\w+) --model-args widths=([\d,]+)", refused.value.text(as_flags))
        assert found
        made = MODELS[found[1]](shape, 10, widths=tuple(map(int, found[2].split(","))))
        check_objective(made, CwC())


def test_layers_that_share_a_weight_are_joined_by_blocks() -> None:
    tied = nn.Linear(64, 64)
    network = nn.Sequential(nn.Flatten(), tied, nn.ReLU(), tied)
    with pytest.raises(NetworkError, match=r"in one block \(network.blocks\)"):
        Pipeline(network, SFF()).fit((X, Y), **FIT)
    with pytest.raises(NetworkError, match=r"the blocks do not cover(.|\n)*where: network.blocks"):
        Pipeline(network, SFF(), blocks=[3]).fit((X, Y), **FIT)
    Pipeline(network, SFF(), blocks=[4]).fit((X, Y), **FIT)


def test_whole_numbers_beyond_pictures_keep_their_channel_as_floats() -> None:
    x = (X[:, 0] * 4000).to(torch.int32)
    with pytest.raises(DataError, match="out of range") as refused:
        from_tensors(x, Y)
    remedy = re.search(r"floats: (.*), and from_tensors\(\.\.\., normalize=True\)", str(refused.value))
    assert remedy
    images = from_tensors(eval(remedy[1]), Y, normalize=True)
    assert images.shape == (1, 8, 8)


def test_floats_so_large_that_outputs_are_not_finite_are_named_as_such() -> None:
    with pytest.raises(DivergedError, match="not a finite number"):
        Pipeline(models.mlp((1, 8, 8), 4, widths=(8, 8)), SFF()).fit((X * 1e38, Y), **FIT)


def test_the_embedded_digits_need_no_preparation(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["data", "prepare", "digits"])
    assert "remedy: ffdist train --data digits" in capsys.readouterr().err
