"""Which blocks' gradients travel together, and how right answers are counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from hypothesis import given
from hypothesis import strategies as st

from ffdist.pipeline.bucket import MAX_BUCKETS, MIN_SLICES, SMALL, bucket_sizes
from ffdist.pipeline.plan import block_specs, build_block

if TYPE_CHECKING:
    from ffdist.pipeline.block import LearningBlock


@given(st.lists(st.integers(0, 3 * SMALL), max_size=12), st.integers(1, 2 * MIN_SLICES))
def test_every_block_travels_once_in_few_messages(sizes: list[int], slices: int) -> None:
    counts = bucket_sizes(sizes, slices)
    assert sum(counts) == len(sizes)
    assert all(counts)
    assert len(counts) <= MAX_BUCKETS


@given(st.lists(st.integers(0, SMALL), min_size=2, max_size=MAX_BUCKETS))
def test_small_blocks_travel_together_and_the_last_one_alone(sizes: list[int]) -> None:
    """The others' exchange hides behind it, and its own behind the next batch's first blocks."""
    counts = bucket_sizes(sizes)
    assert counts[-1] == 1
    first = 0
    for count in counts:
        assert count == 1 or sum(sizes[first : first + count]) <= SMALL
        first += count


def test_small_nets_exchange_twice_and_large_blocks_by_themselves() -> None:
    assert bucket_sizes([3_584, 73_984, 295_424]) == [2, 1]
    assert bucket_sizes([2 * SMALL] * 3) == [1, 1, 1]
    assert bucket_sizes([2 * SMALL]) == [1]
    assert bucket_sizes([]) == []


def test_the_more_slices_the_more_blocks_travel_together() -> None:
    """A message has one slice of each."""
    sizes = [SMALL, SMALL, 2 * SMALL, SMALL]
    assert bucket_sizes(sizes) == [1, 1, 1, 1]
    assert bucket_sizes(sizes, 3) == [2, 1, 1]
    assert bucket_sizes(sizes, 4) == [3, 1]
    assert bucket_sizes(sizes, MIN_SLICES) == [4]
    assert bucket_sizes([MIN_SLICES * SMALL] * 2, MIN_SLICES) == [1, 1]


def counting_block() -> LearningBlock:
    from ffdist.models import load_model
    from ffdist.objectives import SFF
    from ffdist.pipeline.block import BlockConfig
    from ffdist.settings import Settings

    chain = load_model("mlp", (1, 4, 4), 3, {"widths": (8,)})
    return build_block(chain, block_specs(chain)[0], SFF(), BlockConfig(Settings(), 1))


def test_right_answers_are_those_where_torch_finds_the_greatest_score() -> None:
    """Also where several are the greatest, or some are no numbers."""
    block = counting_block()
    scores = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)).round()
    scores[5, 1] = scores[6, 2] = scores[7, 0] = float("nan")
    scores[8] = float("-inf")
    labels = torch.arange(64) % 3
    expected = int((scores.argmax(1) == labels).sum())
    assert block._correct(scores, labels) == expected
    assert int(block._correct(scores.bfloat16(), labels)) == expected
