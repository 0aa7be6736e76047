"""Which transport joins two stages, by where they live."""

from __future__ import annotations

import pytest

from ffdist.errors import ConfigError
from ffdist.runtime.edges import Place, choose, choose_back

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
    assert choose("auto", places) == kinds


def test_a_transport_that_cannot_join_two_stages_is_refused() -> None:
    with pytest.raises(ConfigError, match="nccl cannot join stages 0 and 1"):
        choose("nccl", [FIRST, FIRST_ELSEWHERE])
    with pytest.raises(ConfigError, match="shared-memory cannot join stages 1 and 2"):
        choose("shared-memory", [CPU, CPU, OTHER_HOST])
    assert choose("gloo", [CPU, CPU]) == ["gloo"]


def test_the_edge_back_goes_from_cpu_to_cpu() -> None:
    assert choose_back(["nccl"], [FIRST, SECOND]) == "shared-memory"
    assert choose_back(["gloo"], [CPU, OTHER_HOST]) == "gloo"
    assert choose_back(["object-store"], [CPU, OTHER_HOST]) == "object-store"
