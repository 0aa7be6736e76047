"""Weights that two layers share: learned as one within a block, refused between blocks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from jobs import QUIET, DigitsJob, cut_power_at, fingerprint
from safetensors.torch import load_file
from torch import Tensor, nn

from ffdist import SFF, Pipeline, open_data
from ffdist.errors import NetworkError
from ffdist.models import Chain, load_model
from ffdist.pipeline.average import RAMP
from ffdist.pipeline.block import BlockConfig, LearningBlock
from ffdist.pipeline.classifier import Classifier
from ffdist.pipeline.plan import block_specs, build_block, check_objective
from ffdist.runtime.exported import weights
from ffdist.runtime.job import Job
from ffdist.runtime.threads import run_threads
from ffdist.settings import Settings
from ffdist.snapshot import SnapshotStore, latest

AVERAGED = {"ema": 0.9}


class Twice(nn.Module):
    """Two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.second = nn.Linear(64, 64)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x.flatten(1)).relu()).relu()


def tied_chain() -> Chain:
    return Chain([("tied", Twice), ("plain", Plain())], input_shape=(1, 8, 8), num_classes=10)


class Plain:
    def __call__(self) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 32), nn.ReLU())


class TiedJob(DigitsJob):
    def __call__(self) -> Job:
        return replace(super().__call__(), chain=tied_chain())


def tied_block(**values: float) -> LearningBlock:
    chain = tied_chain()
    return build_block(
        chain, block_specs(chain)[0], SFF(), BlockConfig(Settings().changed(**(values or AVERAGED)), 100)
    )


def test_a_run_with_tied_weights_resumes_to_the_same_bits(tmp_path: Path) -> None:
    make = TiedJob(settings={**AVERAGED, "snapshot_every": 5, "stages": 2})
    run_threads(replace(make, run=tmp_path / "whole")(), QUIET)
    cut_power_at(12, replace(make, run=tmp_path / "cut"))
    run_threads(replace(make, run=tmp_path / "cut", settings=make.settings | {"resume": True})(), QUIET)
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "whole")


def test_tied_weights_are_tied_still_when_they_are_loaded_and_exported(tmp_path: Path) -> None:
    job = TiedJob(tmp_path, epochs=1, settings=AVERAGED)()
    run_threads(job, QUIET)
    classifier, manifest = Classifier(job.chain, job.objective), latest(tmp_path)
    assert manifest
    SnapshotStore(tmp_path, job.names).load_weights(classifier, manifest)
    block, file = classifier.blocks[0], load_file(manifest.folder / manifest.files[0]["file"])
    assert isinstance(block, Twice)
    assert block.second.weight is block.first.weight
    assert torch.equal(block.first.weight, file["average.module.second.weight"])
    about = dict.fromkeys("ffdist", "{}")
    data = weights(classifier, about)
    assert all(weights(classifier, about) == data for _ in range(3)), "what is exported twice is the same file"
    (tmp_path / "weights.safetensors").write_bytes(data)
    exported = load_file(tmp_path / "weights.safetensors")
    assert torch.equal(exported["blocks.0.first.weight"], block.first.weight)
    assert torch.equal(exported["blocks.0.second.weight"], block.first.weight)


def test_the_average_of_tied_weights_takes_each_update_in_once() -> None:
    block, expected = tied_block(), torch.zeros(())
    x, y = torch.randn(16, 64), torch.arange(16) % 10
    for step in range(1, 20):
        block.update(block.forward(x, y, step), y, step)
        keep = min(0.9, (step - 1) / (RAMP + step - 1))
        expected = keep * expected + (1 - keep) * block.module.first.weight.detach()  # type: ignore[union-attr]
    assert block.average
    torch.testing.assert_close(block.average.state()["module.second.weight"], expected)


def tied_layers() -> nn.Sequential:
    first, second = nn.Linear(64, 64), nn.Linear(64, 64)
    second.weight = first.weight
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU())


def test_children_with_tied_weights_learn_as_one_block() -> None:
    network = tied_layers()
    Pipeline(network, SFF(), blocks=[5]).fit(open_data("digits"), epochs=1, progress=False)
    assert network[1].weight is network[3].weight
    pipeline = Pipeline(tied_layers(), SFF(), blocks=[5])
    pipeline.fit(open_data("digits"), epochs=1, progress=False)
    group = pipeline.classifier.blocks[0]
    assert group[1].weight is group[3].weight  # type: ignore[index]


@pytest.mark.parametrize("cut", [[3, 2], None])
def test_two_blocks_with_tied_weights_are_refused_by_name(cut: list[int] | None) -> None:
    with pytest.raises(NetworkError, match=r"share a parameter(.|\n)*weight(.|\n)*remedy"):
        Pipeline(tied_layers(), SFF(), blocks=cut).fit(open_data("digits"), epochs=1, progress=False)


def test_a_layer_that_comes_again_in_another_block_is_refused() -> None:
    layer = nn.Linear(64, 64)
    network = nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer, nn.ReLU())
    with pytest.raises(NetworkError, match=r"blocks '0\+1\+2' and '3\+4'"):
        Chain.from_sequential(network, input_shape=(1, 8, 8), num_classes=10)


def test_a_layer_without_weights_that_comes_again_is_a_block_each_time(tmp_path: Path) -> None:
    act = nn.ReLU()
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), act, nn.Linear(8, 4), act)
    each = Chain.from_sequential(network, input_shape=(1, 8, 8), num_classes=10, layers_per_block=[1] * 5)
    assert each.shapes() == [(64,), (8,), (8,), (4,), (4,)]
    chain = Chain.from_sequential(network, input_shape=(1, 8, 8), num_classes=10)
    assert chain.shapes() == [(8,), (4,)]
    (tmp_path / "net_with_one_act.py").write_text(
        "from torch import nn\ndef net(input_shape, num_classes):\n    act = nn.ReLU()\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), act, nn.Linear(8, 4), act)\n"
    )
    assert load_model(f"{tmp_path}/net_with_one_act.py:net", (1, 8, 8), 10).shapes() == chain.shapes()


def test_a_users_function_whose_layers_share_a_weight_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net_with_a_tie.py").write_text(
        "from torch import nn\ndef net(input_shape, num_classes):\n    layer = nn.Linear(64, 64)\n"
        "    return nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer)\n"
    )
    with pytest.raises(NetworkError, match=r"blocks '0\+1\+2' and '3' share a parameter"):
        load_model(f"{tmp_path}/net_with_a_tie.py:net", (1, 8, 8), 10)


def test_builders_that_share_a_parameter_are_refused() -> None:
    shared = nn.Parameter(torch.eye(64))

    def build() -> nn.Module:
        layer = nn.Linear(64, 64)
        layer.weight = shared
        return nn.Sequential(nn.Flatten(), layer)

    chain = Chain([("a", build), ("b", build)], input_shape=(1, 8, 8), num_classes=10)
    with pytest.raises(NetworkError, match="blocks 'a' and 'b' share a parameter"):
        check_objective(chain, SFF())


class Aliased(Twice):
    """Two parameters over the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.second.weight = nn.Parameter(self.first.weight.data)


def test_two_parameters_over_the_same_memory_are_refused() -> None:
    with pytest.raises(NetworkError, match=r"block '0' lie(.|\n)*first\.weight(.|\n)*second\.weight"):
        Chain.from_sequential(nn.Sequential(Aliased()), input_shape=(1, 8, 8), num_classes=10)
    with pytest.raises(NetworkError, match=r"block 'a' lie(.|\n)*first\.weight(.|\n)*second\.weight"):
        check_objective(Chain([("a", Aliased)], input_shape=(1, 8, 8), num_classes=10), SFF())
