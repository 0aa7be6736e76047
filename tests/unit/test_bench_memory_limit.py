"""A comparison under a memory limit: a size, or a share of what DDP holds."""

from __future__ import annotations

import pytest

from ffdist.bench.best import limit_bytes, share_of, with_plan
from ffdist.bench.settings import BenchSettings
from ffdist.errors import ConfigError


@pytest.mark.parametrize(("text", "share"), [("0.6", 0.6), ("60%", 0.6), (" .5 ", 0.5), ("60MiB", None), ("x", None)])
def test_a_limit_is_a_share_or_a_size(text: str, share: float | None) -> None:
    assert share_of(text) == (share if share is None else pytest.approx(share))


@pytest.mark.parametrize("text", ["0", "-0.5", "nan", "inf", "0%"])
def test_a_share_of_nothing_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="share of what DDP holds"):
        share_of(text)


def test_a_size_is_read_without_weighing_anything() -> None:
    messages: list[str] = []
    assert limit_bytes(BenchSettings().changed(memory_limit="2MiB"), messages.append) == 2 * 2**20
    assert messages == []


def test_a_limit_wants_a_plan_that_is_searched() -> None:
    with pytest.raises(ConfigError, match="searched under"):
        with_plan(BenchSettings().changed(memory_limit="2MiB", stages=2), lambda line: None)


def test_a_share_is_one_of_what_a_device_of_ddps_holds() -> None:
    messages: list[str] = []
    settings = BenchSettings().changed(
        model="mlp",
        model_args=["widths=512,512,512"],
        data="digits",
        memory_limit="0.5",
        batch_size=32,
        precision="fp32",
    )
    half = limit_bytes(settings, messages.append)
    held = float(messages[-1].split(" of ")[1].split()[0]) * 2**20
    assert half == pytest.approx(held / 2, rel=0.01)
    assert half > 2**20  # an MLP's weights and moments
