"""Which transport joins two stages, by where they live."""

from __future__ import annotations

from itertools import pairwise

import pytest

from ffdist.errors import ConfigError
from ffdist.runtime.edges import Place, host_kind, kind_of

CPU, OTHER_HOST = Place("cpu", "a"), Place("cpu", "b")
FIRST, SECOND = Place("cuda:one", "a", "nccl"), Place("cuda:two", "a", "nccl")
FIRST_ELSEWHERE = Place("cuda:one", "container", "nccl")


@pytest.mark.parametrize(
    ("places", "kinds"),
    [
        ([CPU, CPU], ["shared-memory"]),
        ([CPU, OTHER_HOST, OTHER_HOST], ["gloo", "shared-memory"]),
        ([FIRST, SECOND], ["nccl"]),
        ([FIRST, FIRST], ["shared-memory"]),
        ([FIRST, FIRST_ELSEWHERE], ["gloo"]),  # NCCL takes a GPU once, whatever containers its ranks are in
        ([FIRST, SECOND, CPU, OTHER_HOST], ["nccl", "shared-memory", "gloo"]),
        ([Place("cpu", None), Place("cpu", None)], ["gloo"]),
    ],
)
def test_auto_takes_the_fastest_that_joins_the_two(places: list[Place], kinds: list[str]) -> None:
    assert [kind_of("auto", up, down, "two") for up, down in pairwise(places)] == kinds


def test_a_transport_that_cannot_join_two_stages_is_refused() -> None:
    with pytest.raises(ConfigError, match="nccl cannot join stages 0 and 1"):
        kind_of("nccl", FIRST, FIRST_ELSEWHERE, "stages 0 and 1")
    with pytest.raises(ConfigError, match="shared-memory cannot join workers 1 and 2"):
        kind_of("shared-memory", CPU, OTHER_HOST, "workers 1 and 2")
    assert kind_of("gloo", CPU, CPU, "two") == "gloo"


def test_the_edge_back_goes_from_cpu_to_cpu() -> None:
    assert host_kind("nccl", FIRST, SECOND) == "shared-memory"
    assert host_kind("auto", CPU, OTHER_HOST) == "gloo"
    assert host_kind("gloo", CPU, CPU) == "gloo"
    assert host_kind("object-store", CPU, OTHER_HOST) == "object-store"
