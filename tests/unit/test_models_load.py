from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest
import torch

from ffdist.errors import ConfigError, NetworkError
from ffdist.models import load_model

OWN = """
from torch import nn
from ffdist.models import Chain

def small(input_shape, num_classes, width: int = 4):
    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[0] * input_shape[1] * input_shape[2], width), nn.ReLU())

def chain(input_shape, num_classes):
    return Chain([("only", nn.Flatten)], input_shape=input_shape, num_classes=num_classes)

def wrong(input_shape, num_classes):
    return nn.Flatten()

def of_one(input_shape):
    return nn.Sequential(nn.Flatten())

def raises(input_shape, num_classes):
    return nn.Sequential(nn.Linear(input_shape[3], num_classes))

class Raises(nn.Module):
    def forward(self, x):
        return x.no_such_thing

class Pair(nn.Module):
    def forward(self, x):
        return x, x

def unbuilt():
    raise KeyError("unbuilt")

def pair(input_shape, num_classes):
    return nn.Sequential(nn.Flatten(), Pair())

def inner_pair(input_shape, num_classes):
    return nn.Sequential(nn.Flatten(), nn.Sequential(Pair(), nn.Flatten()))

def attribute(input_shape, num_classes):
    return nn.Sequential(nn.Flatten(), Raises())

def builder(input_shape, num_classes):
    return Chain([("flat", nn.Flatten), ("1", unbuilt)], input_shape=input_shape, num_classes=num_classes)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "net_in_a_file", raising=False)
    (tmp_path / "net_in_a_file.py").write_text(OWN)
    return str(tmp_path / "net_in_a_file.py")


def test_options_take_the_types_of_the_parameters() -> None:
    assert load_model("mlp", (1, 8, 8), 10, {"widths": "30,20"}).shapes() == [(30,), (20,)]
    chain = load_model("cnn", (1, 8, 8), 10, {"widths": [4, 5, 6], "norm": "yes"})
    assert chain.shapes() == [(4, 4, 4), (5, 2, 2), (6, 2, 2)]


def test_a_mistyped_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'cnnb'"):
        load_model("cnb", (1, 8, 8), 10)
    with pytest.raises(ConfigError, match="did you mean 'widths'"):
        load_model("mlp", (1, 8, 8), 10, {"width": "3"})
    with pytest.raises(ConfigError, match=r"a whole number,\.\.\."):
        load_model("mlp", (1, 8, 8), 10, {"widths": "a,b"})


def test_each_layer_with_weights_is_a_block_with_what_stands_beside_it(own: str) -> None:
    chain = load_model(f"{own}:small", (1, 8, 8), 10, {"width": "5"})
    assert chain.names == ["0+1+2"]
    assert chain.shapes() == [(5,)]
    assert chain.joined == "3 layers make 1 block: Flatten+Linear+ReLU"


def test_its_weights_depend_on_the_seed_alone(own: str) -> None:
    first, again = (load_model(f"{own}:small", (1, 8, 8), 10) for _ in range(2))
    weights = [
        dict(c.build(0, seed).named_parameters())["1.weight"] for c, seed in ((first, 7), (again, 7), (again, 8))
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_it_travels_to_another_process(own: str) -> None:
    chain = load_model(f"{own}:small", (1, 8, 8), 10)
    assert pickle.loads(pickle.dumps(chain)).shapes() == chain.shapes()


def test_loading_draws_no_random_number(own: str) -> None:
    before = torch.get_rng_state()
    load_model(f"{own}:small", (1, 8, 8), 10)
    assert torch.equal(before, torch.get_rng_state())


def test_a_users_function_may_return_a_chain_and_nothing_else(own: str) -> None:
    assert load_model(f"{own}:chain", (1, 8, 8), 10).names == ["only"]
    with pytest.raises(ConfigError, match="returns a Chain or an nn"):
        load_model(f"{own}:wrong", (1, 8, 8), 10)


@pytest.mark.parametrize(("name", "why"), [("of_one", "TypeError: .*2 were given"), ("raises", r"file\.py line 1\d")])
def test_a_users_function_that_fails_is_one_error_that_says_why(name: str, why: str, own: str) -> None:
    with pytest.raises(ConfigError, match=rf"function fails(.|\n)*called with \(\(1, 8, 8\), 10\)(.|\n)*{why}"):
        load_model(f"{own}:{name}", (1, 8, 8), 10)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("pair", "does not return one tensor(.|\n)*a tuple"),
        ("inner_pair", "does not take(.|\n)*'tuple' object"),
        ("attribute", r"does not take(.|\n)*AttributeError.*no_such_thing.*file\.py line \d+"),
        ("builder", "cannot be built(.|\n)*KeyError"),
    ],
)
def test_a_users_block_that_fails_is_one_error_that_names_it(name: str, why: str, own: str) -> None:
    block = "1" if name == "builder" else r"0\+1"
    with pytest.raises(NetworkError, match=rf"block '{block}' {why}") as caught:
        load_model(f"{own}:{name}", (1, 8, 8), 10).shapes()
    assert "block" in str(caught.value.where)
