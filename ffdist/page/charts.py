"""The charts of a page, made of runs' records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean
from typing import Any

from markupsafe import Markup

from ffdist.page.run import RunView
from ffdist.page.svg import Axis, BarPart, ChartCurve, bars_chart, curves_chart, part_swatch, swatch
from ffdist.page.text import MIB, count, duration, evenly, loss, mebibytes, number, percent
from ffdist.pipeline.fusion import FUSION
from ffdist.pipeline.predictors import PREDICTORS

Record = Mapping[str, Any]
MAX_CURVES = 16
MAX_ROWS = 40
BATCHES = Axis("batch", "{:,.0f}".format, whole=True)
EPOCHS, SECONDS = Axis("epoch", "{:g}".format, whole=True), Axis("time of training", lambda x: brief(x))
SHARE = Axis("accuracy", lambda y: f"{y * 100:.4g}%")
NUMBER = Axis("value", "{:.4g}".format)
LOSS, SPEED = Axis("loss", "{:.3g}".format), Axis("samples/s", "{:,.0f}".format)
PARTS = {
    "busy": "computing",
    "exchange": "exchanging",
    "no_gradients": "waiting for others of its stage",
    "no_data": "waiting for data",
    "no_credit": "waiting for room in the next stage",
    "rest": "the rest",
}
"""The parts of a stage's time, by the names in its record."""


@dataclass(frozen=True)
class Chart:
    """A drawing, its legend, and its numbers as a table."""

    title: str
    drawing: Markup
    legend: list[tuple[Markup, str]]
    head: list[str]
    rows: list[list[str]]
    note: str = ""
    key: str = ""


def brief(seconds: float) -> str:
    """Seconds as text in the unit that suits their size."""
    if seconds >= 5400:
        return f"{seconds / 3600:.3g} h"
    return f"{seconds / 60:.3g} min" if seconds >= 90 else f"{seconds:.3g} s"


def chart(
    key: str, title: str, curves: Sequence[ChartCurve], x: Axis, y: Axis, write: Callable[[Any], str]
) -> Chart | None:
    """A chart of curves with its legend and table; None where no curve has a point.

    key: begins the ids of its parts, which must differ on the page. write: a value of y as text.
    """
    known = [curve for curve in curves if curve.known]
    drawn = evenly(known, MAX_CURVES)
    if not drawn:
        return None
    places = evenly(sorted({px for curve in drawn for px, _ in curve.points}), MAX_ROWS)
    values = [dict(curve.points) for curve in drawn]
    rows = [[x.write(px), *(write(each.get(px)) for each in values)] for px in places]
    left_out = len(known) - len(drawn)
    note = f"{len(drawn)} of {len(known)} are drawn, from the first to the last." if left_out else ""
    return Chart(
        title,
        curves_chart(key, title, drawn, x, y),
        [(swatch(i), curve.name) for i, curve in enumerate(drawn)],
        [x.label, *(curve.name for curve in drawn)],
        rows,
        note,
        key,
    )


def epochs_of(records: Sequence[Record]) -> list[float]:
    """The epochs' numbers, from 1."""
    return [float(record["epoch"]) for record in records]


def seconds_of(records: Sequence[Record]) -> list[float]:
    """Seconds of training at the end of each epoch, pauses between starts left out."""
    spent = [
        max((number(stage.get("seconds")) or 0.0 for stage in record["stages"]), default=0.0) for record in records
    ]
    return list(accumulate(spent))


def by_block(records: Sequence[Record], split: str, key: str) -> list[ChartCurve]:
    """Each block's value over the epochs."""
    xs, found = epochs_of(records), dict[str, dict[float, float | None]]()
    for x, record in zip(xs, records, strict=True):
        for block in (record.get(split) or {}).get("blocks", []):
            found.setdefault(str(block["block"]), {})[x] = number(block.get(key))
    return [ChartCurve(shown_block(name), [(x, values.get(x)) for x in xs]) for name, values in found.items()]


def own_metrics(records: Sequence[Record]) -> dict[str, ChartCurve]:
    """Charts of own metrics by name, over the epochs."""
    metrics = [(r.get("validation") or {}).get("metrics") or {} for r in records]
    names = dict.fromkeys(str(name) for each in metrics for name in each)
    xs = epochs_of(records)
    return {n: ChartCurve(n, [(x, number(each.get(n))) for x, each in zip(xs, metrics, strict=True)]) for n in names}


def shown_block(name: str) -> str:
    """A block's name for people; the fusion head has one of its own."""
    return PREDICTORS[FUSION] if name == FUSION else name


def by_predictor(records: Sequence[Record], xs: Sequence[float]) -> list[ChartCurve]:
    """Validation accuracy of each predictor over xs, one curve each."""
    return [
        ChartCurve(label, [(x, accuracy_of(record, key)) for x, record in zip(xs, records, strict=True)])
        for key, label in PREDICTORS.items()
    ]


def accuracy_of(record: Record, predictor: str) -> float | None:
    """Accuracy on the validation split."""
    return number(((record.get("validation") or {}).get("accuracy") or {}).get(predictor))


def speeds(records: Sequence[Record], name: str = "samples/s") -> ChartCurve:
    """Samples/s over the epochs."""
    return ChartCurve(name, [(float(r["epoch"]), number(r["train"].get("samples_per_second"))) for r in records])


def charts_of(view: RunView, key: str) -> dict[str, list[Chart]]:
    """Charts by section of the page."""
    records = view.records
    seen = "validation" if any(r.get("validation") for r in records) else "train"
    words = "validation" if seen == "validation" else "training"
    accuracy = [
        chart(
            f"{key}-pe",
            "Validation accuracy by predictor",
            by_predictor(records, epochs_of(records)),
            EPOCHS,
            SHARE,
            percent,
        ),
        chart(
            f"{key}-ps",
            "Validation accuracy over time",
            by_predictor(records, seconds_of(records)),
            SECONDS,
            SHARE,
            percent,
        ),
        chart(
            f"{key}-be",
            f"{words.title()} accuracy by block",
            by_block(records, seen, "accuracy"),
            EPOCHS,
            SHARE,
            percent,
        ),
    ]
    own = [
        chart(
            f"{key}-o{i}",
            f"{name}, a metric of the run's own, on the validation split",
            [curve],
            EPOCHS,
            NUMBER,
            "{:.4g}".format,
        )
        for i, (name, curve) in enumerate(own_metrics(records).items())
    ]
    losses = [
        chart(f"{key}-tl", "Training loss by block", by_block(records, "train", "loss"), EPOCHS, LOSS, loss),
        chart(f"{key}-vl", "Validation loss by block", by_block(records, "validation", "loss"), EPOCHS, LOSS, loss),
    ]
    speed = [chart(f"{key}-sp", "Samples a second by epoch", [speeds(records)], EPOCHS, SPEED, count)]
    return {
        "accuracy": [each for each in (*accuracy, *evenly(own, MAX_CURVES)) if each],
        "loss": [each for each in losses if each],
        "speed": [each for each in speed if each],
    }


def within_epochs(view: RunView, key: str) -> list[Chart]:
    """Charts of the pulses within epochs: loss and accuracy of an epoch so far, speed, and where the time goes now."""
    pulses = view.pulses
    losses = by_block_within(pulses, "loss")
    made = [
        chart(f"{key}-ql", "Training loss by block, of the epoch so far", losses, BATCHES, LOSS, loss),
        chart(
            f"{key}-qa",
            "Training accuracy by block, of the epoch so far",
            by_block_within(pulses, "accuracy"),
            BATCHES,
            SHARE,
            percent,
        ),
        chart(
            f"{key}-qs",
            "Samples a second within epochs",
            [ChartCurve("samples/s", [(float(p["step"]), number(p.get("samples_per_second"))) for p in pulses])],
            BATCHES,
            SPEED,
            count,
        ),
    ]
    if pulses and view.at_work:
        since = f"Where each stage's time goes now, up to batch {pulses[-1]['step']:,}"
        made.append(time_chart(f"{key}-qt", since, pulses[-1]["stages"]))
    return [each for each in made if each]


def by_block_within(pulses: Sequence[Record], key: str) -> list[ChartCurve]:
    """Each block's value over the batches; of several workers, their mean."""
    found: dict[str, dict[float, list[float]]] = {}
    for pulse in pulses:
        for stage in pulse["stages"]:
            for block in stage["blocks"]:
                if (value := number(block.get(key))) is not None:
                    found.setdefault(str(block["block"]), {}).setdefault(float(pulse["step"]), []).append(value)
    return [
        ChartCurve(shown_block(name), [(x, fmean(each)) for x, each in values.items()])
        for name, values in found.items()
    ]


def stage_name(stage: Record, stages: Sequence[Record]) -> str:
    """A stage's name in a chart: its number, its worker where several have that number, and its blocks."""
    alike = sum(each["stage"] == stage["stage"] for each in stages) > 1
    worker = f", worker {stage.get('worker')}" if alike else ""
    names = [str(block["block"] if isinstance(block, dict) else block) for block in stage.get("blocks", [])]
    return f"stage {stage['stage']}{worker}: {' '.join(names)}"


def shares(stage: Record) -> dict[str, float]:
    """Each part's share of a stage's time; they add up to 1."""
    seconds = number(stage.get("seconds")) or 0.0
    if seconds <= 0:
        return {}
    found = {name: (number(stage.get(name)) or 0.0) / seconds for name in PARTS if name != "rest"}
    return found | {"rest": max(0.0, 1.0 - sum(found.values()))}


def time_chart(key: str, title: str, stages: Sequence[Record]) -> Chart | None:
    """A bar for each stage: the shares of its time that it computed, waited, and so on; None without stages."""
    made = [(stage_name(stage, stages), shares(stage)) for stage in stages]
    made = [(name, parts) for name, parts in made if parts]
    if not made:
        return None
    used = [name for name in PARTS if any(parts[name] >= 0.005 for _, parts in made)]
    total = max(1.0, *(sum(parts.values()) for _, parts in made))
    rows = [
        (name, [BarPart(PARTS[each], parts[each], f"{parts[each]:.0%}", each) for each in used]) for name, parts in made
    ]
    drawing = bars_chart(key, title, rows, total)
    legend = [(part_swatch(key, each), PARTS[each]) for each in used]
    table = [[name, *(f"{parts[each]:.1%}" for each in used)] for name, parts in made]
    return Chart(title, drawing, legend, ["stage", *(PARTS[each] for each in used)], table, key=key)


def mean_stages(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Each stage's times of all epochs together; of the epochs that had the last one's plan."""
    last = records[-1]["stages"]
    places = [(stage["stage"], stage.get("worker"), stage.get("blocks")) for stage in last]
    sums = [dict.fromkeys(("seconds", *PARTS), 0.0) for _ in last]
    for record in records:
        if [(s["stage"], s.get("worker"), s.get("blocks")) for s in record["stages"]] != places:
            continue
        for summed, stage in zip(sums, record["stages"], strict=True):
            for name in summed:
                summed[name] += number(stage.get(name)) or 0.0
    return [dict(stage) | summed for stage, summed in zip(last, sums, strict=True)]


KINDS = {"run_bytes": ("held by the run", "run"), "process_bytes": ("whole process, with its libraries", "process")}


def memory_chart(key: str, stages: Sequence[Record]) -> Chart | None:
    """The peak memory of each stage: the run itself, beside the whole process."""
    rows, table = list[tuple[str, list[BarPart]]](), list[list[str]]()
    for stage in stages:
        name = stage_name(stage, stages)
        sizes = {kind: number(stage.get(kind)) for kind in KINDS}
        if sizes["process_bytes"] is None:
            sizes["process_bytes"] = number(stage.get("peak_bytes"))
        run, process = sizes["run_bytes"], sizes["process_bytes"]
        if run is None and process is None:
            continue
        rest = max(0.0, (process or 0.0) - (run or 0.0))
        parts = [
            BarPart(KINDS["run_bytes"][0], run or 0.0, mebibytes(run), "run"),
            BarPart("the rest of the process", rest, mebibytes(rest), "process"),
        ]
        rows.append((f"{name} ({mebibytes(run)} of {mebibytes(process)})", parts))
        table.append([name, mebibytes(run), mebibytes(process)])
    if not rows:
        return None
    total = max(sum(part.size for part in parts) for _, parts in rows) or MIB
    processes = {stage.get("process", i) for i, stage in enumerate(stages)}
    note = "Stages of one process: each shows the memory of the whole process." if len(processes) < len(stages) else ""
    legend = [
        (part_swatch(key, "run"), KINDS["run_bytes"][0]),
        (part_swatch(key, "process"), "the rest of the process"),
    ]
    return Chart(
        "Memory by stage, at most",
        bars_chart(key, "Memory by stage, at most", rows, total),
        legend,
        ["stage", *(text for text, _ in KINDS.values())],
        table,
        note,
        key,
    )


def comparing(views: Sequence[RunView]) -> list[Chart]:
    """Charts in which each run is a curve."""

    def over(
        xs: Callable[[Sequence[Record]], list[float]], value: Callable[[Record], float | None]
    ) -> list[ChartCurve]:
        return [
            ChartCurve(v.name, [(x, value(r)) for x, r in zip(xs(v.records), v.records, strict=True)]) for v in views
        ]

    def mean(record: Record) -> float | None:
        return accuracy_of(record, "mean")

    def last_loss(record: Record) -> float | None:
        blocks = [b for b in record["train"]["blocks"] if b["block"] != FUSION]
        return number(blocks[-1].get("loss")) if blocks else None

    made: Iterable[Chart | None] = (
        chart("cmp-e", "Validation accuracy, mean of blocks", over(epochs_of, mean), EPOCHS, SHARE, percent),
        chart("cmp-s", "Validation accuracy over time", over(seconds_of, mean), SECONDS, SHARE, percent),
        chart("cmp-l", "Training loss of the last block", over(epochs_of, last_loss), EPOCHS, LOSS, loss),
        chart("cmp-v", "Samples a second by epoch", [speeds(v.records, v.name) for v in views], EPOCHS, SPEED, count),
    )
    return [each for each in made if each]


def total_time(view: RunView) -> str:
    """The run's seconds of training in all, as text."""
    found = seconds_of(view.records)
    return duration(found[-1] if found else None)
