"""What trackers, callbacks and tables of a run's history get: the numbers of every epoch, once."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from forked import run
from jobs import DigitsJob

import ffdist
from ffdist.cli import print_error
from ffdist.errors import ConfigError
from ffdist.events import Observers, StopRun
from ffdist.known import TRACKERS
from ffdist.pipeline.scalars import history, of_test, scalars
from ffdist.report.log import read_run_log
from ffdist.runtime.interrupts import signals_restored
from ffdist.runtime.observing import observers
from ffdist.runtime.threads import run_threads
from ffdist.settings import Settings
from ffdist.spelling import as_flags
from ffdist.trackers.tensorboard import FOLDER, TensorBoard

TOLD = {"validation": 0.2, "samples": 400, "stages": 2, "log_every": 2}


def written(run: Path) -> Iterator[tuple[str, int, float]]:
    """What TensorBoard shows: of a number that a later start wrote again, the later one."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(run / FOLDER), size_guidance={"scalars": 0})
    read.Reload()
    for name in read.Tags()["scalars"]:
        for event in read.Scalars(name):
            yield name, event.step, event.value


def test_tensorboard_has_each_epochs_numbers_once_though_the_run_was_cut_off(tmp_path: Path) -> None:
    settings = Settings().changed(track=("tensorboard",), out=tmp_path)
    make = DigitsJob(tmp_path, epochs=3, settings=TOLD)
    with pytest.raises(RuntimeError, match="cut"):
        run_threads(make(), Tripping(observers(settings, tmp_path)))
    assert {step for _, step, _ in written(tmp_path)}
    again = observers(settings, tmp_path)
    run_threads(DigitsJob(tmp_path, epochs=3, settings=TOLD | {"resume": True})(), again)
    again.close()
    records, end = read_run_log(tmp_path)
    assert end is not None
    expected = {(name, record["step"]): value for record in records for name, value in scalars(record).items()}
    expected |= {(name, records[-1]["step"]): value for name, value in of_test(end["test"]).items()}
    shown = {(name, step): value for name, step, value in written(tmp_path) if of_epochs(name)}
    assert len(shown) == sum(of_epochs(name) for name, _, _ in written(tmp_path)), "each once"
    assert any(name.startswith("running/loss/") for name, _, _ in written(tmp_path))
    assert shown.keys() == expected.keys()
    for key, value in expected.items():
        assert shown[key] == pytest.approx(value, rel=1e-5), key


def test_a_trackers_id_stays_where_another_cannot_be_written(tmp_path: Path) -> None:
    tracker = TensorBoard(tmp_path, {})
    tracker.remember("first")
    (tmp_path / ".trackers.json.partial").mkdir()
    tracker.remember("first")  # known already: nothing is written
    with pytest.raises(OSError, match="directory"):
        tracker.remember("second")
    assert tracker.recall() == "first"


def of_epochs(name: str) -> bool:
    return name != "epoch" and not name.startswith("running/")


class Tripping:
    """An observer of its own right, which ends all in the third epoch."""

    def __init__(self, others: Observers) -> None:
        self.others = others

    def __call__(self, event: ffdist.RunEvent) -> None:
        self.others(event)
        if event.name == "epoch" and event.to_json()["record"]["epoch"] == 2:
            self.others.close()
            raise RuntimeError("cut")


def test_a_folder_that_tensorboard_cannot_write_to_is_an_error_and_no_thread_s_traceback(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    tracker = TensorBoard(tmp_path, {})
    tracker.begin(0)
    (tmp_path / FOLDER).rename(tmp_path / "gone")  # at once: the writer's thread may be making a file there
    failed = False
    for step in range(3):
        try:
            tracker.write({"loss": 1.0}, step)
        except OSError as error:
            failed = FOLDER in str(error)
    assert failed
    with suppress(OSError):
        tracker.close()
    others = threading.Thread(target=int, args=("no number",))
    others.start()
    others.join()
    err = capfd.readouterr().err
    assert "no number" in err, "what another thread raises is told"
    assert FOLDER not in err


def test_a_history_is_a_row_an_epoch_wherever_it_is_asked_for(tmp_path: Path) -> None:
    images = ffdist.open_data("digits")
    pipeline = ffdist.Pipeline("cnnb", "sff", model_args=["widths=8,8,8"], threads=1, batch_size=50, **TOLD)
    result = pipeline.fit(images, epochs=2, out=tmp_path / "run", progress=False, track=())
    table = result.history()
    assert table.column("epoch").to_pylist() == [1, 2]
    accuracies = [record["validation"]["accuracy"]["mean"] for record in result.records]
    assert table.column("validation/accuracy/mean").to_pylist() == accuracies
    blocks = [block["loss"] for block in result.records[1]["train"]["blocks"]]
    assert [table.column(f"train/loss/{name}").to_pylist()[1] for name in pipeline.classifier.names] == blocks
    assert ffdist.load(tmp_path / "run").history().equals(table)
    assert pipeline.classifier.history().equals(table)
    assert history([]).num_rows == 0
    assert not (tmp_path / "run" / FOLDER).exists()


def test_callbacks_are_given_in_python_and_by_name_and_one_can_end_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heard = list[str]()

    def enough(event: ffdist.RunEvent) -> None:
        heard.append(event.name)
        if event.name == "epoch":
            raise StopRun("good enough")

    pipeline = ffdist.Pipeline("cnnb", "sff", model_args=["widths=8,8,8"], threads=1, batch_size=50, **TOLD)
    result = pipeline.fit("digits", epochs=4, progress=False, callbacks=[enough], track=(), queue=1)
    assert result.reason == "interrupted"
    assert capsys.readouterr().err.count("a callback ends the run: good enough") == 1
    assert heard[0] == "start"
    assert heard[-1] == "stop"
    assert 1 <= len(result.records) < 4
    for wrong in (3, "enough"):
        with pytest.raises(ConfigError, match="called with each event"):
            pipeline.fit("digits", epochs=1, progress=False, callbacks=[wrong])  # type: ignore[list-item]


OWN = """
import json
from pathlib import Path

class Note:
    def __init__(self):
        self.file = Path("heard.txt").open("a")
    def __call__(self, event):
        self.file.write(json.dumps(event.to_json()) + "\\n")
    def close(self):
        self.file.write("closed\\n")
        self.file.close()

class Broken:
    def __init__(self):
        raise OSError("no room")

number = 3
"""


def test_a_callback_of_a_file_hears_a_run_of_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    train = [
        sys.executable,
        "-m",
        "ffdist",
        "train",
        "--epochs",
        "1",
        "--samples",
        "200",
        "--stages",
        "2",
        "--threads",
        "1",
        "--track",
        "none",
        "--out",
        "run",
    ]
    done = run([*train, "--callback", "own.py:Note"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    *lines, last = (tmp_path / "heard.txt").read_text().splitlines()
    events = [json.loads(line)["event"] for line in lines]
    assert (events[0], events[-1], last) == ("start", "stop", "closed")
    assert events.count("epoch") == 1


@pytest.mark.parametrize(
    ("named", "why"),
    [
        ("own.py:Broken", "no room"),
        ("own.py:number", "called with each event"),
        ("own.py:Not", "has no 'Not'"),
        ("none.py:Note", "there is no file"),
        ("Note", "there is no callback"),
    ],
)
def test_a_callback_that_cannot_be_made_is_reported_by_the_last_rank_which_alone_has_it(
    named: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "1")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "own.py").write_text(OWN)
    sys.modules.pop("own", None)
    try:
        with pytest.raises(ConfigError, match=why) as caught:
            observers(Settings().changed(callback=(named,)), None)
        print_error(caught.value)
        assert capsys.readouterr().err == f"ffdist: error (rank 1): {caught.value.text(as_flags)}\n"
        monkeypatch.setattr("ffdist.cli.OTHERS_SECONDS", 0.1)
        with signals_restored():
            print_error(ConfigError("what this rank alone meets"))
        assert capsys.readouterr().err == "ffdist: error (rank 1): what this rank alone meets\n"
    finally:
        sys.modules.pop("own", None)


def test_an_unknown_tracker_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'tensorboard'"):
        Settings().changed(track=("tensorbord",))


def messages(archive: Path) -> list[dict[str, Any]]:
    """What an archive of Comet's would upload."""
    with ZipFile(archive) as file:
        return [json.loads(line) for line in file.read("messages.json").splitlines()]


def test_comet_gets_each_epochs_numbers_offline_and_its_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("comet_ml")
    monkeypatch.delenv("COMET_API_KEY", raising=False)
    monkeypatch.setenv("COMET_START_ONLINE", "0")
    settings = Settings().changed(track=("comet",))
    for options in ({}, {"resume": True}):
        watching = observers(settings, tmp_path)
        run_threads(DigitsJob(tmp_path, epochs=1 + len(options), settings=TOLD | options)(), watching)
        watching.close()
    known = json.loads((tmp_path / "trackers.json").read_text())["comet"]
    archives = sorted((tmp_path / "comet").glob(f"{known}*.zip"), key=lambda path: path.stat().st_mtime)
    assert len(archives) == 2
    options = [
        each["payload"]["metric"] for archive in archives for each in messages(archive) if "metric" in each["payload"]
    ]
    shown = {(m["metricName"], m["step"]): m["metricValue"] for m in options}
    for record in read_run_log(tmp_path)[0]:
        for name, value in scalars(record).items():
            assert shown[name, record["step"]] == pytest.approx(value)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_other_trackers_keep_their_run_when_it_goes_on(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path / 'mlruns'}")
    settings = Settings().changed(track=(name,))
    first = observers(settings, tmp_path)
    run_threads(DigitsJob(tmp_path, epochs=1, settings=TOLD)(), first)
    first.close()
    known = json.loads((tmp_path / "trackers.json").read_text())[name]
    again = observers(settings, tmp_path)
    run_threads(DigitsJob(tmp_path, epochs=2, settings=TOLD | {"resume": True})(), again)
    again.close()
    assert json.loads((tmp_path / "trackers.json").read_text())[name] == known
    if name == "mlflow":
        kept = TRACKERS[name](tmp_path, {}).client.get_metric_history(known, "validation/accuracy/mean")
        records, _ = read_run_log(tmp_path)
        assert [m.value for m in kept] == [record["validation"]["accuracy"]["mean"] for record in records]


def test_a_tracker_that_its_own_package_refuses_to_open_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://somewhere")
    with pytest.raises(ConfigError, match=r"(?s)cannot be opened.*watch\.track.*nonsense"):
        observers(Settings().changed(track=("mlflow",)), tmp_path)


def test_an_mlflow_that_keeps_no_file_is_an_error_with_what_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mlflow-skinny brings no database."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(ConfigError, match=r"(?s)watch\.track.*pip install mlflow, or set MLFLOW_TRACKING_URI"):
        observers(Settings().changed(track=("mlflow",)), tmp_path)
