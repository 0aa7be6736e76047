"""What surrounds a run on Ray: jobs, sweeps, the cluster files, metrics, and Ray's own data sets."""

from __future__ import annotations

import io
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from runpy import run_path

import forked
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import yaml
from forked import Forked
from PIL import Image
from ray.cluster_utils import Cluster

from ffdist.cli import main
from ffdist.data import from_tensors, open_data
from ffdist.data.ray_dataset import from_ray
from ffdist.errors import DataError
from ffdist.events import EpochEnded, ProgressMade
from ffdist.runtime.ray_metrics import metered
from ffdist.runtime.record import read_starts
from ffdist.snapshot import latest

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*"),
]
LAUNCH = Path(__file__).parents[2] / "launch"
TINY = ["--samples", "200", "--epochs", "1", "--threads", "1", "--device", "cpu"]


def test_a_submitted_job_trains_as_the_same_command_does_here(cluster: Cluster, tmp_path: Path) -> None:
    run, here = tmp_path / "job", tmp_path / "here"
    submit = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "job",
        "submit",
        "--address",
        f"http://{cluster.head_node.address_info['webui_url']}",
        "--",
    ]
    train = [sys.executable, str(LAUNCH / "ray_train.py"), "--stages", "2", "--out", str(run), *TINY]
    done = subprocess.run([*submit, *train], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"run folder: {run}" in done.stdout
    main(["train", "--launcher", "threads", "--stages", "1", "--out", str(here), *TINY])
    assert [start["launcher"] for start in read_starts(run)] == ["ray"]
    made, wanted = latest(run), latest(here)
    assert made
    assert wanted
    assert [file["sha256"] for file in made.files] == [file["sha256"] for file in wanted.files]


def sweep(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(LAUNCH / "ray_sweep.py"), "--lr", "1e-9", "--epochs", "1", "--samples", "300", *args]
    return forked.run(command, timeout=250)


def test_a_sweep_trains_a_pipeline_for_each_choice_and_shows_the_best_first(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    choose = ["--objective", "sff", "local-ce", "--kernel", "1"]
    done = sweep("--address", cluster.address, "--out", str(tmp_path), *choose)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"(sff|local-ce)\W+(1|-)\D+1e-09\D+([\d.]+)%", done.stdout)
    assert sorted((objective, kernel) for objective, kernel, _ in rows) == [("local-ce", "-"), ("sff", "1")]
    assert float(rows[0][2]) >= float(rows[1][2])
    assert len(list((tmp_path / "runs").iterdir())) == 2
    assert "already holds a sweep" in refused(capsys, monkeypatch, "--out", str(tmp_path))


def test_a_sweep_that_is_told_to_stop_ends_its_trial_with_a_snapshot_and_begins_no_other(
    cluster: Cluster, tmp_path: Path
) -> None:
    rates = ["--lr", "1e-9", "2e-9", "3e-9"]
    command = [sys.executable, str(LAUNCH / "ray_sweep.py"), *rates, "--epochs", "100000", "--samples", "300"]
    command += ["--address", cluster.address, "--out", str(tmp_path)]
    with Forked(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        deadline = time.monotonic() + 150
        while not list(tmp_path.glob("runs/*/metrics.jsonl")) and time.monotonic() < deadline:
            assert running.poll() is None
            time.sleep(0.1)
        running.terminate()
        said, _ = running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGTERM, said
    assert "Traceback" not in said
    (run,) = (tmp_path / "runs").iterdir()
    ends = [log.read_text().splitlines()[-1].split()[-1] for log in run.glob("stage-*.log")]
    assert ends == ["stopped", "stopped"], "the stages ended by themselves, behind the last snapshot"
    assert latest(run)


def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *args: str) -> str:
    """What the script says of a sweep that does not begin, in this process."""
    monkeypatch.setattr(sys, "argv", ["ray_sweep.py", *args])
    with pytest.raises(SystemExit) as stop:
        run_path(str(LAUNCH / "ray_sweep.py"), run_name="__main__")
    assert stop.value.code == 1
    return capsys.readouterr().err


def test_a_choice_that_cannot_be_trained_ends_a_sweep_before_it_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = refused(capsys, monkeypatch, "--objective", "sff", "cwc", "--out", str(tmp_path / "sweep"))
    assert "a multiple of 10 channels" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["rayjob.yaml", "raycluster.yaml"])
def test_a_kuberay_file_is_whole_and_names_volumes_that_it_mounts(name: str) -> None:
    file = yaml.safe_load((LAUNCH / "ray" / name).read_text())
    cluster = file["spec"].get("rayClusterSpec", file["spec"])
    assert (file["apiVersion"], file["kind"].lower()) == ("ray.io/v1", name.removesuffix(".yaml"))
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_entrypoint_of_the_job_file_is_a_command_that_runs(capsys: pytest.CaptureFixture[str]) -> None:
    program, *args = yaml.safe_load((LAUNCH / "ray" / "rayjob.yaml").read_text())["spec"]["entrypoint"].split()
    assert program == "ffdist"
    main([*args, "--dry-run"])
    assert 'launcher = "ray"' in capsys.readouterr().out


def test_the_cluster_file_and_the_runtime_environment_are_what_ray_expects() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config
    from ray.runtime_env import RuntimeEnv

    validate_config(prepare_config(yaml.safe_load((LAUNCH / "ray" / "cluster.yaml").read_text())))
    RuntimeEnv(**yaml.safe_load((LAUNCH / "ray" / "runtime_env.yaml").read_text()))


def test_metrics_reach_rays_own_exporter(driver: str) -> None:
    hear = metered(lambda event: None)
    stage = {
        "stage": 0,
        "worker": 0,
        "seconds": 2.0,
        "busy": 1.0,
        "no_data": 0.5,
        "no_credit": 0.5,
        "queued": 1.5,
        "peak_bytes": 7,
    }
    record = {
        "epoch": 1,
        "train": {"samples_per_second": 123.0},
        "stages": [stage, stage | {"worker": 1, "queued": 2.5}],
    }
    hear(ProgressMade(5))
    hear(EpochEnded(record))
    text = scrape(r"ray_ffdist_samples_per_second\{.*\} 123\.0")
    assert re.search(r"ray_ffdist_step\{.*\} 5\.0", text)
    for worker, queued in (("0", r"1\.5"), ("1", r"2\.5")):
        assert re.search(rf'ray_ffdist_queue_depth\{{.*stage="0".*worker="{worker}".*\}} {queued}', text)
    assert re.search(r'ray_ffdist_no_data_share\{.*stage="0".*\} 0\.25', text)


def scrape(wanted: str, patience: float = 60.0) -> str:
    """What this cluster's exporters tell Prometheus, once it holds `wanted`; they pass metrics on every few seconds."""
    deadline = time.monotonic() + patience
    text = ""
    while not re.search(wanted, text) and time.monotonic() < deadline:
        ports = {node["MetricsExportPort"] for node in ray.nodes() if node["Alive"]}
        text = "".join(urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode() for port in ports)
        time.sleep(0.2)
    return text


def test_a_ray_data_set_is_the_same_data_as_its_arrays_in_whatever_form(driver: str, tmp_path: Path) -> None:
    import ray.data

    digits = open_data("digits").train
    pictures, labels = digits.take(np.arange(64)), digits.labels[:64]
    ray.data.DataContext.get_current().enable_progress_bars = False
    pairs = [*zip(pictures, labels.tolist(), strict=True)]
    same = from_tensors(pictures[..., 0], labels)
    table = pa.table({"img": [png(picture[..., 0]) for picture in pictures], "class": labels.tolist()})
    pq.write_table(table, tmp_path / "encoded.parquet")
    for made in (
        from_ray(ray.data.from_items([{"image": x, "label": y} for x, y in pairs])),
        from_ray(ray.data.from_items([{"image": Image.fromarray(x[..., 0]), "label": y} for x, y in pairs])),
        from_ray(ray.data.read_parquet(str(tmp_path / "encoded.parquet"))),
    ):
        assert np.array_equal(made.train.take(np.arange(64)), same.train.take(np.arange(64)))
        assert np.array_equal(made.train.labels, same.train.labels)
        assert (made.mean, made.std, made.shape, made.classes) == (same.mean, same.std, same.shape, same.classes)
    owned = ray.data.from_items([{"image": x, "label": y % 2, "who": i // 8} for i, (x, y) in enumerate(pairs)])
    made = from_ray(owned, test=0.25, group="who")
    assert made.test
    assert (len(made.train), len(made.test)) == (48, 16)
    with pytest.raises(DataError, match="a table lacks a column"):
        from_ray(ray.data.from_items([{"label": 1}]), image="other")
    with pytest.raises(DataError, match="samples differ in shape"):
        from_ray(ray.data.from_items([{"image": x[: 4 + y % 2], "label": y} for x, y in pairs]))


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def test_actors_learn_from_pictures_and_tables_that_are_prepared_on_the_way_as_one_process_does(
    driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FFDIST_CACHE", str(tmp_path / "cache"))
    draws = np.random.default_rng(0)
    for place in range(24):
        file = tmp_path / "tree" / f"class-{place % 2}" / f"{place}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(draws.integers(0, 256, (8, 8), np.uint8)))
    flags = [
        "--data",
        str(tmp_path / "tree"),
        "--model",
        "mlp",
        "--epochs",
        "1",
        "--batch-size",
        "4",
        "--threads",
        "1",
        "--device",
        "cpu",
    ]
    main(["train", "--launcher", "ray", "--address", driver, "--stages", "2", "--out", str(tmp_path / "ray"), *flags])
    main(["train", "--launcher", "threads", "--stages", "1", "--out", str(tmp_path / "here"), *flags])
    made, wanted = latest(tmp_path / "ray"), latest(tmp_path / "here")
    assert made
    assert wanted
    assert [file["sha256"] for file in made.files] == [file["sha256"] for file in wanted.files]
