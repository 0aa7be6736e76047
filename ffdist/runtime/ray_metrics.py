"""A run's progress as metrics of Ray's, for its dashboard and for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from ray.util.metrics import Gauge

from ffdist.events import EpochEnded, Observer, ProgressMade, RunEvent

SHARES = {"busy": "computing", "no_data": "waiting for data", "no_credit": "waiting for room in the next queue"}
TAGS = ("stage", "worker")
"""What tells a stage's gauges apart: several workers may share a stage, and one may serve in several."""


def metered(observer: Observer) -> Callable[[RunEvent], None]:
    """`observer`, which also sets gauges: ffdist_step, ffdist_samples_per_second, ffdist_validation_accuracy, and each
    stage's ffdist_<busy|no_data|no_credit>_share and ffdist_queue_depth (of the last epoch) and ffdist_peak_bytes, by
    its workers."""
    step = Gauge("ffdist_step", "Batches learned so far.")
    speed = Gauge("ffdist_samples_per_second", "Training samples a second, in the last epoch.")
    accuracy = Gauge("ffdist_validation_accuracy", "Accuracy of the mean of blocks, after the last epoch.")
    peak = Gauge("ffdist_peak_bytes", "The most memory a stage has held.", tag_keys=TAGS)
    queue = Gauge("ffdist_queue_depth", "Batches that lay before a stage, on average.", tag_keys=TAGS)
    shares = {
        key: Gauge(f"ffdist_{key}_share", f"Share of a stage's time spent {what}.", tag_keys=TAGS)
        for key, what in SHARES.items()
    }

    def observe(event: RunEvent) -> None:
        if isinstance(event, ProgressMade):
            step.set(event.step)
        elif isinstance(event, EpochEnded):
            record = event.record
            if (rate := record["train"]["samples_per_second"]) is not None:
                speed.set(rate)
            if "validation" in record:
                accuracy.set(record["validation"]["accuracy"]["mean"])
            for stage in record["stages"]:
                tags = {key: str(stage[key]) for key in TAGS}
                peak.set(stage["peak_bytes"], tags)
                queue.set(stage["queued"], tags)
                for key, gauge in shares.items():
                    gauge.set(stage[key] / stage["seconds"], tags)
        observer(event)

    return observe
