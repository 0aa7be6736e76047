"""Batch norm by the statistics of all lanes: what one whole batch would have, whoever computes which lane."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import QUIET, DigitsJob
from torch import nn

from ffdist.data import open_data
from ffdist.errors import ConfigError, FfdistError, NetworkError
from ffdist.models import Chain
from ffdist.objectives import SFF, InfoPro, MonoForward, Objective
from ffdist.pipeline.block import LearningBlock
from ffdist.pipeline.lockstep import LANE, Lockstep
from ffdist.pipeline.plan import build_block
from ffdist.pipeline.synced_norm import synchronise
from ffdist.runtime.job import Job
from ffdist.runtime.planning import count_workers
from ffdist.runtime.threads import run_threads
from ffdist.seeds import generators_lent, seeded
from ffdist.settings import Settings
from ffdist.snapshot import latest
from ffdist.snapshot.files import read_block

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"samples": 32, "batch_size": 16, "optimizer": "sgd", "lr": 0.05, "augment": ()}


def weights(folder: Path, rule: Objective | None = None, **options: Any) -> dict[str, torch.Tensor]:
    """Of all blocks, after a short run."""
    run_threads(DigitsJob(folder, epochs=1, objective=rule or SFF(), settings=SMALL | options)(), QUIET)
    manifest = latest(folder)
    assert manifest
    found: dict[str, torch.Tensor] = {}
    for entry in manifest.files:
        tensors, _ = read_block(manifest.folder / entry["file"], entry)
        found |= {f"{entry['file']} {name}": value for name, value in tensors.items() if not name.startswith("metrics")}
    return found


@pytest.mark.parametrize("rule", [SFF(), InfoPro()], ids=["sff", "infopro"])
def test_lanes_learn_what_one_lane_learns(rule: Objective, tmp_path: Path) -> None:
    one = weights(tmp_path / "one", rule, lanes=1)
    synced = weights(
        tmp_path / "synced", rule, plan="conv1 @ 0:0, 1:1-3 | conv2 conv3 @ 0:0-1, 1:2-3", lanes=4, sync_norms=True
    )
    apart = weights(tmp_path / "apart", rule, plan="* @ 0", lanes=4)
    close = {name: torch.allclose(value, synced[name], rtol=1e-3, atol=1e-5) for name, value in one.items()}
    assert all(close.values()), [name for name, is_so in close.items() if not is_so]
    assert not all(torch.allclose(value, apart[name], rtol=1e-3, atol=1e-5) for name, value in one.items())


@pytest.mark.parametrize("lanes", [1, 3])
def test_a_synchronised_norm_has_the_gradients_of_a_whole_batch(lanes: int) -> None:
    """Against torch's own, on doubles: output, gradients, running statistics."""
    block = DigitsJob(settings=SMALL)()
    made: LearningBlock = build_block(block.chain, block.block_specs()[0], block.objective, block.block_config(CPU, 1))
    torch.manual_seed(0)
    norm, x, y = nn.BatchNorm2d(3).double(), torch.randn(12, 3, 2, 2).double(), torch.randn(12, 3, 2, 2).double()
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
    twin = nn.BatchNorm2d(3).double()
    twin.load_state_dict(norm.state_dict())
    whole = x.clone().requires_grad_()
    (twin(whole) * y).sum().backward()
    made.learned = list(norm.parameters())
    synchronise(nn.ModuleDict({"norm": norm}))
    parts = [part.clone().requires_grad_() for part in x.chunk(lanes)]
    ends = y.chunk(lanes)

    def learn(lane: int) -> None:
        (norm(parts[lane]) * ends[lane]).sum().backward()

    work = {lane: (lambda lane=lane: learn(lane)) for lane in range(lanes)}
    found = Lockstep(CPU).run(made, work, lambda values: values, 0)
    gradients = [torch.stack([found[lane][1][i] for lane in found]).sum(0) for i in range(2)]  # pyright: ignore
    assert whole.grad is not None
    assert torch.allclose(torch.cat([part.grad for part in parts if part.grad is not None]), whole.grad)
    assert torch.allclose(gradients[0], twin.weight.grad)  # pyright: ignore[reportArgumentType]
    assert torch.allclose(gradients[1], twin.bias.grad)  # pyright: ignore[reportArgumentType]
    for name, value in norm.state_dict().items():
        assert torch.allclose(value, twin.state_dict()[name]), name


def test_a_lane_that_fails_ends_the_others() -> None:
    job = DigitsJob(settings=SMALL)()
    block = build_block(job.chain, job.block_specs()[0], job.objective, job.block_config(CPU, 1))

    def meets() -> None:
        lane = LANE.get()
        assert lane
        lane.meet(torch.zeros(1))

    def fails() -> None:
        raise ValueError("of its own")

    lockstep = Lockstep(CPU)
    with pytest.raises(ValueError, match="of its own"):
        lockstep.run(block, {0: meets, 1: fails}, lambda values: values, 0)
    with pytest.raises(NetworkError, match="different paths"):
        lockstep.run(block, {0: meets, 1: lambda: None}, lambda values: values, 0)
    assert lockstep.run(block, {0: meets, 1: meets}, lambda values: values, 0).keys() == {0, 1}


def test_generators_that_are_lent_are_found_again() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with seeded(5):
        plain = torch.rand(4)
    with seeded(5):
        first = torch.rand(2)
        with generators_lent():
            assert torch.equal(torch.get_rng_state(), before)
            with seeded(6):
                torch.rand(3)
        assert torch.equal(torch.cat([first, torch.rand(2)]), plain)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"microbatches": 2}, "needs all of a batch at once"),
        ({"precision": "fp16"}, "uncompiled blocks in fp32 or bf16"),
        ({"compile": True}, "uncompiled blocks"),
    ],
)
def test_what_cannot_be_synchronised_is_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        DigitsJob(settings=SMALL | {"lanes": 2, "sync_norms": True} | options)()


def test_other_norms_with_running_statistics_are_refused() -> None:
    with pytest.raises(FfdistError, match=r"(?s)only batch norm's.*InstanceNorm2d"):
        synchronise(nn.ModuleDict({"norm": nn.InstanceNorm2d(2, track_running_stats=True)}))


def test_a_lane_of_one_sample_is_enough(tmp_path: Path) -> None:
    """What batch norm alone refuses: one number a channel."""
    images = open_data("digits")
    layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU())
    chain = Chain([("one", lambda: copy.deepcopy(layers))], input_shape=(1, 8, 8), num_classes=10)
    options = {"batch_size": 4, "samples": 8, "epochs": 1, "replicas": 4, "device": "cpu", "validation": 0.0}
    for sync in (True, False):
        settings = Settings().changed(sync_norms=sync, **options)
        (run := tmp_path / str(sync)).mkdir()
        job = Job(chain, MonoForward(), images, settings, run=run)
        job = replace(job, workers=count_workers(settings, job.names, None))
        if sync:
            run_threads(job, QUIET)
        else:
            with pytest.raises(NetworkError, match="more than 1 value"):
                run_threads(job, QUIET)
