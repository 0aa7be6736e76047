"""Baselines learn what plain backpropagation learns, each in its own way, in real processes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F

from ffdist.baselines import BASELINES, BaselineConfig, RankPlace, family
from ffdist.baselines.base import Replica, WholeNetwork, cross_entropy
from ffdist.baselines.fully_sharded import SHARDS_ON_CPUS
from ffdist.baselines.pipeline_parallel import WAITS_FOR_ALL
from ffdist.bench.harness.worker_pool import PoolMember, WorkerPool, join
from ffdist.errors import ConfigError, NetworkError
from ffdist.models import cnnb, mlp
from ffdist.settings import Settings

ON_GPUS = ("1f1b", "interleaved", "zero-bubble")
"""What an old torch runs there alone."""
PICTURES = cnnb((3, 8, 8), 4, (4, 4))
CHAIN = mlp((64,), 10, (24, 24, 24, 24))
STEPS, BATCH = 3, 16
MOVED = "moved"
"""An order."""
CONFIG = BaselineConfig(Settings().changed(optimizer="sgd", lr=0.1, schedule="constant", batch_size=BATCH), 10**6)

ADAMW = replace(CONFIG, settings=Settings().changed(lr=1e-2, schedule="constant", batch_size=BATCH))
"""For FSDP, which cannot shard a fused SGD."""


class Learned(NamedTuple):
    """What a rank holds after some batches."""

    weights: dict[str, list[float]]
    refused: str = ""


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(BATCH, 64, generator=generator), torch.randint(10, (BATCH,), generator=generator))
        for _ in range(STEPS)
    ]


def learn(member: PoolMember) -> None:
    """Each order names a baseline; the answer is this rank's weights behind some batches. Of the order MOVED it is what
    `moved` says."""
    join(member, torch.device("cpu"), 1)
    place = RankPlace(member.world.rank, member.world.size)
    while (name := member.next_order()) is not None:
        if name == MOVED:
            member.answer((place.rank, moved(place)))
            continue
        try:
            member.answer((place.rank, learned(name, place)))
        except NetworkError as error:
            member.answer((place.rank, Learned({}, str(error))))


def config_for(name: str) -> BaselineConfig:
    if not name.startswith("fsdp"):
        return CONFIG
    return replace(ADAMW, settings=ADAMW.settings.changed(precision="bf16")) if "bf16" in name else ADAMW


def learned(name: str, place: RankPlace) -> Learned:
    learner = BASELINES[name](CHAIN, config_for(name), place)
    for x, y in batches():
        if learner.shard is None:
            learner.learn(None, None)
        else:
            index, count = learner.shard
            learner.learn(x.chunk(count)[index], y.chunk(count)[index])
    weights = learner.modules.named_parameters()
    full = {n: p.full_tensor() if hasattr(p, "full_tensor") else p for n, p in weights}  # pyright: ignore
    return Learned({n: p.detach().flatten().tolist() for n, p in full.items()})


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    """Two ranks, for all tests here: a process that imports torch costs seconds."""
    with WorkerPool("baselines", learn, 2) as made:
        yield made


def answers_to(pool: WorkerPool, order: str) -> list[Any]:
    """Both ranks' answers, in the order of ranks."""
    pool.send(order)
    answers = dict(pool.recv() for _ in range(2))
    return [answers[rank] for rank in range(2)]


@pytest.fixture(scope="module")
def expected() -> list[torch.Tensor]:
    whole = WholeNetwork(CHAIN, CONFIG)
    return bare_loop(whole, torch.optim.SGD(whole.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-5))


def bare_loop(whole: WholeNetwork, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Plain backpropagation on the whole batches, written once more."""
    for x, y in batches():
        optimizer.zero_grad()
        F.cross_entropy(whole(x), y).backward()
        optimizer.step()
    return [p.detach().flatten() for p in whole.parameters()]


def assert_among(
    weights: dict[str, list[float]], expected: list[torch.Tensor], tolerance: float = 1e-5, share: float = 1.0
) -> None:
    """Each weight is one of those expected, in at least that share of its numbers; stages have names of their own."""
    assert weights
    for name, value in weights.items():
        alike = [e for e in expected if len(e) == len(value)]
        near = [e for e in alike if torch.isclose(torch.tensor(value), e, atol=tolerance).float().mean() >= share]
        assert near, name


def test_one_device_equals_the_bare_loop(expected: list[torch.Tensor]) -> None:
    for name in ("bp", "bp-threads", "bp-checkpoint"):
        weights = learned(name, RankPlace(0, 1)).weights
        assert len(weights) == len(expected)
        assert_among(weights, expected)


def test_the_classifier_has_the_heads_rate_and_averaged_weights_are_evaluated() -> None:
    settings = CONFIG.settings.changed(optimizer="sgd", lr=0.1, head_lr=0.3, ema=0.5, label_smoothing=0.2)
    learner = BASELINES["bp"](CHAIN, replace(CONFIG, settings=settings), RankPlace(0, 1))
    assert isinstance(learner, Replica)
    groups = {id(p): group["lr"] for group in learner.optimizer.param_groups for p in group["params"]}
    *blocks, classifier = learner.modules.blocks  # pyright: ignore
    assert {groups[id(p)] for p in classifier.parameters()} == {0.3}
    assert {groups[id(p)] for block in blocks for p in block.parameters()} == {0.1}
    for x, y in batches():
        learner.learn(x, y)
    now, average = (list(m.parameters()) for m in (learner.modules, learner.evaluated))
    assert not any(torch.equal(*pair) for pair in zip(now, average, strict=True))
    assert cross_entropy(torch.zeros(2, 4), torch.tensor([0, 1]), learner.config) == pytest.approx(math.log(4))
    sure = cross_entropy(torch.eye(4)[:2] * 100, torch.tensor([0, 1]), learner.config)
    assert sure == pytest.approx(100 * 0.2 * 3 / 4), "a share of 0.2 is spread over all classes"


@pytest.mark.distributed
def test_every_baseline_of_two_ranks_learns_what_one_device_learns(
    pool: WorkerPool, expected: list[torch.Tensor]
) -> None:
    elsewhere = ("bp", "fsdp") if WAITS_FOR_ALL else ("bp", "fsdp", *ON_GPUS)
    names = [name for name in BASELINES if not name.startswith(elsewhere) and name != "ddp-powersgd"]
    for name in names:
        answers = answers_to(pool, name)
        assert not any(a.refused for a in answers), (name, answers)
        for answer in answers:
            assert_among(answer.weights, expected, 5e-3 if "bf16" in name else 1e-5)
        assert {len(v) for a in answers for v in a.weights.values()} == {len(e) for e in expected}, name


@pytest.mark.distributed
def test_powersgd_learns_alike_on_all_ranks_and_not_what_one_device_learns(
    pool: WorkerPool, expected: list[torch.Tensor]
) -> None:
    one, other = answers_to(pool, "ddp-powersgd")
    assert one.weights == other.weights
    assert_among(one.weights, expected, 2e-2)  # of three batches, only the last one's gradients are compressed
    with pytest.raises(AssertionError):
        assert_among(one.weights, expected)


@pytest.mark.distributed
@pytest.mark.skipif(not SHARDS_ON_CPUS, reason="this torch shards on GPUs alone")
def test_fully_sharded_learns_what_one_device_learns(pool: WorkerPool) -> None:
    whole = WholeNetwork(CHAIN, ADAMW)
    expected = bare_loop(whole, torch.optim.AdamW(whole.parameters(), lr=1e-2, weight_decay=1e-5))
    for name in family("fsdp"):
        for answer in answers_to(pool, name):
            # Adam's first steps are of one length: a gradient near 0 that is rounded to the other sign goes astray
            assert_among(answer.weights, expected, *((4e-3, 0.75) if "bf16" in name else (1e-4, 1.0)))


def moved(place: RankPlace) -> list[bool]:
    """Whether each tuning of FSDP moves the weights of a network with batch norm, and to numbers."""
    found = []
    for name in family("fsdp"):
        learner = BASELINES[name](PICTURES, replace(ADAMW, settings=ADAMW.settings.changed(precision="bf16")), place)
        before = [p.detach().clone() for p in learner.modules.parameters()]
        learner.learn(torch.rand(8, 3, 8, 8), torch.arange(8) % 4)
        after = [p.detach() for p in learner.modules.parameters()]
        found.append(
            all(bool(torch.isfinite(p).all()) for p in after)
            and any(not torch.equal(*pair) for pair in zip(before, after, strict=True))
        )
    return found


@pytest.mark.distributed
@pytest.mark.skipif(not SHARDS_ON_CPUS, reason="this torch shards on GPUs alone")
def test_fully_sharded_takes_batch_norm_in_bfloat16(pool: WorkerPool) -> None:
    assert answers_to(pool, MOVED) == [[True] * len(family("fsdp"))] * 2


@pytest.mark.skipif(SHARDS_ON_CPUS, reason="this torch shards on CPUs, too")
def test_a_torch_that_shards_on_gpus_alone_says_so_on_a_cpu() -> None:
    with pytest.raises(ConfigError, match=r"shards on GPUs alone(.|\n)*a newer torch, or GPUs"):
        BASELINES[family("fsdp")[0]](CHAIN, ADAMW, RankPlace(0, 2))


@pytest.mark.skipif(WAITS_FOR_ALL, reason="this torch runs them on CPUs, too")
@pytest.mark.parametrize("style", ON_GPUS)
def test_a_torch_whose_schedules_need_gpus_says_so_on_a_cpu(style: str) -> None:
    for name in (name for name in BASELINES if name.startswith(style)):
        with pytest.raises(ConfigError, match=r"runs this schedule on GPUs alone(.|\n)*--against gpipe-4"):
            BASELINES[name](CHAIN, CONFIG, RankPlace(0, 2))


@pytest.mark.distributed
def test_what_a_baseline_does_not_fit_is_refused() -> None:
    config = replace(CONFIG, total_steps=1)
    with pytest.raises(ConfigError, match="a run of float32 gathers float32"):
        BASELINES["fsdp-bf16"](CHAIN, ADAMW, RankPlace(0, 2))
    with pytest.raises(NetworkError, match="interleaved does not fit"):
        BASELINES["interleaved-8"](mlp((64,), 10, (8, 8, 8)), config, RankPlace(0, 2))
