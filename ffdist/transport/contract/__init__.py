"""The contract of an edge as tests, for any implementation of `Transport`. It needs pytest.

    from ffdist.transport.contract import Crew, ProcessPair, TransportContract

    @pytest.fixture(scope="module")
    def crew():
        with Crew(2) as crew:
            yield crew

    class TestMine(TransportContract):
        @pytest.fixture
        def pair(self, crew):
            return ProcessPair(MyTransport(), crew)

Every law is then a test of the class: frames of any dtype and layout, order, the bound on what is under way, memory,
closing, silence, killed peers, peers of another attempt; and after each, that no descriptor or thread is left.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("ffdist.transport.contract.laws", "ffdist.transport.contract.sides")

from ffdist.renamed import renamed_names  # noqa: E402
from ffdist.transport.contract.laws import EdgeContract, TransportContract  # noqa: E402
from ffdist.transport.contract.pair import EdgePair, ProcessPair, ThreadPair  # noqa: E402
from ffdist.transport.contract.processes import ContractRank, Crew, RankOutcome, run_processes  # noqa: E402

__all__ = [
    "ContractRank",
    "Crew",
    "EdgeContract",
    "EdgePair",
    "ProcessPair",
    "RankOutcome",
    "ThreadPair",
    "TransportContract",
    "run_processes",
]

__getattr__ = renamed_names(__name__, Place="ContractRank", Pair="EdgePair", Outcome="RankOutcome")
