"""The fast network: its whitened input, its wide form, and heads that are narrow copies."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from jobs import NEEDS_MUON, QUIET
from torch import nn

from ffdist import Pipeline
from ffdist.data import from_tensors
from ffdist.errors import ConfigError, NetworkError
from ffdist.models import Chain, resnet18, speednet
from ffdist.models.speednet import Whitening
from ffdist.objectives import AugLocal, BlockSpec
from ffdist.objectives.auglocal import chosen
from ffdist.objectives.narrow import narrow_copies
from ffdist.pipeline.classifier import Classifier
from ffdist.pipeline.plan import block_specs
from ffdist.presets import with_preset
from ffdist.runtime.job import Job
from ffdist.runtime.threads import run_threads
from ffdist.settings import Settings
from ffdist.snapshot import SnapshotStore, latest


def test_whitened_patches_are_uncorrelated_and_of_equal_spread() -> None:
    base = torch.randn(200, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x = base + 2 * base.roll(1, 3) + base.roll(1, 2) + base.mean(1, keepdim=True)  # neighbours and channels go together
    layer = Whitening(3, eps=0.0)
    layer.learn_from(x)
    y = (layer(x) - layer.bias.view(1, -1, 1, 1)).detach()[:, :12].transpose(0, 1).flatten(1)
    torch.testing.assert_close(y @ y.T / y.shape[1], torch.eye(12), rtol=0, atol=1e-3)
    assert torch.equal(layer.weight[:12], -layer.weight[12:])
    assert not layer.weight.requires_grad


def test_a_run_whitens_by_its_first_training_pictures_and_keeps_it(tmp_path: Path) -> None:
    x = torch.randint(0, 256, (60, 3, 9, 9), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images = from_tensors(x, torch.arange(60) % 3)
    chain = speednet(images.shape, 3, (8, 8))
    settings = Settings().changed(epochs=1, batch_size=20, threads=1, augment=("flip",))
    job = Job(chain, AugLocal(width=0.5), images, settings, workers=2, run=tmp_path)
    run_threads(job, QUIET)
    manifest = latest(tmp_path)
    assert manifest is not None
    trained = Classifier(chain, job.objective)
    SnapshotStore(tmp_path, job.names).load_weights(trained, manifest)
    rows = job.loaders().train.indices
    expected = Whitening(3)
    pixels = (x[rows].float() / 255 - torch.tensor(images.mean).view(-1, 1, 1)) / torch.tensor(images.std).view(
        -1, 1, 1
    )
    expected.learn_from(pixels)
    kept = next(m for m in trained.modules() if isinstance(m, Whitening))
    torch.testing.assert_close(
        kept.weight.abs(), expected.weight.abs(), rtol=1e-3, atol=1e-3
    )  # eigenvectors have no sign


def test_the_forms_of_the_network() -> None:
    shapes = speednet((3, 32, 32), 10).shapes()
    assert shapes == [(64, 15, 15), (256, 7, 7), (256, 3, 3)]
    wide = speednet((3, 32, 32), 10, (128, 384, 512), depth=3)
    assert wide.shapes()[-1] == (512, 3, 3)
    assert len(wide.build(1, 0).convs) == 3
    with pytest.raises(ConfigError, match="2 or 3"):
        speednet((3, 32, 32), 10, depth=4)
    with pytest.raises(NetworkError, match="too small"):
        speednet((3, 8, 8), 10)


def test_a_narrow_copy_begins_with_the_blocks_own_values() -> None:
    chain = speednet((3, 32, 32), 10, (8, 16, 16))
    places = block_specs(chain)
    copies = narrow_copies(
        places[0].following, torch.zeros(2, *places[0].output_shape), lambda channels: channels // 2, "test"
    )
    conv = copies[0].convs[0]
    assert tuple(conv.weight.shape) == (8, 8, 3, 3)
    middle = conv.weight[:, :, 1, 1]
    assert torch.equal(middle, torch.eye(8)), "what passes the input on does so in the copy"
    assert tuple(copies[1].convs[0].weight.shape) == (8, 8, 3, 3)
    assert not copies[0].norms[0].weight.requires_grad


def test_a_block_with_a_bypass_is_copied_after_a_narrowing_layer() -> None:
    chain = resnet18((3, 32, 32), 10, widths=(8, 16, 24, 32))
    place = block_specs(chain)[0]
    head = AugLocal(width=0.5).head(place)
    out = torch.randn(2, *place.output_shape, requires_grad=True)
    local = AugLocal(width=0.5).local(head, out, torch.tensor([0, 1]))
    assert local.scores is not None
    assert local.scores.shape == (2, 10)
    assert sum(p.numel() for p in head.parameters()) < sum(
        p.numel() for i in range(1, len(chain)) for p in chain.build(i, 0).parameters()
    )


def test_depth_takes_blocks_evenly_and_the_last_has_none() -> None:
    names = [f"b{i}" for i in range(8)]
    chain = Chain([(n, lambda: nn.Conv2d(4, 4, 1)) for n in names], input_shape=(4, 3, 3), num_classes=2)
    places: list[BlockSpec] = block_specs(chain)
    assert [block.name for block in chosen(places[0], 0)] == names[1:]
    assert [block.name for block in chosen(places[1], 2)] == ["b4", "b7"]
    assert chosen(places[7], 3) == []
    assert not list(AugLocal(depth=2).head(places[7]).copies.parameters())


def test_attention_has_no_narrow_copy_and_is_refused_with_a_remedy() -> None:
    encoder = partial(nn.TransformerEncoderLayer, 16, 2, 32, batch_first=True)
    chain = Chain([("a", lambda: nn.Linear(16, 16)), ("b", encoder)], input_shape=(4, 16), num_classes=2)
    with pytest.raises(NetworkError, match="'b' cannot be copied") as caught:
        AugLocal().head(block_specs(chain)[0])
    assert "dgl" in (caught.value.remedy or "")
    assert "width=1" in (caught.value.remedy or "")
    head = AugLocal(width=1).head(block_specs(chain)[0])
    assert head(torch.randn(2, 4, 16)).shape == (2, 2)
    assert [p.shape for p in head.copies.parameters()] == [p.shape for p in encoder().parameters()]


def test_prelus_are_copied_with_fewer_channels() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(nn.Conv2d(8, 12, 3), nn.PReLU(12), nn.PReLU()))
    chain = Chain.from_sequential(net, input_shape=(3, 8, 8), num_classes=3)
    head = AugLocal(width=0.5).head(block_specs(chain)[0])
    assert [p.numel() for p in head.copies[0].parameters()][2:] == [6, 1]


def test_signals_are_copied_as_the_blocks_take_them() -> None:
    build = nn.Sequential(
        nn.Sequential(nn.Conv1d(1, 8, 3, padding=1), nn.ReLU()), nn.Sequential(nn.Conv1d(8, 12, 3), nn.ReLU())
    )
    chain = Chain.from_sequential(build, input_shape=(1, 20), num_classes=3)
    place = block_specs(chain)[0]
    head = AugLocal(width=0.5).head(place)
    assert head(torch.randn(2, *place.output_shape)).shape == (2, 3)
    assert tuple(next(head.copies.parameters()).shape) == (6, 8, 3)


@NEEDS_MUON
@pytest.mark.parametrize("objective", ["auglocal", "dgl", "backprop"])
def test_each_presets_rates_suit_its_heads(objective: str) -> None:
    numbers = torch.Generator().manual_seed(0)
    y = torch.arange(400) % 10
    x = torch.rand(10, 3, 16, 16, generator=numbers)[y] * 160 + 95 * torch.rand(400, 3, 16, 16, generator=numbers)
    options = {"data": "digits", "model_args": ("widths=8,16,16",), "batch_size": 40, "epochs": 3, "stages": 1}
    preset = with_preset(Settings(), f"{objective}-speednet-cifar10")
    preset = preset.changed(**options, launcher="threads", threads=1, precision="fp32")  # a CPU may be slow at bf16
    pipeline = Pipeline("speednet", objective, settings=preset)
    result = pipeline.fit(from_tensors(x.to(torch.uint8), y), test=(x[:100].to(torch.uint8), y[:100]), progress=False)
    assert result.test is not None
    assert result.test["accuracy"]["mean"] > 0.4
