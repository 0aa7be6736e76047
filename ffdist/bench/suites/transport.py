"""The rate of an edge between two processes, against one thread's copies in memory."""

from __future__ import annotations

from ffdist.bench.harness.probe import Probe
from ffdist.bench.harness.result import BenchResult, Plot, Progress, Series
from ffdist.bench.harness.rounds import MAX_TRIES_PER_ROUND
from ffdist.bench.harness.summary import Summary
from ffdist.bench.harness.table import ResultTable, spread_of
from ffdist.bench.settings import BenchSettings
from ffdist.transport.measure import TransportRate, measure_transport

KIB = 1024


def transport(settings: BenchSettings, progress: Progress) -> BenchResult:
    """Messages and bytes a second by size; the transports take turns with the copy in every round."""
    with Probe(2) as probe:
        attempt, lowest, rates = 0, 0.0, []
        while attempt < MAX_TRIES_PER_ROUND and lowest < probe.required:
            attempt += 1
            progress(f"attempt {attempt}")
            before = probe.measure()
            rates = measure_transport(rounds=settings.compare.rounds, depth=settings.train.plan.queue)
            lowest = min(before, probe.measure())
    trusted = lowest >= probe.required
    notes = [f"attempt {attempt}; the probe gave {lowest:.2f} around it ({probe.required:.2f} wanted)"]
    if not trusted:
        notes.append("NOT RELIABLE: the cores were never free together; the figures are of a discarded attempt")
    notes.append("shared-memory hands large tensors over where they lie: the sender's copy is the only one")
    notes.append("local passes references within one process: its MB/s is no copy's")
    made = rate_table(rates)
    summary = {"transport": made.drawn_cells(), "trusted": trusted}
    return BenchResult("transport", summary, [made], notes, shares(rates))


def rate_table(rates: list[TransportRate]) -> ResultTable:
    """A line for each transport and size of a message."""
    columns = {
        "transport": "side",
        "KiB": "kib",
        "messages/s": "messages",
        "MB/s": "bandwidth",
        "of memcpy": "ratio",
        **spread_of("ratio"),
    }
    units = {"messages": "messages/s", "bandwidth": "MB/s", "ratio": "of memcpy"}
    made = ResultTable("transport", "one producer, one consumer", columns, units)
    for r in rates:
        ratio = Summary(r.ratio, r.ratio_min, r.ratio_max, r.num_rounds)
        made.add(
            side=r.transport, kib=r.message_bytes // KIB, messages=r.messages_per_s, bandwidth=r.mb_per_s, ratio=ratio
        )
    return made


def shares(rates: list[TransportRate]) -> Plot:
    series: Series = {}
    for r in rates:
        if r.transport != "local":
            series.setdefault(r.transport, []).append((r.message_bytes // KIB, r.ratio, r.ratio_min, r.ratio_max))
    return Plot("lines", "one producer, one consumer", "KiB a message", "of a one-thread memcpy", series, log_x=True)
