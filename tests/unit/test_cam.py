"""Class activation maps show where a block sees the evidence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import QUIET, DigitsJob
from torch import Tensor, nn

from ffdist import Pipeline
from ffdist.errors import NetworkError
from ffdist.models import load_model
from ffdist.objectives import SFF, BlockSpec, Local, Objective, load_objective
from ffdist.pipeline.classifier import Classifier
from ffdist.report.cam import BlockMaps, activation_maps, evidence_in
from ffdist.runtime.threads import run_threads
from ffdist.snapshot import SnapshotStore, latest

LABELS = torch.tensor([1, 0, 3])


def classifier(rule: Objective, model: str = "cnnb", widths: str = "12,20") -> Classifier:
    return Classifier(load_model(model, (1, 16, 16), 4, {"widths": widths}), rule)


def first_block(network: Classifier, x: Tensor) -> tuple[Tensor, Tensor]:
    """Output and evidence of the first block."""
    rule, head = network.objective, network.heads[0]
    with torch.no_grad():
        out = network.blocks[0](rule.prepare_eval(x, 4))
    return out, evidence_in(lambda y: rule.local(head, y, None).scores, out, LABELS)


def test_of_a_linear_score_the_map_is_the_linear_map_itself() -> None:
    network = classifier(load_objective("local-ce"))
    out, evidence = first_block(network, torch.randn(3, 1, 16, 16))
    weight = network.heads[0].linear.weight[LABELS]
    torch.testing.assert_close(evidence, (weight * out).sum(1).relu().detach() / (8 * 8))


def test_of_a_mean_of_squares_the_map_is_the_classes_own_squares() -> None:
    network = classifier(load_objective("cwc"))
    out, evidence = first_block(network, torch.randn(3, 1, 16, 16))
    own = out.square().unflatten(1, (4, -1))[torch.arange(3), LABELS]
    torch.testing.assert_close(evidence, 2 * own.sum(1) / (own.shape[1] * 8 * 8))


def test_where_each_label_has_a_pass_the_map_is_that_of_its_own_pass() -> None:
    network = classifier(load_objective("sel-fourier"))
    network.heads[0].counts = True
    out, evidence = first_block(network, torch.randn(3, 1, 16, 16))
    own = out.unflatten(0, (4, 3))[LABELS, torch.arange(3)]
    torch.testing.assert_close(evidence, 2 * own.square().sum(1) / (8 * 8))


def patches(count: int, seed: int, *, corner: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
    """Noise with a striped patch of 6 x 6, with stripes a class, anywhere or in one corner (0 or 1 each way)."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.1 * torch.randn(count, 1, 16, 16, generator=generator)
    y = torch.arange(count) % 3
    rows, columns = torch.arange(6)[:, None] % 2, torch.arange(6) % 2
    stripes = torch.stack([rows.expand(6, 6), columns.expand(6, 6), rows ^ columns]).float() * 2 - 1
    for i in range(count):
        top, left = (10 * c for c in corner) if corner else torch.randint(0, 11, (2,), generator=generator).tolist()
        x[i, 0, top : top + 6, left : left + 6] += stripes[y[i]]
    return x, y


@pytest.mark.parametrize(("name", "options"), [("sff", {"kernel": 3}), ("cwc-mod", {}), ("local-ce", {}), ("asge", {})])
def test_evidence_in_one_corner_lights_that_corner(name: str, options: dict[str, Any]) -> None:
    rule = load_objective(name, options)
    pipeline = Pipeline(load_model("cnnb", (1, 16, 16), 3, {"widths": "12,18"}), rule)
    pipeline.fit(patches(600, 0), epochs=6, batch_size=30, lr=5e-3, progress=False)
    for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
        x, y = patches(30, 1, corner=corner)
        for block in activation_maps(pipeline.classifier, x, y):
            quadrants = block.maps.unflatten(2, (2, 8)).unflatten(1, (2, 8)).sum((2, 4))
            share = float(quadrants[:, corner[0], corner[1]].sum() / quadrants.sum())
            assert share > 0.4, f"{block.block}, corner {corner}: {share:.2f}"


def test_the_maps_are_the_same_for_every_cut_and_finite(tmp_path: Path) -> None:
    x, y = torch.randn(6, 1, 8, 8), torch.arange(6)
    shown = []
    for cut in ([3], [1, 2], [1, 1, 1]):
        run = tmp_path / "-".join(map(str, cut))
        job = DigitsJob(run, epochs=1, settings={"stages": len(cut), "cut": cut})()
        run_threads(job, QUIET)
        manifest, network = latest(run), Classifier(job.chain, job.objective)
        assert manifest is not None
        SnapshotStore(run, job.names).load_weights(network, manifest)
        shown.append([block.maps for block in activation_maps(network, x, y)])
    assert len(shown[0]) == 3
    for maps in zip(*shown, strict=True):
        assert maps[0].shape == (6, 8, 8)
        assert torch.isfinite(maps[0]).all()
        assert all(torch.equal(one, maps[0]) for one in maps)


@pytest.mark.parametrize("name", ["hinton-unsupervised", "sel-morphological", "predsim", "mono-forward"])
def test_blocks_that_give_scores_have_maps_and_the_others_none(name: str) -> None:
    rule = load_objective(name, {"predict": "linear"} if name.startswith("sel") else {})
    blocks = activation_maps(classifier(rule), torch.randn(3, 1, 16, 16), LABELS)
    assert [block.block for block in blocks] == (
        ["conv1", "conv2"] if name in ("predsim", "mono-forward") else ["conv2"]
    )


class Detached(SFF):
    """A rule whose scores have no gradient even when nothing learns."""

    def local(self, head: nn.Module, out: Tensor, labels: Tensor | None) -> Local:
        local = super().local(head, out, labels)
        return local if local.scores is None else local._replace(scores=local.scores.detach())


@dataclass(frozen=True)
class Probe(Objective):
    """A rule whose head reads its scores from a detached output: they have a gradient, but none by the block."""

    def head(self, spec: BlockSpec) -> nn.Module:
        return nn.Linear(spec.channels, spec.num_classes)

    def local(self, head: nn.Module, out: Tensor, labels: Tensor | None) -> Local:
        return Local(None, head(out.detach().mean((2, 3))), out.detach())


def test_what_has_no_maps_is_refused_with_the_reason() -> None:
    x = torch.randn(3, 1, 16, 16)
    with pytest.raises(NetworkError, match=r"linear1: output \[12\]"):
        activation_maps(classifier(SFF(), "mlp"), x, LABELS)
    for rule in (Detached(), Probe()):
        with pytest.raises(NetworkError, match="no gradient"):
            activation_maps(classifier(rule), x, LABELS)


def test_focus_is_the_share_of_the_picture_that_holds_half_of_the_evidence() -> None:
    even, point = torch.ones(1, 10, 10), torch.zeros(1, 10, 10)
    point[0, 3, 4] = 2.0
    assert BlockMaps("even", (10, 10), even, LABELS).focus == pytest.approx(0.5, abs=0.011)
    assert BlockMaps("point", (10, 10), point, LABELS).focus == pytest.approx(0.01)
