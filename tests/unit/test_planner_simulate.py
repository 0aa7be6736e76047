"""The simulator: what its plans may not beat, what they reach, and the schedules of backpropagation beside them."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ffdist.cores import available_cores
from ffdist.errors import ConfigError
from ffdist.plan import Plan, PlanStage, Share
from ffdist.planner import Cluster, NetworkLink, Profile, price
from ffdist.planner.cluster import ExchangeCost
from ffdist.planner.events import CorePool, EventQueue, Process, WorkerLinks
from ffdist.planner.forecast import forecast, scaled, shared_cores
from ffdist.planner.profile import BackpropProfile, BlockProfile, SampleCurve
from ffdist.planner.schedules import ddp, one_batch, one_f_one_b, order_of
from ffdist.planner.simulate import TimeDraw, messages_of, simulate

BATCH = 60
"""It has whole lanes and microbatches of whole samples."""
FREE = NetworkLink(inf, wired=False)


def block(index: int, seconds: float, megabytes: float = 0.0, sent: float = 0.0, step: float = 0.0) -> BlockProfile:
    """A third of the time forward, as measured without any spread."""
    size = int(megabytes * 1e6)
    return BlockProfile(
        f"block{index}",
        SampleCurve.proportional(BATCH, seconds / 3),
        SampleCurve.proportional(BATCH, seconds * 2 / 3),
        step,
        0.0,
        size // 4,
        size,
        size,
        2 * size,
        sent,
        SampleCurve.proportional(BATCH, 1e6),
        lane=step / 3,
        lanes=step / 4,
        exchange=step / 5,
    )


def network(*blocks: BlockProfile, microbatches: int = 1) -> Profile:
    nothing = SampleCurve.proportional(BATCH, 0.0)
    profile = Profile("net", "rule", BATCH, microbatches, "fp32", "a CPU", True, 1, {}, blocks, nothing, True)
    return replace(profile, backprop=BackpropProfile((*blocks, block(len(blocks), 0.0))))


networks = st.builds(
    lambda rows, parts: network(*(block(n, *row) for n, row in enumerate(rows)), microbatches=parts),
    st.lists(
        st.tuples(st.floats(0.01, 0.2), st.sampled_from([0.1, 40.0]), st.sampled_from([1e3, 1e5]), st.floats(0, 0.01)),
        min_size=3,
        max_size=3,
    ),
    st.integers(1, 3),
)
links = st.sampled_from(
    [
        FREE,
        NetworkLink(5e9, 2e-5, 2e-10, wired=False, message=1e-4),
        NetworkLink(1e9, 5e-5),
        NetworkLink(1e8, 5e-5, 4e-10, 4e-10, message=2e-4),
    ]
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Any: workers in whatever order, serving in several stages, forwards and backwards."""
    names = ["block0", "block1", "block2"]
    lanes = draw(st.integers(1, 4))
    stages, first, workers = [], 0, 0
    for size in draw(st.sampled_from([[3], [1, 2], [2, 1], [1, 1, 1]])):
        count = draw(st.integers(1, lanes))
        ends = sorted(draw(st.permutations(range(1, lanes)))[: count - 1])
        chosen: list[int] = []
        for _ in range(count):
            worker = draw(st.sampled_from([w for w in range(workers + 1) if w not in chosen]))
            chosen.append(worker)
            workers = max(workers, worker + 1)
        parts = [range(a, b) for a, b in zip([0, *ends], [*ends, lanes], strict=True)]
        shares = tuple(Share(w, part) for w, part in zip(chosen, parts, strict=True))
        stages.append(PlanStage(tuple(names[first : first + size]), shares))
        first += size
    return Plan(lanes, tuple(stages))


@settings(deadline=None, max_examples=50)
@given(networks, plans(), links, st.integers(1, 3))
def test_every_plan_comes_to_its_end_and_none_beats_its_price(
    profile: Profile, plan: Plan, link: NetworkLink, queue: int
) -> None:
    cluster = Cluster(plan.workers, link, queue=queue)
    simulated = simulate(profile, cluster, plan, batches=30)
    assert simulated.seconds >= price(profile, cluster, plan).seconds * 0.96  # of the last batches more are in flight


def test_a_worker_of_more_threads_than_cores_computes_by_itself_as_it_was_measured() -> None:
    here, before = available_cores(), torch.get_num_threads()
    try:
        torch.set_num_threads(2 * here)
        assert shared_cores(1) is None
        assert shared_cores(2) == 1
        torch.set_num_threads(1)
        assert shared_cores(here) is None
        assert shared_cores(here + 1) == here
    finally:
        torch.set_num_threads(before)
    with pytest.raises(ConfigError, match="no worker has a core"):
        Cluster(2, cores=0.5)


@settings(deadline=None, max_examples=30)
@given(networks, plans(), st.integers(0, 5))
def test_a_seed_gives_the_same_again(profile: Profile, plan: Plan, seed: int) -> None:
    blocks = tuple(replace(b, forward=replace(b.forward, repeats=((1e-2, 2e-2, 5e-2),))) for b in profile.blocks)
    noisy, cluster = replace(profile, blocks=blocks), Cluster(plan.workers, FREE)
    again = [simulate(noisy, cluster, plan, seed=seed) for _ in range(2)]
    assert again[0] == again[1]
    assert again[0].seconds >= simulate(noisy, cluster, plan).seconds  # a value is the lower quartile


def test_pipelines_and_replicas_reach_their_price() -> None:
    profile = network(block(0, 0.05, 1.0, 1e4), block(1, 0.03, 1.0, 1e4), block(2, 0.04, 1.0))
    texts = [
        ("* @ 0", 1, 1),
        ("block0 @ 0 | block1 block2 @ 1", 2, 1),
        ("* @ 0:0-1, 1:2-3", 2, 4),
        ("* @ 0, 1 by batch", 2, 1),
        ("* @ 0, 1 by batch", 2, 2),
        ("* @ 0, 1 by batch", 2, 4),
        ("block0 @ 2 | block1 block2 @ 0, 1 by batch", 3, 1),
        ("block0 @ 2 | block1 block2 @ 0, 1 by batch", 3, 3),
        ("* @ 0-2 by batch", 3, 1),
    ]
    for text, workers, lanes in texts:
        plan = Plan.parse(text, profile.names, lanes)
        cluster = Cluster(workers, NetworkLink(5e9, 2e-5, 2e-10, wired=False))
        assert simulate(profile, cluster, plan).rate == pytest.approx(price(profile, cluster, plan).rate, rel=0.02)


def test_the_exchange_of_gradients_hides_behind_other_blocks_until_the_link_is_too_slow() -> None:
    profile = network(*(block(n, 0.05, 4.0) for n in range(4)))
    plan = Plan.replicated(profile.names, 2, 2)
    fast, slow = (simulate(profile, Cluster(2, NetworkLink(rate)), plan) for rate in (1e9, 1e8))
    assert fast.seconds == pytest.approx(0.1, rel=1e-6)
    assert fast.hidden > 0.99
    assert slow.seconds == pytest.approx(4 * 4e6 / 1e8, rel=1e-6)  # 16 MB each way
    assert slow.hidden < 0.9


def test_slices_are_handed_on_behind_the_batch() -> None:
    """The last block's first round hides behind nothing, its second one behind the next batch's first blocks."""
    profile = network(block(0, 0.06, 3.0), block(1, 0.06, 3.0))
    plan, link = Plan.replicated(profile.names, 3, 3), NetworkLink(1e9)
    a_round = 3e6 * 2 / 3 / 1e9
    assert simulate(profile, Cluster(3, link), plan).seconds == pytest.approx(0.12 / 3 + a_round, rel=1e-6)
    whole = Cluster(3, link, exchange=ExchangeCost("whole"))
    assert simulate(profile, whole, plan).seconds == pytest.approx(0.12 / 3, rel=1e-6)


def test_batches_in_turn_are_as_fast_as_the_slowest_block_lets_them_be() -> None:
    profile = network(block(0, 0.06, 1.0), block(1, 0.03, 1.0), block(2, 0.03, 1.0))
    seconds = [
        simulate(profile, Cluster(many, FREE), Plan.parse(f"* @ 0-{many - 1} by batch", profile.names)).seconds
        for many in (2, 3, 4)
    ]
    assert seconds == pytest.approx([0.06, 0.06, 0.06], rel=0.01)
    state = profile.blocks[0].state_bytes
    slow = Cluster(2, NetworkLink(state / 0.03))
    assert simulate(profile, slow, Plan.parse("* @ 0, 1 by batch", profile.names)).seconds == pytest.approx(
        0.09, rel=0.01
    )


def test_workers_that_share_cores_wait_for_them() -> None:
    profile = network(*(block(n, 0.05, sent=1.0) for n in range(4)))
    plan = Plan.pipeline(profile.names, [1, 1, 1, 1])
    assert simulate(profile, Cluster(4, FREE), plan).seconds == pytest.approx(0.05, rel=1e-6)
    assert simulate(profile, Cluster(4, FREE, cores=2), plan).seconds == pytest.approx(0.1, rel=0.04)


def test_a_slower_device_takes_longer() -> None:
    profile = network(block(0, 0.05), block(1, 0.05))
    plan = Plan.pipeline(profile.names, [1, 1])
    assert simulate(profile, Cluster(2, FREE, (1.0, 0.5)), plan).seconds == pytest.approx(0.1, rel=1e-6)


def test_one_forward_one_backward_by_hand() -> None:
    shown = [f"{kind}{part}" for kind, part in order_of(2, 4)]
    assert " ".join(shown) == "F0 F1 B0 F2 B1 F3 B2 B3"
    profile = network(*(block(n, 0.03) for n in range(4)))
    stages = [[each] for each in profile.blocks]
    ends = one_batch(profile, Cluster(4, FREE), stages, 4, BATCH, [0.0] * 4, TimeDraw(None))
    assert max(ends) == pytest.approx((4 + 3) * 0.03)  # microbatches and the stages' fill, each forward and back


def test_data_parallelism_by_a_ring_by_hand() -> None:
    profile = network(block(0, 0.04, 8.0, step=0.001), block(1, 0.04, 8.0, step=0.001))
    computing = 0.08 / 2 + 0.002
    assert ddp(profile, Cluster(2, FREE)).seconds == pytest.approx(computing)
    assert ddp(profile, Cluster(2, NetworkLink(1e8))).seconds == pytest.approx(
        computing + 16e6 / 1e8
    )  # one bucket, the last
    assert ddp(profile, Cluster(1, FREE)).seconds == pytest.approx(0.08 + 0.002)
    assert ddp(profile, Cluster(2, FREE, collective=NetworkLink(1e8))).seconds > 0.2
    assert one_f_one_b(profile, Cluster(2, FREE)).seconds < 0.06


FAST = NetworkLink(25e9 / 8, 5e-5, 4e-10, 4e-10, message=1e-4)
"""25 Gbit/s between hosts, by CPUs."""


def test_each_step_of_a_ring_takes_a_message_at_both_ends() -> None:
    profile = network(block(0, 0.04, 8.0), block(1, 0.04, 8.0))
    costly = NetworkLink(inf, message=1e-3)
    for ranks in (2, 4):
        computing = 0.08 / ranks
        assert ddp(profile, Cluster(ranks, costly)).seconds == pytest.approx(computing + 2 * (ranks - 1) * 2e-3)


def test_replicas_by_halves_are_no_slower_than_ddp_by_a_ring() -> None:
    """On as many devices as one likes, though a step of the ring takes an eighth of what a message of ours does."""
    profile = network(*(block(n, 0.004, size, 1e3) for n, size in enumerate([0.01, 0.1, 0.3])))
    ring = replace(FAST, message=FAST.message / 8)
    for devices, least in ((2, 0.95), (16, 0.95), (64, 1.0)):
        grown, there = replace(profile, batch=BATCH * devices), Cluster(devices, FAST, collective=ring)
        plan = Plan.replicated(profile.names, devices, devices)
        found = simulate(grown, there, plan, batches=9)
        assert found.rate >= least * ddp(grown, there, batches=1).rate
        assert 0.96 * price(grown, there, plan).seconds <= found.seconds <= 1.2 * price(grown, there, plan).seconds


def test_the_more_devices_the_more_samples_on_all_sides() -> None:
    profile = network(*(block(n, 0.01 + 0.004 * n, size, 1e3) for n, size in enumerate([0.01, 0.1, 0.3])))
    points = scaled(profile, Cluster(2, FAST), [8, 2, 4, 4])
    assert [(point.devices, point.batch) for point in points] == [(n, BATCH * n) for n in (2, 4, 8)]
    for rates in zip(*((point.best.rate, point.ddp.rate, point.pipelined.rate) for point in points), strict=True):
        assert list(rates) == sorted(rates)
    assert all(point.best.rate >= 0.9 * point.ddp.rate for point in points)


def test_no_side_works_with_a_device_that_is_too_slow_to_help() -> None:
    profile = network(*(block(n, 0.01, 0.1) for n in range(4)))
    with_slow, without = forecast(profile, Cluster(4, speeds=(1e-3, 1.0, 1.0, 1.0))), forecast(profile, Cluster(3))
    for name in ("data parallel", "backprop, DDP", "backprop, 1F1B"):
        assert with_slow.speeds[name] == without.speeds[name]


def test_a_link_carries_one_message_of_a_pipeline_at_a_time() -> None:
    profile = network(*(block(n, 0.01, sent=1e4) for n in range(2)))
    whole = 1e4 * BATCH / 1e6
    assert one_f_one_b(profile, Cluster(2, NetworkLink(1e6))).seconds >= whole
    assert one_f_one_b(profile, Cluster(2, NetworkLink(inf))).seconds < 0.02


def test_messages_are_cut_as_lanes_and_microbatches_are() -> None:
    profile = replace(network(block(0, 1.0), microbatches=2), batch=10)
    cut = messages_of(profile, 3, range(3))
    assert [(each.lane, each.samples) for each in cut] == [(0, 2), (0, 1), (1, 2), (1, 1), (2, 2), (2, 2)]
    assert [each.last for each in cut] == [False, True] * 3
    assert len(messages_of(replace(profile, batch=1), 2, range(2))) == 2  # a lane without samples has its message


def test_cores_are_given_in_the_order_in_which_they_are_asked_for() -> None:
    events, done = EventQueue(), list[tuple[int, float]]()
    cores = CorePool(events, 2)

    def work(name: int) -> Process:
        yield from cores.compute(1.0)
        done.append((name, events.now))

    for name in range(5):
        events.start(work(name))
    events.run()
    assert done == [(0, 1.0), (1, 1.0), (2, 2.0), (3, 2.0), (4, 3.0)]


def test_what_waits_for_a_receiver_keeps_its_sender_from_nothing() -> None:
    events, done = EventQueue(), dict[str, float]()
    links = WorkerLinks(events, 4)

    def send(name: str, sender: int, receiver: int) -> Process:
        yield from links.carry(sender, receiver, 1.0)
        done[name] = events.now

    for name, sender, receiver in (("a", 0, 2), ("b", 1, 2), ("c", 1, 3), ("d", 0, 3)):
        events.start(send(name, sender, receiver))
    events.run()
    assert done == {"a": 1.0, "b": 2.0, "c": 2.0, "d": 3.0}
