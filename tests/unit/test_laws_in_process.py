"""The pipeline changes nothing: stages as threads of one process, against one stage."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from jobs import QUIET, DigitsJob, fingerprint, learned, live_tensor_bytes
from safetensors.torch import load_file
from torch import Tensor, nn

from ffdist.errors import DivergedError, NetworkError
from ffdist.models import Chain
from ffdist.objectives import SFF, BlockSpec, Hinton, Local
from ffdist.pipeline.block import BlockConfig
from ffdist.pipeline.message import Message, Stop, TrainBatch
from ffdist.pipeline.plan import block_specs, build_block
from ffdist.pipeline.stage import Stage
from ffdist.runtime.threads import run_threads
from ffdist.settings import Settings
from ffdist.snapshot import latest

SETTINGS = {
    "plain": DigitsJob(),
    "noisy": DigitsJob(noisy=True),
    "bf16": DigitsJob(settings={"precision": "bf16"}),
    "fp16": DigitsJob(noisy=True, settings={"precision": "fp16"}),
    "plateau": DigitsJob(settings={"schedule": "plateau", "patience": 0}, epochs=3),
    "sgd": DigitsJob(settings={"optimizer": "sgd", "lr": 0.05, "warmup": 0.2}),
    "averaged": DigitsJob(settings={"ema": 0.9, "clip": 0.1, "no_decay": ("bias", "norm")}),
    "windows": DigitsJob(settings={"windows": ((0, 1), (0, 2), (1, 2))}),
    "microbatches": DigitsJob(noisy=True, settings={"microbatches": 3}),
    "all at once": DigitsJob(
        objective=Hinton(predict="linear", peer=0.03, hard=True, lag=12),
        noisy=True,
        settings={
            "fusion": True,
            "microbatches": 2,
            "precision": "bf16",
            "ema": 0.9,
            "clip": 0.1,
            "no_decay": ("bias",),
            "windows": ((0, 1), (0, 2), (1, 2)),
        },
    ),
    "queue of one": DigitsJob(settings={"queue": 1}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_two_and_three_stages_equal_one_bit_for_bit(name: str, tmp_path: Path) -> None:
    results = {}
    for stages in (1, 2, 3):
        make = SETTINGS[name]
        job = replace(make, run=tmp_path / str(stages), settings=make.settings | {"stages": stages})()
        result = run_threads(job, QUIET)
        results[stages] = fingerprint(tmp_path / str(stages)), learned(result.records), result.test
    assert results[2] == results[1]
    assert results[3] == results[1]


def test_every_cut_gives_the_same_weights(tmp_path: Path) -> None:
    prints = []
    for cut in ([3], [1, 2], [2, 1], [1, 1, 1]):
        run = tmp_path / "-".join(map(str, cut))
        run_threads(DigitsJob(run, epochs=1, settings={"stages": len(cut), "cut": cut})(), QUIET)
        prints.append(fingerprint(run))
    assert all(one == prints[0] for one in prints)


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    for seed in (0, 1):
        run_threads(DigitsJob(tmp_path / str(seed), epochs=1, settings={"seed": seed})(), QUIET)
    assert fingerprint(tmp_path / "0") != fingerprint(tmp_path / "1")


def test_gradients_add_up_over_microbatches(tmp_path: Path) -> None:
    weights = []
    for parts in (1, 4):
        job = DigitsJob(tmp_path / str(parts), epochs=1, settings={"microbatches": parts, "augment": ()})()
        run_threads(replace(job, chain=plain_chain()), QUIET)
        manifest = latest(tmp_path / str(parts))
        assert manifest
        weights.append(load_file(manifest.folder / manifest.files[0]["file"]))
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-4) for name in weights[0] if "weight" in name)


def plain_chain() -> Chain:
    """One block without batch statistics or random numbers."""
    return Chain([("linear", Flat())], input_shape=(1, 8, 8), num_classes=10)


class Flat:
    def __call__(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU())


class Leaky(SFF):
    """A rule that forgets to detach what goes on."""

    def local(self, head: nn.Module, out: Tensor, labels: Tensor | None) -> Local:
        return super().local(head, out, labels)._replace(next_input=out)


class LastOnly(SFF):
    """A rule under which all blocks but the last have nothing to learn from."""

    def head(self, spec: BlockSpec) -> nn.Module:
        head = super().head(spec)
        head.learns = spec.is_last
        return head

    def local(self, head: nn.Module, out: Tensor, labels: Tensor | None) -> Local:
        local = super().local(head, out, labels)
        return local if head.learns else local._replace(loss=None)


def test_a_rule_that_lets_a_gradient_across_a_border_is_refused() -> None:
    with pytest.raises(NetworkError, match="gradient cross a block's border"):
        run_threads(DigitsJob(objective=Leaky())(), QUIET)


def test_the_last_blocks_loss_moves_no_other_block(tmp_path: Path) -> None:
    job = DigitsJob(tmp_path, objective=LastOnly(), epochs=1)()
    config = job.block_config(torch.device("cpu"), 10)
    before = [
        build_block(job.chain, spec, job.objective, config).module.state_dict() for spec in block_specs(job.chain)
    ]
    blocks: list[list[dict[str, Tensor]]] = []
    x, y = torch.randn(16, 1, 8, 8), torch.arange(16) % 10
    stage = Stage(
        0, [build_block(job.chain, spec, job.objective, config) for spec in block_specs(job.chain)], lambda *_: {}
    )
    stage.train(TrainBatch(1, x, y), Outbox())
    blocks.append([block.module.state_dict() for block in stage.blocks])
    weights = [(old["0.weight"], new["0.weight"]) for old, new in zip(before, blocks[0], strict=True)]
    assert [torch.equal(old, new) for old, new in weights] == [True, True, False]


class Outbox:
    """Counts what a stage sends, and keeps nothing."""

    waited = 0.0

    def __init__(self) -> None:
        self.sent = 0

    def send(self, message: Message) -> None:
        self.sent += 1


def last_stage(num_blocks: int) -> Stage:
    """A stage that holds the last of `num_blocks` equal blocks."""
    chain = Chain([(f"b{i}", Square()) for i in range(num_blocks)], input_shape=(32,), num_classes=4)
    config = BlockConfig(Settings(), total_steps=1000)
    return Stage(0, [build_block(chain, block_specs(chain)[-1], SFF(), config)], lambda *_: {})


class Square:
    def __call__(self) -> nn.Module:
        return nn.Sequential(nn.Linear(32, 32), nn.ReLU())


def test_a_stage_lets_go_of_a_batch_before_it_asks_for_the_next() -> None:
    gone = []

    def batches() -> Iterator[Message]:
        for step in (1, 2, 3):
            x = torch.randn(8, 32)
            last = weakref.ref(x)
            yield TrainBatch(step, x, torch.arange(8) % 4)
            del x
            gone.append(last() is None)
        yield Stop()

    last_stage(2).run(batches(), Outbox())
    assert gone == [True, True, True]


def bytes_after(stage: Stage, batches: int) -> int:
    for step in range(batches):
        stage.train(TrainBatch(step + 1, torch.randn(8, 32), torch.arange(8) % 4), Outbox())
    return live_tensor_bytes()


def test_memory_of_a_stage_grows_neither_with_batches_nor_with_blocks_upstream() -> None:
    idle = live_tensor_bytes()
    stage = last_stage(4)
    after_5 = bytes_after(stage, 5) - idle
    assert bytes_after(stage, 50) - idle == after_5
    assert after_5 > 0
    del stage
    deep = last_stage(40)
    assert bytes_after(deep, 5) - idle == after_5


class Exploding(SFF):
    """A rule whose loss is not a number in one block."""

    def head(self, spec: BlockSpec) -> nn.Module:
        head = super().head(spec)
        head.poisoned = spec.name == "conv2"
        return head

    def local(self, head: nn.Module, out: Tensor, labels: Tensor | None) -> Local:
        local = super().local(head, out, labels)
        return local._replace(loss=local.loss * float("nan")) if head.poisoned and local.loss is not None else local


def test_a_loss_that_is_not_finite_names_block_and_batch() -> None:
    with pytest.raises(DivergedError, match=r"block 1 'conv2'.*batch 1\b"):
        run_threads(DigitsJob(objective=Exploding(), settings={"stages": 3})(), QUIET)
