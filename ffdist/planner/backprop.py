"""The same network by backpropagation, measured block by block, for what data parallelism and 1F1B would take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffdist.baselines.base import BaselineConfig, WholeNetwork, optimised
from ffdist.models import Chain
from ffdist.pipeline.block import to_device
from ffdist.planner.measure import (
    EXTRA_SECONDS,
    LONGEST,
    MAX_REPEATS,
    MIN_REPEATS,
    bytes_of,
    steady,
    timed,
    without_outliers,
)
from ffdist.planner.profile import BackpropProfile, BlockProfile, SampleCurve


def measure_backprop(
    chain: Chain, config: BaselineConfig, sizes: Sequence[int], x: Tensor, y: Tensor
) -> BackpropProfile:
    """Forward and backward of every block and of the classifier, the gradient of a block's input with it.

    x, y: a batch as the loader has it, of the largest size at least.
    """
    whole = WholeNetwork(chain, config)
    optimizer, _ = optimised(whole.by_name(), config)
    messages = [to_device(x[:size], config.device) for size in sizes]
    labels = [y[:size].to(config.device) for size in sizes]
    found: list[tuple[SampleCurve, SampleCurve, int]] = []
    for index in range(len(whole.blocks)):
        forward, backward, messages = measure_one(whole, index, messages, labels, config)
        sent = messages[-1].nbytes // sizes[-1]
        found.append((SampleCurve(tuple(sizes), forward), SampleCurve(tuple(sizes), backward), sent))
    optimizer.step()
    step = median(timed(optimizer.step, config.device)[1] for _ in range(MIN_REPEATS))
    learned = [learned_of(block) for block in whole.blocks]
    numbers = [sum(p.numel() for p in each) for each in learned]
    names = [*chain.names, "classifier"]
    return BackpropProfile(
        tuple(
            BlockProfile(
                names[n],
                forward,
                backward,
                step * numbers[n] / max(1, sum(numbers)),
                0.0,
                sum(p.numel() for p in block.parameters()),
                bytes_of(block.state_dict().values()),
                bytes_of(learned[n]),
                2 * bytes_of(learned[n]),
                float(sent),
                SampleCurve.proportional(sizes[-1], 0.0),
            )
            for n, (block, (forward, backward, sent)) in enumerate(zip(whole.blocks, found, strict=True))
        )
    )


def learned_of(block: nn.Module) -> list[nn.Parameter]:
    """The parameters that are not frozen."""
    return [parameter for parameter in block.parameters() if parameter.requires_grad]


def measure_one(
    whole: WholeNetwork, index: int, messages: Sequence[Tensor], labels: Sequence[Tensor], config: BaselineConfig
) -> tuple[tuple[tuple[float, ...], ...], tuple[tuple[float, ...], ...], list[Tensor]]:
    """Seconds forward and backward of each message, all repeats; and what comes out."""
    block, is_last = whole.blocks[index], index == len(whole.blocks) - 1
    passes_back = any(map(learned_of, whole.blocks[:index]))
    forward: list[list[float]] = [[] for _ in messages]
    backward: list[list[float]] = [[] for _ in messages]
    outs = list(messages)
    begun = time.perf_counter()
    for turn in range(1 + MAX_REPEATS):
        for place, (x, y) in enumerate(zip(messages, labels, strict=True)):
            x = x.detach().requires_grad_(passes_back)  # pictures need no gradient, and no frozen block's output

            def compute(x: Tensor = x, y: Tensor = y) -> tuple[Tensor, Tensor]:
                with config.autocast():
                    out = block(x)
                    return out, F.cross_entropy(out.float(), y) if is_last else out

            (out, end), seconds = timed(compute, config.device)
            back = 0.0
            if end.requires_grad:
                back = timed(partial(end.backward, None if is_last else torch.ones_like(end)), config.device)[1]
            outs[place] = out.detach()
            if turn:
                forward[place].append(seconds)
                backward[place].append(back)
            for parameter in block.parameters():
                parameter.grad = None if turn < MIN_REPEATS else parameter.grad
        waited = time.perf_counter() - begun
        if (
            turn >= MIN_REPEATS
            and waited > EXTRA_SECONDS
            and (waited > LONGEST or (steady(forward) and steady(backward)))
        ):
            break
    forward, backward = ([without_outliers(values) for values in repeats] for repeats in (forward, backward))
    return tuple(map(tuple, forward)), tuple(map(tuple, backward)), outs
