"""Muon on filters and matrices, beside another optimiser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import NEEDS_MUON, QUIET, DigitsJob, cut_power_at, fingerprint
from torch import nn

from ffdist.errors import ConfigError
from ffdist.objectives import DGL, AugLocal
from ffdist.pipeline.lr_schedule import build_lr_scheduler
from ffdist.pipeline.muon import FilterMuon
from ffdist.pipeline.optim import build_optimizer, in_groups
from ffdist.runtime.agree import check_job
from ffdist.runtime.threads import run_threads
from ffdist.settings import Settings

pytestmark = NEEDS_MUON
LEARNED: dict[str, Any] = {
    "optimizer": "muon",
    "lr": 0.1,
    "weight_decay": 0.01,
    "momentum": 0.85,
    "nesterov": True,
    "bias_lr": 3.0,
    "head_lr": 0.5,
    "unit_filters": True,
    "ns_steps": 3,
    "schedule": "linear",
    "warmup": 0.2,
    "start": 0.2,
    "end": 0.07,
}
MUON = Settings().changed(**LEARNED)


def parts() -> nn.ModuleDict:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 16))
    return nn.ModuleDict({"module": module, "head": nn.Linear(16, 4)}).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_filter_is_updated_as_torchs_muon_updates_the_matrix_of_its_rows(layout: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(6, 3, 3, 3, generator=generator)
    filters = nn.Parameter(start.clone().to(memory_format=layout))
    # a permutation of columns passes through the iteration, so any order of the inputs gives the same filters
    matrix = nn.Parameter(filters.detach().clone(memory_format=torch.contiguous_format).view(6, -1))
    ours = FilterMuon([{"params": [filters]}], lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1)
    torchs = torch.optim.Muon([matrix], lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1)
    for _ in range(3):
        grad = torch.randn(6, 3, 3, 3, generator=generator)
        filters.grad = grad.clone().to(memory_format=layout)
        matrix.grad = grad.reshape(6, -1)
        ours.step()
        torchs.step()
    assert not torch.equal(filters, start)
    torch.testing.assert_close(filters.reshape(6, -1), matrix, rtol=2e-2, atol=2e-3)  # its products are in bfloat16


def test_unit_filters_are_scaled_to_the_root_of_their_outputs_before_the_step() -> None:
    filters = nn.Parameter(torch.randn(6, 3, 3, 3))
    muon = FilterMuon([{"params": [filters]}], lr=1e-9, momentum=0.0, nesterov=False, weight_decay=0.0, unit=True)
    filters.grad = torch.randn(6, 3, 3, 3)
    muon.step()
    assert filters.norm().item() == pytest.approx(6**0.5, rel=1e-4)


def test_each_parameter_has_the_rate_and_the_optimiser_of_its_kind() -> None:
    kinds = {}
    module = parts()
    names = {id(p): name for name, p in module.named_parameters()}
    for group in in_groups(module, MUON.optim):
        kinds |= {names[id(p)]: (group["kind"], group.get("lr")) for p in group["params"]}
    assert kinds == {
        "module.0.weight": ("filter", None),
        "module.3.weight": ("filter", None),
        "module.0.bias": ("bias", 3.0),
        "module.1.weight": ("bias", 3.0),
        "module.1.bias": ("bias", 3.0),
        "module.3.bias": ("bias", 3.0),
        "head.bias": ("bias", 3.0),
        "head.weight": ("head", 0.5),
    }


def test_one_schedule_moves_all_rates_between_its_ends() -> None:
    optimizer = build_optimizer(MUON.optim, parts())
    assert optimizer is not None
    schedule = build_lr_scheduler(MUON.scheduler, optimizer, 100, 10)
    base = [0.1, 3.0, 0.5]
    rates = []
    for _ in range(100):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    by_kind = [sorted(set(at)) for at in rates]
    assert by_kind[0] == pytest.approx(sorted(lr * (0.2 + 0.8 / 20) for lr in base))
    assert by_kind[19] == pytest.approx(sorted(base))
    assert by_kind[99] == pytest.approx(sorted(lr * (0.07 + 0.93 / 80) for lr in base))


def test_the_rest_may_be_adamws() -> None:
    module, alone = parts(), parts()
    alone.load_state_dict(module.state_dict())
    config = MUON.changed(muon_rest="adamw", bias_lr=0.01, head_lr=0.02, betas=(0.8, 0.9)).optim
    optimizer = build_optimizer(config, module)
    other = build_optimizer(replace(config, optimizer="adamw"), alone)
    assert optimizer is not None
    assert other is not None
    for name, parameter in module.named_parameters():
        parameter.grad = torch.full_like(parameter, 0.1)
        alone.get_parameter(name).grad = torch.full_like(parameter, 0.1)
    optimizer.step()
    other.step()
    for name, parameter in module.named_parameters():
        same = torch.equal(parameter, alone.get_parameter(name))
        assert same == (name not in ("module.0.weight", "module.3.weight")), name


REST: dict[str, Any] = {"muon_rest": "adamw", "bias_lr": 0.01, "head_lr": 0.01}


@pytest.mark.parametrize(
    ("objective", "options"), [(AugLocal(width=0.5, pool="max", scale=0.2), {}), (DGL("conv", depth=1), REST)]
)
def test_cuts_and_resumption_change_no_bit_of_what_muon_learns(
    objective: AugLocal | DGL, options: dict[str, Any], tmp_path: Path
) -> None:
    make = DigitsJob(
        objective=objective,
        settings={
            **LEARNED,
            "augment": ("shift", "alternate", "cutout"),
            "precision": "bf16",
            "microbatches": 2,
            "snapshot_every": 7,
            **options,
        },
    )
    check_job(make())
    found = {}
    for stages in (1, 3):
        run = tmp_path / str(stages)
        run_threads(replace(make, run=run, settings=make.settings | {"stages": stages})(), QUIET)
        found[stages] = fingerprint(run)
    cut = replace(make, run=tmp_path / "cut", settings=make.settings | {"stages": 2})
    cut_power_at(20, cut)
    run_threads(replace(cut, settings=cut.settings | {"resume": True})(), QUIET)
    assert found[1] == found[3] == fingerprint(tmp_path / "cut")


@pytest.mark.parametrize(
    "wrong",
    [
        {"start": 2.0},
        {"end": -0.1},
        {"bias_lr": 0.0},
        {"head_lr": float("inf")},
        {"ns_steps": 0},
        {"muon_momentum": 1.0},
    ],
)
def test_settings_out_of_range_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong)).replace("_", "[-_]")):
        Settings().changed(**wrong)
