"""The words and numbers of a page: headline, settings, plan, starts, results, confusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ffdist.page.charts import accuracy_of, total_time
from ffdist.page.measured import SnapshotMeasurement, largest_mistakes
from ffdist.page.run import RunView
from ffdist.page.text import NONE, count, loss, mebibytes, number, percent, setting_text
from ffdist.pipeline.fusion import FUSION
from ffdist.pipeline.predictors import PREDICTORS

ALWAYS = ("data", "model", "objective", "epochs")
"""Settings that describe a run, and are shown even where they are the defaults."""
WHOLE_MATRIX = 20
"""Classes, at most, of a confusion matrix that is shown whole."""


@dataclass(frozen=True)
class HtmlTable:
    """A table with its caption; the first column names the rows."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Any]]


def headline(view: RunView) -> list[tuple[str, str]]:
    """The few numbers that a run is asked for first: what, and how much."""
    records, cells = view.records, list[tuple[str, str]]()
    test = view.test
    if test:
        cells += [
            (f"test accuracy, {label}", percent(test["accuracy"][key]))
            for key, label in PREDICTORS.items()
            if key in test.get("accuracy", {})
        ]
    best = best_epoch(records)
    if best:
        cells.append((f"best validation accuracy (epoch {best[1]})", percent(best[0])))
    elif records and (last := learned_last(records[-1])) is not None:
        cells.append(("training accuracy, last block", percent(last)))
    if records:
        cells += [
            ("samples a second, last epoch", count(records[-1]["train"].get("samples_per_second"))),
            ("time of training", total_time(view)),
        ]
    cells.append(
        ("epochs", f"{len(records)} of {view.settings.get('epochs', NONE)}" if view.settings else str(len(records)))
    )
    if view.at_work and view.pulses:
        cells.append(("batches learned from, at least", count(view.pulses[-1]["step"])))
    if records and (held := [number(s.get("run_bytes")) for s in records[-1]["stages"]]) and all(held):
        cells.append(("most memory that a stage's run held", mebibytes(max(h for h in held if h))))
    return cells


def learned_last(record: Mapping[str, Any]) -> float | None:
    """Training accuracy of the last block, as a fraction; None where its rule has none."""
    blocks = [b for b in record["train"]["blocks"] if b["block"] != FUSION]
    return number(blocks[-1].get("accuracy")) if blocks else None


def best_epoch(records: Sequence[Mapping[str, Any]]) -> tuple[float, int] | None:
    """The best validation accuracy of the mean of the blocks, and its epoch."""
    known = [(share, -record["epoch"]) for record in records if (share := accuracy_of(record, "mean")) is not None]
    if not known:
        return None
    share, epoch = max(known)
    return share, -epoch


def settings_tables(view: RunView) -> tuple[HtmlTable, HtmlTable]:
    """Two tables of settings: those that differ from the defaults, and all others."""
    differ, same = list[list[str]](), list[list[str]]()
    for name, value in view.settings.items():
        shown = name in ALWAYS or value != view.defaults.get(name)
        row = [name.replace("_", "-"), setting_text(value)]
        (differ if shown else same).append(
            row if name in ALWAYS or not shown else [*row, setting_text(view.defaults.get(name))]
        )
    differ = [row if len(row) == 3 else [*row, NONE] for row in differ]
    return (
        HtmlTable(
            "Settings that differ from the defaults, and those that name the run",
            ["setting", "value", "default"],
            differ,
        ),
        HtmlTable("Settings that are the defaults", ["setting", "value"], same),
    )


def plan_table(view: RunView) -> HtmlTable | None:
    """The run's plan: each stage's blocks and workers; None where it is not known yet."""
    if view.plan is not None:
        rows = [
            [
                str(i),
                " ".join(stage.blocks),
                stage.shared_out,
            ]
            for i, stage in enumerate(view.plan.stages)
        ]
        lanes = "" if view.plan.lanes == 1 else f" of {view.plan.lanes} lanes a batch; worker:lanes"
        return HtmlTable(f"Plan{lanes}", ["stage", "blocks", "worker"], rows)
    if not view.records:
        return None
    stages = view.records[-1]["stages"]
    rows = [
        [str(s["stage"]), " ".join(map(str, s.get("blocks", []))), str(s.get("worker", s["stage"]))] for s in stages
    ]
    return HtmlTable("Plan", ["stage", "blocks", "worker"], rows)


STARTS = {
    "began": "began",
    "command": "command",
    "folder": "in folder",
    "host": "host",
    "processor": "processor",
    "cores": "cores",
    "accelerators": "accelerators",
    "launcher": "launcher",
    "stages": "workers",
    "ffdist": "ffdist",
    "commit": "commit of ffdist",
    "folder_commit": "commit of the folder",
    "torch": "torch",
    "torchvision": "torchvision",
    "numpy": "numpy",
    "python": "python",
    "system": "system",
}


def start_tables(view: RunView) -> list[HtmlTable]:
    """A table each time that the run began or went on."""
    made = []
    for number_, start in enumerate(view.starts, 1):
        known = [name for name in STARTS if start.get(name) not in (None, "")]
        rest = [name for name in start if name not in STARTS and start[name] not in (None, "")]
        rows = [[STARTS.get(name, name), setting_text(start[name])] for name in (*known, *rest)]
        made.append(HtmlTable(f"Start {number_} of {len(view.starts)}", ["what", "value"], rows))
    return made


def data_table(view: RunView) -> HtmlTable | None:
    """Facts on the run's data: shape, classes, and samples of each split; None where the run has none."""
    facts = view.facts
    if facts is None:
        return None
    rows = [["samples of shape", " × ".join(map(str, facts.shape))], ["classes", f"{len(facts.classes):,}"]]  # noqa: RUF001
    rows += [
        [f"{name} samples", f"{split.get('samples', 0):,}"]
        for name, split in facts.splits.items()
        if isinstance(split, dict)
    ]
    return HtmlTable("Data", ["what", "value"], rows)


def result_table(view: RunView) -> HtmlTable | None:
    """Accuracies by predictor and block, on the test split or the last validation."""
    split, name = view.test, "test"
    if not split and view.records:
        split, name = view.records[-1].get("validation"), "validation"
    if not split:
        return None
    top5 = split.get("top5") or {}
    rows = [
        [label, percent(split["accuracy"][key]), percent(top5.get(key)), NONE]
        for key, label in PREDICTORS.items()
        if key in split["accuracy"]
    ]
    rows += [
        [f"block {b['block']}", percent(b.get("accuracy")), percent(b.get("top5")), loss(b.get("loss"))]
        for b in split["blocks"]
        if b["block"] != FUSION
    ]
    own = [(name, number(value)) for name, value in (split.get("metrics") or {}).items()]
    rows += [[f"{name} (the run's own)", NONE if v is None else f"{v:.4g}", NONE, NONE] for name, v in own]
    caption = f"Accuracy on {count(split.get('samples'))} {name} samples"
    return HtmlTable(caption, ["predictor", "accuracy", "top-5", "loss"], rows)


def mistakes_table(measured: SnapshotMeasurement) -> HtmlTable:
    """The most frequent mistakes, with counts and shares of their true class."""
    names, rows = measured.classes, list[list[str]]()
    sums = [sum(row) for row in measured.counts]
    for often, true, guess in largest_mistakes(measured.counts):
        rows.append([names[true], names[guess], str(often), f"{often / sums[true]:.1%}"])
    return HtmlTable("Most frequent mistakes", ["true class", "taken for", "samples", "of the class"], rows)


@dataclass(frozen=True)
class ConfusionCell:
    """A cell of a confusion matrix: a number, and how dark it stands out, 0 to 9."""

    count: int
    level: int
    right: bool


def confusion(measured: SnapshotMeasurement) -> list[tuple[str, list[ConfusionCell]]] | None:
    """Rows of true classes; None for too many classes."""
    if len(measured.classes) > WHOLE_MATRIX:
        return None
    rows = []
    for true, (name, counts) in enumerate(zip(measured.classes, measured.counts, strict=True)):
        most = max(1, sum(counts))
        rows.append(
            (
                name,
                [
                    ConfusionCell(c, min(9, int(9.999 * (c / most) ** 0.5)), guess == true)
                    for guess, c in enumerate(counts)
                ],
            )
        )
    return rows


def compared_settings(views: Sequence[RunView]) -> HtmlTable:
    """The settings that are not the same in all runs, a column a run."""
    names = list(dict.fromkeys(name for view in views for name in view.settings))
    rows = [
        [
            name.replace("_", "-"),
            *(setting_text(view.settings[name]) if name in view.settings else NONE for view in views),
        ]
        for name in names
        if name != "out" and len({setting_text(view.settings.get(name)) for view in views}) > 1
    ]
    return HtmlTable("Settings in which the runs differ", ["setting", *(view.name for view in views)], rows)


def compared_results(views: Sequence[RunView]) -> HtmlTable:
    """A row a result, a column a run."""
    rows = [dict([("state", view.state), *headline_without_epoch(view)]) for view in views]
    names = list(dict.fromkeys(name for each in rows for name in each))
    return HtmlTable(
        "Results", ["", *(view.name for view in views)], [[n, *(each.get(n, NONE) for each in rows)] for n in names]
    )


def headline_without_epoch(view: RunView) -> list[tuple[str, str]]:
    """The headline without the epoch in the names, so that the rows of several runs line up."""
    return [("best validation accuracy" if name.startswith("best") else name, value) for name, value in headline(view)]
