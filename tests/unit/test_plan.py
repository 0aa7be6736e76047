"""Partition: the largest sum of a stage is the smallest possible, against all cuts there are."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffdist.errors import ConfigError, NetworkError
from ffdist.models import Chain, cnnb
from ffdist.objectives import SFF
from ffdist.pipeline.block import BlockConfig
from ffdist.pipeline.plan import block_specs, measure_blocks, partition
from ffdist.settings import Settings


def slowest(costs: list[float], cut: list[int]) -> float:
    bounds = [sum(cut[:i]) for i in range(len(cut) + 1)]
    return max(sum(costs[a:b]) for a, b in pairwise(bounds))


def all_cuts(blocks: int, stages: int) -> list[list[int]]:
    borders = [(0, *chosen, blocks) for chosen in combinations(range(1, blocks), stages - 1)]
    return [[b - a for a, b in pairwise(border)] for border in borders]


@given(st.lists(st.integers(0, 20).map(float), min_size=1, max_size=9), st.data())
def test_no_cut_has_a_faster_slowest_stage(costs: list[float], data: st.DataObject) -> None:
    stages = data.draw(st.integers(1, len(costs)))
    cut = partition(costs, stages)
    assert len(cut) == stages
    assert sum(cut) == len(costs)
    assert min(cut) >= 1
    assert slowest(costs, cut) == min(slowest(costs, other) for other in all_cuts(len(costs), stages))


@pytest.mark.parametrize("stages", [0, 4])
def test_more_stages_than_blocks_and_none_are_refused(stages: int) -> None:
    with pytest.raises(ConfigError, match="1 to 3"):
        partition([1.0, 1.0, 1.0], stages)


def test_measuring_gives_every_block_a_time_and_the_bytes_it_sends() -> None:
    chain = cnnb((1, 8, 8), 10, (4, 6, 8))
    costs = measure_blocks(chain, SFF(), BlockConfig(Settings(), 1), batch_size=16)
    assert [cost.name for cost in costs] == chain.names
    assert all(cost.seconds > 0 for cost in costs)
    assert [cost.activation_bytes for cost in costs] == [16 * 4 * 4 * 4 * 4, 16 * 6 * 2 * 2 * 4, 0]


def test_a_chain_that_does_not_fit_together_names_the_block() -> None:
    pieces = dict(zip(cnnb((1, 8, 8), 10).names, cnnb((1, 8, 8), 10).builders, strict=True))
    chain = Chain([("a", pieces["conv1"]), ("b", pieces["conv3"])], input_shape=(1, 8, 8), num_classes=10)
    with pytest.raises(NetworkError, match="block 'b'"):
        block_specs(chain)
