"""The measurement of transports, in small."""

from __future__ import annotations

import pytest

from ffdist.transport.measure import MIB, measure_transport

pytestmark = [pytest.mark.distributed, pytest.mark.measures]


def test_each_transport_and_size_gets_a_rate_against_the_copy_of_its_round() -> None:
    sizes, names = (4096, MIB), ("memcpy", "local", "shared-memory", "gloo")
    rates = measure_transport(sizes=sizes, rounds=2, volume=MIB)
    assert [(r.message_bytes, r.transport) for r in rates] == [(size, name) for size in sizes for name in names]
    for rate in rates:
        assert rate.mb_per_s == pytest.approx(rate.messages_per_s * rate.message_bytes / 1e6)
        assert 0 < rate.ratio_min <= rate.ratio <= rate.ratio_max
    assert {rate.ratio for rate in rates if rate.transport == "memcpy"} == {1.0}
