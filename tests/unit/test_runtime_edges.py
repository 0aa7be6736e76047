"""Which transport joins two stages, by where they live."""

from __future__ import annotations

import resource
import socket
import sys
from contextlib import ExitStack
from datetime import timedelta
from itertools import pairwise

import pytest
from torch._C._distributed_c10d import TCPStore

from ffdist.errors import ConfigError
from ffdist.runtime.edges import host_kind, kind_of
from ffdist.transport import WorkerLocation
from ffdist.transport.listeners import allow_many_descriptors, deaf_afterwards
from ffdist.transport.stores import serve_store


def place(device: str, host: str | None, collective: str | None = None) -> WorkerLocation:
    return WorkerLocation(device, collective, {} if host is None else {"shared-memory": host})


CPU, OTHER_HOST = place("cpu", "a"), place("cpu", "b")
FIRST, SECOND = place("cuda:one", "a", "nccl"), place("cuda:two", "a", "nccl")
FIRST_ELSEWHERE = place("cuda:one", "container", "nccl")
ON_RAY = WorkerLocation("cpu", None, {"shared-memory": "a", "object-store": "joined"})
ON_RAY_ELSEWHERE = WorkerLocation("cpu", None, {"shared-memory": "b", "object-store": "joined"})


@pytest.mark.parametrize(
    ("places", "kinds"),
    [
        ([CPU, CPU], ["shared-memory"]),
        ([CPU, OTHER_HOST, OTHER_HOST], ["gloo", "shared-memory"]),
        ([FIRST, SECOND], ["nccl"]),
        ([FIRST, FIRST], ["shared-memory"]),
        ([FIRST, FIRST_ELSEWHERE], ["gloo"]),  # NCCL takes a GPU once, whatever containers its ranks are in
        ([FIRST, SECOND, CPU, OTHER_HOST], ["nccl", "shared-memory", "gloo"]),
        ([place("cpu", None), place("cpu", None)], ["gloo"]),
        ([ON_RAY, ON_RAY, ON_RAY_ELSEWHERE], ["shared-memory", "gloo"]),
        ([place("npu:one", "a", "hccl"), place("npu:two", "a", "hccl")], ["hccl"]),  # of a maker that torch knows
        ([place("xpu:one", "a", "xccl"), FIRST], ["shared-memory"]),
    ],
)
def test_auto_takes_the_fastest_that_joins_the_two(places: list[WorkerLocation], kinds: list[str]) -> None:
    assert [kind_of("auto", up, down, "two") for up, down in pairwise(places)] == kinds


def test_a_transport_that_cannot_join_two_stages_is_refused() -> None:
    with pytest.raises(ConfigError, match="nccl cannot join stages 0 and 1"):
        kind_of("nccl", FIRST, FIRST_ELSEWHERE, "stages 0 and 1")
    with pytest.raises(ConfigError, match="shared-memory cannot join workers 1 and 2"):
        kind_of("shared-memory", CPU, OTHER_HOST, "workers 1 and 2")
    with pytest.raises(ConfigError, match=r"(?s)object-store cannot join two.*both stages on one Ray cluster"):
        kind_of("object-store", CPU, CPU, "two")
    assert kind_of("gloo", CPU, CPU, "two") == "gloo"
    assert kind_of("object-store", ON_RAY, ON_RAY_ELSEWHERE, "two") == "object-store"


def test_the_edge_back_goes_from_cpu_to_cpu() -> None:
    assert host_kind("nccl", FIRST, SECOND) == "shared-memory"
    assert host_kind("auto", CPU, OTHER_HOST) == "gloo"
    assert host_kind("gloo", CPU, CPU) == "gloo"
    assert host_kind("object-store", ON_RAY, ON_RAY_ELSEWHERE) == "object-store"


@pytest.mark.skipif(sys.platform != "linux", reason="needs filters of sockets")
def test_what_has_begun_to_listen_takes_nobody_after_the_context_and_keeps_whom_it_has() -> None:
    with socket.create_server(("127.0.0.1", 0)) as before, ExitStack() as ends:
        with deaf_afterwards():
            within = ends.enter_context(socket.create_server(("127.0.0.1", 0)))
            guest = ends.enter_context(socket.create_connection(within.getsockname()))
            taken = ends.enter_context(within.accept()[0])
        with pytest.raises(TimeoutError):
            socket.create_connection(within.getsockname(), timeout=0.1)
        for one, other in ((guest, taken), (taken, guest)):
            one.send(b"x")
            assert other.recv(1) == b"x"
        with socket.create_server(("127.0.0.1", 0)) as later:
            for server in (before, later):
                socket.create_connection(server.getsockname(), timeout=20).close()


def test_strangers_that_hold_the_line_keep_nobody_out_of_a_store() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, before[1]))
        allow_many_descriptors()
        store = serve_store("127.0.0.1")
        with ExitStack() as held:
            for _ in range(200):  # which have a descriptor at either end
                held.enter_context(socket.create_connection(("127.0.0.1", store.port)))
            client = TCPStore("127.0.0.1", store.port, is_master=False, timeout=timedelta(seconds=20))
            client.set("key", "value")
            assert store.get("key") == b"value"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
