"""InfoPro, and what travels with the activations for its sake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from ffdist import Pipeline, open_data
from ffdist.bench.step import OneStep
from ffdist.errors import ConfigError, NetworkError
from ffdist.models import cnnb, load_model
from ffdist.objectives import InfoPro
from ffdist.objectives.infopro import InfoProHead
from ffdist.pipeline.block import BlockConfig
from ffdist.pipeline.crossed import layers_crossed
from ffdist.pipeline.message import TrainBatch, from_frame, to_frame
from ffdist.pipeline.plan import block_specs
from ffdist.settings import Settings
from ffdist.snapshot import latest

CHAIN = cnnb((3, 8, 8), 10, (8, 12, 16))
LABELS = torch.tensor([3, 0, 9, 3])


def test_its_loss_is_that_of_the_picture_and_of_the_classes() -> None:
    rule, place = InfoPro(first=(2.0, 0.5)), block_specs(CHAIN)[0]
    head = rule.head(place)
    assert isinstance(head, InfoProHead)
    assert head.aux is not None
    assert head.decoder is not None
    x, y = torch.randn(4, 3, 8, 8), torch.randn(4, *place.output_shape)
    companion = rule.companion(x)
    assert companion is not None
    assert companion.dtype == torch.uint8
    assert companion.shape == x.shape
    picture = torch.sigmoid(x)
    assert (companion / 255 - picture).abs().max() <= 0.5 / 255 + 1e-6
    local = rule.local_with_companion(head, y, LABELS, companion)
    made = torch.sigmoid(head.decoder(F.interpolate(y, (8, 8), mode="bilinear", align_corners=True)))
    kept = F.binary_cross_entropy(made, companion / 255)
    assert local.loss is not None
    torch.testing.assert_close(local.loss, 2 * kept + 0.5 * F.cross_entropy(head.aux(y), LABELS))
    judged = rule.local(head.eval(), y, LABELS).loss
    assert judged is not None
    torch.testing.assert_close(judged, F.cross_entropy(head.aux(y), LABELS))


def test_the_weights_go_evenly_to_the_last_but_one_and_the_last_learns_the_classes_alone() -> None:
    chain = load_model("resnet18", (3, 16, 16), 10, {"widths": "4,4,4,4", "split": "stem-group"})
    weights = [InfoPro(first=(6, 0), late=(0, 3)).weights(place) for place in block_specs(chain)]
    assert weights == [(6, 0), (4, 1), (2, 2), (0, 3), (0, 1)]
    heads = [InfoPro(first=(6, 0), late=(0, 3)).head(place) for place in block_specs(chain)]
    assert [(head.decoder is None, head.aux is None) for head in heads] == [  # pyright: ignore
        (False, True),
        (False, False),
        (False, False),
        (True, False),
        (True, False),
    ]


def test_what_travels_with_a_batch_arrives_with_it() -> None:
    batch = TrainBatch(1, torch.randn(2, 3), torch.arange(2), companion=torch.ones(2, 3, 8, 8, dtype=torch.uint8))
    arrived = from_frame(to_frame(batch))
    assert isinstance(arrived, TrainBatch)
    assert arrived.companion is not None
    assert batch.companion is not None
    assert torch.equal(arrived.companion, batch.companion)


def test_no_cut_lane_or_interruption_changes_a_bit(tmp_path: Path) -> None:
    images, ends = open_data("digits"), []
    ways: dict[str, list[dict[str, Any]]] = {
        "whole": [{"stages": 1, "epochs": 2}],
        "parts": [{"stages": 3, "epochs": 1}, {"stages": 2, "epochs": 2, "resume": True}],
        "workers": [{"plan": "conv1 @ 0:0, 1:1 | conv2 @ 1 | conv3 @ 0", "epochs": 2}],
    }
    for name, fits in ways.items():
        pipeline = Pipeline("cnnb", "infopro", model_args=["widths=6,8,8"], schedule="constant", lanes=2, threads=1)
        for value in fits:
            pipeline.fit(images, out=tmp_path / name, progress=False, samples=160, batch_size=40, **value)
        manifest = latest(tmp_path / name)
        assert manifest
        ends.append([load_file(manifest.folder / entry["file"]) for entry in manifest.files])
    for other in ends[1:]:
        for mine, its in zip(ends[0], other, strict=True):
            assert all(torch.equal(mine[key], its[key]) for key in mine)


def test_its_decoder_learns_in_every_module_but_the_last() -> None:
    assert layers_crossed(CHAIN, InfoPro()) == {"conv1": 4, "conv2": 4, "conv3": 4}
    assert layers_crossed(CHAIN, InfoPro(first=(1, 0), late=(1, 0))) == {"conv1": 3, "conv2": 3, "conv3": 4}


def test_a_step_that_is_measured_has_the_decoder_learn() -> None:
    step = OneStep(CHAIN, InfoPro(), BlockConfig(Settings().changed(device="cpu"), 10), batch_size=8)
    decoders = [block.head.decoder for block in step.blocks if isinstance(block.head, InfoProHead)]
    before = [next(decoder.parameters()).clone() for decoder in decoders[:-1] if decoder]
    step()
    after = [next(decoder.parameters()) for decoder in decoders[:-1] if decoder]
    assert len(after) == 2
    assert not any(map(torch.equal, before, after))


def test_what_has_no_picture_is_refused() -> None:
    with pytest.raises(NetworkError, match="makes pictures of maps"):
        InfoPro().head(block_specs(load_model("mlp", (8, 8), 10, {"widths": "8,8"}))[0])
    wrongs: list[dict[str, Any]] = [{"first": (0.0, 0.0)}, {"late": (-1.0, 1.0)}, {"width": 0}]
    for wrong in wrongs:
        with pytest.raises(ConfigError, match="nothing to learn"):
            InfoPro(**wrong)
