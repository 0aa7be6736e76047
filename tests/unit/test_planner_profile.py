"""What the planner measures, and what it keeps of it."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from ffdist import SFF, models, open_data
from ffdist.digests import with_digest
from ffdist.models import Chain
from ffdist.planner import NetworkLink, Profile, SampleCurve
from ffdist.planner.cached import LARGE, SMALL, described, profile_of, ring_of
from ffdist.planner.measure import sizes_of
from ffdist.runtime.job import Job
from ffdist.settings import Settings
from ffdist.transport.measure import ALL_REDUCE

BATCH = 32


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FFDIST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("ffdist.planner.measure.MIN_REPEATS", 2)
    monkeypatch.setattr("ffdist.planner.measure.EXTRA_SECONDS", 0.0)
    return tmp_path / "cache" / "profiles"


def measured(widths: tuple[int, int, int] = (4, 6, 8), *, backprop: bool = False, fresh: bool = False, **told: Any):
    images = open_data("digits")
    settings = Settings().changed(batch_size=BATCH, **told)
    job = Job(models.cnnb(images.shape, images.num_classes, widths), SFF(kernel=1), images, settings)
    return profile_of(job.chain, job.objective, settings, job.loaders().train, backprop=backprop, fresh=fresh)


def test_every_block_has_its_times_bytes_and_parameters() -> None:
    profile = measured(backprop=True)
    assert profile.names == ["conv1", "conv2", "conv3"]
    assert (profile.batch, profile.on_cpu, profile.sliced) == (BATCH, True, True)
    for block in profile.blocks:
        assert block.forward.samples == block.backward.samples == (2, 4, 8, 16, 32)
        assert all(value > 0 for curve in (block.forward, block.backward) for value in curve.values)
        assert block.weight_bytes >= 4 * block.parameters == block.gradient_bytes
        assert block.moment_bytes >= 2 * block.gradient_bytes
        assert min(block.step, block.lane, block.lanes, block.exchange) > 0
    assert [block.sent for block in profile.blocks] == [4 * 4 * 4 * 4, 6 * 2 * 2 * 4, 0]
    first = 4 * 8 * 8 * 4 * BATCH  # the output of its convolution, which batch norm keeps
    assert profile.blocks[0].graph.at(BATCH) > 2 * first
    assert profile.blocks[0].graph.at(BATCH) > 2 * profile.blocks[0].graph.at(BATCH / 4)
    assert profile.backprop is not None
    assert [block.name for block in profile.backprop.blocks] == ["conv1", "conv2", "conv3", "classifier"]


def test_frozen_blocks_have_nothing_to_do_backward() -> None:
    def frozen() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 8)).requires_grad_(False)

    images, settings = open_data("digits"), Settings().changed(batch_size=BATCH)
    chain = Chain([("frozen", frozen), ("learns", lambda: nn.Linear(8, 8))], input_shape=(1, 8, 8), num_classes=10)
    train = Job(chain, SFF(), images, settings).loaders().train
    twin = profile_of(chain, SFF(), settings, train, backprop=True).backprop
    assert twin
    first, second, _ = twin.blocks
    assert (first.backward.at(BATCH), first.gradient_bytes, first.moment_bytes, first.step) == (0.0, 0, 0, 0.0)
    assert first.weight_bytes == 4 * first.parameters == 4 * 65 * 8
    assert second.backward.at(BATCH) > 0
    assert second.gradient_bytes == 4 * 9 * 8


def test_it_is_measured_once_and_again_for_another_network_rule_batch_or_precision(cache: Path) -> None:
    first = measured()
    assert measured() == first
    assert len(list(cache.glob("profile-*.json"))) == 1
    told: list[dict[str, Any]] = [
        {"precision": "bf16"},
        {"microbatches": 2},
        {"optimizer": "sgd"},
        {"sync_norms": True},
    ]
    others = [measured((4, 6, 10)), *(measured(**each) for each in told)]
    assert len(list(cache.glob("profile-*.json"))) == 1 + len(others)
    assert measured(fresh=True) != first
    assert measured(clip=1.0).sliced is False


def test_a_profile_that_cannot_be_read_is_measured_again(cache: Path) -> None:
    measured()
    (file,) = cache.glob("profile-*.json")
    kept = json.loads(file.read_text())
    (changed := deepcopy(kept))["measured"]["blocks"][0]["name"] = "other"
    undigested = {name: kept[name] for name in ("facts", "measured")}
    of_others = with_digest(undigested | {"facts": kept["facts"] | {"batch": 7}})
    texts = [json.dumps(each) for each in (changed, undigested, of_others)]
    for text in ("", "{", '{"measured": 3}', "[1]", *texts):
        file.write_text(text)
        assert measured().names == ["conv1", "conv2", "conv3"]
        assert file.read_text() != text
        assert json.loads(file.read_text())["facts"]["batch"] == BATCH


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FFDIST_CACHE", str(tmp_path / "file"))
    assert measured().names == ["conv1", "conv2", "conv3"]
    assert "what was measured is not kept" in capsys.readouterr().err


def test_json_gives_the_same_profile() -> None:
    profile = measured(backprop=True)
    assert Profile.from_json(json.loads(json.dumps(profile.as_json()))) == profile


def test_between_sizes_a_curve_is_straight() -> None:
    curve = SampleCurve((8, 16, 32), ((1.0, 1.0, 9.0), (2.0,), (6.0,)))
    assert [curve.at(n) for n in (8, 12, 16, 24, 32, 64)] == [1.0, 1.5, 2.0, 4.0, 6.0, 12.0]
    assert curve.at(4) == 0.5
    assert SampleCurve((8, 16), ((3.0,), (4.0,))).at(4) == 2.5  # what every message takes is in it
    assert curve.at(0) == 0.0
    assert 9.0 in curve.spread


def test_sizes_are_the_batch_and_its_halves() -> None:
    assert sizes_of(128) == [8, 16, 32, 64, 128]
    assert sizes_of(3) == [2, 3]
    assert sizes_of(1) == [1]


def test_a_network_of_other_layers_is_another_network() -> None:
    def chain(*layers: nn.Module) -> list[Any]:
        return described(Chain([("one", lambda: nn.Sequential(*layers))], input_shape=(4,), num_classes=2))

    assert chain(nn.Linear(4, 3)) == chain(nn.Linear(4, 3))
    assert chain(nn.Linear(4, 3)) != chain(nn.Linear(4, 3), nn.ReLU())
    assert chain(nn.Linear(4, 3)) != chain(nn.Linear(4, 5))


def test_a_rings_step_is_what_an_all_reduce_of_two_takes() -> None:
    """Two steps, in each of which both send a half and get another."""
    message, a_byte = 3e-5, 2e-10
    rates: dict[str, float] = {}
    for size in (SMALL, LARGE):
        rates[f"{ALL_REDUCE} {size}"] = 1 / (1e-4 + size / 1e9)
        rates[f"{ALL_REDUCE} {size} cpu"] = 2 * 2 * (2 * message + size / 2 * 2 * a_byte)
    ring = ring_of(rates, NetworkLink(1e9, 5e-5, 4e-10, 4e-10, message=1e-3))
    assert (ring.rate, ring.latency) == (1e9, 5e-5)
    assert (ring.message, ring.sender, ring.receiver) == pytest.approx((message, a_byte, a_byte))
