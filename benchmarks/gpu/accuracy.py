"""Validation accuracy by epoch and second, FF against backpropagation, on real pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.suite import Suite
from ffdist.baselines.base import Replica
from ffdist.bench.harness.resumed import Resumed
from ffdist.device import synchronize
from ffdist.models import cnnb
from ffdist.pipeline.block import LearningBlock, learn
from ffdist.settings import Settings


def accuracy(suite: Suite, record: Resumed) -> None:
    """CNNB at batch 128, both sides by the same optimiser, without augmentation; epoch by epoch."""
    for side in ("ff", "bp"):
        record.measure(partial(learning, suite, side, record), side=side)


def learning(suite: Suite, side: str, record: Resumed) -> list[dict[str, float]]:
    """Learn by one side, up to twelve epochs, as far as the time goes."""
    assert suite.data
    here = replace(suite, batch=128, settings=Settings().changed(lr=1e-3, schedule="constant", precision="bf16"))
    with np.load(suite.data, allow_pickle=False) as arrays:
        pictures = {split: (arrays[f"x_{split}"], arrays[f"y_{split}"]) for split in ("train", "test")}
    scale = pictures["train"][0].mean((0, 1, 2)), pictures["train"][0].std((0, 1, 2))
    train, test = (on_device(here, *pictures[split], *scale) for split in ("train", "test"))
    chain = cnnb(tuple(train[0].shape[1:]), int(train[1].max()) + 1)
    if side == "ff":
        blocks = here.forward_forward(chain)
        epochs = run(here, train, partial(learn, blocks), lambda: score_blocks(blocks, test))
    else:
        learner = here.backpropagation(chain)
        assert isinstance(learner, Replica)
        epochs = run(here, train, lambda x, y, step: learner.learn(x, y), lambda: score_whole(learner, test))
    done = [next(epochs)]
    while len(done) < (1 if suite.quick else 12) and not record.late:
        done.append(next(epochs))
    return [{"epoch": number, **epoch} for number, epoch in enumerate(done, 1)]


def on_device(suite: Suite, x: np.ndarray, y: np.ndarray, mean: Any, std: Any) -> tuple[Tensor, Tensor]:
    """Normalised pictures, float32 [N, C, H, W], and labels, int64 [N], on the suite's device."""
    normal = torch.from_numpy(((x - mean) / np.maximum(std, 1e-6)).astype(np.float32)).permute(0, 3, 1, 2)
    return normal.to(suite.device), torch.from_numpy(y.astype(np.int64)).to(suite.device)


def run(
    suite: Suite,
    train: tuple[Tensor, Tensor],
    step: Callable[[Tensor, Tensor, int], object],
    score: Callable[[], dict[str, float]],
) -> Iterator[dict[str, float]]:
    """Train epoch by epoch, and score after each; the seconds are those of training alone."""
    x, y = train
    generator, seconds, count = torch.Generator().manual_seed(0), 0.0, 0
    while True:
        synchronize(suite.device)
        begun = time.perf_counter()
        for rows_of_batch in torch.randperm(len(x), generator=generator).to(x.device).split(suite.batch)[:-1]:
            count += 1
            step(x[rows_of_batch].contiguous(memory_format=torch.channels_last), y[rows_of_batch], count)
        synchronize(suite.device)
        seconds += time.perf_counter() - begun
        yield {"time": seconds, **score()}


def score_blocks(blocks: list[LearningBlock], test: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Validation accuracies as fractions: of the last block ("accuracy"), and by the mean of all ("mean")."""
    right = {"accuracy": 0, "mean": 0}
    for x, y in zip(test[0].split(500), test[1].split(500), strict=True):
        scores: list[Tensor] = []
        for block in blocks:
            local = block.evaluate(x, y)
            scores += [] if local.scores is None else [local.scores]
            x = x if local.next_input is None else local.next_input
        right["accuracy"] += int((scores[-1].argmax(1) == y).sum())
        right["mean"] += int((torch.stack(scores).mean(0).argmax(1) == y).sum())
    for block in blocks:
        block.take_metrics("test")
    return {name: count / len(test[1]) for name, count in right.items()}


def score_whole(learner: Replica, test: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Validation accuracy of the whole network, as a fraction."""
    learner.modules.eval()
    right = 0
    with torch.no_grad(), learner.config.autocast():
        for x, y in zip(test[0].split(500), test[1].split(500), strict=True):
            x = x.contiguous(memory_format=torch.channels_last)
            right += int((learner.modules(x).argmax(1) == y).sum())
    learner.modules.train()
    return {"accuracy": right / len(test[1])}
