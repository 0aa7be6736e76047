"""Names of an earlier version still work, and each use is a DeprecationWarning with the new name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ffdist
from ffdist import data, models, planner, transport
from ffdist.errors import ConfigError, as_field
from ffdist.objectives import BlockSpec, Hinton, Local, Objective


def spec(**changes: Any) -> BlockSpec:
    return replace(BlockSpec(1, "second", 2, 3, (4,), (5,), (6, 6)), **changes)


def test_a_block_specs_old_names_still_work() -> None:
    with pytest.warns(DeprecationWarning, match=r"`ffdist.Site` is now `ffdist.BlockSpec`"):
        assert ffdist.Site is BlockSpec
    with pytest.warns(DeprecationWarning, match="`Site` is now `BlockSpec`"):
        from ffdist.objectives import Site  # pyright: ignore[reportAttributeAccessIssue]  # noqa: F401
    old: Any = spec()
    for name, value in {"shape": (5,), "sample": (6, 6), "last": True}.items():
        with pytest.warns(DeprecationWarning, match=rf"`BlockSpec\.{name}` is now `\w*{name}\w*`"):
            assert getattr(old, name) == value
    with pytest.warns(DeprecationWarning, match=r"`BlockSpec\(shape=...\)` is now `output_shape=...`"):
        assert spec(shape=(7,)).output_shape == (7,)


def test_a_locals_old_names_still_work() -> None:
    x = torch.ones(1)
    with pytest.warns(DeprecationWarning, match=r"`Local\(onward=...\)` is now `next_input=...`"):
        local: Any = Local(None, None, onward=x)  # pyright: ignore[reportCallIssue]
    assert local.next_input is x
    with pytest.warns(DeprecationWarning, match=r"`Local.onward` is now `next_input`"):
        assert local.onward is x
    with pytest.warns(DeprecationWarning, match=r"Local\(onward"):
        assert local._replace(onward=None) == Local(None, None, None)
    with pytest.raises(TypeError, match="outward"):
        Local(None, None, outward=x)  # pyright: ignore[reportCallIssue]


def old_rule() -> type[Hinton]:
    @dataclass(frozen=True)
    class Old(Hinton):
        @property
        def feedback(self) -> int:
            return 7

        def prepare_told(self, x: Tensor, labels: Tensor, scores: Tensor, generator: torch.Generator) -> Tensor:
            return super().prepare_told(x, labels, scores, generator) + 1  # pyright: ignore

        def rest(self, head: nn.Module, out: Tensor) -> Tensor | None:
            return out * 2

    return Old


def test_a_rule_written_with_old_names_is_called_by_the_new_ones() -> None:
    with pytest.warns(DeprecationWarning, match="is now") as caught:
        rule: Any = old_rule()()
    assert {str(each.message).split(";")[0] for each in caught} == {
        "`Old.feedback` is now `score_lag`",
        "`Old.prepare_told` is now `prepare_with_scores`",
        "`Old.rest` is now `forward_frozen`",
    }
    x, labels, scores = torch.rand(3, 1, 8, 8), torch.arange(3), torch.rand(3, 10)
    assert rule.score_lag == 7
    assert torch.equal(rule.forward_frozen(nn.Identity(), x), x * 2)
    with pytest.warns(DeprecationWarning, match=r"`ThresholdRule.prepare_told`|prepare_with_scores"):
        old = rule.prepare_with_scores(x, labels, scores, torch.Generator().manual_seed(1))
    new = Hinton().prepare_with_scores(x, labels, scores, torch.Generator().manual_seed(1))
    assert torch.equal(old, new + 1)


def test_arguments_modules_and_errors_keep_their_old_names() -> None:
    layers = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    with pytest.warns(DeprecationWarning, match=r"`from_sequential\(cut=...\)` is now `layers_per_block=...`"):
        chain = ffdist.Chain.from_sequential(layers, input_shape=(4,), num_classes=3, cut=[2, 1])  # pyright: ignore
    with pytest.warns(DeprecationWarning, match=r"`regroup\(cut=...\)` is now `blocks_per_block=...`"):
        assert len(chain.regroup(cut=[2])) == 1  # pyright: ignore[reportCallIssue]
    assert len(chain) == 2
    for module, old, new in (
        (transport, "Meeting", "EdgeContext"),
        (transport, "Place", "WorkerLocation"),
        (ffdist, "Watch", "PageServer"),
        (data, "Entry", "DatasetEntry"),
        (models, "Layout", "OutputLayout"),
        (planner, "Curve", "SampleCurve"),
    ):
        with pytest.warns(DeprecationWarning, match=f"`(ffdist.)?{old}` is now `(ffdist.)?{new}`"):
            assert getattr(module, old) is getattr(module, new)
    with pytest.raises(AttributeError, match="nothing"):
        transport.nothing  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.warns(DeprecationWarning, match=r"`open_data\(told=...\)` is now `prepared_as=...`"):
        assert len(ffdist.open_data("digits", told=None).train)  # pyright: ignore[reportCallIssue]
    error = ConfigError("wrong")
    with pytest.warns(DeprecationWarning, match="`told` is now `text`"):
        assert error.told(as_field) == error.text(as_field) == "wrong"


@pytest.mark.parametrize("name", ["feedback", "signal"])
def test_a_rules_old_properties_are_read_with_a_warning(name: str) -> None:
    rule: Any = Hinton()
    with pytest.warns(DeprecationWarning, match=f"{name}` is now"):
        assert getattr(rule, name) == getattr(rule, Objective._renamed[name])


def test_a_field_that_stood_for_a_property_still_does() -> None:
    with pytest.warns(DeprecationWarning, match="`Own.feedback` is now `score_lag`"):

        @dataclass(frozen=True)
        class Own(Hinton):
            feedback: int = 9  # pyright: ignore

    assert Own().score_lag == 9
    assert Own(feedback=4).score_lag == 4
