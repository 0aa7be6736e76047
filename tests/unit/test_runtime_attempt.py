"""Laws of the attempt's number that restarted ranks agree on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from ffdist.errors import StageError
from ffdist.runtime.attempt import GREETINGS, post, share_attempt
from ffdist.runtime.world import World

PATIENCE = timedelta(seconds=60)


@pytest.fixture
def store() -> dist.Store:
    return dist.HashStore()


def meet(store: dist.Store, *restarts: int) -> list[int]:
    """What each rank learns, when rank i's node has counted `restarts[i]`."""
    worlds = [World(rank, len(restarts), attempt=count) for rank, count in enumerate(restarts)]
    with ThreadPoolExecutor(len(worlds)) as ranks:
        return list(ranks.map(share_attempt, [store] * len(worlds), worlds, [PATIENCE] * len(worlds)))


def test_the_first_attempt_is_0_on_every_rank(store: dist.Store) -> None:
    assert meet(store, 0, 0, 0) == [0, 0, 0]


def test_one_rank_needs_nobody(store: dist.Store) -> None:
    assert [meet(store, 0), meet(store, 0)] == [[0], [1]]


def test_nodes_that_count_differently_agree_on_a_number_never_used_before(store: dist.Store) -> None:
    attempts = [meet(store, *counts) for counts in [(0, 0), (0, 1), (1, 1), (3, 1), (0, 0)]]
    assert all(first == second for first, second in attempts)
    assert [first for first, _ in attempts] == sorted({first for first, _ in attempts})


def test_a_restart_is_seen_though_the_store_is_new(store: dist.Store) -> None:
    assert meet(store, 2, 0) == [2, 2]


def test_greetings_and_answers_of_killed_ranks_are_not_taken_for_new_ones(store: dist.Store) -> None:
    assert meet(store, 0, 0, 0) == [0, 0, 0]
    for word in ("hello killed", "joined 0 1", "joined 0 2"):
        post(store, word)
    store.add(GREETINGS, 1)  # of a rank that was killed before it wrote its word
    assert meet(store, 1, 1, 0) == [1, 1, 1]


def test_a_rank_that_stays_away_is_an_error_within_the_timeout(store: dist.Store) -> None:
    for rank in (0, 1):
        with pytest.raises(StageError, match=f"worker {1 - rank} did not come to where the ranks meet"):
            share_attempt(store, World(rank, 2), timedelta(milliseconds=50))


def test_of_several_ranks_those_that_stay_away_are_named(store: dist.Store) -> None:
    with ThreadPoolExecutor(1) as here:
        other = here.submit(share_attempt, store, World(2, 4), PATIENCE)
        with pytest.raises(StageError, match=r"(?s)worker 1, 3 did not come.*r 1, not heard of.*r 3, not heard"):
            share_attempt(store, World(0, 4), timedelta(seconds=1))
        assert other.result() == 0
