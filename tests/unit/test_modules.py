"""Modules: consecutive blocks that learn together, how many layers a gradient crosses there, what convolutions begin
with."""

from __future__ import annotations

from itertools import accumulate, pairwise
from math import inf
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from ffdist import SFF, Pipeline, open_data
from ffdist.baselines.twin import BackpropRule, twin
from ffdist.errors import ConfigError
from ffdist.models import Chain, cnnb, load_model
from ffdist.models.dirac import _Dirac, with_dirac
from ffdist.objectives import DGL, AugLocal, LocalCE, PredSim
from ffdist.objectives.auglocal import chosen
from ffdist.pipeline.crossed import layers_crossed
from ffdist.pipeline.plan import block_specs
from ffdist.runtime.modules import ModuleSeconds, balanced, joined_in_modules, measured
from ffdist.runtime.run import read_settings
from ffdist.runtime.world import World
from ffdist.settings import Settings
from ffdist.settings.toml import settings_in
from ffdist.snapshot import latest

SMALL = "widths=8,12,16"


@given(st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9)), min_size=1, max_size=7), st.data())
def test_no_other_cut_has_a_faster_slowest_module(costs: list[tuple[float, float]], data: st.DataObject) -> None:
    blocks, heads = zip(*costs, strict=True)
    modules = data.draw(st.integers(1, len(costs)))

    def slowest(counts: tuple[int, ...]) -> float:
        ends = [0, *accumulate(counts)]
        return max(sum(blocks[a:b]) + heads[b - 1] for a, b in pairwise(ends))

    counts = balanced(ModuleSeconds(blocks, heads), modules)
    assert len(counts) == modules
    assert sum(counts) == len(costs)
    other = data.draw(st.permutations([1] * (modules - 1) + [len(costs) - modules + 1]))
    assert slowest(counts) <= slowest(tuple(other)) + 1e-9


def test_no_module_ends_where_the_rule_has_no_place_for_a_head() -> None:
    assert balanced(ModuleSeconds((1.0, 1.0, 1.0, 1.0), (inf, inf, 0.0, 0.0)), 2) == (3, 1)
    with pytest.raises(ConfigError, match="no place for so many heads"):
        balanced(ModuleSeconds((1.0, 1.0, 1.0), (inf, inf, 0.0)), 2)


def test_a_block_is_measured_with_its_head_and_without() -> None:
    chain = cnnb((1, 8, 8), 10, (8, 16, 16))
    found = measured(Settings().changed(batch_size=16), chain, DGL(auxiliary="conv"), World())
    assert len(found.blocks) == len(found.heads) == 3
    assert min(found.blocks) > 0


def settings_in_modules(modules: tuple[int, ...], **others: object) -> Settings:
    settings = Settings().changed(modules=modules, batch_size=16, **others)
    chain = cnnb((1, 8, 8), 10, (8, 12, 16))
    return joined_in_modules(settings, chain, LocalCE(), settings.network.blocks or (1, 1, 1))


def test_modules_become_blocks() -> None:
    assert settings_in_modules((1, 2)).network.blocks == (1, 2)
    assert settings_in_modules((1,)).network.blocks == (3,)
    assert settings_in_modules((3,)).network.blocks == (1, 1, 1)
    found = settings_in_modules((2,)).network
    assert found.modules == ()
    assert sum(found.blocks) == 3
    assert len(found.blocks) == 2
    assert settings_in_modules((1,), objective="backprop").network.blocks == ()


def test_layers_that_were_joined_before_are_counted_in_layers() -> None:
    chain = Chain([(n, lambda: nn.Linear(4, 4)) for n in "abc"], input_shape=(4,), num_classes=2)
    settings = Settings().changed(modules=(2, 1))
    assert joined_in_modules(settings, chain, LocalCE(), (2, 1, 4)).network.blocks == (3, 4)


def test_one_number_needs_no_list(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text("modules = 2\n")
    assert settings_in(tmp_path / "my.toml").network.modules == (2,)
    assert Settings().changed(modules=2).network.modules == (2,)
    assert Pipeline("cnnb", SFF(), modules=2).settings.network.modules == (2,)


@pytest.mark.parametrize(
    ("modules", "others", "message"),
    [
        ((4,), {}, "more modules than blocks"),
        ((2, 2), {}, "do not cover the network"),
        ((2,), {"objective": "backprop"}, "twin is one module"),
    ],
)
def test_modules_that_do_not_fit_are_refused(modules: tuple[int, ...], others: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings_in_modules(modules, **others)


def test_one_module_crosses_as_many_layers_as_backpropagation() -> None:
    chain = cnnb((1, 8, 8), 10, (8, 12, 16))
    whole = chain.regroup((3,))
    assert layers_crossed(whole, LocalCE()) == {"conv1+conv2+conv3": 4}
    assert layers_crossed(twin(chain), BackpropRule()) == {"network": 4}
    assert layers_crossed(chain.regroup((1, 2)), LocalCE()) == {"conv1": 2, "conv2+conv3": 3}


def test_the_layers_of_heads_count_and_what_is_fixed_does_not() -> None:
    chain = cnnb((3, 16, 16), 10, (8, 12, 16))
    assert list(layers_crossed(chain, PredSim()).values()) == [2, 2, 2], "both heads stand side by side"
    assert list(layers_crossed(chain, DGL()).values()) == [8, 8, 3]
    assert list(layers_crossed(chain, AugLocal()).values()) == [4, 3, 2]
    speednet = load_model("speednet", (3, 16, 16), 10, {"widths": "8,8,8"})
    assert list(layers_crossed(speednet, LocalCE()).values()) == [3, 3, 3], "the whitening does not learn"


def test_a_run_keeps_its_modules_and_goes_on_in_them(tmp_path: Path) -> None:
    images = open_data("digits")
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3)
    )
    settings = {"batch_size": 64, "samples": 200, "validation": 0.0, "seed": 1}
    Pipeline(net, SFF(), modules=(2,), stages=2, **settings).fit(images, out=tmp_path / "run", progress=False, epochs=1)
    kept = read_settings(tmp_path / "run").network
    assert kept.modules == ()
    assert len(kept.blocks) == 2
    assert sum(kept.blocks) == 5
    again = Pipeline.resume(
        tmp_path / "run", images, network=net, objective=SFF(), epochs=2, modules=(2,), progress=False
    )
    assert len(again.classifier.blocks) == 2
    with pytest.raises(ConfigError, match="not the network that the run has learned with"):
        Pipeline.resume(tmp_path / "run", images, network=net, objective=SFF(), epochs=3, modules=(1,), progress=False)


def test_stages_change_nothing_of_what_modules_learn(tmp_path: Path) -> None:
    images, weights = open_data("digits"), []
    for stages in (1, 2):
        out = tmp_path / str(stages)
        pipeline = Pipeline("cnnb", "dgl", model_args=[SMALL], objective_args=["depth=1"], modules=[1, 2])
        pipeline.fit(images, out=out, stages=stages, samples=200, epochs=1, progress=False)
        manifest = latest(out)
        assert manifest
        weights.append([load_file(manifest.folder / entry["file"]) for entry in manifest.files])
    assert [len(blocks) for blocks in weights] == [2, 2]
    for one, two in zip(*weights, strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_convolutions_pass_their_inputs_on_at_first() -> None:
    chain = with_dirac(cnnb((3, 8, 8), 10, (8, 12, 16)))
    block = chain.build(1, 0)
    conv = next(layer for layer in block.modules() if isinstance(layer, nn.Conv2d))
    x = torch.randn(2, 8, 8, 8)
    bias = 0 if conv.bias is None else conv.bias.view(1, -1, 1, 1)
    assert torch.equal((nn.functional.conv2d(x, conv.weight, padding=1))[:, :8], x)
    assert not torch.equal((conv(x) - bias)[:, 8:10], x[:, :2])
    other = next(layer for layer in cnnb((3, 8, 8), 10, (8, 12, 16)).build(1, 0).modules() if hasattr(layer, "weight"))
    assert torch.equal(conv.weight[8:], other.weight[8:])  # pyright: ignore


def test_auglocal_copies_the_blocks_that_its_equation_names() -> None:
    network = nn.Sequential(*(nn.Linear(8, 8) for _ in range(8)))
    places = block_specs(Chain.from_sequential(network, input_shape=(8,), num_classes=4))
    last = len(places) - 1
    for spec in places[:-1]:
        for depth in range(1, last - spec.index + 1):
            copied = [round(spec.index + (last - spec.index) * i / depth) for i in range(1, depth + 1)]
            assert [following.name for following in chosen(spec, depth)] == [places[at].name for at in copied]


@pytest.mark.parametrize(("groups", "inputs", "outputs"), [(4, 4, 8), (2, 4, 8), (2, 8, 4)])
def test_each_group_of_a_convolution_passes_its_inputs_on(groups: int, inputs: int, outputs: int) -> None:
    layer = _Dirac(lambda: nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups, bias=False))()
    x = torch.randn(2, inputs, 5, 5)
    for y, own in zip(layer(x).chunk(groups, 1), x.chunk(groups, 1), strict=True):
        passed = min(y.shape[1], own.shape[1])
        assert torch.equal(y[:, :passed], own[:, :passed])
        assert all(further.any() for further in y[:, passed:].unbind(1)), "drawn, not zero"


def test_weights_of_ones_own_are_not_set_anew() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3))
    with pytest.raises(ConfigError, match="weights of its own"):
        Pipeline(net, SFF(), dirac=True).fit(open_data("digits"), progress=False)
    with pytest.raises(ConfigError, match="both say what weights begin with"):
        Settings().changed(dirac=True, pretrained="x.pth")
