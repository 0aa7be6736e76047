"""NaN and infinity in a batch: the run stops and says where; or blocks skip it, to the same bits under every plan."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import inf, isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from ffdist.cli import main
from ffdist.cli.train import parse
from ffdist.errors import ConfigError, DivergedError
from ffdist.objectives import SFF, BlockSpec, Local
from ffdist.objectives.hinton import Hinton
from ffdist.pipeline.finite import MAX_SKIPPED, Nonfinite, NonfiniteValue, is_finite
from ffdist.pipeline.message import Snapshot
from ffdist.pipeline.plan import build_block
from ffdist.pipeline.stage import Stage
from ffdist.runtime.nonfinite import KEPT, NonfiniteRecorder, kept_batches, numbers_of
from ffdist.runtime.replay import Recorder, replay
from ffdist.runtime.threads import run_threads
from ffdist.snapshot.files import FIELDS
from tests.jobs import QUIET, DigitsJob, cut_power_at, fingerprint, learned


@dataclass(frozen=True)
class Spoiled(SFF):
    """Breaks what `part` names in one block, of parts of batches whose labels' sum has a factor of 5; `always`: of
    all."""

    block: str = "conv2"
    part: str = "loss"
    always: bool = False

    def head(self, spec: BlockSpec) -> nn.Module:
        head = super().head(spec)
        head.hit = torch.tensor(spec.name == self.block)
        return head

    def local(self, head: nn.Module, out: Tensor, labels: Tensor | None) -> Local:
        local = super().local(head, out, labels)
        # of a lane's own samples alone: which ones have it, no plan changes
        if not head.hit or not head.training or labels is None or len(labels) < 3:  # two are the rehearsal's
            return local
        if not (self.always or int(labels.sum()) % 5 == 0):
            return local
        assert local.loss is not None
        assert local.next_input is not None
        if self.part == "loss":
            return local._replace(loss=local.loss * float("nan"))
        if self.part == "output":
            return local._replace(next_input=local.next_input.clone().index_fill_(0, torch.tensor([0]), float("inf")))
        zero = out.sum() * 0  # its root has no finite slope, though it is a number
        return local._replace(loss=local.loss + zero.sqrt())


@dataclass(frozen=True)
class SpoiledScores(Hinton):
    """Loss and scores of a block are none, in some batches."""

    def local(self, head: nn.Module, out: Tensor, labels: Tensor | None) -> Local:
        local = super().local(head, out, labels)
        if labels is None or len(labels) < 3 or int(labels.sum()) % 5 or local.loss is None:
            return local
        scores = None if local.scores is None else local.scores * float("nan")
        return local._replace(loss=local.loss * float("inf"), scores=scores)


def job(run: Path | None, epochs: int = 2, **settings: Any) -> DigitsJob:
    options = {"on_nan": "skip", "samples": 400, "augment": (), "snapshot_every": 2, "keep": 50}
    rule = {name: settings.pop(name) for name in ("block", "part", "always") if name in settings}
    return DigitsJob(run, epochs, Spoiled(**rule), settings=options | settings)


@pytest.mark.parametrize("part", ["loss", "output", "gradients"])
def test_a_run_stops_at_the_first_and_says_block_batch_and_epoch(part: str, tmp_path: Path) -> None:
    make = job(tmp_path, part=part, always=True, on_nan="stop", stages=2)
    verb = "are not finite numbers" if part == "gradients" else "is not a finite number"
    with pytest.raises(DivergedError, match=rf"the {part} {verb}\n.*block 1 'conv2'.*batch 1, epoch 1") as raised:
        run_threads(make(), QUIET)
    assert "--replay" in str(raised.value)
    (kept,) = kept_batches(tmp_path)
    assert (kept["batch"], kept["block"], kept["what"], kept["skipped"]) == (1, "conv2", part, False)
    assert kept["samples"] == numbers_of(make().loaders().train, 1).tolist()
    assert not list(tmp_path.glob("snapshots/*/manifest.json"))


def test_workers_that_find_the_same_batch_keep_it_at_the_same_time(tmp_path: Path) -> None:
    loader = job(None)().loaders().train
    spec = BlockSpec(0, "conv1", 3, 10, (1, 8, 8), (8, 8, 8))
    found = Nonfinite(spec, 1, 0, NonfiniteValue("loss", float("nan")), skipped=False)
    keepers = [NonfiniteRecorder(tmp_path, lambda: loader, worker == 0, worker=worker) for worker in range(3)]
    with ThreadPoolExecutor(3) as threads:
        for _ in range(20):
            paths = {*threads.map(lambda keep: keep(found), keepers)}
            assert paths == {str(path) for path in (tmp_path / KEPT).iterdir()}
    assert [kept["samples"] for kept in kept_batches(tmp_path)] == [numbers_of(loader, 1).tolist()]


@pytest.mark.parametrize("part", ["loss", "output", "gradients"])
def test_skipped_batches_are_the_same_under_every_plan_and_resumed(
    part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plans: dict[str, dict[str, Any]] = {
        "one": {"lanes": 4},
        "pipeline": {"lanes": 4, "stages": 3},
        "two workers, whole": {"replicas": 2, "lanes": 4, "exchange": "whole"},
        "three workers, slices": {"replicas": 3, "lanes": 4, "exchange": "slices"},
        "four workers, halves": {"replicas": 4, "lanes": 4, "exchange": "halves"},
        "two workers, by batch": {"plan": "* @ 0, 1 by batch", "lanes": 4},
    }
    found = {}
    for name, plan in plans.items():
        run = tmp_path / name.replace(" ", "-")
        result = run_threads(job(run, part=part, **plan)(), QUIET)
        found[name] = (fingerprint(run), learned(result.records), names_of(run))
    assert len({json.dumps(value) for value in found.values()}) == 1
    prints, records, kept = found["one"]
    assert {"conv2"} <= {name for _, name, _ in kept}
    assert (part == "output") == ("conv3" in {name for _, name, _ in kept})  # what meets it there skips, too
    assert sum(block.get("skipped", 0) for r in records for block in r["train"]["blocks"]) > 0
    assert "skipped batch" in capsys.readouterr().err

    run = tmp_path / "resumed"
    make = job(run, part=part, lanes=4, stages=2)
    cut_power_at(7, make)
    resumed = run_threads(job(run, part=part, lanes=4, replicas=2, resume=True)(), QUIET)
    assert (fingerprint(run), learned(resumed.records), names_of(run)) == (prints, records, kept)


def names_of(run: Path) -> list[tuple[int, str, list[int]]]:
    return [(each["batch"], each["block"], each["samples"]) for each in kept_batches(run)]


@pytest.mark.parametrize("part", ["loss", "gradients"])
def test_a_skipped_batch_changes_nothing_of_the_block_but_its_schedule(part: str, tmp_path: Path) -> None:
    """One lane in two microbatches, with norms: as long as all batches are skipped, all is as it began."""
    settings = {"microbatches": 2, "always": True, "part": part, "schedule": "cosine", "samples": 400}
    blocks = {}
    for name, epochs in (("short", 1), ("long", 2)):
        run = tmp_path / name
        result = run_threads(job(run, epochs, **settings)(), QUIET)
        skipped = [each.get("skipped") for record in result.records for each in record["train"]["blocks"]]
        assert skipped == [None, 5, None] * epochs, "of each epoch its own"
        (path,) = sorted(run.glob("snapshots/*/*conv2*"))[-1:]
        blocks[name] = {k: v for k, v in load_file(path).items() if not k.startswith("metrics")}
        with safe_open(path, framework="pt") as file:
            counted = json.loads(file.metadata()[FIELDS])["schedule"]["last_epoch"]
        assert counted == int(path.parent.name.split("-")[1]) > 0, "a schedule counts batches, those too"
    short, long = blocks.values()
    assert short.keys() == long.keys()
    assert all(torch.equal(short[name], long[name]) for name in short)
    assert not any(name.startswith("optimizer.") for name in short)


def test_a_block_that_skips_on_and_on_ends_the_run(tmp_path: Path) -> None:
    make = job(tmp_path, always=True, batch_size=8, stages=2)
    with pytest.raises(DivergedError, match=rf"batch after batch \({MAX_SKIPPED + 1} in a row\)[^$]*batch 21, epoch"):
        run_threads(make(), QUIET)
    assert len(list((tmp_path / KEPT).glob("*.json"))) == MAX_SKIPPED + 1


def test_lanes_side_by_side_skip_together(tmp_path: Path) -> None:
    prints = []
    for name, plan in {"one": {}, "two": {"replicas": 2}}.items():
        run_threads(job(tmp_path / name, 1, lanes=2, sync_norms=True, **plan)(), QUIET)
        prints.append((fingerprint(tmp_path / name), names_of(tmp_path / name)))
    assert prints[0] == prints[1]
    assert prints[0][1]


def test_a_source_hears_numbers_of_a_skipped_batch(tmp_path: Path) -> None:
    rule = SpoiledScores(predict="linear", hard=True, lag=2)
    made = DigitsJob(tmp_path, 2, rule, {"on_nan": "skip", "samples": 400, "augment": ()}, noisy=True)
    assert run_threads(made(), QUIET).reason == "finished"
    assert kept_batches(tmp_path)


def test_weights_that_an_update_has_broken_are_never_a_snapshot() -> None:
    made = DigitsJob()()
    block = build_block(made.chain, made.block_specs()[1], made.objective, made.block_config(torch.device("cpu"), 8))
    stage = Stage(0, [block], lambda blocks, marker: pytest.fail("they were written"))
    with torch.no_grad():
        block.learned[0][0, 0, 0, 0] = float("inf")
    with pytest.raises(DivergedError, match=r"weights are not finite[^$]*block 1 'conv2'"):
        stage.save(Snapshot(1, 0, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_finite_is_said_of_all_numbers_alone(dtype: torch.dtype) -> None:
    assert is_finite(torch.zeros(0, dtype=dtype))
    assert is_finite(torch.full((4096,), torch.finfo(dtype).max, dtype=dtype))  # whose sum is none
    for bad in (float("nan"), float("inf"), -float("inf")):
        for place in (0, 17, 4095):
            x = torch.randn(4096).to(dtype)
            x[place] = bad
            assert not is_finite(x)
    assert not is_finite(torch.tensor([float("inf"), -float("inf")], dtype=dtype))


def test_numbers_are_those_of_the_sources_order() -> None:
    loader = job(None)().loaders().train
    seen = np.concatenate([numbers_of(loader, step) for step in range(1, len(loader) + 1)])
    assert sorted(seen.tolist()) == sorted(loader.order(0)[: len(seen)].tolist())


def test_a_batch_alone_is_what_the_run_made_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a run of two stages and two lanes, from Python and by the command."""
    run = tmp_path / "run"
    rule = f"{Path(__file__)}:Spoiled"
    message = (
        "data=digits model=cnnb batch-size=64 epochs=2 samples=400 lanes=2 stages=2 threads=1 seed=7 snapshot-every=3"
    )
    words = [word for pair in message.split() for word in ("--" + pair.partition("=")[0], pair.partition("=")[2])]
    options = ["--objective", rule, "--objective-args", "part=output", "--augment", "none", "--on-nan", "skip"]
    given = ["--model-args", "widths=8,12,16", "--launcher", "threads", "--track", "none", "--keep", "9"]
    main(["train", *words, *options, *given, "--out", str(run)])
    kept = kept_batches(run)[-1]
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    capsys.readouterr()
    found = replay(run)
    assert (found.batch, found.epoch, found.samples) == (kept["batch"], kept["epoch"], kept["samples"])
    assert found.begun == max(step for step in (0, 3, 5, 6, 9) if step < found.batch)  # an epoch has five batches
    assert [each.block for each in found.blocks] == ["conv1", "conv2", "conv3"]
    assert found.first_bad is found.blocks[1]
    assert found.blocks[1].largest_output == float("inf")
    assert set(found.blocks[1].samples) <= set(found.samples)
    assert found.blocks[1].bad_outputs > 0 == found.blocks[0].bad_outputs
    main(["train", "--replay", str(run), "--batch", str(found.batch), "--json"])
    shown = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert shown["first_bad"] == "conv2"
    assert {str(each["loss"]) for each in shown["blocks"]} >= {"nan"}
    main(["train", "--replay", str(run)])
    assert f"Batch {found.batch}, epoch {found.epoch}: 64 samples" in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for wrong in (0, 11, True):
        with pytest.raises(ConfigError, match=r"no such batch[^$]*1 .. 10"):
            replay(run, wrong)


def test_a_number_of_the_gradients_that_several_lanes_break_counts_once() -> None:
    recorder = Recorder(BlockSpec(0, "conv1", 1, 10, (1, 8, 8), (4, 8, 8)), torch.device("cpu"))
    for lane in ([1.0, inf, 2.0, nan], [-3.0, nan, inf, 0.0]):
        recorder.look_at_lane(torch.tensor(lane), 2)
    assert recorder.record.bad_gradients == 3
    assert isnan(recorder.record.largest_gradient)


@pytest.mark.parametrize("words", ["--replay RUN --lr 1", "--batch 3", "--replay RUN --resume RUN"])
def test_a_batch_is_learned_as_the_run_has_it(words: str) -> None:
    with pytest.raises(ConfigError, match=r"--replay|training\.batch_size|replay"):
        parse(words.split())
