"""Training, measuring and the suite on real GPUs, in processes of their own: what the stand-in of `tests/accelerator`
cannot show. Kernels and what they round, autocast's lists, NCCL, work that overlaps, the allocator's figures, speed."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from ffdist.transport import Edge, EdgeContext, Frame
from ffdist.transport.contract import ContractRank, Crew
from ffdist.transport.process_group import NCCL, new_edge_group

ROOT = Path(__file__).resolve().parents[2]
ON_GPU = "cuda"
TRAINED = ("--epochs", "10", "--batch-size", "32", "--threads", "1")
EDGE = Edge("0-1", depth=2, timeout=timedelta(seconds=60))


def ended_well(*command: str) -> str:
    """What it prints."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ffdist(*args: str | Path) -> str:
    return ended_well("-m", "ffdist", *map(str, args))


def last_record(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-2])


def accuracy(run: Path) -> float:
    """On the test split."""
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["test"]["accuracy"]["mean"]


@pytest.fixture(scope="module")
def cpu_run(num_gpus: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that no GPU has touched."""
    if not num_gpus:
        pytest.skip("needs a GPU, and there is none")
    out = tmp_path_factory.mktemp("cpu") / "run"
    ffdist("train", "--device", "cpu", "--stages", "1", *TRAINED, "--out", out)
    return out


@pytest.mark.gpu
@pytest.mark.distributed
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("launcher", ["threads", "processes"])
def test_stages_on_gpus_learn_as_well_as_on_the_cpu(
    launcher: str, stages: int, precision: str, cpu_run: Path, tmp_path: Path
) -> None:
    """Where there are fewer GPUs than stages, they share."""
    out = tmp_path / "run"
    ffdist(
        "train",
        "--device",
        ON_GPU,
        "--launcher",
        launcher,
        "--stages",
        str(stages),
        "--precision",
        precision,
        *TRAINED,
        "--out",
        out,
    )
    assert accuracy(cpu_run) > 0.95
    assert accuracy(out) == pytest.approx(accuracy(cpu_run), abs=0.03)
    logs = [(out / f"stage-{i}.log").read_text() for i in range(stages)]
    assert all(f" on {ON_GPU}" in log for log in logs)
    assert all(0 < stage["peak_bytes"] < 1 << 30 for stage in last_record(out)["stages"])


@pytest.mark.gpu
@pytest.mark.distributed
def test_a_run_goes_from_gpu_to_cpu_and_back(tmp_path: Path) -> None:
    out, model = tmp_path / "run", tmp_path / "model.pt2"
    ffdist("train", "--device", ON_GPU, "--stages", "2", *TRAINED, "--epochs", "4", "--out", out)
    ffdist("train", "--resume", "--out", out, "--device", "cpu", "--stages", "3", "--epochs", "7")
    ffdist("train", "--resume", "--out", out, "--device", ON_GPU, "--stages", "1", "--epochs", "10")
    assert accuracy(out) > 0.95
    on_cpu = json.loads(ffdist("eval", out, "--json"))["accuracy"]["mean"]
    assert on_cpu == pytest.approx(accuracy(out), abs=0.01)
    ffdist("export", out, "--to", model)
    assert model.stat().st_size > 0


@pytest.mark.gpu
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("rule", "model", "least"),
    [
        ("hinton", "--model mlp --model-args widths=200,200", 0.25),  # its 10 epochs on a CPU come to 0.37
        ("cwc", "--model cfse-cnn --model-args widths=20,40,80,80", 0.7),
        ("asge", "--model-args widths=20,40,80", 0.7),
        ("deeperforward", "--model-args widths=20,40,80", 0.7),
        ("predsim", "--model-args widths=20,40,80", 0.7),
    ],
)
def test_other_rules_learn_on_a_gpu(rule: str, model: str, least: float, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ffdist("train", "--device", ON_GPU, "--stages", "2", "--objective", rule, *model.split(), *TRAINED, "--out", out)
    assert accuracy(out) > least


@pytest.mark.gpu
@pytest.mark.distributed
def test_backpropagation_is_measured_beside_it(tmp_path: Path) -> None:
    args = ("--device", ON_GPU, "--devices", "1", "--against", "bp", "--rounds", "1", "--seconds", "0.2", "--json")
    assert json.loads(ffdist("bench", "throughput", "--model", "cnnb", *args))["ratio"] > 0
    memory = json.loads(ffdist("bench", "memory", "--model", "cnnb", *args))
    assert memory["ours"] > 0
    assert memory["theirs"] > 0


@pytest.mark.gpu
@pytest.mark.distributed
def test_the_suite_runs_whole(tmp_path: Path) -> None:
    parts = ("serial", "batch", "depth", "stages", "streams", "kernels")
    ended_well(
        str(ROOT / "benchmarks/gpu_suite.py"), "--out", str(tmp_path), "--device", ON_GPU, "--quick", "--parts", *parts
    )
    records = {file.stem: json.loads(file.read_text()) for file in tmp_path.glob("*.json")}
    assert set(records) == set(parts)
    assert all(record["done"] and not record["failed"] for record in records.values())
    for network in records["serial"]["result"].values():
        assert all(peak > 0 for peak in network["peak_bytes"].values())


def send_from_gpu(place: ContractRank, num_frames: int) -> None:
    device = torch.device("cuda", place.rank)
    torch.cuda.set_device(device)
    group = new_edge_group(0, 1, EDGE.timeout, device)
    sender = NCCL.open_sender(EDGE, EdgeContext(place.store, device, group))
    for i in range(num_frames):
        x = torch.full((1 << 20,), float(i), device=device).bfloat16()
        sender.send(Frame("x", {"i": i}, {"x": x, "y": torch.tensor([i]), "none": torch.empty(0, device=device)}))
    sender.close()


def recv_on_gpu(place: ContractRank, num_frames: int) -> list[tuple[int, float, str, int]]:
    device = torch.device("cuda", place.rank)
    torch.cuda.set_device(device)
    group = new_edge_group(0, 1, EDGE.timeout, device)
    receiver = NCCL.open_receiver(EDGE, EdgeContext(place.store, device, group))
    got = []
    for _ in range(num_frames):
        frame = receiver.recv()
        x, y = frame.tensors["x"], frame.tensors["y"]
        got.append((frame.fields["i"], x.float().mean().item(), str(x.device), int(y)))
    receiver.close()
    return got


@pytest.mark.gpu(2)
@pytest.mark.distributed
def test_tensors_go_from_gpu_to_gpu_by_nccl() -> None:
    with Crew(2, fresh=True) as crew:
        _, outcome = crew.run([send_from_gpu, recv_on_gpu], 50, gloo=True)
    assert outcome.unwrap() == [(i, float(i), "cuda:1", i) for i in range(50)]


@pytest.mark.gpu(2)
@pytest.mark.distributed
def test_torchrun_puts_each_rank_on_a_gpu_of_its_own(cpu_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ended_well(
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "ffdist",
        "train",
        *TRAINED,
        "--out",
        str(out),
    )
    assert accuracy(out) == pytest.approx(accuracy(cpu_run), abs=0.03)
    assert [f"on cuda:{i}" in (out / f"stage-{i}.log").read_text() for i in range(2)] == [True, True]
