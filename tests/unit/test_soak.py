"""Whether a soak's speed was steady: told by its trend and the trend's uncertainty."""

from __future__ import annotations

import math
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ffdist.bench.soak import trend_of, watched


def noisy(last: float, noise: float, count: int = 60) -> list[float]:
    """From 1,000 a second to `last` of that, with noise around it."""
    draw = random.Random(0)
    return [1000 * last ** (i / (count - 1)) * math.exp(draw.gauss(0, noise)) for i in range(count)]


@pytest.mark.parametrize(
    ("last", "noise", "expected"),
    [
        (1.0, 0.02, "steady within 5%"),
        (0.97, 0.001, "a trend, of less than 5%"),
        (0.8, 0.02, "not steady"),
        (1.25, 0.02, "not steady"),
        (1.0, 0.5, "no trend is shown, and no steadiness either"),
    ],
)
def test_a_trend_says_what_the_values_show_and_no_more(last: float, noise: float, expected: str) -> None:
    trend = trend_of(noisy(last, noise))
    assert trend
    assert expected in trend.summary
    assert trend.low <= math.log(last) <= trend.high or noise < 0.01


def test_a_trend_without_noise_is_the_change_itself() -> None:
    trend = trend_of(noisy(0.9, 0.0))
    assert trend
    assert trend.change == pytest.approx(math.log(0.9), rel=0.03)
    assert trend.error < 1e-6


def test_the_interval_holds_no_change_in_nineteen_of_twenty() -> None:
    draw = random.Random(1)
    trends = [trend_of([math.exp(draw.gauss(0, 0.1)) for _ in range(60)]) for _ in range(400)]
    held = sum(trend is not None and trend.low <= 0 <= trend.high for trend in trends)
    assert 0.92 <= held / 400 <= 0.98


def test_of_few_values_there_is_no_trend() -> None:
    assert trend_of([1000.0] * 19) is None


def test_a_run_that_ends_by_itself_is_waited_for_no_longer(tmp_path: Path) -> None:
    """Between two looks at a soak of an hour lies a minute."""
    process, began = subprocess.Popen([sys.executable, "-c", ""]), time.monotonic()
    assert watched(process, tmp_path, 3600, lambda text: None) == []
    assert time.monotonic() - began < 30
