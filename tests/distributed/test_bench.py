"""`ffdist bench` from the command line, on real processes; nothing here depends on how fast they are."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from forked import Forked
from harness import python_path
from PIL import Image
from stages import command

from ffdist.bench import loaders
from ffdist.bench.harness.probe import Probe
from ffdist.bench.harness.window import Window
from ffdist.bench.harness.worker_pool import PoolMember, WorkerPool, join
from ffdist.bench.hosts import Hosts, remove_left, why_not
from ffdist.bench.settings import BenchSettings
from ffdist.bench.sittings import TRAININGS
from ffdist.bench.suites.accuracy import check
from ffdist.bench.suites.depth import threads_memory, with_blocks
from ffdist.bench.suites.loader import loader_mains
from ffdist.cli import main
from ffdist.data import Loader, from_tensors, prepare
from ffdist.errors import ConfigError, StageError
from ffdist.runtime.world import World

pytestmark = [pytest.mark.distributed, pytest.mark.measures]
SMALL = (
    "--model",
    "mlp",
    "--model-args",
    "widths=16,16,16",
    "--rounds",
    "1",
    "--seconds",
    "0.05",
    "--qualifying",
    "1",
    "--batch-size",
    "32",
    "--precision",
    "fp32",
    "--json",
)


def bench(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[dict, str]:
    """The result of a suite, and what it wrote on the way."""
    main(["bench", *args])
    out, err = capsys.readouterr()
    return json.loads(out), err


def test_throughput_prints_the_promised_keys_and_all_of_ddp_tunings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, progress = bench(capsys, "throughput", *SMALL, "--against", "ddp", "--record", str(tmp_path))
    promised = {"model", "devices", "precision", "batch", "ours", "theirs", "ratio", "ratio_min", "ratio_max", "n"}
    assert promised <= found.keys()
    assert found["n"] == len(found["pairs"]) >= 1
    assert found["ratio_min"] <= found["ratio"] <= found["ratio_max"]
    assert {"ddp", "ddp-static", "ddp-bf16", "ddp-bucket-5", "ddp-bucket-100"} <= found["qualifying"].keys()
    assert found["variant"] in found["qualifying"]
    tunings = len(found["qualifying"])
    for number, name in enumerate(found["qualifying"], 1):
        assert f"trying {name} ({number} of {tunings})" in progress
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".md", ".svg"]


def test_a_step_is_shown_by_operation_on_both_sides_beside_the_machines_peak(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ("--model", "cnnb", "--model-args", "widths=4,8,8", "--batch-size", "16", "--rounds", "2", "--json")
    found, _ = bench(capsys, "step", *small, "--record", str(tmp_path))
    assert found["peak_gflops"] > 0
    for side in found["sides"].values():
        assert len(side["all_seconds"]) == 2
        by_operation = sum(operation["seconds"] for operation in side["operations"].values())
        assert by_operation == pytest.approx(sum(side["kinds"].values()))
        assert side["kinds"]["products"] > 0
        assert side["kinds"]["norms"] > 0
        assert side["outside_of_products"] == pytest.approx(1 - side["kinds"]["products"] / by_operation)
        calls = {name: operation["calls"] for name, operation in side["operations"].items()}
        assert calls["aten::max_pool2d_with_indices"] == 2, "of one step, whatever was profiled"
    assert found["sides"]["ff"]["gflop"] != found["sides"]["bp"]["gflop"]
    (table,) = tmp_path.glob("*.md")
    assert "by operation" in table.read_text()


def test_two_stages_hold_less_than_two_ranks_of_ddp(capsys: pytest.CaptureFixture[str]) -> None:
    """In a network whose weights are all its memory, a stage has half of them."""
    found, _ = bench(capsys, "memory", *SMALL, "--model-args", "widths=512,512,512,512", "--against", "ddp-bucket-25")
    assert 0.4 < found["ratio"] < 0.8
    ours = found["ours_split"]
    assert ours["peak"] == sum(ours[part] for part in ("weights", "gradients", "optimiser", "activations", "queue"))
    assert ours["optimiser"] > 1.9 * ours["weights"] > 0


RECIPES = """
[[ours]]
lr = 1e-9
[[ours]]
lr = 1e-2
[[baseline]]
optimizer = "sgd"
lr = 5e-2
head_lr = 2e-2
ema = 0.5
label_smoothing = 0.1
"""


def test_time_to_accuracy_goes_by_the_recipe_that_was_fastest_for_each_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At a learning rate of 1e-9 nothing is learned, so that ours cannot have chosen it; theirs has one alone."""
    monkeypatch.setattr(
        "ffdist.bench.suites.accuracy.MAX_TRIES_PER_ROUND", 1
    )  # one pair of runs is told, whoever else computes
    (tmp_path / "recipes.toml").write_text(RECIPES)
    options = ["--against", "ddp-bucket-25", "--target", "0.5", "--lengths", "3", "--record", str(tmp_path)]
    kept = ["--recipes", str(tmp_path / "recipes.toml"), "--finished", str(tmp_path / "kept")]
    main(["bench", "accuracy", *SMALL, *options, *kept])
    text = capsys.readouterr().out
    found = json.loads(text)
    smoothed = {"optimizer": "sgd", "lr": 5e-2, "head_lr": 2e-2, "ema": 0.5, "label_smoothing": 0.1, "epochs": 3}
    assert found["recipes"] == {"ours": {"lr": 1e-2, "epochs": 3}, "ddp-bucket-25": smoothed}
    assert found["reached"] == {"ours": True, "ddp-bucket-25": True}
    assert found["ours"] > 0 < found["theirs"]
    (path,) = tmp_path.glob("*.json")
    rows = [row for row in json.loads(path.read_text())["rows"] if row["part"] == "tried"]
    assert len([row for row in rows if row["metric"] == "time"]) == 1  # who has no choice is not tried
    assert {row["epochs_at_most"] for row in rows} == {3}
    lines = (tmp_path / "kept" / TRAININGS).read_bytes()
    main(["bench", "accuracy", *SMALL, *options, *kept])
    assert capsys.readouterr().out == text, "seconds, too: nothing was run again"
    assert (tmp_path / "kept" / TRAININGS).read_bytes() == lines


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[theirs]]\nlr = 1.0\n", r"\[\[ours\]\] and \[\[baseline\]\](.|\n)*got: +theirs"),
        ("ours = 3\n", "each as often as there are recipes"),
        ("[[ours]]\nbatch_size = 3\n", "'batch_size' is not a setting that a side chooses"),
        ("[[ours]]\nlearning_rate = 3\n", "unknown setting 'learning_rate'"),
        ('[[baseline]]\nlr = "fast"\n', "'lr' has a wrong value"),
    ],
)
def test_a_file_of_recipes_that_cannot_be_used_is_refused_before_anything_runs(
    text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "recipes.toml").write_text(text)
    settings = BenchSettings().changed(data="digits", recipes=tmp_path / "recipes.toml")
    with pytest.raises(ConfigError, match=message):
        check(settings)


def test_memory_of_a_stage_does_not_grow_with_the_number_of_stages() -> None:
    settings = BenchSettings().changed(model="mlp", batch_size=32, precision="fp32", data="digits")
    few, many = (threads_memory(with_blocks(settings, n), n) for n in (3, 9))
    assert max(use.peak for use in many) <= 1.05 * max(use.peak for use in few)
    frame = 32 * 512 * 4
    assert min(use.queue for use in many) >= 3 * frame, "a stage's edges have a slot more than they are deep"


def meet_elsewhere(member: PoolMember) -> tuple[str, float]:
    """This rank's network, and the sum over ranks."""
    join(member, torch.device("cpu"), 1)
    total = torch.ones(1)
    dist.all_reduce(total)
    dist.destroy_process_group()
    return os.readlink("/proc/self/ns/net"), float(total)


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_two_hosts_are_networks_apart_that_reach_each_other_and_leave_nothing() -> None:
    with Hosts() as hosts:
        hosts.limit("1gbit")
        with WorkerPool("hosts", hosts.place(meet_elsewhere), 2) as pool:
            (here, total), (there, _) = pool.finish()
        hosts.limit("unlimited")
    assert len({here, there, os.readlink("/proc/self/ns/net")}) == 3
    assert total == 2
    assert not [name for name in hosts.names if Path("/run/netns", name).exists()]


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_hosts_of_a_killed_process_go_with_the_next_ones_and_no_others() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    left, held, others = f"ffdist-{ended.pid}-a", f"ffdist-{ended.pid}-b", f"ffdist-{os.getppid()}-a"
    for name in (left, held, others):
        subprocess.run(["ip", "netns", "add", name], check=True)
    inside = subprocess.Popen(["ip", "netns", "exec", held, "sleep", "60"])
    try:
        while os.readlink(f"/proc/{inside.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            time.sleep(0.01)
        remove_left()
        assert [Path("/run/netns", name).exists() for name in (left, held, others)] == [False, True, True]
    finally:
        inside.kill()
        inside.wait()
        for name in (left, held, others):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_two_hosts_are_compared_at_each_rate_of_their_link(capsys: pytest.CaptureFixture[str]) -> None:
    found, said = bench(capsys, "bandwidth", "--rates", "1gbit", *SMALL)
    (line,) = found["bandwidth"]
    assert line["link"] == "1gbit"
    assert "link: 1gbit" in said


def test_one_device_scales_from_itself_and_is_held_against_one_process(capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = bench(capsys, "scaling", "--devices", "1", *SMALL)
    (line,) = found["scaling"]
    assert (line["devices"], line["ours / one"], line["against"]) == (1, 1.0, "bp")
    assert line["ratio"] == pytest.approx(line["ours samples/s"] / line["its samples/s"])


def tell_cores(member: PoolMember) -> list[int]:
    return sorted(os.sched_getaffinity(0))


def test_each_member_of_a_side_has_cores_of_its_own() -> None:
    with WorkerPool("cores", tell_cores, 2) as pool:
        one, other = pool.finish()
    shared = set(one) & set(other)
    assert not shared if len(os.sched_getaffinity(0)) > 1 else shared
    assert len(one) == len(other)


def test_the_probe_notices_other_work_that_was_there_all_along() -> None:
    cores = sorted(os.sched_getaffinity(0))
    taken = cores[len(cores) // 2 :]
    busy = "import os\nos.sched_setaffinity(0, [{}])\nwhile True: pass"
    neighbours = [subprocess.Popen([sys.executable, "-c", busy.format(core)]) for core in taken]
    try:
        with Probe(2) as probe:
            assert max(probe.measure() for _ in range(3)) < probe.required
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()


def fail_on_order(member: PoolMember) -> None:
    raise ValueError(f"told {member.next_order()}")


def test_a_member_that_fails_ends_the_comparison_with_its_own_words() -> None:
    with (
        WorkerPool("clumsy", fail_on_order, 2) as pool,
        pytest.raises(StageError, match=r"(?s)clumsy.*ValueError: told 7"),
    ):
        pool.ask(7)


COMPARING = """
import time
from ffdist.bench.harness.worker_pool import WorkerPool

def main(member):
    member.answer("here")
    time.sleep(600)  # a long round

if __name__ == "__main__":
    with WorkerPool("stuck", main, 1) as pool:
        pool.recv()
        print(*(process.pid for process in pool.processes), flush=True)
        pool.recv()
"""
MEASURING = """
import multiprocessing, threading, time
from ffdist.transport.measure import measure_transport

def tell():
    while len(multiprocessing.active_children()) < 2:
        time.sleep(0.01)
    print(*(process.pid for process in multiprocessing.active_children()), flush=True)

if __name__ == "__main__":
    threading.Thread(target=tell, daemon=True).start()
    measure_transport(["local"], [1 << 20], rounds=100_000)
"""


@pytest.mark.parametrize("script", [COMPARING, MEASURING], ids=["comparing", "measuring"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda number: number.name)
def test_what_measures_ends_with_who_wanted_to_know(script: str, number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "measure.py").write_text(script)
    env = os.environ | {"PYTHONPATH": python_path()}
    with Forked([sys.executable, tmp_path / "measure.py"], stdout=subprocess.PIPE, text=True, env=env) as own:
        assert own.stdout
        members = [int(word) for word in own.stdout.readline().split()]
        assert members
        own.send_signal(number)
        assert own.wait(60) in (-number, 130)
    deadline = time.monotonic() + 60
    while any(command(pid) for pid in members) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(command(pid) for pid in members)


def semaphores() -> set[Path]:
    """Named ones, as Linux keeps them."""
    return set(Path("/dev/shm").glob("sem.mp-*"))


def test_loaders_are_compared_with_what_else_makes_the_same_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Encoded pictures with ImageFolder and DataLoader, of each decoder."""
    monkeypatch.setattr("ffdist.bench.suites.loader.MAX_TRIES_PER_ROUND", 1)  # one round is told, whoever else computes
    for place in range(48):
        folder = tmp_path / "tree" / f"class-{place % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (5 * place, 0, 0)).save(folder / f"{place}.jpg")
    prepare(tmp_path / "tree", tmp_path / "data", size=28, store="encoded")
    arguments = (*SMALL, "--batch-size", "8", "--devices", "1", "--augment", "flip")
    before = semaphores()
    main(["bench", "loader", *arguments, "--data", str(tmp_path / "data"), "--workers", "1"])
    deadline = time.monotonic() + 10  # another test's may come and go
    while semaphores() - before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not semaphores() - before, "DataLoader's workers end before their process does"
    found = json.loads(capsys.readouterr().out)
    others = ["ImageFolder by Pillow, 1 worker", "ImageFolder by decode_image, 1 worker"]
    assert list(found["loaders"]) == ["loader, 1 worker", *others]
    assert found["against"]["loader, 1 worker"]["fastest"] in others
    assert min(found["loaders"].values()) > 0 < found["training"]
    assert 0 <= found["waiting"] <= 1


def test_loaders_of_pixels_are_compared_with_whole_batches_of_torch(tmp_path: Path) -> None:
    """Each answers what it is asked over a line, as in a process of its own."""
    settings = BenchSettings().changed(model="mlp", data="digits", augment=["flip"], batch_size=8)
    found = loader_mains(settings, tmp_path)
    assert list(found) == ["loader", "torch, gather", "torch, masks"]
    for run_side in found.values():
        here, there = multiprocessing.Pipe()
        for order in (Window(1, 3), Window(0, 200), None):
            here.send(order)
        run_side(PoolMember(World(0, 1, 0), "", there))
        measured = [here.recv()[1] for _ in range(2)]
        assert [window.samples for window in measured] == [24, 1600]
        assert min(window.seconds for window in measured) > 0 <= measured[0].details["computing"]


@pytest.mark.parametrize("way", ["gathered", "masked"])
def test_torch_batches_crop_and_flip_as_ours_do(way: str) -> None:
    """Every picture is one that our own crop and flip can make."""
    x = torch.arange(6 * 8 * 8, dtype=torch.uint8).view(6, 1, 8, 8)
    images = from_tensors(x, torch.arange(6))
    loader = Loader(images, images.train, np.arange(6), batch_size=6, seed=0, train=True)
    made, labels = next(getattr(loaders, way)(loader, {"crop", "flip"}))
    pixels = (made * images.std[0] + images.mean[0]).mul(255).round().to(torch.uint8)
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    for picture, label in zip(pixels, labels, strict=True):
        crops = [padded[label, :, top : top + 8, left : left + 8] for top in range(3) for left in range(3)]
        assert any(torch.equal(picture, of) for crop in crops for of in (crop, crop.flip(-1)))
