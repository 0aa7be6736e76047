"""Laws of short arithmetic: float16 with a loss scale of each block's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import NEEDS_MUON, QUIET, DigitsJob, cut_power_at, fingerprint, learned
from torch import Tensor, nn

from ffdist.device import CPU
from ffdist.errors import DivergedError
from ffdist.models import Chain
from ffdist.objectives import SFF
from ffdist.pipeline import precision
from ffdist.pipeline.block import BlockConfig, LearningBlock
from ffdist.pipeline.plan import block_specs, build_block
from ffdist.pipeline.precision import MIN_SCALE, slow_precision_note, slowdown
from ffdist.runtime.threads import run_threads
from ffdist.settings import Settings

HUGE = 1e6
"""The size of numbers that float16 cannot hold, and float32 can."""


def block(**settings: Any) -> LearningBlock:
    chain = Chain.from_sequential(nn.Sequential(nn.Flatten(), nn.Linear(16, 20)), input_shape=(1, 4, 4), num_classes=10)
    return build_block(
        chain, block_specs(chain)[0], SFF(), BlockConfig(Settings().changed(precision="fp16", **settings), 100)
    )


def learn(block: LearningBlock, step: int, size: float = 1.0) -> None:
    x = size * torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(step))
    y = torch.arange(8)
    block.update(block.forward(x, y, step), y, step)


def scale_of(block: LearningBlock) -> float:
    assert block.scale
    return block.scale.value


def weights(block: LearningBlock) -> dict[str, Tensor]:
    """With the optimiser's state, on copies."""
    return {name: value.clone() for name, value in block.state()[0].items() if "metrics" not in name}


def equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", pytest.param("muon", marks=NEEDS_MUON)])
def test_a_batch_that_overflows_takes_no_step_and_halves_the_scale_of_its_block_alone(name: str) -> None:
    one, other = block(optimizer=name, clip=1.0), block(optimizer=name, clip=1.0)
    for step in range(4):
        learn(one, step)
        learn(other, step)
    before, scale = weights(one), scale_of(one)
    learn(one, 4, HUGE)
    assert equal(weights(one), before)
    assert [scale_of(each) for each in (one, other)] == [scale / 2, scale]
    learn(one, 5)
    assert not equal(weights(one), before)
    assert all(value.isfinite().all() for value in weights(one).values() if value.is_floating_point())


@pytest.mark.parametrize("name", ["adamw", "sgd", pytest.param("muon", marks=NEEDS_MUON)])
def test_a_first_batch_that_overflows_leaves_no_trace(name: str) -> None:
    """A fused SGD would begin its momentum with what lies in memory."""
    late, plain = block(optimizer=name, lr=0.01), block(optimizer=name, lr=0.01)
    learn(late, 0, HUGE)
    for step in (1, 2):
        for each in (late, plain):
            learn(each, step)
    rates = [each.state()[1]["schedule"]["last_epoch"] for each in (late, plain)]
    assert rates == [3, 2]  # the schedule counts batches
    assert all(value.isfinite().all() for value in weights(late).values() if value.is_floating_point())


def test_gradients_are_clipped_by_their_own_norm_and_not_by_the_scaled_ones() -> None:
    """A limit far above the gradients' norm, and far below that of the scaled ones, changes nothing."""
    clipped, plain = (block(optimizer="sgd", lr=0.1, clip=clip) for clip in (100.0, None))
    plain.parts.load_state_dict(clipped.parts.state_dict())
    for step in range(3):
        learn(clipped, step)
        learn(plain, step)
    assert scale_of(plain) > 1000
    assert equal(weights(clipped), weights(plain))


def test_running_statistics_of_a_batch_that_overflows_stay_as_they_were() -> None:
    norm = nn.Sequential(nn.Flatten(), nn.Linear(16, 20), nn.BatchNorm1d(20))
    chain = Chain.from_sequential(norm, input_shape=(1, 4, 4), num_classes=10)
    one = build_block(chain, block_specs(chain)[0], SFF(), BlockConfig(Settings().changed(precision="fp16"), 100))
    learn(one, 0)
    before = [buffer.clone() for buffer in one.module.buffers() if buffer.is_floating_point()]
    learn(one, 1, HUGE)
    after = [buffer for buffer in one.module.buffers() if buffer.is_floating_point()]
    assert before
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    learn(one, 2)
    assert not any(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_losses_of_batches_that_overflow_are_left_out_of_the_mean() -> None:
    one = block()
    learn(one, 0)
    learn(one, 1, HUGE)
    one.check_finite(1)
    metrics = one.take_metrics("train")
    assert metrics["loss"] == metrics["loss"] < float("inf")
    assert metrics["loss_scale"] == 2**15


def test_a_block_that_overflows_batch_after_batch_has_diverged() -> None:
    one = block()
    for step in range(26):
        learn(one, step, HUGE)
    with pytest.raises(DivergedError, match="gradients are not finite, batch after batch"):
        learn(one, 26, HUGE)
    assert scale_of(one) == MIN_SCALE / 2


def test_a_run_in_float16_goes_on_with_the_scales_that_it_had(tmp_path: Path) -> None:
    make = DigitsJob(settings={"precision": "fp16", "snapshot_every": 5, "optimizer": "sgd", "lr": 0.1})
    whole = run_threads(replace(make, run=tmp_path / "whole")(), QUIET)
    cut = replace(make, run=tmp_path / "cut")
    cut_power_at(12, replace(cut, settings=make.settings | {"stages": 2}))
    resumed = run_threads(replace(cut, settings=make.settings | {"resume": True})(), QUIET)
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "whole")
    assert learned(resumed.records) == learned(whole.records)


def test_a_scale_is_part_of_a_blocks_state() -> None:
    one, other = block(), block()
    learn(one, 0)
    learn(one, 1, HUGE)
    tensors, fields = one.state()
    other.load_state({name: value.clone() for name, value in tensors.items()}, fields)
    assert scale_of(other) == 2**15
    for each in (one, other):
        learn(each, 2)
    assert equal(weights(one), weights(other))
    assert other.state()[1]["loss_scale"] == one.state()[1]["loss_scale"]


def test_a_precision_in_which_the_device_is_slower_than_in_float32_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 / 3 < slowdown(CPU, "fp32") < 3, "a type beside itself"
    monkeypatch.setattr(precision, "SLOW", 0.0)
    assert slow_precision_note(CPU, "fp32") is None
    text = slow_precision_note(CPU, "bf16") or ""
    assert text.startswith("bf16 is slow on this CPU: a product of matrices takes ")
    assert "fp32" in text
    monkeypatch.setattr(precision, "SLOW", float("inf"))
    assert slow_precision_note(CPU, "bf16") is None
