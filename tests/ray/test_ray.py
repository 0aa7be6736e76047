"""Stages as actors on a real Ray cluster of several nodes: the same bits as anywhere, whatever dies."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import forked
import gated
import pytest
import ray
from forked import Forked
from gated import GatedJob, WaitingJob, begun, new_gate, open_gate
from ray.cluster_utils import Cluster
from traces import read

from ffdist import Pipeline
from ffdist.bench.victims import ProcessId, descendants, left_of
from ffdist.cli import main
from ffdist.errors import ConfigError, DataError, Interrupted, StageError
from ffdist.events import EpochEnded, RunEvent, RunRestarted, StagesPlaced
from ffdist.process_stat import is_alive
from ffdist.report.log import read_run_log
from ffdist.runtime.actor_errors import check_actor_infos
from ffdist.runtime.ray import RayOptions, run_ray
from ffdist.runtime.ray_actor import ActorInfo, actor_info
from ffdist.runtime.ray_cluster import check_health, with_token
from ffdist.runtime.ray_gcs import VARIABLE, listens
from ffdist.runtime.ray_own import put_back
from ffdist.runtime.threads import run_threads
from ffdist.snapshot import committed, latest
from ffdist.snapshot.writers import written_there

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::ResourceWarning")]
ray.cloudpickle.register_pickle_by_value(gated)

SPREAD = RayOptions(placement="spread", start_timeout=timedelta(seconds=60))


def fingerprint(run: Path) -> list[tuple[int, str]]:
    """Step and sha256 of each block of the last snapshot: weights, optimiser state, everything."""
    manifest = latest(run)
    assert manifest is not None
    return [(manifest.step, file["sha256"]) for file in manifest.files]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, str]]:
    """What the same job ends with in one process."""
    run = begun(tmp_path_factory.mktemp("runs") / "threads")
    run_threads(GatedJob(run)(), lambda event: None)
    return fingerprint(run)


class Events:
    """What a run reports; `then` is called at the end of the second epoch, when the first's snapshot is committed."""

    def __init__(self, then: Callable[[Events], None] = lambda events: None) -> None:
        self.all: list[dict[str, Any]] = []
        """In their JSON form."""
        self.then = then

    def __call__(self, event: RunEvent) -> None:
        self.all.append(event.to_json())
        if isinstance(event, EpochEnded) and event.record["epoch"] == 2 and len(self.of("placed")) == 1:
            self.then(self)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.all if event["event"] == kind]

    def pids(self, attempt: int) -> list[int]:
        return [stage["pid"] for stage in self.of("placed")[attempt]["stages"]]


@pytest.mark.parametrize("transport", ["auto", "gloo", "object-store"])
def test_actors_on_several_nodes_learn_the_same_bits_as_one_process(
    driver: str, tmp_path: Path, undisturbed: list[Any], transport: Any
) -> None:
    run, events = begun(tmp_path / "run"), Events()
    values = gated.SETTINGS.changed(transport=transport, launcher="ray", trace=True, trace_steps=2)
    job = GatedJob(run, settings=values)
    options = replace(SPREAD, direct=transport != "object-store")
    result = run_ray(job, 2, events, run=run, options=options)
    assert fingerprint(run) == undisturbed
    assert (result.reason, len(result.records)) == ("finished", 4)
    assert len({stage["node"] for stage in events.of("placed")[0]["stages"]}) == 2
    travelled = "shared-memory" if transport == "auto" else transport
    assert f"edges: {travelled}" in (run / "ray.log").read_text()
    spans = read(run)
    assert {(span["pid"], span["args"]["step"]) for span in spans} == {(0, 3), (0, 4), (1, 3), (1, 4)}
    for step in (3, 4):  # on one clock: nothing is computed before it was sent
        sent = min(span["ts"] for span in spans if span["name"] == f"send batch {step}" and span["pid"] == 0)
        assert sent < max(span["ts"] for span in spans if span["pid"] == 1 and span["args"]["step"] == step)


def test_actors_that_share_blocks_learn_the_same_bits_as_one_process_and_note_what_it_would(
    driver: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """By slices of three actors, who send each other by the store, an actor for each edge."""
    lanes = gated.SETTINGS.changed(lanes=4, epochs=1)
    one, run = begun(tmp_path / "one"), begun(tmp_path / "run")
    run_threads(GatedJob(one, settings=lanes.changed(plan="* @ 0"), workers=1)(), lambda event: None)
    values = {"launcher": "ray", "transport": "object-store", "tf32": True, "device": "cpu"}
    shared = lanes.changed(plan="conv1 @ 1 | conv2 conv3 @ 2:0, 0:1-2, 1:3", **values)
    options = replace(SPREAD, cpus_per_stage=0.5, direct=False)
    run_ray(GatedJob(run, settings=shared, workers=3), 3, Events(), run=run, options=options)
    assert fingerprint(run) == fingerprint(one)
    assert "edges: object-store" in (run / "ray.log").read_text()
    assert capfd.readouterr().err.count("ffdist: TF32 is for CUDA devices") == 1


def test_a_killed_actor_is_replaced_and_the_run_ends_with_the_same_bits(
    driver: str, tmp_path: Path, undisturbed: list[Any]
) -> None:
    run, gate = begun(tmp_path / "run"), new_gate(tmp_path)
    held: list[int] = []

    def kill(events: Events) -> None:
        os.kill(events.pids(0)[0], signal.SIGKILL)
        held.append(open_gate(gate))

    events = Events(kill)
    result = run_ray(GatedJob(run, gate), 2, events, run=run, options=SPREAD)
    os.close(held[0])
    assert fingerprint(run) == undisturbed
    assert [record["epoch"] for record in result.records] == [1, 2, 3, 4]
    before, after = events.pids(0), events.pids(1)
    assert before[0] != after[0]
    assert before[1] == after[1]  # the survivor kept its process
    assert events.of("start")[1]["epoch"] >= 2  # not from the beginning
    (line,) = (run / "restarts.log").read_text().splitlines()
    assert "attempt 0: worker 0 on" in line
    assert str(before[0]) in line


def test_an_edges_actor_that_is_stopped_is_named_in_time_and_costs_an_attempt(
    driver: str, tmp_path: Path, undisturbed: list[Any]
) -> None:
    run, gate = begun(tmp_path / "run"), new_gate(tmp_path)
    held, pids = list[int](), list[int]()

    def stop(events: Events) -> None:
        actor = ray.get_actor(next(name for name in ray.util.list_named_actors() if name.startswith("0-1-")))
        pids.append(ray.get(actor.beat.remote()).pid)
        os.kill(pids[0], signal.SIGSTOP)
        held.append(open_gate(gate))

    job = GatedJob(run, gate, gated.SETTINGS.changed(transport="object-store", launcher="ray", timeout=4))
    events = Events(stop)
    run_ray(job, 2, events, run=run, options=replace(SPREAD, direct=False, timeout=4))
    os.close(held[0])
    assert fingerprint(run) == undisturbed
    (line,) = (run / "restarts.log").read_text().splitlines()
    assert "does not answer (edge 0-1, attempt 0, frame " in line
    assert f"process {pids[0]} of host" in line
    assert "worker 0: stage 0 at batch " in line
    assert "worker 1: stage 1 at batch " in line or "this worker: stage 1 at batch" in line
    first, second = (placed["stages"] for placed in events.of("placed"))
    assert [stage["pid"] for stage in first] == [stage["pid"] for stage in second]
    assert not is_alive(pids[0])


def test_a_killed_node_is_replaced_and_the_run_ends_with_the_same_bits(
    cluster: Cluster, driver: str, tmp_path: Path, undisturbed: list[Any]
) -> None:
    run, gate = begun(tmp_path / "run"), new_gate(tmp_path)
    held: list[int] = []

    def kill(events: Events) -> None:
        lost = events.of("placed")[0]["stages"][1]
        node = next(node for node in cluster.worker_nodes if node.node_id == lost["node"])
        with os.fdopen(os.pidfd_open(lost["pid"])) as process:
            cluster.remove_node(node, allow_graceful=False)
            assert select.select([process], [], [], 60)[0]  # Ray ends a node's processes behind it
        held.append(open_gate(gate))

    events = Events(kill)
    try:
        result = run_ray(GatedJob(run, gate), 2, events, run=run, options=SPREAD)
    finally:
        cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
    os.close(held[0])
    assert fingerprint(run) == undisturbed
    assert [record["epoch"] for record in result.records] == [1, 2, 3, 4]
    first, second = (placed["stages"] for placed in events.of("placed"))
    assert first[0]["pid"] == second[0]["pid"]
    assert first[1]["pid"] != second[1]["pid"]
    assert first[1]["node"] != second[1]["node"]
    assert events.of("start")[1]["epoch"] >= 2
    assert "attempt 0: worker 1 on" in (run / "restarts.log").read_text()


def test_a_run_whose_driver_was_killed_goes_on_by_resume(
    cluster: Cluster, tmp_path: Path, undisturbed: list[Any]
) -> None:
    run, gate = begun(tmp_path / "run"), new_gate(tmp_path)
    command = [sys.executable, gated.__file__, str(run), str(gate), cluster.address]
    with Forked(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout
        assert "epoch 2\n" in iter(driver.stdout.readline, "")
        driver.kill()
    held = open_gate(gate)
    while written_there(run):  # until Ray has noticed, and ended the actors
        time.sleep(0.1)
    main(["train", "--resume", "--out", str(run), "--launcher", "ray", "--address", cluster.address])
    os.close(held)
    assert fingerprint(run) == undisturbed


def test_restarts_are_bounded_and_the_last_reason_is_raised(driver: str, tmp_path: Path) -> None:
    run, gate = begun(tmp_path / "run"), new_gate(tmp_path)
    events = Events(lambda events: os.kill(events.pids(0)[1], signal.SIGKILL) or open_gate(gate))
    with pytest.raises(StageError, match=r"(?s)a worker died.*worker 1 on 127.0.0.1"):
        run_ray(GatedJob(run, gate), 2, events, run=run, options=replace(SPREAD, max_restarts=0))
    assert len((run / "restarts.log").read_text().splitlines()) == 1


@pytest.mark.parametrize("wait", [0.0, 0.5], ids=["in its place", "as the stages start"])
def test_asked_to_stop_before_the_stages_are_ready_it_was_interrupted_and_nothing_else(
    driver: str, tmp_path: Path, wait: float
) -> None:
    run, file = begun(tmp_path / "run"), tmp_path / "go"

    def hear(event: RunEvent) -> None:
        if not isinstance(event, StagesPlaced):
            return
        if not wait:
            signal.raise_signal(signal.SIGHUP)
        threading.Timer(wait, lambda: os.kill(os.getpid(), signal.SIGHUP)).start()
        threading.Timer(2 * wait, file.touch).start()

    with pytest.raises(Interrupted) as caught:
        run_ray(WaitingJob(run, file), 2, hear, run=run, options=SPREAD)
    assert (caught.value.status, caught.value.begun) == (129, False)


def test_asked_to_stop_while_a_lost_worker_is_replaced_it_stops_at_once(driver: str, tmp_path: Path) -> None:
    run, gate = begun(tmp_path / "run"), new_gate(tmp_path)
    events = Events(lambda events: os.kill(events.pids(0)[1], signal.SIGKILL) or open_gate(gate))

    def hear(event: RunEvent) -> None:
        events(event)
        if isinstance(event, RunRestarted):  # the new worker takes longer than this to start
            threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGHUP)).start()

    with pytest.raises(Interrupted) as caught:
        run_ray(GatedJob(run, gate), 2, hear, run=run, options=SPREAD)
    assert (caught.value.status, caught.value.begun) == (129, True)
    assert len(events.of("placed")) == 1


def test_a_signals_handler_that_c_puts_in_the_place_of_pythons_goes_again() -> None:
    heard = list[int]()
    before = signal.signal(signal.SIGUSR2, lambda number, frame: heard.append(number))
    try:
        with put_back(signal.SIGUSR2):
            ctypes.CDLL(None).signal(signal.SIGUSR2, signal.SIG_IGN)
            time.sleep(0.2)
            signal.raise_signal(signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert heard == [signal.SIGUSR2]


def test_an_error_of_the_jobs_own_is_raised_as_it_is_and_not_tried_again(driver: str, tmp_path: Path) -> None:
    run, events = begun(tmp_path / "run"), Events()
    with pytest.raises(DataError, match="nowhere"):
        run_ray(gated.Broken(), 2, events, run=run, options=SPREAD)
    assert len(events.of("placed")) == 1


def test_a_module_that_the_nodes_lack_is_an_error_and_not_tried_again(driver: str, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"(?s)could not start.*No module named.*working-dir"):
        run_ray(Unknown(), 2, Events(), options=SPREAD)


class Unknown:
    """Of this module, which the actors cannot import."""

    def __call__(self) -> Any: ...


def test_a_cluster_without_room_says_what_is_missing(driver: str, tmp_path: Path) -> None:
    options = replace(SPREAD, cpus_per_stage=2, start_timeout=timedelta(seconds=0.5))
    with pytest.raises(ConfigError, match=r"(?s)no room.*2 stages, each with CPU 2.*CPU 3 free of 3") as caught:
        run_ray(GatedJob(tmp_path), 2, Events(), options=options)
    assert "plan.stages" in (caught.value.remedy or "")


def test_a_run_directory_that_the_nodes_do_not_see_is_refused(driver: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="do not share the run folder"):
        run_ray(GatedJob(tmp_path), 2, Events(), run=tmp_path / "elsewhere", options=SPREAD)


HERE = ActorInfo("10.0.0.1", "node", 1, {"torch": "2.15"}, run="settings", data="manifest")


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"versions": {"torch": "2.11"}}, "differ in versions"),
        ({"data": "another"}, "have different data"),
        ({"data": None}, "have different data"),
        ({"run": None}, "do not share the run folder"),
    ],
)
def test_nodes_that_do_not_agree_are_refused_by_address(other: dict[str, Any], what: str) -> None:
    check_actor_infos([HERE, HERE], Path("run"))
    with pytest.raises(ConfigError, match=rf"(?s){what}.*worker 1 on 10.0.0.2"):
        check_actor_infos([HERE, HERE._replace(address="10.0.0.2", **other)], Path("run"))


def test_a_data_set_is_known_by_the_checksum_of_its_manifest(driver: str, tmp_path: Path) -> None:
    """The manifest holds the checksums of the shards, which the source compares as it opens them."""
    sums = []
    for text in ("one", "two"):
        (tmp_path / "manifest.json").write_text(text)
        sums.append(actor_info("10.0.0.1", None, str(tmp_path)).data)
    assert sums == [hashlib.sha256(text).hexdigest() for text in (b"one", b"two")]


def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, *args: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(["train", "--launcher", "ray", "--out", str(tmp_path / "run"), *args])
    assert caught.value.code == 1
    assert not (tmp_path / "run").exists()
    return capsys.readouterr().err


def test_an_address_where_nothing_answers_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "no Ray cluster answers" in refused(capsys, tmp_path / "a", "--address", "127.0.0.1:1")
    assert "ray job submit" in refused(capsys, tmp_path / "b", "--address", "ray://127.0.0.1:10001")


def test_a_cluster_that_asks_for_another_token_is_known_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "1" * 64)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=0"]
    start += ["--include-dashboard=false", "--node-ip-address=127.0.0.1", f"--port={port}"]
    with (tmp_path / "said").open("w") as said:
        head = subprocess.Popen(start, stdout=said, stderr=said, start_new_session=True)
    try:
        while not listens(f"127.0.0.1:{port}", 1.0):
            assert head.poll() is None, (tmp_path / "said").read_text()
            time.sleep(0.2)
        check_health(f"127.0.0.1:{port}")
        monkeypatch.setenv("RAY_AUTH_TOKEN", "2" * 64)
        with pytest.raises(ConfigError, match="asks for its token"):
            check_health(f"127.0.0.1:{port}")
    finally:
        head.terminate()
        head.wait()


def test_a_token_that_lies_there_is_for_a_cluster_that_is_found_on_this_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    assert "RAY_AUTH_MODE" not in with_token("auto")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("1" * 64)
    assert with_token("auto")["RAY_AUTH_MODE"] == "token"
    assert "RAY_AUTH_MODE" not in with_token("10.0.0.1:6379")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert with_token("auto")["RAY_AUTH_MODE"] == "disabled"


@contextmanager
def own_ray_at_work(run: Path) -> Iterator[tuple[subprocess.Popen[str], set[ProcessId], Path]]:
    """A run by a Ray of this host alone, which has made a snapshot: its process, those below it, and the folder where
    Ray has its own. All are gone in the end."""
    command = [sys.executable, "-m", "ffdist", "train", "--launcher", "ray", "--stages", "1", "--samples", "64"]
    given = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_AUTH", "RAY_ADDRESS"))}
    command += ["--epochs", "100000", "--threads", "1", "--keep", "3", "--out", str(run)]
    with tempfile.TemporaryDirectory(dir="/tmp") as short:  # sockets lie in it
        env = {**given, "HOME": str(run.parent / "home"), "RAY_TMPDIR": short}
        process = Forked(command, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True)
        while not committed(run) and process.poll() is None:
            time.sleep(0.1)
        seen = set(descendants(process.pid))
        yield process, seen, Path(short)
        assert not left_of(seen, 20)


def test_a_ray_of_this_host_alone_that_has_lost_a_process_ends_its_run_at_once_and_leaves_none(tmp_path: Path) -> None:
    with own_ray_at_work(tmp_path / "run") as (process, seen, _):
        (pid,) = (each.pid for each in seen if Path(f"/proc/{each.pid}/exe").resolve().name == "gcs_server")
        os.kill(pid, signal.SIGKILL)
        _, text = process.communicate(timeout=60)
        assert process.returncode == 1
        assert (
            f"ffdist: error: gcs_server of this run's Ray has died\n  where: process {pid}\n  got: killed by SIG"
            in text
        )
        assert "Traceback" not in text


def test_a_cluster_that_has_lost_its_gcs_server_ends_a_run_with_a_snapshot_and_leaves_no_actor(tmp_path: Path) -> None:
    run, other = tmp_path / "run", Cluster()
    try:
        head = other.add_node(num_cpus=1, object_store_memory=200 << 20, include_dashboard=False)
        command = [sys.executable, "-m", "ffdist", "train", "--launcher", "ray", "--stages", "1", "--samples", "64"]
        command += ["--address", other.address, "--epochs", "100000", "--threads", "1", "--keep", "3"]
        env = os.environ | {VARIABLE: "12"}
        process = subprocess.Popen([*command, "--out", str(run)], env=env, stderr=subprocess.PIPE, text=True)
        while not committed(run) and process.poll() is None:
            time.sleep(0.1)
        (text,) = [line for line in (run / "ray.log").read_text().splitlines() if "process" in line]
        actor = int(text.rpartition(" ")[2])
        head.kill_gcs_server(check_alive=False)
        _, text = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "ffdist: error: the Ray cluster has lost its gcs_server" in text
        assert "Traceback" not in text
        assert not is_alive(actor)
    finally:
        other.shutdown()
    _, end = read_run_log(run)
    assert end
    assert end["reason"] == "interrupted"


def test_a_ray_of_this_host_alone_makes_a_snapshot_when_its_terminal_ends_and_leaves_nothing(tmp_path: Path) -> None:
    home, run = tmp_path / "home", tmp_path / "run"
    with own_ray_at_work(run) as (process, _, short):
        os.killpg(process.pid, signal.SIGHUP)  # Ray's own processes are not in the group: they end last
        _, text = process.communicate(timeout=60)
        assert process.returncode == 129, text
        assert "Traceback" not in text
        assert not list(short.glob("ray/session_2*"))
    _, end = read_run_log(run)
    assert end
    assert end["reason"] == "interrupted"
    assert not home.exists()


def test_a_cluster_of_another_version_is_refused(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    kv = ray._raylet.GcsClient(address=cluster.address)
    key, space = b"CLUSTER_METADATA", b"cluster"
    true = kv.internal_kv_get(key, space)
    kv.internal_kv_put(key, json.dumps(json.loads(true) | {"ray_version": "1.0"}).encode(), True, space)
    try:
        assert "another version" in refused(capsys, tmp_path, "--address", cluster.address)
    finally:
        kv.internal_kv_put(key, true, True, space)


def test_without_ray_the_launcher_says_how_to_install_it(tmp_path: Path) -> None:
    code = "import sys; sys.modules['ray'] = None; from ffdist.cli import main; main(sys.argv[1:])"
    args = ["train", "--launcher", "ray", "--out", str(tmp_path / "run")]
    done = forked.run([sys.executable, "-c", code, *args])
    assert done.returncode == 1
    assert "pip install 'ffdist[ray]'" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_pipeline_in_python_needs_no_folder_and_learns_the_same_by_ray(driver: str) -> None:
    pipeline = Pipeline("cnnb", "sff", model_args=["widths=4,6,8"], batch_size=256, epochs=1)
    alone = pipeline.fit("digits", progress=False)
    by_ray = pipeline.fit("digits", launcher="ray", address=driver, cut=[2, 1], progress=False)
    assert by_ray.test == alone.test
