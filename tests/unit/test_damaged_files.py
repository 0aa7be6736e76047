"""Files of a run that are not as they were written, or are no files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from ffdist.cli import main
from ffdist.digests import with_digest, without_digest
from ffdist.errors import ConfigError, FfdistError, SnapshotError
from ffdist.events import PulseReported, RunStopped
from ffdist.models.weights import read_state
from ffdist.options import find
from ffdist.pipeline.message import Snapshot
from ffdist.plan import Plan
from ffdist.plan.plan import read_plan
from ffdist.regular import read_bytes
from ffdist.report.log import PULSES, RUN_LOG, StageLog, run_log
from ffdist.runtime.folder import locked
from ffdist.runtime.run import PLAN, load_classifier, read_settings, saved_plan, write_plan
from ffdist.settings.toml import settings_in
from ffdist.snapshot import SnapshotStore
from ffdist.snapshot.chosen import MARK, marked_best, read_mark
from ffdist.snapshot.manifest import MANIFEST, committed
from ffdist.snapshot.writers import WRITERS, written_there
from ffdist.transport.stores import serve_store

TRAIN = (
    "train --data digits --model cnnb --model-args widths=4,4,4 --samples 60 --batch-size 20 --epochs 2 --seed 7 "
    "--threads 1 --plan auto --devices 1 --launcher threads --track none --keep-best mean"
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    main([*TRAIN.replace("--plan auto --devices 1", "--stages 2").split(), "--out", str(run)])
    return run


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def far_too_large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", [pipe, endless, Path.mkdir])
@pytest.mark.parametrize("name", [RUN_LOG, PULSES, "stage-0.log"])
def test_what_comes_in_a_logs_place_while_the_run_is_at_work_is_an_error_and_nothing_waits_for_it(
    tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    make(tmp_path / name)
    log = run_log(tmp_path, lambda event: None)
    events = {RUN_LOG: RunStopped("finished", None, []), PULSES: PulseReported(1, 1, "", None, [])}
    with pytest.raises(SnapshotError, match="a log of the run cannot be written"):
        log(events[name]) if name in events else StageLog(tmp_path, 0)


@pytest.mark.timeout(60)
def test_nobody_waits_for_a_pipe_in_the_place_of_the_workers_lock(run: Path) -> None:
    (run / WRITERS).unlink()
    pipe(run / WRITERS)
    assert not written_there(run)
    main(["eval", str(run), "--json"])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", [pipe, endless, far_too_large, Path.mkdir])
@pytest.mark.parametrize("name", ["config.toml", "data.json", PLAN, MARK, MANIFEST, "block-001-conv2.safetensors"])
def test_what_is_no_file_holds_nobody_up(run: Path, name: str, make: Callable[[Path], None]) -> None:
    path = (committed(run)[-1] if name.startswith(("manifest", "block")) else run) / name
    path.unlink()
    make(path)
    for use in (lambda: load_classifier(run), lambda: marked_best(run, committed(run)), lambda: saved_plan(run)):
        with suppress(FfdistError):
            use()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [pipe, endless, far_too_large])
def test_only_regular_files_are_read(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "x")
    with pytest.raises(OSError, match=r"no regular file|may have"):
        read_bytes(tmp_path / "x")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [pipe, endless, far_too_large])
@pytest.mark.parametrize("use", [settings_in, read_plan, read_state, lambda path: find(f"{path}:Net", {}, "network")])
def test_what_a_user_names_has_an_end_or_is_an_error_at_once(
    tmp_path: Path, make: Callable[[Path], None], use: Callable[[Path], object]
) -> None:
    make(tmp_path / "x.py")
    with pytest.raises(FfdistError) as raised:
        use(tmp_path / "x.py")
    assert "weights_only" not in str(raised.value), "torch's advice to unpickle it"


def flipped(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


def test_a_changed_plan_of_a_run_is_noticed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flipped(run / PLAN, '"lanes": 1', '"lanes": 3')
    with pytest.raises(SnapshotError, match="the plan of the run is not as it was written"):
        saved_plan(run)
    assert read_settings(run).training.lanes is None
    assert "the plan of the run is not as it was written" in capsys.readouterr().err
    load_classifier(run)  # which the plan has no part in
    with pytest.raises(SystemExit) as end:
        main(["train", "--resume", str(run), "--epochs", "3", "--launcher", "threads"])
    assert end.value.code == 1
    assert "restore it, or put a plan of as many lanes there" in capsys.readouterr().err


def test_where_the_planner_chose_the_lanes_a_lost_plan_is_not_guessed(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / PLAN).unlink()
    resume = ["train", "--resume", str(run), "--epochs", "3", "--launcher", "threads"]
    with pytest.raises(SystemExit):
        main([*resume, "--devices", "2"])
    assert "nothing else says how many lanes" in capsys.readouterr().err
    main(resume)  # told stages: one lane


def test_a_changed_mark_of_the_best_is_noticed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mark = read_mark(run)
    others = [folder.name for folder in committed(run) if folder.name != mark["snapshot"]]
    flipped(run / MARK, mark["snapshot"], (others or ["step-000000007-epoch-00001"])[0])
    assert read_mark(run) == {}
    assert "which snapshot is the best is not known any more" in capsys.readouterr().err
    with pytest.raises(SnapshotError, match="mark of the best snapshot"):
        marked_best(run, committed(run))


def test_files_of_versions_without_a_digest_are_read(run: Path) -> None:
    plan, mark = saved_plan(run), read_mark(run)
    for name in (PLAN, MARK):
        (run / name).write_text(json.dumps(without_digest(json.loads((run / name).read_text()))))
    assert (saved_plan(run), read_mark(run)) == (plan, mark)


@pytest.mark.parametrize("value", [None, "", 0, "0" * 64])
def test_another_digest_is_none(value: object) -> None:
    assert without_digest(with_digest({"a": 1})) == {"a": 1}
    with pytest.raises(ValueError, match="digest"):
        without_digest({"a": 1, "digest": value})


def test_a_plan_that_cannot_be_written_is_an_error_for_users(tmp_path: Path) -> None:
    (tmp_path / PLAN).mkdir()
    with pytest.raises(ConfigError, match="cannot be written"):
        write_plan(tmp_path, Plan.pipeline(["a"], [1]))
    assert [path.name for path in tmp_path.iterdir()] == [PLAN]


def test_where_a_run_writes_is_never_a_link(tmp_path: Path) -> None:
    """Of all that one leaves in its folder: what the link leads to is as it was, and the run does not begin."""
    full = tmp_path / "full"
    more = "--on-nan skip --log-every 1 --trace --trace-from 1 --track tensorboard --snapshot-every 1"
    words = TRAIN.replace("--plan auto --devices 1 --launcher threads --track none", "--stages 1 --launcher threads")
    main([*words.split(), *more.split(), "--out", str(full)])
    written = {path.name for path in full.iterdir()}
    assert {"config.toml", "data.json", "metrics.jsonl", "stage-0.log", MARK, PLAN, "snapshots"} <= written
    snapshot = next(full.glob("snapshots/step-*"))  # as where one was moved to a larger disk
    for name in written | {"nonfinite", "code", "restarts.log", "ray.log", str(snapshot.relative_to(full))}:
        victim, run = tmp_path / f"victim-{Path(name).name}", tmp_path / f"planted-{Path(name).name}"
        (run / name).parent.mkdir(parents=True)
        victim.write_text("precious")
        (run / name).symlink_to(victim)
        with pytest.raises(ConfigError, match="writes nothing through a link"), locked(run):
            pass
        assert victim.read_text() == "precious"


@pytest.mark.parametrize("name", ["snapshots", "snapshots/step-000000001-epoch-00000"])
def test_no_snapshot_goes_into_a_link_that_has_come_since_the_run_began(name: str, tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run.mkdir()
    elsewhere.mkdir()
    store = SnapshotStore(run, [])
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).symlink_to(elsewhere)
    marker = Snapshot(1, 0, 1)
    for write in (
        lambda: store.save([], marker),
        lambda: store.save_extra_file(marker, "scores", {}, {}),
        lambda: store.commit(marker, []),
    ):
        with pytest.raises(SnapshotError, match="a link stands where a snapshot goes"):
            write()
    assert not any(elsewhere.iterdir())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_store_listens_at_its_address_alone(host: str) -> None:
    try:
        store = serve_store(host)
    except OSError:
        assert host == "::1"  # a machine without IPv6
        return
    listening = [
        line.split()[1]
        for path in ("tcp", "tcp6")
        for line in Path("/proc/net", path).read_text().splitlines()[1:]
        if line.split()[1].endswith(f":{store.port:04X}") and line.split()[3] == "0A"
    ]
    (address,) = listening
    assert set(address.partition(":")[0]) != {"0"}, "of every interface"
