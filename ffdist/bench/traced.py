"""A few batches of ffdist's stages beside those of a 1F1B pipeline, span by span: so that the bubbles are seen."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import wraps
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed as dist

from ffdist.baselines.known import family
from ffdist.bench.baseline_side import BaselineRank
from ffdist.bench.harness.result import Progress
from ffdist.bench.harness.window import endless
from ffdist.bench.harness.worker_pool import PoolMember, WorkerPool
from ffdist.bench.settings import BenchSettings
from ffdist.bench.whole_runs import whole_worker
from ffdist.device import synchronize
from ffdist.errors import ConfigError, FfdistError, setting
from ffdist.page.spans import PageSpan, spans_of, without_overlap
from ffdist.runtime.start import SettingsJob
from ffdist.runtime.tracing import TRACE
from ffdist.runtime.worker_main import MakeJob
from ffdist.scratch import scratch_folder

WARM, TRACED, SHOWN = 10, 15, 5
"""Batches before those that are traced; traced ones; and those of them that are drawn, where all stages are busy."""
CHUNKS = {"forward_one_chunk": "forward", "backward_one_chunk": "backward", "backward_weight_one_chunk": "backward"}
"""What a stage of torch's pipelines does with a microbatch."""


class Traced(NamedTuple):
    """One side's stages at work."""

    title: str
    rows: dict[str, list[PageSpan]]
    """Spans by row, one row a stage; microseconds from the first span."""

    @property
    def length(self) -> float:
        """Microseconds from the first span's begin to the last one's end."""
        return max((span.end for spans in self.rows.values() for span in spans), default=0.0)

    @property
    def computing(self) -> float:
        """The share of all stages' time in which they computed."""
        busy = sum(span.end - span.begin for spans in self.rows.values() for span in spans if span.style == "busy")
        return busy / max(1e-9, self.length * len(self.rows))


def draw_timelines(settings: BenchSettings, progress: Progress) -> Path:
    """The picture of both sides. Raises ConfigError where no 1F1B pipeline fits the network."""
    from ffdist.bench.plot import draw_traces

    progress("tracing ours")
    ours = trace_ours(settings)
    progress("tracing 1f1b")
    theirs = trace_1f1b(settings)
    title = f"{settings.subject}, batch {settings.batch_size}, {settings.precision}: {SHOWN} batches"
    draw_traces(title, [ours, theirs], settings.compare.picture)
    return settings.compare.picture


def trace_ours(settings: BenchSettings) -> Traced:
    """Trace a run of a few batches with ffdist's own --trace."""
    stages, wanted = settings.num_stages, (WARM + TRACED + SHOWN) * settings.batch_size
    samples = min(wanted, len(settings.job(1)().images.train))
    with scratch_folder() as folder, ExitStack() as ends:
        train = settings.train_settings(stages).changed(
            trace=True,
            trace_from=WARM + 1,
            trace_steps=TRACED,
            samples=samples,
            epochs=ceil(wanted / samples),
        )
        pool = ends.enter_context(WorkerPool("ours", TracedStage(SettingsJob(train, folder, stages)), stages))
        pool.finish()
        events = json.loads((folder / TRACE).read_text())["traceEvents"]
    return traced("ours", spans_of(events), "forward")


@dataclass(frozen=True)
class TracedStage:
    """A stage of ours, in a process of a benchmark's."""

    make_job: MakeJob

    def __call__(self, member: PoolMember) -> None:
        whole_worker(self.make_job(), member, lambda event: None).run()


def trace_1f1b(settings: BenchSettings) -> Traced:
    """The first of the 1F1B schedules that fits the network."""
    refused = dict[str, str]()
    for variant in family("1f1b"):
        with ExitStack() as ends:
            size = settings.compare.devices
            pool = ends.enter_context(WorkerPool(variant, TracedBaselineMain(settings.job(1), variant), size))
            words = pool.finish()
        if isinstance(words[0], str):
            refused[variant] = words[0]
            continue
        first = min(begin for spans in words for _, begin, _ in spans)
        spans = [
            PageSpan(f"stage {rank}", name, "busy", (begin - first) / 1e3, (end - first) / 1e3, (rank, 0))
            for rank, each in enumerate(words)
            for name, begin, end in each
        ]
        return traced(f"backpropagation, {variant}", spans, "update")
    reasons = "\n".join(refused.values())
    raise ConfigError("no 1F1B pipeline fits this network", where=setting("watch.trace"), got=reasons)


@dataclass(frozen=True)
class TracedBaselineMain:
    """A rank of a 1F1B pipeline. It returns (name, begin, end) of each span in nanoseconds, or why it does not fit."""

    make_job: MakeJob
    variant: str

    def __call__(self, member: PoolMember) -> list[tuple[str, int, int]] | str:
        rank = BaselineRank.join_group(self.make_job, member)
        spans = list[tuple[str, int, int]]()
        try:
            learner: Any = rank.learner(self.variant)
        except FfdistError as error:
            dist.destroy_process_group()
            return str(error)

        def timed(call: Callable[..., Any], name: str) -> Callable[..., Any]:
            @wraps(call)
            def wrapped(*args: Any, **options: Any) -> Any:
                begin = time.perf_counter_ns()
                result = call(*args, **options)
                synchronize(rank.config.device)
                spans.append((name, begin, time.perf_counter_ns()))
                return result

            return wrapped

        for stage in getattr(learner.steps, "_stages", None) or [learner.steps._stage]:
            for method, name in CHUNKS.items():
                setattr(stage, method, timed(getattr(stage, method), name))
        learner.optimizer.step = timed(learner.optimizer.step, "update")
        loader = rank.job.loaders().train
        if learner.shard:
            loader.shard = learner.shard
        batches = endless(loader)
        for number in range(WARM + TRACED):
            if number == WARM:
                dist.barrier()
                spans.clear()
            learner.learn(*(next(batches) if learner.shard else (None, None)))
        dist.barrier()
        dist.destroy_process_group()
        return spans


def traced(title: str, spans: Sequence[PageSpan], once: str) -> Traced:
    """The time of some batches, from when all stages are at work. once: what the last stage does once a batch in each
    of its blocks, or in all of them."""
    rows: dict[str, list[PageSpan]] = {}
    for span in sorted(spans, key=lambda each: (each.place, each.begin)):
        rows.setdefault(span.row.partition(", ")[2] or span.row, []).append(span)
    last = [span for span in list(rows.values())[-1] if span.name.endswith(once)]
    turns = [span.begin for span in last if span.name == last[0].name]
    a_batch = (turns[-1] - turns[0]) / max(1, len(turns) - 1)
    begin = max(min(span.begin for span in each if span.style == "busy") for each in rows.values())
    made = Traced(
        title, {row: clip_spans(without_overlap(each), begin, begin + SHOWN * a_batch) for row, each in rows.items()}
    )
    pace = f"{a_batch / 1e3:.3g} ms a batch, stages compute {made.computing:.0%} of the time"
    return made._replace(title=f"{title}: {pace}")


def clip_spans(spans: Sequence[PageSpan], begin: float, end: float) -> list[PageSpan]:
    """The spans between two times, clipped, and counted from the first."""
    clipped = [replace(s, begin=max(begin, s.begin) - begin, end=min(end, s.end) - begin) for s in spans]
    return [span for span in clipped if span.end > span.begin]
