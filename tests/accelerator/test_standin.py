"""Training on an accelerator, as far as a stand-in can show it: the way of all kinds through ffdist's own code."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ffdist import device as devices
from ffdist.errors import FfdistError
from ffdist.models import Chain, cnnb
from ffdist.objectives import OBJECTIVES, SFF
from ffdist.pipeline.block import BlockConfig, LearningBlock, learn
from ffdist.pipeline.memory import Memory
from ffdist.pipeline.plan import block_specs, build_block
from ffdist.pipeline.stage import Stage
from ffdist.settings import Settings
from ffdist.transport import Edge, EdgeContext, Frame, transport_of
from ffdist.transport.contract import ContractRank, Crew
from ffdist.transport.process_group import new_edge_group

EDGE = Edge("0-1", depth=2, timeout=timedelta(seconds=60))
TRAINED = tuple("--samples 256 --batch-size 32 --threads 1 --snapshot-every 3 --seed 3 --schedule constant".split())  # noqa: SIM905


@pytest.fixture(scope="module")
def crew(on_path: Path) -> Iterator[Crew]:
    with Crew(2, fresh=True) as crew:  # which find the stand-in on their path
        yield crew


def alone(crew: Crew, function: Any) -> Any:
    """What it returns in the first of the crew's processes."""
    return crew.run([function, nothing])[0].unwrap()


def nothing(place: ContractRank) -> None:
    pass


def first() -> torch.device:
    return devices.all_seen()[0]


# ---- The room for devices, and whether the stand-in would tell of what is wrong


def whole_room(place: ContractRank) -> dict[str, Any]:
    there, other = devices.all_seen()
    devices.enter(other)
    x = torch.arange(12.0).view(3, 4)
    copy = devices.copied(x, other)
    begun = devices.recorded(other, timing=True)
    devices.forget_peak(other)
    held = devices.allocated_bytes(other)
    doubled = [copy * 2 for _ in range(2)]
    peak = devices.peak_bytes(other) - held
    del doubled
    states = devices.generator_states(other)
    devices.seed_generators(other, 5)
    drawn = torch.rand(4, device=other)
    devices.set_generator_states(states, other)
    before = torch.rand(4, device=other)
    devices.seed_generators(other, 5)
    again = torch.rand(4, device=other)
    devices.synchronize(other)
    return {
        "seen": tuple(devices.seen()),
        "names": [devices.name_of(each) for each in (there, other)],
        "identities": {devices.identity(each) for each in (there, other)},
        "backend": devices.group_backend(other),
        "current": torch.accelerator.current_device_index(),
        "copied": (str(copy.device), copy.tolist() == x.tolist()),
        "pinned": x.pin_memory().is_pinned(),
        "seconds": devices.seconds_between(begun, devices.recorded(other, timing=True, blocking=True)),
        "peak": peak,
        "left": devices.allocated_bytes(other) - held,
        "other": devices.allocated_bytes(there),
        "drawn": (drawn.tolist() == again.tolist(), drawn.tolist() == before.tolist()),
        "wide": devices.wide(other),
        "total": devices.total_bytes(other),
    }


def test_the_room_for_devices_speaks_of_an_accelerator_that_a_package_brings(crew: Crew) -> None:
    found = alone(crew, whole_room)
    assert found.pop("seconds") >= 0
    assert found.pop("left") < 200  # three tensors of 4 numbers
    assert found == {
        "seen": ("standin", 2),
        "names": ["stand-in", "stand-in"],
        "identities": {"standin:standin-0", "standin:standin-1"},
        "backend": "cpu:gloo,standin:standincc",
        "current": 1,
        "copied": ("standin:1", True),
        "pinned": True,
        "peak": 2 * 12 * 4,
        "other": 0,
        "drawn": (True, False),
        "wide": torch.float64,
        "total": 2**40,
    }


def mistakes(place: ContractRank) -> list[str]:
    """What is told of work on a second stream that does not wait, of mixed devices, and of memory freed too early."""
    here, there = devices.all_seen()
    stream = devices.new_stream(here)
    assert stream
    messages = []

    def attempt(work: Any) -> None:
        try:
            work()
        except RuntimeError as error:
            messages.append(str(error).splitlines()[0])

    made = torch.ones(3, device=here) * 2
    with devices.on_stream(stream):
        attempt(lambda: made + 1)
    attempt(lambda: made + torch.ones(3))
    attempt(lambda: made + made.to(there))
    for keep in (devices.use_on_current_stream, lambda tensor: None):
        with devices.on_stream(stream):
            made = torch.ones(3, device=here) * 2
        torch.accelerator.current_stream(here).wait_event(stream.record_event())
        made + 1
        keep(made)
        made = None
        attempt(lambda: torch.ones(3, device=here))
    return messages


def test_the_stand_in_tells_of_what_a_gpu_would_get_wrong_in_silence(crew: Crew) -> None:
    unwaited, host, devices_mixed, freed = alone(crew, mistakes)
    assert unwaited.startswith("race: aten::add on stream 2 touches memory that stream 0 used")
    assert "cpu" in host
    assert "standin:1" in devices_mixed
    assert freed == "race: memory of stream 2 was freed while stream 0 used it"


# ---- Blocks, rules, optimisers


class Noisy(nn.Module):
    """Draws random numbers of its device, as dropout does."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.2, self.training)


def chain_for(rule: str) -> Chain:
    torch.manual_seed(0)
    if rule == "hinton":
        blocks = [
            nn.Sequential(nn.Flatten(), nn.Linear(192, 40), nn.ReLU()),
            nn.Sequential(nn.Linear(40, 40), nn.ReLU()),
        ]
    else:
        blocks = [nn.Conv2d(c, 20, 3, padding=1) for c in (3, 20)]
        blocks = [nn.Sequential(block, nn.BatchNorm2d(20), nn.ReLU(), Noisy(), nn.MaxPool2d(2)) for block in blocks]
    return Chain.from_sequential(nn.Sequential(*blocks), input_shape=(3, 8, 8), num_classes=10, layers_per_block=[1, 1])


def learned(rule: str, device: torch.device, **settings: Any) -> dict[str, Tensor]:
    """The state of two blocks after two batches and an evaluation, on the host."""
    chain, objective = chain_for(rule), OBJECTIVES[rule]()
    config = BlockConfig(Settings().changed(**settings), 10, device)
    blocks = [build_block(chain, spec, objective, config) for spec in block_specs(chain)]
    generator = torch.Generator().manual_seed(0)
    for step in range(2):
        x, y = torch.rand(8, 3, 8, 8, generator=generator), torch.arange(8)
        learn(blocks, objective.prepare(x, y, 10, generator), devices.moved(y, device), step)
    held: Tensor | None = objective.prepare_eval(x, 10)
    for block in blocks:
        assert held is not None
        held = block.evaluate(held, devices.moved(y, device)).next_input
    states = {f"{block.spec.name}.{name}": t.cpu() for block in blocks for name, t in block.state()[0].items()}
    assert all(block.totals.device == device for block in blocks)
    return states


def rules_that_differ(place: ContractRank) -> list[str]:
    return [rule for rule in OBJECTIVES if differ(rule, ema=0.9, clip=1.0)]


def optimizers_that_differ(place: ContractRank) -> list[str]:
    newest = ["muon"] if hasattr(torch.optim, "Muon") else []
    return [name for name in ("adamw", "adam", "sgd", *newest) if differ("sff", optimizer=name)]


def half(place: ContractRank) -> tuple[list[float], bool]:
    """Scales of the blocks' losses behind an overflow, and whether all weights are finite."""
    chain, device = chain_for("sff"), first()
    config = BlockConfig(Settings().changed(optimizer="sgd", clip=1.0, precision="fp16"), 10, device)
    blocks = [build_block(chain, spec, SFF(), config) for spec in block_specs(chain)]
    for step, size in enumerate((1.0, 1e6, 1.0)):
        learn(blocks, size * torch.rand(8, 3, 8, 8), devices.moved(torch.arange(8), device), step)
    states = [value for block in blocks for value in block.state()[0].values() if value.is_floating_point()]
    return [block.scale.value for block in blocks if block.scale], all(bool(v.isfinite().all()) for v in states)


def differ(rule: str, **settings: Any) -> bool:
    here, there = learned(rule, devices.CPU, **settings), learned(rule, first(), **settings)
    return here.keys() != there.keys() or not all(torch.equal(here[name], there[name]) for name in here)


def test_every_rule_learns_on_an_accelerator_what_it_learns_on_a_cpu(crew: Crew) -> None:
    assert alone(crew, rules_that_differ) == []


def test_every_optimiser_steps_on_an_accelerator_as_on_a_cpu(crew: Crew) -> None:
    assert alone(crew, optimizers_that_differ) == []


def test_in_float16_an_overflow_takes_no_step_on_an_accelerator_either(crew: Crew) -> None:
    scales, finite = alone(crew, half)
    assert scales == [2**15, 2**15]
    assert finite


def kept_apart(place: ContractRank) -> dict[str, Any]:
    chain = cnnb((3, 32, 32), 10, (20, 20))
    device = devices.all_seen()[1]
    config = BlockConfig(Settings().changed(precision="bf16"), 10, device)
    blocks = [build_block(chain, spec, SFF(), config) for spec in block_specs(chain)]
    stage = Stage(0, blocks, lambda blocks, marker: [])
    y = devices.moved(torch.arange(4), device)
    for step in range(3):
        out = learn(blocks[:1], torch.rand(4, 3, 32, 32), y, step)
        stage.lead.limit()
    assert out is not None
    return {"waiting": len(stage.lead.under_way), "out": (str(out.device), out.dtype), **Memory(device).peaks()}


def test_a_stage_counts_the_memory_of_its_device_and_keeps_its_host_one_batch_ahead(crew: Crew) -> None:
    found = alone(crew, kept_apart)
    assert found["waiting"] == 1
    assert found["out"] == ("standin:1", torch.bfloat16)
    assert 0 < found["run_bytes"] == found["peak_bytes"] < 2**22 < found["process_bytes"]


def failing(place: ContractRank) -> str:
    chain = cnnb((3, 8, 8), 10, (20,))
    block: LearningBlock = build_block(chain, block_specs(chain)[0], SFF(), BlockConfig(Settings(), 10, first()))
    block.module.register_buffer("forgotten", torch.ones(1, 20, 4, 4))  # on the host
    block.module.register_forward_hook(lambda module, args, out: out + module.forgotten)
    stage = Stage(0, [block], lambda blocks, marker: [])
    try:
        with stage.at(block, "learn", "batch 1"):
            block.forward(torch.rand(4, 3, 8, 8), torch.arange(4), 1)
    except FfdistError as error:
        return str(error)
    return "nothing"


def test_what_a_users_block_left_on_the_host_is_an_error_with_its_block(crew: Crew) -> None:
    error_text = alone(crew, failing)
    assert "block 0 'conv1'" in error_text
    assert "cpu" in error_text


# ---- An edge, and whole runs


def meeting(place: ContractRank, device: torch.device) -> EdgeContext:
    return EdgeContext(place.store, device, new_edge_group(0, 1, EDGE.timeout, device))


def send(place: ContractRank, num_frames: int) -> None:
    device = devices.all_seen()[place.rank]
    devices.enter(device)
    sender = transport_of("standincc").open_sender(EDGE, meeting(place, device))
    for i in range(num_frames):
        x = torch.full((1 << 10,), float(i), device=device).bfloat16()
        sender.send(Frame("x", {"i": i}, {"x": x, "y": torch.tensor([i]), "none": torch.empty(0, device=device)}))
    sender.close()


def recv(place: ContractRank, num_frames: int) -> list[tuple[int, float, str, int]]:
    device = devices.all_seen()[place.rank]
    devices.enter(device)
    receiver = transport_of("standincc").open_receiver(EDGE, meeting(place, device))
    got = []
    for _ in range(num_frames):
        frame = receiver.recv()
        x, y = frame.tensors["x"], frame.tensors["y"]
        got.append((frame.fields["i"], x.float().mean().item(), str(x.device), int(y)))
    receiver.close()
    return got


def test_tensors_go_from_device_to_device_after_what_makes_them_and_before_what_uses_them(crew: Crew) -> None:
    _, outcome = crew.run([send, recv], 20, gloo=True)
    assert outcome.unwrap() == [(i, float(i), "standin:1", i) for i in range(20)]


def ffdist(*args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ffdist", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)


def snapshot(run: Path) -> dict[str, dict[str, Tensor]]:
    """Each block's tensors in the last one."""
    last = sorted((run / "snapshots").iterdir())[-1]
    return {path.name: load_file(path) for path in sorted(last.glob("*.safetensors"))}


def equal(left: dict[str, dict[str, Tensor]], right: dict[str, dict[str, Tensor]]) -> bool:
    return left.keys() == right.keys() and all(
        torch.equal(left[file][name], right[file][name]) for file in left for name in left[file]
    )


@pytest.mark.distributed
def test_stages_on_two_devices_and_resumed_on_one_learn_what_a_cpu_learns(on_path: Path, tmp_path: Path) -> None:
    """By two processes with an edge from device to device; then on by two threads that share the second one."""
    cpu, out = tmp_path / "cpu", tmp_path / "run"
    alone = ("--device", "cpu", "--stages", "1", "--launcher", "threads", "--epochs", "2", "--out", cpu)
    apart = ("--stages", "2", "--epochs", "1", "--out", out)
    shared = ("--resume", "--device", "standin:1", "--launcher", "threads", "--epochs", "2", "--out", out)
    for args in ((*TRAINED, *alone), (*TRAINED, *apart)):
        done = ffdist("train", *args)
        assert done.returncode == 0, done.stderr
    for index in range(2):
        log = (out / f"stage-{index}.log").read_text()
        assert f"on standin:{index} " in log
        assert "edges of the run: standincc" in log
    done = ffdist("train", *shared)
    assert done.returncode == 0, done.stderr
    assert "on standin:1 " in (out / "stage-0.log").read_text()
    assert equal(snapshot(cpu), snapshot(out))
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-2])
    assert all(0 < stage["peak_bytes"] < 2**25 for stage in last["stages"])


@pytest.mark.distributed
def test_a_device_that_is_not_there_is_refused_with_those_that_are(on_path: Path, tmp_path: Path) -> None:
    done = ffdist("train", "--device", "cuda", "--samples", "64", "--out", tmp_path / "run")
    assert done.returncode == 1
    assert "there is no device cuda" in done.stderr
    assert "cpu or standin or standin:0 or standin:1" in done.stderr
    assert not (tmp_path / "run").exists()
