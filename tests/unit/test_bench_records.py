"""What benchmarks found: rows that say all there is to say, and tables that are drawn from them alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.results import drawn
from ffdist.bench import accuracy_found
from ffdist.bench.accuracy_found import AccuracyRuns, RecipeTrial
from ffdist.bench.fault_schedule import schedule
from ffdist.bench.faults_found import DisturbedRunCosts, KillOutcome, result_of
from ffdist.bench.harness.meter import MemoryUse
from ffdist.bench.harness.record import as_json, read, tables_of, tidy, write
from ffdist.bench.harness.rounds import Round, Rounds
from ffdist.bench.harness.summary import Summary
from ffdist.bench.harness.table import MEASURED, ResultTable, Value, lines_of
from ffdist.bench.harness.window import WindowRate
from ffdist.bench.operations import Operation, SideSteps, StepSides
from ffdist.bench.recipes import Recipe
from ffdist.bench.settings import BenchSettings
from ffdist.bench.suites import depth, memory, step, throughput, transport
from ffdist.bench.suites.loader import TRAINING, waiting
from ffdist.bench.whole_runs import Epoch
from ffdist.transport.measure import TransportRate

RECORDS = Path(__file__).resolve().parents[2] / "benchmarks/records"
SETTINGS = BenchSettings().changed(data="digits", model="mlp")


def rounds() -> Rounds:
    """Of ours and of a baseline; the second was discarded."""
    stage = {
        "stage": 0,
        "worker": 0,
        "blocks": ["a", "b"],
        "busy": 0.5,
        "no_credit": 0.25,
        "exchange": 0.125,
        "no_gradients": 0.0,
        "hidden": 0.75,
    }

    def measured(ours: int, theirs: int) -> dict[str, WindowRate]:
        return {
            "ours": WindowRate(ours, 1.0, {"stages": [stage], "batches": 10}),
            "ddp-views": WindowRate(theirs, 1.0, {}),
        }

    tried = [
        Round(measured(*each), 1.9, passed) for *each, passed in ((400, 200, True), (9, 9, False), (300, 200, True))
    ]
    return Rounds(2, ["ours", "ddp-views"], 1.8, tried, [1.9] * 4, 1e4)


@pytest.mark.parametrize(("no_data", "share"), [(7.0, 0.5), (6.0, 0.0)])
def test_a_stage_waits_for_data_in_its_own_rounds_alone(no_data: float, share: float) -> None:
    """Of eight seconds two are a round's: 20 batches of 16, of which 10 took one."""
    window = WindowRate(160, 1.0, {"stages": [{"seconds": 8.0, "no_data": no_data}], "batches": 20})
    of = Rounds(1, [TRAINING], 1.8, [Round({TRAINING: window}, 1.9, True)], [1.9], 1e4)
    assert waiting(of, 16) == pytest.approx(share)


def race() -> AccuracyRuns:
    epochs = [Epoch(10.0, 0.5, 0.4), Epoch(20.0, 0.8, 0.7)]
    slower = [Epoch(2 * seconds, found, mean) for seconds, found, mean in epochs]
    recipes = [Recipe((("lr", lr), ("epochs", 2))) for lr in (0.1, 0.2)]
    tried = {name: [RecipeTrial(recipe, 1.0, 0.8) for recipe in recipes] for name in ("ours", "ddp")}
    return AccuracyRuns("ddp", 0.1, tried, {"ours": [epochs], "ddp": [slower]}, discarded=1, trusted=True)


def steps() -> SideSteps:
    operations = {"aten::mm": Operation(2e-3, 4.0), "aten::add": Operation(1e-3, 8.0)}
    return SideSteps({name: StepSides([3e-3, 4e-3], operations, 1e6) for name in ("ff", "bp")}, 1e9)


def depths() -> ResultTable:
    made = ResultTable("depth", "deep", depth.columns(2, 2), depth.UNITS)
    for blocks in (6, 12):
        made.add(side="ours", blocks=blocks, peak=2.0, queue=0.5, throughput=Summary.of([5.0, 6.0]))
        made.add(side="ddp-bucket-25", against="ddp", blocks=blocks, peak=4.0, of_peak=0.5)
        made.add(side="ddp-bucket-25", against="as many", blocks=blocks, peak=3.0, of_peak=2 / 3)
        made.add(side="ddp-views", against="ddp, speed", blocks=blocks, throughput=4.0, ratio=Summary.of([1.5]))
    return made


def compared() -> ResultTable:
    summary = [{"variant": "ddp-views", "against": "ddp"}]
    return throughput.compared(SETTINGS, rounds(), "ours", summary)


KILLS = [KillOutcome(fault, 1.0, 1, 7, again=3.0, lost=2) for fault in schedule(6, 0)]
TABLES = {
    "throughput": lambda: [compared(), throughput.stages(rounds(), "ours"), rounds().table()],
    "memory": lambda: [memory.weighed(SETTINGS, {"ours": [MemoryUse(*[2**20 * n for n in range(7, 0, -1)])]})],
    "transport": lambda: [transport.rate_table([TransportRate("gloo", 2**16, 9.0, 10.0, 0.5, 0.4, 0.6, 5)])],
    "step": lambda: [step.whole(steps(), "a step"), step.kinds(steps()), step.largest(steps())],
    "accuracy": lambda: [
        accuracy_found.side_table("race", race(), {"ours": True, "ddp": True}),
        accuracy_found.level_table(race(), 0.75),
        accuracy_found.trial_table(race().tried, 3),
        accuracy_found.run_table(race().runs),
    ],
    "depth": lambda: [depths()],
    "faults": lambda: result_of("processes", KILLS, DisturbedRunCosts(60.0, 2, 0, 1.0)).tables,
}


@pytest.mark.parametrize("suite", TABLES)
def test_a_table_is_drawn_from_its_rows_alone(suite: str) -> None:
    tables: list[ResultTable] = TABLES[suite]()
    record = json.loads(as_json(tidy(tables, "mlp", "sff")))
    assert record["rows"]
    assert all({"network", "rule", "side", *MEASURED} <= row.keys() for row in record["rows"])
    drawn = {table.part: table for table in tables_of(record)}
    for table in tables:
        if table.title:
            assert drawn[table.part].markdown() == table.markdown()


def test_a_record_has_every_lap_of_every_round_the_discarded_ones_too() -> None:
    lines = lines_of(tidy([rounds().table()])["rows"], "rounds")
    rates = [(line["round"], line["passed"], line["throughput"].value) for line in lines if line["side"] == "ours"]
    assert rates == [(0, True, 400.0), (1, False, 9.0), (2, True, 300.0)]
    assert rounds().rate("ours") == Summary(350.0, 300.0, 400.0, 2)
    assert rounds().ratio("ours", "ddp-views").median == 1.75
    assert "1 of 3 rounds discarded" in rounds().notes()[0]


def test_sides_stand_side_by_side_where_the_columns_say_so() -> None:
    heads, first, second = compared().markdown().splitlines()[2:][0], *depths().drawn_cells()
    assert "ours / it" in heads
    assert (first["ours MiB"], first["ddp of 2, MiB"], first["ddp of as many, MiB"]) == (2.0, 4.0, 3.0)
    assert (first["2 stages samples/s"], first["ddp of 2 samples/s"], first["n"]) == (5.5, 4.0, 1)
    assert (first["blocks"], second["blocks"]) == (6, 12)


def test_what_is_not_known_has_no_row_and_what_is_has_its_unit() -> None:
    table = ResultTable("part", "a title", {"side": "side", "x": "x:.1f", "n": "x.n"}, {"x": "s", "y": "ms"})
    table.add(side="a", x=Value(1.25, 3), y=None)
    table.add(side="b", x=Summary.of([]))
    assert [(row["metric"], row["value"], row["n"], row["unit"]) for row in table.rows()] == [("x", 1.25, 3, "s")]
    assert table.texts() == [["a", "1.2", "3"], ["b", "-", "0"]]


@pytest.mark.parametrize("path", sorted(RECORDS.glob("*.json")), ids=lambda path: path.stem)
def test_every_record_reads_as_its_rows_say(path: Path) -> None:
    assert path.with_suffix(".md").read_text() == drawn(path), "run: python benchmarks/results.py"
    assert read(path)["rows"]


def test_a_record_with_earlier_words_is_drawn_in_todays() -> None:
    record = tidy([ResultTable("part", "a title", {"least x": "x.least", "most": "x.most"}, {"x": "s"})])
    record["rows"] = [{"part": "part", "metric": "x", "value": 2.0, "n": 3, "spread": [1.0, 4.0], "unit": "s"}]
    (table,) = tables_of(record)
    assert table.drawn_cells() == [{"min x": 1.0, "max": 4.0}]


def test_a_record_of_another_schema_is_refused(tmp_path: Path) -> None:
    (path, _) = write(
        {
            "schema": 2,
            "suite": "x",
            "date": "",
            "command": "",
            "notes": [],
            "machine": dict.fromkeys(("processor", "cores", "memory_gib", "gpu"), ""),
            "versions": dict.fromkeys(("python", "torch", "ffdist", "commit"), ""),
            **tidy([]),
        },
        tmp_path / "record",
    )
    assert read(path)["rows"] == []
    path.write_text('{"suite": "x", "tables": {}}')
    with pytest.raises(ValueError, match="schema 1, and this reads 2"):
        read(path)
