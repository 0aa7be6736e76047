"""What an edge between two processes carries, against what one thread copies in memory."""

from __future__ import annotations

from ffdist.bench.finding import Cell, Finding, Grid, Plot, Progress
from ffdist.bench.probe import Probe
from ffdist.bench.rounds import PATIENCE
from ffdist.bench.settings import BenchSettings
from ffdist.transport.measure import TransportRate, measure_transport

KIB = 1024


def transport(settings: BenchSettings, progress: Progress) -> Finding:
    """Messages and bytes a second by size; the transports take turns with the copy in every round."""
    with Probe(2) as probe:
        attempt, lowest, rates = 0, 0.0, []
        while attempt < PATIENCE and lowest < probe.least:
            attempt += 1
            progress(f"attempt {attempt}")
            before = probe.measure()
            rates = measure_transport(rounds=settings.compare.rounds, depth=settings.train.plan.queue)
            lowest = min(before, probe.measure())
    trusted = lowest >= probe.least
    notes = [f"attempt {attempt}; the probe gave {lowest:.2f} around it ({probe.least:.2f} wanted)"]
    if not trusted:
        notes.append("NOT RELIABLE: the cores were never free together; the figures are of a discarded attempt")
    rows: list[dict[str, Cell]] = [
        {"transport": r.transport, "KiB": r.message_bytes // KIB, "messages/s": r.messages_per_s, "MB/s": r.mb_per_s,
         "of memcpy": r.ratio, "least": r.ratio_min, "most": r.ratio_max, "n": r.num_rounds}
        for r in rates
    ]  # fmt: skip
    notes.append("shared-memory hands large tensors over where they lie: the sender's copy is the only one")
    notes.append("local passes references within one process: its MB/s is no copy's")
    summary = {"transport": rows, "trusted": trusted}
    return Finding("transport", summary, [Grid("one producer, one consumer", rows)], notes, shares(rates))


def shares(rates: list[TransportRate]) -> Plot:
    series: dict[str, list[tuple[int, float, float, float]]] = {}
    for r in rates:
        if r.transport != "local":
            series.setdefault(r.transport, []).append((r.message_bytes // KIB, r.ratio, r.ratio_min, r.ratio_max))
    return Plot("lines", "one producer, one consumer", "KiB a message", "of a one-thread memcpy", series, log_x=True)
