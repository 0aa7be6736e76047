"""Blocks measured: each alone, with messages of several sizes in turns, one block in memory at a time."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from statistics import median
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ffdist.data import Loader
from ffdist.device import forget_peak, peak_bytes, queues, synchronize
from ffdist.models import Chain, seeded
from ffdist.objectives import Objective
from ffdist.pipeline.block import BlockConfig, LearningBlock
from ffdist.pipeline.fusion import next_tensors
from ffdist.pipeline.handover import Handover
from ffdist.pipeline.plan import block_specs, build_block
from ffdist.pipeline.reduce import Reduction
from ffdist.pipeline.running import RunningStatistics
from ffdist.pipeline.tensor_bytes import TensorBytes
from ffdist.planner.profile import BlockProfile, SampleCurve
from ffdist.transport import wire
from ffdist.transport.base import Edge, Frame

MIN_REPEATS, MAX_REPEATS = 5, 25
"""How often each size is measured."""
EXTRA_SECONDS = 0.3
"""Seconds that a block may take beyond the least."""
LONGEST = 1.5
"""The same, where what is measured differs much from one time to the next."""
STEADY, OUTLIER = 1.25, 3.0
"""The most that a median is of its lower quartile, before it is measured again; and the most that a time is of the
median, before it is left out."""
SMALLEST = 2
"""Samples, as batch norm wants them."""

Message = tuple[Tensor | None, Tensor, Tensor | None, Tensor | None]
"""What comes to a block (None after the last one), the labels, the features on the way to a fusion head, and what the
rule wants beside."""
R = TypeVar("R")


def sizes_of(batch: int) -> list[int]:
    """A message's sizes that are measured: the batch, its half, its quarter, ... down to the 16th, growing."""
    wanted = {max(SMALLEST, batch // 2**power) for power in range(5)}
    return sorted(size for size in wanted if size <= batch) or [batch]


def measure_chain(
    chain: Chain, objective: Objective, config: BlockConfig, sizes: Sequence[int], x: Tensor, y: Tensor
) -> list[BlockProfile]:
    """Every block, the fusion head too. x, y: a batch as the loader has it, of the largest size at least."""
    config = replace(config, settings=config.settings.changed(windows=()))  # every block at work
    generator = torch.Generator().manual_seed(0)
    messages: list[Message] = []
    for size in sizes:
        with seeded(0):
            prepared = objective.prepare(x[:size], y[:size], chain.num_classes, generator)
        companion = objective.companion(x[:size])
        companion = None if companion is None else companion.to(config.device)
        messages.append((prepared, y[:size].to(config.device), None, companion))
    found = []
    for spec in block_specs(chain, objective if config.settings.rule.fusion else None):
        block = build_block(chain, spec, objective, config)
        profile, messages = measure_block(block, sizes, messages)
        found.append(profile)
    return found


def measure_block(
    block: LearningBlock, sizes: Sequence[int], messages: Sequence[Message]
) -> tuple[BlockProfile, list[Message]]:
    """The block's profile, and what it passes on of each message."""
    device = block.config.device
    forward: list[list[float]] = [[] for _ in sizes]
    backward: list[list[float]] = [[] for _ in sizes]
    steps: list[float] = []
    begun = time.perf_counter()
    passed = list(messages)
    for turn in range(1 + MAX_REPEATS):
        for place, (x, y, features, companion) in enumerate(messages):
            assert x is not None
            local, seconds = timed(partial(block.forward, x, y, turn, companion=companion), device)
            next_input, offered = next_tensors(local, features)
            passed[place] = (next_input, y, offered, None if block.spec.is_last else companion)
            back = timed(partial(block.update, local, y, turn, complete=False), device)[1]
            step = timed(partial(take_step, block), device)[1]
            if turn:  # the first one warms up
                forward[place].append(seconds)
                backward[place].append(back)
                steps.append(step)
        waited = time.perf_counter() - begun
        if (
            turn >= MIN_REPEATS
            and waited > EXTRA_SECONDS
            and (waited > LONGEST or (steady(forward) and steady(backward)))
        ):
            break
    forward, backward = ([without_outliers(values) for values in repeats] for repeats in (forward, backward))
    ends = {size: x_y for size, x_y in zip(sizes, messages, strict=True) if size in (sizes[0], sizes[-1])}
    graph = SampleCurve(tuple(ends), tuple((peak_of(block, m),) for m in ends.values()))
    last, (out, _, features, companion) = sizes[-1], passed[-1]
    sent = sum(tensor.nbytes for tensor in (out, features, companion) if tensor is not None)
    profile = BlockProfile(
        block.spec.name,
        SampleCurve(tuple(sizes), tuple(map(tuple, forward))),
        SampleCurve(tuple(sizes), tuple(map(tuple, backward))),
        median(steps),
        adding_seconds(block),
        sum(p.numel() for p in block.parts.parameters()),
        bytes_of(block.parts.state_dict().values()) + average_bytes(block),
        bytes_of(block.learned),
        moment_bytes(block),
        sent / last,
        graph,
        *lanes_of(block),
        handover_seconds(block),
        bytes_of(RunningStatistics(block.parts, own_code=block.own_code).buffers().values()),
    )
    return profile, passed


class LaneTimes(NamedTuple):
    """The seconds that lanes take beside their messages; as `BlockProfile` has it."""

    lane: float = 0.0
    lanes: float = 0.0
    exchange: float = 0.0


def lanes_of(block: LearningBlock) -> LaneTimes:
    """Median times of what lanes cost, by a batch of two without samples, one of which is another worker's."""
    if block.optimizer is None or block.config.settings.training.sync_norms or not fit_one_vector(block.learned):
        return LaneTimes()
    device, found = block.config.device, list[LaneTimes]()
    mine, others = (Reduction(block, range(lane, lane + 1), 2, None) for lane in range(2))
    edge = Edge("measured", 1, timedelta(seconds=1), 0)

    def end_lane_of(reduction: Reduction, lane: int) -> None:
        reduction.begin(lane)
        for parameter in block.learned:
            parameter.grad = torch.zeros_like(parameter)
        reduction.end_part(lane)
        reduction.end_lane(lane)

    for _ in range(1 + MIN_REPEATS):
        lane = timed(lambda: end_lane_of(mine, 0), device)[1]
        zeros = timed(lambda: [torch.zeros_like(parameter) for parameter in block.learned], device)[1]
        end_lane_of(others, 1)
        (fields, (tensors,)), put = timed(mine.collect, device)
        theirs = others.collect()
        frames = Frame("Gradients", fields, tensors), Frame("Gradients", theirs[0], theirs[1][0])
        bare = Frame("Gradients", {}, {"x": torch.zeros(sum(map(len, tensors.values())))})
        # as of several workers, whose messages come one after the other; what any message takes is the link's part
        more = timed(partial(carried, frames, edge), device)[1] - timed(partial(carried, (bare, bare), edge), device)[1]
        received = timed(partial(receive_often, mine, frames[1]), device)[1]
        exchanged = (received + max(0.0, more)) / MIN_REPEATS
        added = timed(mine.add_up, device)[1]
        mine.summed = None  # no step: its time is measured elsewhere
        mine.apply()
        block.optimizer.zero_grad()
        found.append(LaneTimes(max(0.0, lane - zeros), put + added, exchanged))
    return LaneTimes(*(median(values) for values in zip(*found[1:], strict=True)))


def carried(frames: tuple[Frame, Frame], edge: Edge) -> None:
    """Make a message of the first frame, and read one of the second, MIN_REPEATS times."""
    own, came = frames
    for _ in range(MIN_REPEATS):
        wire.encode(own, edge, 0)
        prelude, header, _ = wire.encode(came, edge, 0)
        for spec in wire.decode_header(header, wire.decode_prelude(prelude, edge, 0), edge).tensors:
            wire.from_bytes(torch.empty(spec.nbytes, dtype=torch.uint8), spec)


def receive_often(reduction: Reduction, came: Frame) -> None:
    """Take what another worker has collected, MIN_REPEATS times; it counts once."""
    for _ in range(MIN_REPEATS):
        reduction.others = []
        reduction.receive(came.fields, came.tensors)


def handover_seconds(block: LearningBlock) -> float:
    """Seconds that `BlockProfile.handover` has."""
    handover, edge = Handover(block), Edge("measured", 1, timedelta(seconds=1), 0)

    def hand_over() -> None:
        fields, tensors = handover.give()
        prelude, header, _ = wire.encode(Frame("States", fields, tensors), edge, 0)
        wire.decode_header(header, wire.decode_prelude(prelude, edge, 0), edge)
        handover.take(fields, tensors)

    return median([timed(hand_over, block.config.device)[1] for _ in range(1 + MIN_REPEATS)][1:])


def fit_one_vector(parameters: Sequence[Tensor]) -> bool:
    """True if they may lie in one vector, as lanes want it."""
    return len({parameter.dtype for parameter in parameters}) == 1


def steady(repeats: Sequence[Sequence[float]]) -> bool:
    """True if enough of what was measured of each size counts, and half of it is of like size."""
    kept = [sorted(without_outliers(values)) for values in repeats]
    return all(
        len(values) >= MIN_REPEATS and values[len(values) // 2] <= STEADY * values[len(values) // 4] for values in kept
    )


def without_outliers(values: Sequence[float]) -> list[float]:
    """Those that are less than a few medians: what takes longer was disturbed."""
    return [value for value in values if value <= OUTLIER * median(values)]


def timed(act: Callable[[], R], device: torch.device) -> tuple[R, float]:
    """Return its value, and the seconds until the device has done it; of one thread of a CPU those in which it was at
    work, so that what else works on the machine does not count."""
    clock = time.thread_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    synchronize(device)
    begun = clock()
    result = act()
    synchronize(device)
    return result, clock() - begun


def take_step(block: LearningBlock) -> None:
    """Do what comes with a batch's last message, beside its gradients."""
    if block.optimizer is None:
        return
    block.optimizer.step()
    block.optimizer.zero_grad()
    if block.average:
        block.average.update(block.parts)


def peak_of(block: LearningBlock, message: Message) -> float:
    """Bytes that a message takes at work beyond what the block holds before it, gradients apart."""
    device = block.config.device
    x, y, _, companion = message
    assert x is not None

    def learn() -> None:
        block.update(block.forward(x, y, 1, companion=companion), y, 1, complete=False)

    if queues(device):
        synchronize(device)
        forget_peak(device)
        before = peak_bytes(device)
        learn()
        synchronize(device)
        most = float(peak_bytes(device) - before)
    else:
        with TensorBytes(device.type) as counter:
            learn()
        most = float(counter.peak - bytes_of(block.parts.state_dict().values()))
    if block.optimizer:
        block.optimizer.zero_grad()
    return max(float(x.nbytes), most - bytes_of(block.learned))


def adding_seconds(block: LearningBlock) -> float:
    """Seconds of adding as many gradients as the block has to others; median."""
    if not block.learned:
        return 0.0
    sums, more = ([torch.zeros_like(p) for p in block.learned] for _ in range(2))
    times = [timed(lambda: torch._foreach_add_(sums, more), block.config.device)[1] for _ in range(MIN_REPEATS)]
    return median(times)


def moment_bytes(block: LearningBlock) -> int:
    """Bytes of the optimiser's state."""
    state = block.optimizer.state.values() if block.optimizer else ()
    return bytes_of([value for each in state for value in each.values() if isinstance(value, Tensor)])


def average_bytes(block: LearningBlock) -> int:
    """Bytes of averaged weights, which all workers of a stage have."""
    return bytes_of(block.average.state().values()) if block.average else 0


def bytes_of(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def seconds_of(act: Callable[[], object]) -> float:
    """Seconds by the clock: what waits for a disk, or for other threads, counts, too."""
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


def measure_source(
    train: Loader, objective: Objective, num_classes: int, sizes: Sequence[int]
) -> tuple[SampleCurve, Tensor, Tensor]:
    """Seconds of reading, augmenting and preparing so many samples; and the largest of these batches, as it is read."""
    order, generator = train.order(0), torch.Generator().manual_seed(0)
    x, y = train.batch(order, 0, 0)
    repeats = []
    for size in sizes:
        reader = copy.copy(train)
        reader.batch_size, reader.shard = size, (0, 1)

        def read(reader: Loader = reader) -> None:
            objective.prepare(*reader.batch(order, 0, 0), num_classes, generator)

        with seeded(0):
            repeats.append(tuple(seconds_of(read) for _ in range(1 + MIN_REPEATS))[1:])
    return SampleCurve(tuple(sizes), tuple(repeats)), x, y
