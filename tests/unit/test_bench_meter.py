"""The meter counts what it says, in cases that can be counted by hand."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ffdist.pipeline.tensor_bytes import TensorBytes
from ffdist.runtime.worker_stages import run_in_threads

KIB = 1024


def now(counter: TensorBytes) -> int:
    return sum(part.size for part in counter.held_bytes().values())


def floats(kib: int) -> torch.Tensor:
    return torch.ones(kib * KIB // 4)


def test_views_and_in_place_operations_count_nothing() -> None:
    with TensorBytes() as counter:
        x = floats(64)
        y = x.view(-1, 16)[3:].t()
        y.mul_(2)
        x.detach().add_(1)
    assert counter.peak == 64 * KIB


def test_what_is_let_go_no_longer_counts_but_the_peak_stays() -> None:
    with TensorBytes() as counter:
        x = floats(64)
        y = x + 1
        del x
        z = y * 2
        del y
    assert counter.peak == 128 * KIB
    assert now(counter) == z.nbytes == 64 * KIB


def test_what_the_graph_saves_counts_until_backward_lets_it_go() -> None:
    with TensorBytes() as counter:
        x = floats(64).requires_grad_()
        y = x.exp().exp()  # each saves its output: two of 64 KiB, of which nobody else holds the first
        held = now(counter)
        assert held == 3 * 64 * KIB
        y.sum().backward()
        del y
        held = now(counter)
        assert held == 2 * 64 * KIB, "x and its gradient are left"


def test_two_tensors_over_the_same_memory_count_once() -> None:
    with TensorBytes() as counter:
        x = floats(64)
        alias = torch.from_numpy(x.numpy())
        alias.add_(1)
    assert counter.peak == 64 * KIB


def test_what_lies_on_another_kind_of_device_counts_nothing() -> None:
    with TensorBytes("meta") as counter:
        host, elsewhere = floats(64), torch.ones(32 * KIB // 4, device="meta")
        host.add_(1)
        elsewhere.add_(1)
    assert counter.peak == elsewhere.nbytes == 32 * KIB


def test_a_step_of_adamw_is_split_as_counted_by_hand() -> None:
    """A linear layer 256 -> 64 without bias: 64 KiB of weights; x has 16 KiB, the output 4."""
    with TensorBytes() as counter:
        layer = nn.Linear(256, 64, bias=False)
        optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
        x = torch.ones(16, 256)
        for _ in range(2):
            loss = layer(x).square().sum()
            loss.backward()
            del loss
            optimizer.step()
            optimizer.zero_grad()
        counter.reset()
        out = layer(x)
        out.sum().backward()
        del out
        optimizer.step()
    split = counter.split()
    assert split["weights"] == split["gradients"] == 64 * KIB
    assert split["optimiser"] == 2 * 64 * KIB + 4, "two moments and a step counter"
    assert split["queue"] == 0
    assert 20 * KIB <= split["activations"] <= 24 * KIB + 64
    assert counter.peak == sum(split.values())


def test_the_meter_holds_nothing_alive_itself() -> None:
    with TensorBytes() as counter:
        layer = nn.Linear(256, 64, bias=False)
        optimizer = torch.optim.SGD(layer.parameters())
        layer(torch.ones(1, 256)).sum().backward()
        optimizer.step()
        del layer, optimizer
        gc.collect()
        assert now(counter) == 0


def test_storage_that_is_resized_counts_as_large_as_it_is() -> None:
    with TensorBytes() as counter:
        x = floats(64)
        x.untyped_storage().resize_(0)
        y = floats(32)
    assert counter.peak == 64 * KIB
    assert now(counter) == y.nbytes


def test_a_counter_comes_and_goes_while_an_optimiser_of_another_thread_takes_a_step() -> None:
    peaks: list[int] = []

    def count() -> None:
        with TensorBytes() as counter:
            floats(1)
        peaks.append(counter.peak)

    def count_meanwhile(*_: object) -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(count).result()

    hooks = [register_optimizer_step_pre_hook(hook) for hook in (count_meanwhile, count_meanwhile)]
    try:
        torch.optim.SGD(nn.Linear(2, 2).parameters()).step()
    finally:
        for hook in hooks:
            hook.remove()
    assert peaks == [KIB, KIB]


def test_a_workers_stages_count_together_whichever_thread_has_them() -> None:
    held: list[torch.Tensor] = []
    parts = [lambda size=size: held.append(floats(size)) for size in (64, 32)]
    with TensorBytes() as counter:
        x = floats(8)
        run_in_threads(parts, lambda: None, [])
    assert len(held) == 2
    assert counter.peak == (64 + 32 + 8) * KIB
    del x, held[:]
    assert now(counter) == 0
