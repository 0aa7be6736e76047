"""A worker's stages at work, and where the stream begins and ends."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING

import torch

from ffdist.device import enter, name_of, queues
from ffdist.errors import StageError
from ffdist.events import Observer, RunStarted
from ffdist.loading import import_seconds
from ffdist.pipeline.initial import make_from_data
from ffdist.pipeline.memory import Memory
from ffdist.pipeline.message import Stop
from ffdist.pipeline.own_metrics import OwnMetrics
from ffdist.pipeline.plan import build_block, split_by_stage
from ffdist.pipeline.predictors import accuracy_by
from ffdist.pipeline.profile import TorchProfile
from ffdist.pipeline.pulses import pulses_of
from ffdist.pipeline.score_table import KNOWN, RECENT, ScoreSender, ScoreTable
from ffdist.pipeline.sink import Sink
from ffdist.pipeline.source import Position, Source, StopAtOnce
from ffdist.pipeline.stage import Stage
from ffdist.pipeline.stage_group import StageGroup
from ffdist.pipeline.tensor_bytes import counter_here, counting
from ffdist.pipeline.trace import Trace
from ffdist.pipeline.turn import Outbox, Turn
from ffdist.report.log import StageLog, run_log
from ffdist.runtime.heartbeat import stacks_to
from ffdist.runtime.meeting import await_key, set_key
from ffdist.runtime.nonfinite import NonfiniteRecorder
from ffdist.runtime.polling import polling
from ffdist.runtime.resumed_log import begin_logs
from ffdist.runtime.routes import Route, sink_is_on_last_stage
from ffdist.runtime.tracing import (
    PROFILES,
    ClockOffset,
    TraceRow,
    common_clock,
    first_of,
    part_file,
    tracing,
    window_of,
    write_part,
)
from ffdist.runtime.worker_edges import WorkerEdges
from ffdist.snapshot import SnapshotStore

if TYPE_CHECKING:
    from ffdist.pipeline.source import Loaders
    from ffdist.runtime.edges import EdgeEnds
    from ffdist.runtime.worker import AgreedStart, Worker

GRACE = 5.0
"""Seconds in which a worker's other parts end once its edges are closed."""
END_EARLY = "end early"
"""Under which the first worker tells the one whose source leads that it was told to stop."""
POLL_SECONDS = 0.5
"""Seconds between two looks whether the first worker was told to stop."""


class StoppedBeforeStartError(StageError):
    """A worker was told to stop before it had begun."""


@dataclass
class WorkerStages:
    """One worker's stages, joined to the others' by edges that are open."""

    worker: Worker
    start: AgreedStart
    routes: Sequence[Route]
    edge_ends: EdgeEnds
    device: torch.device
    held: int
    """Bytes that the process held before."""
    kinds: Sequence[str]
    """What the edges of the run travel by."""

    def __post_init__(self) -> None:
        self.job = self.worker.job
        self.world = self.worker.world
        self.plan = self.start.plan
        self.me = self.world.rank
        kept = self.job.settings
        stops = "mean" if kept.training.early_stop is not None else None
        self.judge = kept.run.keep_best or stops
        """The predictor by which the best epoch is known, where its snapshot is kept."""
        self.snapshots = SnapshotStore(self.job.run, self.job.names, keep=kept.run.keep, keep_best=self.judge)
        self.stages = self.plan.stages_of(self.me)
        self.turn = Turn() if len(self.stages) > 1 else None
        self.ends_stream = self.me == self.plan.workers - 1
        self.leader = self.plan.stages[0].workers[0]
        """The worker whose source decides when to stop early."""
        self.threads: list[Thread] = []
        """The threads of its parts, where there are several."""
        self.window = window_of(self.job.settings, self.start) if self.job.run else range(0)
        self.clock = ClockOffset(0, 0)
        """To the first worker's, where there is a trace."""
        self.edges = WorkerEdges(self.plan, self.me, self.routes, self.edge_ends)
        self.made: list[Stage] = []
        self.logs: list[StageLog] = []

    def run(self) -> None:
        """Run until the stream stops. Raises the error that explains the others where one of its parts fails."""
        if self.window:
            self.clock = common_clock(self.worker.store, self.world, self.job.timeout)
        self.worker.activity.set("building its blocks")
        with self._passing_stop_on(), ExitStack() as ends:
            parts = [self._stage(index, ends) for index in self.stages]
            if self.ends_stream and not sink_is_on_last_stage(self.plan):
                parts.append(self._collector())
            if self.ends_stream:
                self._announce()
            if self.worker.stop.is_set():
                raise StoppedBeforeStartError("told to stop before the stages were ready")
            self._note_ready()
            self.worker.activity.what = self.at
            self.worker.ready()
            run_in_threads(parts, lambda: enter(self.device), self.threads)

    def _note_ready(self) -> None:
        """Note in its log what its start took: imports are within one of the others, or before them."""
        imports = import_seconds(forget=True)
        for log in self.logs:
            log.write(f"ready; seconds: imports {imports:.2f}; {self.worker.activity.durations()}")

    def at(self) -> str:
        """The place of each stage in the stream, and what the worker waits for."""
        places = [f"stage {stage.index} at batch {stage.step}" for stage in self.made]
        return ", ".join([*places, *self.edges.waits()])

    def join(self) -> None:
        """Its parts have ended; after an error they do so when its edges are closed, unless one hangs."""
        for thread in self.threads:
            thread.join(GRACE)

    def _stage(self, index: int, ends: ExitStack) -> Callable[[], None]:
        """A stage's whole work, ready to begin."""
        job, world, manifest = self.job, self.world, self.start.manifest
        mine = self.plan.stages[index]
        lanes = mine.lanes_of(self.me)
        group = self.edges.stage_group(index, self.worker.stop if index == 0 and self.me == self.leader else None)
        config = job.block_config(self.device, max(1, self.start.steps * job.settings.training.epochs))
        specs = split_by_stage(job.block_specs(), self.plan.blocks_per_stage)[index]
        blocks = [build_block(job.chain, spec, job.objective, config) for spec in specs]
        stage = Stage(index, blocks, self.snapshots.save, lanes=lanes, group=group, turn=self.turn)
        stage.worker, stage.restore = self.me, self.snapshots.restore
        self.made.append(stage)
        stage.memory = Memory(self.device, self.held)
        self._watch(stage)
        loaders = job.loaders() if index == 0 else None
        if manifest:
            self.snapshots.load(stage.blocks, manifest)
        elif loaders:
            make_from_data(stage.blocks[0].module, loaders.train)
        log = ends.enter_context(StageLog(job.run, index, self.me if group else None))
        self.logs.append(log)
        place = f"{self.device} ({name_of(self.device)})" if queues(self.device) else self.device
        threads = torch.get_num_threads()
        if log.file and self.job.watched:
            stacks_to(log.file)
            ends.callback(stacks_to)  # before it closes, and its descriptor is another file's
        log.write(f"{stage} of {len(self.plan.stages)} on {place}, {threads} threads, host {platform.node()}")
        if not self.plan.is_pipeline:
            log.write(f"worker {self.me} of {world.size}; plan: {self.plan}")
        log.write(f"edges of the run: {', '.join(self.kinds) or 'none'}")
        stage.on_epoch = log.epoch
        leads = group is None or group.leads or group.by_batch  # by batch, each alone knows of its batches
        keeper = NonfiniteRecorder(job.run, lambda: job.loaders().train, leads, log.write, self.me)
        for check in stage.finite_checks:
            check.keep = keeper
        outbox = self._outbox(index, lanes)
        if loaders:
            scores = self._score_table(loaders)
            source = self._source(loaders, lanes, group, scores)
            return lambda: self._begin(stage, source, outbox, scores)
        inbox = self.edges.inbox(index, lanes)
        stage.take_queued = inbox.take_queued
        return lambda: stage.run(inbox, outbox)

    def _watch(self, stage: Stage) -> None:
        """Give it its trace and its profile, where the settings ask for them."""
        run, watch = self.job.run, self.job.settings.watch
        if run is None:
            return
        if self.window:
            row = TraceRow(self.me, stage.index, [block.spec.name for block in stage.blocks], str(self.device))
            save = partial(write_part, run, row, offset=self.clock)
            stage.trace = Trace(self.window, self.device, lambda spans, truncated: save(spans, truncated=truncated))
        path = run / PROFILES / f"stage-{stage.index}-worker-{self.me}.json"
        stage.profile = TorchProfile(path, first_of(self.job.settings, self.start), watch.profile, self.device)

    def _begin(self, stage: Stage, source: Source, outbox: Outbox, scores: ScoreTable | None) -> None:
        stage.run(source, outbox)
        if scores:
            scores.drain(source.at.step)

    def _collector(self) -> Callable[[], None]:
        """The sink's work, where it takes what several workers send."""
        inbox = self.edges.sink_inbox()
        sink = self._sink()

        def collect() -> None:
            for message in inbox:
                sink.send(message)
                if isinstance(message, Stop):
                    return
                del message

        return collect

    def _outbox(self, index: int, lanes: range) -> Outbox:
        """The outbox of a stage's messages: to the next stage, or to the sink."""
        if index == len(self.plan.stages) - 1:
            if sink_is_on_last_stage(self.plan):
                return self._sink()
            return self.edges.to_sink()
        return self.edges.outbox(index, lanes)

    def _score_table(self, loaders: Loaders) -> ScoreTable | None:
        """The source's end of the edge back from the sink."""
        receiver = self.edges.score_receiver()
        if not receiver:
            return None
        job, manifest, store = self.job, self.start.manifest, self.snapshots
        recent = store.load_extra_file(manifest, RECENT)[0].get("scores", ()) if manifest else ()
        table = ScoreTable(
            loaders.train,
            job.chain.num_classes,
            job.objective.score_lag,
            receiver,
            store.save_extra_file,
            recent,
        )
        if manifest:
            table.load_state(*store.load_extra_file(manifest, KNOWN))
        return table

    def _source(self, loaders: Loaders, lanes: range, group: StageGroup | None, scores: ScoreTable | None) -> Source:
        start, history, manifest = Position(), [], self.start.manifest
        if manifest:
            start = Position(manifest.step, manifest.epoch, manifest.batch)
            seen = [r["validation"]["accuracy"] for r in manifest.records if "validation" in r]
            history = [accuracy_by(self.judge or "mean", accuracy) for accuracy in seen]
        return Source(
            loaders,
            self.job.objective,
            self.job.settings.training,
            snapshot_every=self.job.settings.run.snapshot_every,
            pulses=pulses_of(self.job.settings.watch.log_every, group, leads=self.me == self.leader),
            num_classes=self.job.chain.num_classes,
            start=start,
            history=history,
            validation_of=self._validation_of,
            score_table=scores,
            stop=group or StopAtOnce(self.worker.stop),
            lanes=lanes,
            orders=self.plan.stages[0].orders_of(self.me),
            leads=self.me == self.leader,
            is_kept=self.snapshots.is_kept,
        )

    def _validation_of(self, epoch: int) -> float:
        failure = "the last stage did not tell its validation accuracy"
        key = validation_key(epoch)
        return float(await_key(self.worker.store, key, self.job.timeout, failure=failure, where=str(self.world)))

    def _announce(self) -> None:
        """Tell the run's folder and the observers that all is ready; by the last worker alone."""
        if self.job.ready:
            self.job.ready()
        manifest = self.start.manifest
        step, done = (manifest.step, manifest.epoch) if manifest else (0, 0)
        epochs = self.job.settings.training.epochs
        epoch = min(done + 1, epochs)
        self.worker.observer(RunStarted(self.start.steps, epochs, step, epoch))

    def _sink(self) -> Sink:
        manifest = self.start.manifest
        records, here = manifest.records if manifest else [], str(self.world)
        store = self.worker.store
        if self.job.run:
            begin_logs(self.job.run, records, manifest.step if manifest else 0)
        return Sink(
            commit=self.snapshots.commit,
            publish=lambda epoch, accuracy: set_key(store, validation_key(epoch), repr(accuracy), where=here),
            observer=run_log(self.job.run, self._traced()),
            score_sender=self._score_sender(),
            records=records,
            predictor=self.judge or "mean",
            restored=self.snapshots.end_with,
            metrics=OwnMetrics(self.job.own_metrics(), self.job.settings.training.seed),
            report_every=self.job.report_every,
        )

    def _traced(self) -> Observer:
        """The run's observers; before they hear of an event, the trace is put together."""
        run = self.job.run
        if run is None or not self.window:
            return self.worker.observer
        rows = [TraceRow(w, i, (), "") for i, stage in enumerate(self.plan.stages) for w in stage.workers]
        return tracing(run, self.window, [part_file(run, row) for row in rows], self.worker.observer)

    def _score_sender(self) -> ScoreSender | None:
        """The sink's ends of the edges back to the source."""
        senders = self.edges.score_senders()
        if not senders:
            return None
        manifest, store = self.start.manifest, self.snapshots
        recent = store.load_extra_file(manifest, RECENT)[0].get("scores", ()) if manifest else ()
        return ScoreSender(senders, self.job.objective.score_lag, store.save_extra_file, recent)

    def _passing_stop_on(self) -> AbstractContextManager[None]:
        """Launchers tell rank 0; where another worker's source leads, it hears of it by the store, within."""
        stop, store = self.worker.stop, self.worker.store
        if self.leader == 0 or self.me not in (0, self.leader):
            return nullcontext()
        if self.me == 0:
            return polling(stop.is_set, lambda: store.set(END_EARLY, ""), POLL_SECONDS)
        return polling(lambda: store.check([END_EARLY]), stop.set, POLL_SECONDS)


def validation_key(epoch: int) -> str:
    """The key under which workers find the accuracy of an epoch (from 0); its name, which errors show, counts from
    1."""
    return f"validation of epoch {epoch + 1}"


def run_in_threads(parts: Sequence[Callable[[], None]], enter_device: Callable[[], None], begun: list[Thread]) -> None:
    """Run all parts, in threads where there are several. Raises the first error, at once: whoever called then closes
    this worker's edges, by which the other parts end, too. begun: the threads go there."""
    if len(parts) == 1:
        parts[0]()
        return
    threads, counter = torch.get_num_threads(), counter_here()
    ended: SimpleQueue[BaseException | None] = SimpleQueue()

    def run_part(part: Callable[[], None]) -> None:
        try:
            torch.set_num_threads(threads)  # each thread has a number of its own
            enter_device()
            with counting(counter):
                part()
        except BaseException as error:  # raised again by the one that waits
            ended.put(error)
        else:
            ended.put(None)

    for part in parts:
        # with a copy of this context, where the settings are that errors and notes are spelled by
        begun.append(Thread(target=copy_context().run, args=(run_part, part), daemon=True, name="ffdist part"))
        begun[-1].start()
    for _ in parts:
        if (error := ended.get()) is not None:
            raise error
