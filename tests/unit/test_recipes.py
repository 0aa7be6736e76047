"""Recipes: optimisers of any class, rates of a block, the learning rate's course."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ffdist import Pipeline, open_data
from ffdist.errors import ConfigError
from ffdist.models import cnnb
from ffdist.objectives import SFF
from ffdist.pipeline.block import BlockConfig
from ffdist.pipeline.lr_schedule import check_rise, rate_by_step
from ffdist.pipeline.own_optimizer import check_own_optimizer
from ffdist.pipeline.plan import block_specs, build_block
from ffdist.settings import OptimSettings, SchedulerSettings, Settings
from ffdist.settings.unused import unused_settings
from ffdist.snapshot import latest

OWN = """
import torch

class SignDescent(torch.optim.Optimizer):
    def __init__(self, params, lr: float = 0.1, power: float = 1.0):
        super().__init__(params, {"lr": lr, "power": power})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p -= group["lr"] * p.grad.sign() * p.grad.abs() ** group["power"]

class Noisy(SignDescent):
    def step(self):
        super().step()
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p += torch.randn_like(p)

class Forgetful(SignDescent):
    steps = 0
    def step(self):
        self.steps += 1
        for group in self.param_groups:
            group["lr"] = 0.1 / self.steps
        super().step()
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / f"own_steps_{tmp_path.name}.py"
    path.write_text(OWN)
    return path


def files_of(run: Path) -> list[dict[str, torch.Tensor]]:
    manifest = latest(run)
    assert manifest
    return [load_file(manifest.folder / entry["file"]) for entry in manifest.files]


@pytest.mark.parametrize("name", ["torch.optim:NAdam", "torch.optim:RMSprop", "torch.optim:SGD", "FILE:SignDescent"])
def test_a_run_by_any_optimiser_goes_on_as_if_never_interrupted_in_any_stages(
    name: str, own: Path, tmp_path: Path
) -> None:
    args = {"torch.optim:SGD": ["momentum=0.8"], "FILE:SignDescent": ["power=0.5"]}.get(name, [])
    options: dict[str, Any] = {"samples": 150, "batch_size": 50, "lr": 1e-3, "schedule": "constant"}
    options["block_rates"] = (1, 0.5, 2)
    pipeline = Pipeline(
        "cnnb",
        "sff",
        model_args=["widths=8,8,8"],
        optimizer=name.replace("FILE", str(own)),
        optimizer_args=args,
        **options,
    )
    images = open_data("digits")
    pipeline.fit(images, out=tmp_path / "whole", epochs=2, stages=1, progress=False)
    pipeline.fit(images, out=tmp_path / "parts", epochs=1, stages=3, progress=False)
    pipeline.fit(images, out=tmp_path / "parts", epochs=2, stages=2, resume=True, progress=False)
    for whole, parts in zip(*(files_of(tmp_path / place) for place in ("whole", "parts")), strict=True):
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[key], parts[key]) for key in whole)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("torch.optim:LBFGS", (), "the optimiser fails"),
        ("torch.optim:SparseAdam", (), "the optimiser fails"),
        ("torch.nn:Linear", (), "is not an optimiser"),
        ("torch.optim:Adagad", (), "has no 'Adagad'"),
        ("torch.optim:SGD", ("momentum=much",), "'momentum' has a wrong value"),
        ("torch.optim:SGD", ("speed=1",), "unknown option 'speed'"),
        ("torch.optim:SGD", ("lr=1",), "'lr' is a setting of its own"),
        ("torch.optim:Muon", (), 'optim.optimizer="muon", which has sgd|has no .Muon'),
        ("FILE:Noisy", (), "does not go on from a snapshot"),
        ("FILE:Forgetful", (), "does not go on from a snapshot"),
    ],
)
def test_an_optimiser_that_does_not_do_is_refused_before_anything_starts(
    name: str, args: tuple[str, ...], message: str, own: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_own_optimizer(OptimSettings(optimizer=name.replace("FILE", str(own)), optimizer_args=args))


def test_in_python_a_class_may_be_given_itself() -> None:
    settings = Pipeline("cnnb", "sff", optimizer=torch.optim.NAdam).settings.optim
    assert settings.optimizer == "torch.optim.nadam:NAdam"
    check_own_optimizer(settings)


def test_a_class_that_takes_no_weight_decay_is_given_none(own: Path) -> None:
    check_own_optimizer(OptimSettings(optimizer=f"{own}:SignDescent", weight_decay=0.1))
    check_own_optimizer(OptimSettings(optimizer="torch.optim:Adadelta", optimizer_args=("rho=0.5",)))


def test_adam_by_its_betas_is_torchs() -> None:
    mine = SETTINGS.changed(optimizer="adam", betas=(0.8, 0.9), eps=1e-3, weight_decay=0.0)
    its = SETTINGS.changed(optimizer="torch.optim:Adam", optimizer_args=("betas=0.8,0.9", "eps=1e-3"), weight_decay=0.0)
    states = [learned(settings, 0) for settings in (mine, its)]
    for one, other in zip(*(state.values() for state in states), strict=True):
        torch.testing.assert_close(one, other)


SETTINGS = Settings().changed(lr=0.1, schedule="constant")
X, Y = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 10


def learned(settings: Settings, index: int, steps: int = 3) -> dict[str, torch.Tensor]:
    chain = cnnb((1, 8, 8), 10, (8, 12, 16))
    block = build_block(chain, block_specs(chain)[index], SFF(), BlockConfig(settings, 100))
    for step in range(steps):
        block.update(block.forward(X, Y, step), Y, step)
    return {name: value.clone() for name, value in block.parts.state_dict().items()}


def test_a_blocks_factor_is_of_all_its_rates_and_of_no_other_block() -> None:
    plain = SETTINGS.changed(optimizer="sgd", bias_lr=0.5, head_lr=0.2)
    scaled = plain.changed(block_rates=(0.5, 1, 1))
    expected = plain.changed(lr=0.05, bias_lr=0.25, head_lr=0.1)
    mine, others = learned(scaled, 0), learned(expected, 0)
    assert all(torch.equal(mine[name], others[name]) for name in mine)
    assert not torch.equal(mine["head.aux.weight"], learned(plain, 0)["head.aux.weight"])


def rates(total: int, epochs: int, *steps: int, **options: Any) -> list[float]:
    at = rate_by_step(SchedulerSettings(**options), total, epochs)
    return [round(at(step), 6) for step in steps]


def test_the_courses() -> None:
    assert rates(100, 10, 0, 29, 30, 65, 100, schedule="triangular", start=0.25, end=0.1) == [
        0.275,
        1.0,
        1.0,
        0.55,
        0.1,
    ]
    assert rates(100, 10, 14, 29, 30, 65, 100, schedule="one-cycle", end=0.2) == [0.5, 1.0, 1.0, 0.6, 0.2]
    assert rates(100, 10, 0, 29, 30, 59, 60, schedule="milestones", milestones=(3, 6), factor=0.2) == [
        1.0,
        1.0,
        0.2,
        0.2,
        0.04,
    ]


@pytest.mark.parametrize("options", [{"warmup": 0.2}, {"warmup_epochs": 2.0}, {"warmup_steps": 20}])
def test_a_warm_up_is_set_as_a_share_in_epochs_or_in_batches(options: dict[str, Any]) -> None:
    assert rates(100, 10, 0, 9, 19, 60, schedule="linear", **options) == [0.05, 0.5, 1.0, 0.5]


def test_a_warm_up_in_epochs_stays_when_a_run_goes_on_for_more() -> None:
    options = {"schedule": "constant", "warmup_epochs": 2}
    assert rates(200, 20, 9, **options) == rates(100, 10, 9, **options)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"optimizer": "adan"}, "no optimiser 'adan'"),
        ({"optimizer": "SGD"}, "did you mean 'sgd'"),
        ({"optimizer_args": ("a=1",)}, "optim.optimizer_args is for a class"),
        ({"betas": (0.9,)}, "two decays"),
        ({"betas": (0.9, 1.0)}, "two decays"),
        ({"block_rates": (1.0, 0.0)}, "too small"),
        ({"optimizer": "sgd", "nesterov": True, "momentum": 0.0}, "there is none"),
        ({"optimizer": "muon", "nesterov": True, "momentum": 0.0}, "there is none"),
        ({"warmup": 0.1, "warmup_steps": 3}, "exclude one another"),
        ({"warmup_epochs": 1, "schedule": "plateau"}, "no warm-up"),
        ({"schedule": "milestones"}, "no milestones"),
        ({"schedule": "milestones", "milestones": (6, 3)}, "growing numbers"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Settings().changed(**wrong)


def test_a_warm_up_as_long_as_the_run_is_refused() -> None:
    with pytest.raises(ConfigError, match="as long as the run"):
        check_rise(SchedulerSettings(warmup_epochs=10), 100, 10)
    check_rise(SchedulerSettings(schedule="one-cycle"), 1, 1)
    with pytest.raises(ConfigError, match="3 factors"):
        OptimSettings(block_rates=(1.0,)).check_blocks(3)


def test_what_nothing_reads_is_noted() -> None:
    options = Settings().changed(optimizer="sgd", betas=(0.8, 0.9), milestones=(3,), schedule="constant", start=0.1)
    said = "\n".join(unused_settings(options))
    assert all(name in said for name in ("optim.betas", "scheduler.milestones", "scheduler.start"))
    assert not list(unused_settings(Settings().changed(schedule="one-cycle", start=0.1, end=0.1, factor=0.1)))
