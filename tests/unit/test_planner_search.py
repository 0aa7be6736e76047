"""The planner's search: against all plans there are, pure pipelines and data parallelism; within memory and time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import accumulate, combinations, pairwise, permutations, product
from math import inf

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.search_times import uneven_block
from ffdist.cli.planning import remarks
from ffdist.errors import ConfigError
from ffdist.plan import Plan, PlanStage, Share
from ffdist.planner import (
    BlockProfile,
    Cluster,
    NetworkLink,
    Price,
    Profile,
    SampleCurve,
    best_plan,
    parse_bytes,
    parse_link,
    price,
)
from ffdist.planner.by_batch import best_by_batch
from ffdist.planner.cost import costs_of
from ffdist.planner.fewest import FewestWorkers
from ffdist.planner.forecast import SURE, fastest, forecast, simulated
from ffdist.planner.plan_search import PlanSearch
from ffdist.planner.search import (
    PAYS,
    best_pipeline,
    best_price,
    data_parallel,
    in_mib,
    least_memory,
    with_one_worker_more,
)

BATCH = 64


def block(index: int, seconds: float, megabytes: float = 1.0, sent: float = 1e4, step: float = 1e-4) -> BlockProfile:
    return uneven_block(index, seconds, megabytes, sent, step, BATCH)


def network(*blocks: BlockProfile, sliced: bool = True) -> Profile:
    return Profile(
        "net", "rule", BATCH, 1, "fp32", "a CPU", True, 1, {}, blocks, SampleCurve.proportional(BATCH, 1e-4), sliced
    )


networks = st.builds(
    lambda rows, sliced: network(*(block(n, *row) for n, row in enumerate(rows)), sliced=sliced),
    st.lists(
        st.tuples(
            st.floats(0.01, 0.2), st.sampled_from([0.1, 4.0, 40.0]), st.sampled_from([1e3, 1e5]), st.floats(0, 0.01)
        ),
        min_size=1,
        max_size=4,
    ),
    st.booleans(),
)
free = st.sampled_from([NetworkLink(inf, wired=False), NetworkLink(5e9, 2e-5, 1 / 5e9, wired=False, message=1e-3)])
links = st.sampled_from(
    [
        NetworkLink(inf),
        NetworkLink(5e9, 1e-5, 2e-10),
        NetworkLink(1e9, 5e-5),
        NetworkLink(1e8, 5e-5, 4e-10, 4e-10, message=2e-3),
    ]
)


def cuts(blocks: int) -> Iterator[list[tuple[int, int]]]:
    for stages in range(1, blocks + 1):
        for chosen in combinations(range(1, blocks), stages - 1):
            yield list(pairwise([0, *chosen, blocks]))


def all_plans(profile: Profile, lanes: int, devices: int) -> Iterator[Plan]:
    """Every cut; the stages' lanes in a row, every other stage from its last lane on; every way to part the row."""
    for cut in cuts(len(profile.names)):
        row = [
            (stage, lane if stage % 2 == 0 else lanes - 1 - lane) for stage in range(len(cut)) for lane in range(lanes)
        ]
        for workers in range(1, min(devices, len(row)) + 1):
            for chosen in combinations(range(1, len(row)), workers - 1):
                had: dict[tuple[int, int], list[int]] = {}
                for worker, (first, behind) in enumerate(pairwise([0, *chosen, len(row)])):
                    for stage, lane in row[first:behind]:
                        had.setdefault((stage, worker), []).append(lane)
                yield Plan(lanes, tuple(made(profile, cut, stage, had) for stage in range(len(cut))))


def made(profile: Profile, cut: list[tuple[int, int]], stage: int, had: dict[tuple[int, int], list[int]]) -> PlanStage:
    shares = [Share(w, range(min(own), max(own) + 1)) for (s, w), own in had.items() if s == stage]
    first, behind = cut[stage]
    return PlanStage(tuple(profile.names[first:behind]), tuple(sorted(shares, key=lambda share: share.lanes[0])))


def least(profile: Profile, cluster: Cluster, lanes: int) -> float:
    """Over all orders in which the devices may get work, too."""
    limit = inf if cluster.memory_limit is None else cluster.memory_limit
    devices = range(cluster.devices)
    orders = {tuple(map(cluster.speed, order)): order for order in permutations(devices)} if cluster.speeds else {}
    found = (
        price(profile, cluster, plan, order[: plan.workers])
        for plan in all_plans(profile, lanes, cluster.devices)
        for order in orders.values() or [tuple(devices)]
    )
    return min((each.seconds for each in found if each.memory <= limit), default=inf)


@settings(deadline=None, max_examples=80)
@given(networks, st.integers(1, 4), st.integers(1, 3), free, st.data())
def test_no_plan_on_one_host_has_a_lower_price(
    profile: Profile, devices: int, lanes: int, link: NetworkLink, data: st.DataObject
) -> None:
    speeds = data.draw(st.sampled_from([(), tuple([1.0, 0.5, 0.7, 1.0][:devices])]))
    cluster = Cluster(devices, link, speeds)
    found = PlanSearch(profile, cluster, lanes).least()
    assert found is not None
    assert found.seconds == pytest.approx(least(profile, cluster, lanes), rel=1e-6)


@settings(deadline=None, max_examples=60)
@given(
    networks,
    st.lists(st.sampled_from([1.0, 0.4, 0.1]), min_size=2, max_size=4),
    st.integers(1, 3),
    st.one_of(free, links),
    st.sampled_from([None, 1.0, 1.5, 2.0]),
    st.sampled_from([None, 0.4, 0.7]),
)
@example(network(*(block(n, 0.125, 0.1, 1e3, 0.0) for n in range(4))), [1.0, 0.4], 2, NetworkLink(inf), 1.5, None)
def test_no_order_of_unequal_devices_has_a_lower_price(
    profile: Profile,
    speeds: list[float],
    lanes: int,
    link: NetworkLink,
    cores: float | None,
    share: float | None,
) -> None:
    whole = price(profile, Cluster(1), Plan.pipeline(profile.names, [len(profile.names)])).memory
    cluster = Cluster(len(speeds), link, tuple(speeds), memory_limit=share and share * whole, cores=cores)
    search = PlanSearch(profile, cluster, lanes)
    found, wanted = search.least(), least(profile, cluster, lanes)
    assert (found is None) == (wanted == inf)
    assert not search.bounded
    if found:
        assert found.seconds == pytest.approx(wanted, rel=1e-6)
        assert found.seconds == pytest.approx(price(profile, cluster, found.plan, found.devices).seconds)


@settings(deadline=None, max_examples=30)
@given(
    networks,
    st.lists(st.sampled_from([1.0, 0.4, 0.1]), min_size=2, max_size=6),
    st.sampled_from([None, 1, 3]),
    st.booleans(),
    st.data(),
)
def test_devices_in_another_order_get_the_same_work(
    profile: Profile, speeds: list[float], lanes: int | None, exactly: bool, data: st.DataObject
) -> None:
    """Workers have other numbers, and nothing else changes: the plain plans' speeds neither."""
    order = data.draw(st.permutations(range(len(speeds))))
    exactly = exactly and len(speeds) <= (lanes or 9) * len(profile.names)
    clusters = [Cluster(len(speeds), speeds=tuple(each)) for each in (speeds, [speeds[device] for device in order])]
    found, other = (best_price(profile, cluster, lanes=lanes, exactly=exactly) for cluster in clusters)
    assert work_of(found, clusters[0]) == work_of(other, clusters[1])
    assert found.seconds == other.seconds
    if len(set(speeds)) == len(speeds):
        devices = [order[device] for device in other.devices]
        assert sorted(devices) == list(found.devices)
        assert other.plan.renumbered([found.devices.index(device) for device in devices]) == found.plan
    if len(found.devices) == len(speeds):
        assert price(profile, clusters[0], found.plan).seconds == found.seconds, "worker i is on device i"


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 4), st.integers(1, 4), st.data())
def test_there_is_a_part_for_another_worker_while_one_has_two(lanes: int, blocks: int, data: st.DataObject) -> None:
    """However many workers serve in several stages: from a worker of everything to a worker a lane a block."""
    names = tuple(f"block{n}" for n in range(blocks))
    plan = Plan.replicated(names, 1, lanes)
    while plan.workers < lanes * blocks:
        parted = list(with_one_worker_more(plan))
        assert all(each.workers == plan.workers + 1 and each.lanes == lanes for each in parted)
        for each in parted:
            each.check(names)
        plan = data.draw(st.sampled_from(parted))


def test_every_device_has_work_where_a_worker_of_two_stages_is_the_one_to_part() -> None:
    profile = network(*(block(n, 0.125, 0.1, 1e3, 0.0) for n in range(2)), sliced=False)
    found = best_price(profile, Cluster(4, speeds=(1.0, 1.0, 0.4, 0.4)), exactly=True)
    assert found.devices == (0, 1, 2, 3)


def work_of(found: Price, cluster: Cluster) -> list[tuple[tuple[str, ...], list[tuple[float, range]]]]:
    """Each stage's blocks, and the speeds of the devices that share its lanes or batches."""
    speeds = [cluster.speed(device) for device in found.devices]
    assert list(found.devices) == sorted(set(found.devices))
    return [
        (stage.blocks, [(speeds[share.worker], share.lanes) for share in stage.shares]) for stage in found.plan.stages
    ]


def test_workers_numbers_change_no_bit_of_a_price_on_shared_cores() -> None:
    profile = network(*(block(n, 0.1 * n, 0.1) for n in range(1, 6)))
    plan, cluster = Plan.pipeline(profile.names, [1] * 5), Cluster(5, FROM_HOST, cores=1)
    prices = {price(profile, cluster, plan.renumbered(order)).seconds for order in permutations(range(5))}
    assert len(prices) == 1


@settings(deadline=None, max_examples=5)
@given(networks, st.permutations([1.0, 0.4, 0.4, 0.1]))
def test_the_forecast_is_the_same_whatever_the_order_of_devices(profile: Profile, speeds: list[float]) -> None:
    one, other = (forecast(profile, Cluster(4, speeds=tuple(each))) for each in (speeds, sorted(speeds)))
    assert one.speeds == other.speeds
    assert one.best.rate == other.best.rate


def test_slow_devices_named_first_are_left_idle_where_they_do_not_help() -> None:
    profile = network(block(0, 0.1, 0.1), block(1, 0.1, 0.1))
    found = forecast(profile, Cluster(3, speeds=(1e-3, 1.0, 1.0)), lanes=1)
    assert found.best.devices == (1, 2)
    assert found.as_json()["worker_devices"] == [1, 2]
    (text,) = remarks(found)
    assert text == "workers on devices, numbered as --speeds has them: 0 on 1, 1 on 2; left idle: 0"
    alike = forecast(profile, Cluster(2), lanes=1)
    assert alike.best.rate == pytest.approx(found.best.rate)
    assert list(remarks(alike)) == []


def test_what_a_slow_device_saves_is_taken_however_little_where_batches_in_turn_save_nothing() -> None:
    profile = network(block(0, 1.0, step=0.0), block(1, 0.003, step=0.0))
    found = best_price(profile, Cluster(2, NetworkLink(inf), (1.0, 0.01)), lanes=1)
    assert str(found.plan) == "block0 @ 0 | block1 @ 1"
    alone = price(profile, Cluster(1), Plan.pipeline(profile.names, [2]))
    assert found.seconds == pytest.approx(alone.seconds - 0.003)


def test_a_given_plan_that_is_too_large_is_said_to_be() -> None:
    profile = network(block(0, 0.1, 0.1), block(1, 0.1, 0.1))
    plan = Plan.pipeline(profile.names, [1, 1])
    held = price(profile, Cluster(2), plan).memory
    (text,) = remarks(forecast(profile, Cluster(2, memory_limit=held - 1), plan=plan))
    assert text == f"the plan does not keep to the memory limit: a worker holds {in_mib(held)}"
    assert list(remarks(forecast(profile, Cluster(2, memory_limit=held), plan=plan))) == []


def test_of_many_speeds_few_are_tried_as_the_slowest() -> None:
    assert Cluster(4).counts_by_speed() == [4]
    assert Cluster(4, speeds=(0.5, 1.0, 0.5, 0.2)).counts_by_speed() == [1, 3, 4]
    assert len(Cluster(64, speeds=tuple(1 / n for n in range(1, 65))).counts_by_speed()) == 8 + 1


@settings(deadline=None, max_examples=60)
@given(networks, st.integers(1, 4), st.integers(1, 3), links)
def test_no_plan_across_hosts_has_a_lower_price(profile: Profile, devices: int, lanes: int, link: NetworkLink) -> None:
    cluster = Cluster(devices, link)
    found = PlanSearch(profile, cluster, lanes).least()
    assert found is not None
    assert found.seconds == pytest.approx(least(profile, cluster, lanes), rel=1e-6)


@settings(deadline=None, max_examples=60)
@given(networks, st.integers(2, 4), st.integers(1, 3), st.one_of(free, links), st.sampled_from([1.0, 1.5, 2.0, 3.0]))
def test_no_plan_has_a_lower_price_where_workers_share_cores(
    profile: Profile, devices: int, lanes: int, link: NetworkLink, cores: float
) -> None:
    cluster = Cluster(devices, link, cores=cores)
    found = PlanSearch(profile, cluster, lanes).least()
    assert found is not None
    assert found.seconds == pytest.approx(least(profile, cluster, lanes), rel=1e-6)


@settings(deadline=None, max_examples=15)
@given(networks, st.integers(2, 3), links)
def test_the_plan_of_the_least_price_gives_way_only_to_one_that_is_simulated_much_faster(
    profile: Profile, devices: int, link: NetworkLink
) -> None:
    cluster = Cluster(devices, link)
    found, least_priced = forecast(profile, cluster), best_price(profile, cluster)
    if found.plan != least_priced.plan:
        given_up = simulated(profile, cluster, least_priced.plan).rate
        sure = SURE if found.plan.workers == devices else 0.0  # to leave one idle needs no margin
        assert found.speeds["best plan"].rate > (1 + sure) * given_up
    if by_batch := best_by_batch(profile, cluster):
        assert simulated(profile, cluster, by_batch.plan).rate <= (1 + SURE) * found.speeds["best plan"].rate


@settings(deadline=None, max_examples=40)
@given(networks, st.integers(1, 3), st.integers(1, 3), st.floats(0.2, 1.5))
def test_under_a_memory_limit_the_best_of_what_fits_is_found(
    profile: Profile, devices: int, lanes: int, share: float
) -> None:
    whole = price(profile, Cluster(1), Plan.pipeline(profile.names, [len(profile.names)])).memory
    cluster = Cluster(devices, memory_limit=share * whole)
    found, wanted = PlanSearch(profile, cluster, lanes).least(), least(profile, cluster, lanes)
    assert (found is None) == (wanted == inf)
    if found:
        assert found.memory <= share * whole
        assert found.seconds == pytest.approx(wanted, rel=1e-6)


@settings(deadline=None, max_examples=40)
@given(networks, st.integers(1, 6), links)
def test_the_best_plan_loses_to_no_pipeline_and_to_no_data_parallelism(
    profile: Profile, devices: int, link: NetworkLink
) -> None:
    cluster = Cluster(devices, link)
    best = best_price(profile, cluster)
    for other in (best_pipeline(profile, cluster), data_parallel(profile, cluster)):
        assert other is not None
        assert best.seconds <= other.seconds * (1 + 1e-6)


@settings(deadline=None, max_examples=25)
@given(networks, st.integers(1, 6), links, st.sampled_from([None, 1, 3]), st.sampled_from([1.0, 0.3]))
def test_one_device_more_is_never_slower(
    profile: Profile, devices: int, link: NetworkLink, lanes: int | None, last: float
) -> None:
    """It may be left idle, however slow it is; where lanes are chosen, fewer are preferred that are as good."""
    few = Cluster(devices, link)
    more = Cluster(devices + 1, link, (1.0,) * devices + (last,))
    before, after = (best_price(profile, cluster, lanes=lanes) for cluster in (few, more))
    assert after.seconds <= before.seconds * (1 + 1e-6) / (1 if lanes else 1 - PAYS)
    by_batch = [best_by_batch(profile, cluster, lanes or 1) for cluster in (few, more)]
    seconds = [each.seconds for each in by_batch if each]
    assert seconds[1] <= seconds[0] * (1 + 2e-4)


@settings(deadline=None, max_examples=8)
@given(networks, st.integers(1, 4), links)
def test_one_device_more_is_simulated_no_slower(profile: Profile, devices: int, link: NetworkLink) -> None:
    few, more = (fastest(profile, Cluster(count, link))[1].rate for count in (devices, devices + 1))
    assert more >= 0.96 * few  # as near as what is simulated comes to a price


def test_a_plan_of_other_lanes_is_taken_where_it_is_simulated_much_faster() -> None:
    """Bounded queues between shared stages are in no price."""
    sizes = [(0.08, 0.1, 1e5), (0.15, 0.1, 1e5), (0.2, 4.0, 1e5), (0.03, 0.1, 1e3)]
    profile = network(*(block(n, *each) for n, each in enumerate(sizes)))
    cluster = Cluster(5, NetworkLink(1e8, 5e-5))
    found, rate = fastest(profile, cluster)
    assert rate.rate > 1.1 * simulated(profile, cluster, best_price(profile, cluster).plan).rate
    assert rate.rate > 0.9 * found.rate


def all_by_batch(profile: Profile, lanes: int, devices: int) -> Iterator[Plan]:
    """Every cut, and every number of workers for each stage, who take its batches in turn."""
    for cut in cuts(len(profile.names)):
        for many in product(range(1, devices + 1), repeat=len(cut)):
            if sum(many) <= devices:
                ends = list(accumulate(many))
                yield Plan(
                    lanes,
                    tuple(
                        PlanStage(
                            tuple(profile.names[first:behind]),
                            tuple(Share(worker, range(lanes)) for worker in range(end - workers, end)),
                            by_batch=workers > 1,
                        )
                        for (first, behind), workers, end in zip(cut, many, ends, strict=True)
                    ),
                )


@settings(deadline=None, max_examples=60)
@given(
    networks,
    st.integers(1, 3),
    st.integers(1, 6),
    links,
    st.sampled_from([None, 0.6, 1.2]),
    st.sampled_from([None, None, 1, 2, 3]),
)
def test_no_plan_by_batch_is_faster_than_the_one_that_is_found(
    profile: Profile, lanes: int, devices: int, link: NetworkLink, share: float | None, cores: int | None
) -> None:
    """Within a ten-thousandth, and within the memory limit."""
    whole = price(profile, Cluster(1), Plan.pipeline(profile.names, [len(profile.names)])).memory
    cluster = Cluster(devices, link, memory_limit=share and share * whole, cores=cores)
    prices = [price(profile, cluster, plan) for plan in all_by_batch(profile, lanes, devices)]
    fitting = [each.seconds for each in prices if share is None or each.memory <= share * whole]
    found = best_by_batch(profile, cluster, lanes)
    assert (found is None) == (not fitting)
    if found:
        assert found.seconds == pytest.approx(min(fitting), rel=2e-4)


@settings(deadline=None, max_examples=40)
@given(networks, st.integers(1, 6), st.integers(1, 6))
def test_where_every_rank_must_have_work_it_has(profile: Profile, devices: int, lanes: int) -> None:
    plan = best_plan(profile, Cluster(devices), lanes=lanes, exactly=True)
    plan.check(profile.names)
    assert (plan.workers, plan.lanes) == (devices, lanes)


def test_work_for_every_device_keeps_to_the_memory_limit_too() -> None:
    """One worker has no queues between the blocks, where a message is most of what two would hold."""
    profile = network(block(0, 0.1, sent=1e7), block(1, 0.1, sent=1e7))
    alone, with_all = (best_price(profile, Cluster(devices), lanes=1, exactly=True).memory for devices in (1, 2))
    alone += 2**20
    assert alone < with_all
    with pytest.raises(ConfigError, match=rf"got: {alone - 2**20 - 1:.0f} bytes"):  # as far in MiB as what is needed
        best_plan(profile, Cluster(1, memory_limit=alone - 2**20 - 1), lanes=1)
    with pytest.raises(ConfigError, match="work for every device") as error:
        best_plan(profile, Cluster(2, memory_limit=alone), lanes=1, exactly=True)
    assert error.value.expected == "more, or fewer than 2 devices"
    assert best_plan(profile, Cluster(2, memory_limit=alone), lanes=1).workers == 1
    assert best_plan(profile, Cluster(2, memory_limit=with_all), lanes=1, exactly=True).workers == 2


def test_a_heavy_block_is_shared_and_a_pipeline_of_even_ones_is_left_alone() -> None:
    heavy = network(block(0, 0.08, 0.1), block(1, 0.01, 0.1), block(2, 0.01, 0.1))
    assert best_price(heavy, Cluster(2), lanes=4).rate > 1.3 * best_price(heavy, Cluster(2), lanes=1).rate
    even = network(*(block(n, 0.05, 40.0, step=0.02) for n in range(2)))
    assert best_plan(even, Cluster(2)).is_pipeline


def test_what_does_not_fit_is_refused_with_the_least_that_would() -> None:
    profile = network(block(0, 0.1, 100.0), block(1, 0.1, 100.0))
    with pytest.raises(ConfigError, match="no plan keeps to the memory limit") as error:
        best_plan(profile, Cluster(2, memory_limit=parse_bytes("1MiB")))
    least_of_all = error.value.expected.split()[0]
    assert best_plan(profile, Cluster(2, memory_limit=parse_bytes(least_of_all))).workers == 2
    with pytest.raises(ConfigError, match="no plan keeps"):
        best_plan(profile, Cluster(2, memory_limit=parse_bytes(least_of_all) - 2 * 2**20))


@settings(deadline=None, max_examples=10)
@given(networks, st.integers(1, 3))
def test_no_plan_takes_less_memory_than_the_least_that_is_told(profile: Profile, devices: int) -> None:
    cluster, counts = Cluster(devices), (1, 2, 3)
    plans = (plan for lanes in counts for plan in all_plans(profile, lanes, devices))
    wanted = min(price(profile, cluster, plan).memory for plan in plans)
    assert in_mib(least_memory(profile, cluster, counts)) == in_mib(wanted)


@settings(deadline=None, max_examples=60)
@given(networks, links, st.integers(1, 9), st.integers(1, 7), st.sampled_from([0.4, 0.9, 1.5]), st.data())
def test_numbers_of_workers_that_are_left_out_could_not_do_it_in_time(
    profile: Profile, link: NetworkLink, lanes: int, workers: int, factor: float, data: st.DataObject
) -> None:
    """However the lanes are shared, one of so many workers has a W-th of them, rounded up, and is late, or lacks
    memory; and one worker is left out only where it is."""
    costs = costs_of(profile, Cluster(workers, link), lanes)
    i = data.draw(st.integers(0, costs.size - 1))
    j = data.draw(st.integers(i + 1, costs.size))
    seconds = factor * lanes * sum(costs.lane) / data.draw(st.integers(1, workers))
    limit = data.draw(st.sampled_from([inf, 5e6, 5e7]))
    first = FewestWorkers(costs, 1.0, workers).within(seconds, limit)[i, j]
    assert list(first) == sorted(first)
    for many in range(1, workers + 1):
        most = -(-lanes // many)
        late = costs.busy(i, j, most, many, 1.0) > seconds or costs.cycle(i, j, most, many, 1.0) > seconds
        late |= link.carrying(costs.exchanged(i, j, many)) > seconds
        late |= costs.memory(i, j, most, many) + costs.largest_graph[i][j - i - 1] > limit
        assert late or first[many - 1] == many
        assert many > 1 or not late or first[0] > 1


def test_the_least_memory_of_many_lanes_and_devices_is_soon_told() -> None:
    profile = network(*(block(n, 0.02, 1.0 + n % 4) for n in range(8)))
    begun = time.process_time()
    with pytest.raises(ConfigError, match="no plan keeps to the memory limit"):
        best_plan(profile, Cluster(16, memory_limit=1e4))
    assert time.process_time() - begun < 5.0


def test_sixty_four_blocks_on_sixty_four_devices_take_less_than_a_second() -> None:
    profile = network(*(block(n, 0.02 + 0.013 * (n * 37 % 11), 1.0 + n % 5, 2e4 / (1 + n // 8)) for n in range(64)))
    begun = time.process_time()
    found = PlanSearch(profile, Cluster(64), 4).least()
    assert time.process_time() - begun < 1.0
    assert found is not None
    pipeline = best_pipeline(profile, Cluster(64))
    assert pipeline is not None
    assert found.rate > pipeline.rate


MIXED = (1.0,) * 8 + (0.25,) * 8
FROM_HOST = NetworkLink(5e9, 2e-5, 1 / 5e9, wired=False, message=1e-4)
CLUSTERS = {
    "two speeds": Cluster(16, speeds=MIXED),
    "two speeds on a link": Cluster(16, NetworkLink(1e9, 5e-5, 4e-10, 4e-10, message=1e-4), speeds=MIXED[::-1]),
    "shared cores": Cluster(8, FROM_HOST, cores=2),
    "a memory limit": Cluster(8, memory_limit=1.5e8),
}


@pytest.mark.parametrize("lanes", [4, 32])
@pytest.mark.parametrize("name", CLUSTERS)
def test_thirty_blocks_on_unlike_devices_take_seconds_at_most(name: str, lanes: int) -> None:
    sizes = [(0.02 + 0.013 * (n * 37 % 11), 1.0 + n % 5, 2e4 / (1 + n // 8)) for n in range(30)]
    profile = network(*(block(n, *each) for n, each in enumerate(sizes)))
    begun = time.process_time()
    assert PlanSearch(profile, CLUSTERS[name], lanes).least()
    assert time.process_time() - begun < 5.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("block0 @ 0 | block1 @ 1", False),
        ("* @ 0, 1 by batch", False),
        ("* @ 0, 1", True),  # printed as 0:0-1, 1:2-3
    ],
)
def test_lanes_that_a_plan_does_not_say_are_told(text: str, said: bool) -> None:
    profile = network(block(0, 0.1, 0.1), block(1, 0.1, 0.1))
    given_one = forecast(profile, Cluster(2), lanes=4, plan=Plan.parse(text, profile.names, 4))
    told = [] if said else ["the plan's text does not say its lanes: --lanes 4 goes with it"]
    assert list(remarks(given_one)) == told


def test_more_devices_are_of_the_same_mix() -> None:
    assert Cluster(2, speeds=(1.0, 0.5)).with_devices(5).speeds == (1.0, 0.5, 1.0, 0.5, 1.0)
    assert Cluster(2, speeds=(0.5, 1.0)).with_devices(5).speeds == (1.0, 0.5, 1.0, 0.5, 1.0)
    assert Cluster(3, speeds=(0.5, 1.0, 1.0)).with_devices(2).speeds == (1.0, 1.0)
    assert Cluster(2).with_devices(5).speeds == ()


def test_links_and_sizes_are_read_as_people_write_them() -> None:
    assert parse_link("1gbit").rate == 125e6
    assert parse_link("25 Gbit/s, 2ms") == NetworkLink(25e9 / 8, 2e-3)
    assert parse_link("3GB/s,1ms") == NetworkLink(3e9, 1e-3)
    assert parse_bytes("8GiB") == 8 * 2**30
    assert parse_bytes("1.5 GB") == 1.5e9
    for text in ("", "fast", "1", "-1gbit", "0gbit", "1gbit,", "1gbit,fast", "gbit"):
        with pytest.raises(ConfigError, match="not a link"):
            parse_link(text)
    for text in ("", "8", "0GiB", "GiB", "-1GB", "8 apples"):
        with pytest.raises(ConfigError, match="not a size"):
            parse_bytes(text)
