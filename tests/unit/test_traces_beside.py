"""The picture of ours beside a 1F1B pipeline: what is drawn of which spans."""

from __future__ import annotations

from pathlib import Path

import pytest

from ffdist.bench.plot import draw_traces, kind_of
from ffdist.bench.traced import SHOWN, traced
from ffdist.errors import ConfigError
from ffdist.page.spans import PageSpan


def two_stages(batches: int) -> list[PageSpan]:
    """The first works 4 of 10 ms a batch, the second, which begins a batch later, 8."""
    spans = list[PageSpan]()
    for stage, work in ((0, 2), (1, 4)):
        for batch in range(batches):
            at = (batch + stage) * 10_000.0
            row = f"worker {stage}, stage {stage}: block{stage}"
            for begin, name in ((at, "forward"), (at + work * 1000, "learn")):
                spans.append(PageSpan(row, f"block{stage} {name}", "busy", begin, begin + work * 1000, (stage, 0)))
            spans.append(PageSpan(row, "wait for batch", "no_data", at + work * 2000, at + 10_000, (stage, 0)))
    return spans


def test_so_many_batches_are_shown_from_when_all_stages_work() -> None:
    side = traced("ours", two_stages(3 * SHOWN), "forward")
    assert list(side.rows) == ["stage 0: block0", "stage 1: block1"]
    assert side.length == pytest.approx(SHOWN * 10_000)
    assert side.computing == pytest.approx((0.4 + 0.8) / 2)
    assert side.title == "ours: 10 ms a batch, stages compute 60% of the time"
    assert all(span.begin >= 0 for spans in side.rows.values() for span in spans)


def test_both_sides_are_drawn_and_waiting_is_left_white(tmp_path: Path) -> None:
    side = traced("ours", two_stages(3 * SHOWN), "forward")
    kinds = {kind_of(span) for spans in side.rows.values() for span in spans}
    assert kinds == {"forward", "backward", None}
    assert kind_of(PageSpan("", "send gradients", "exchange", 0, 1)) == "sends and receives"
    assert kind_of(PageSpan("", "update", "busy", 0, 1)) == "update"
    draw_traces("both", [side, side], tmp_path / "new" / "both.svg")
    assert (tmp_path / "new" / "both.svg").read_text().count("<svg") == 1
    draw_traces("both", [side, side], tmp_path / "both.png")
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match="cannot be written"):
        draw_traces("both", [side], tmp_path / "both.txt")
