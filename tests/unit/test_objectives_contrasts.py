"""SymBa, SCFF and CaFo against the plain formulas that they stand for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ffdist import Pipeline, open_data
from ffdist.errors import ConfigError
from ffdist.models import load_model
from ffdist.objectives import SCFF, BlockSpec, CaFo, SymBa
from ffdist.objectives.cafo import CaFoHead, sparsemax_loss
from ffdist.objectives.form import rms_normalised
from ffdist.objectives.threshold import ThresholdHead
from ffdist.pipeline.block import BlockConfig
from ffdist.pipeline.crossed import layers_crossed
from ffdist.pipeline.plan import block_specs, build_block
from ffdist.settings import Settings

SHAPES = [(20, 4, 6), (7, 20), (20,)]
LABELS = torch.tensor([3, 0, 9, 3, 1])


def spec(shape: tuple[int, ...]) -> BlockSpec:
    return BlockSpec(1, "block1", 3, 10, (1, 8, 8), shape)


def output(shape: tuple[int, ...], rows: int) -> Tensor:
    return torch.randn(rows, *shape, generator=torch.Generator().manual_seed(1)).relu()


def mean_square(y: Tensor) -> Tensor:
    return y.square().flatten(1).mean(1)


@pytest.mark.parametrize("shape", SHAPES)
def test_symba_is_the_softplus_of_the_contrast(shape: tuple[int, ...]) -> None:
    rule, y = SymBa(alpha=3.0), output(shape, 10)
    local = rule.local(rule.head(spec(shape)), y, LABELS)
    positive, negative = mean_square(y).split(5)
    assert local.loss is not None
    torch.testing.assert_close(local.loss, F.softplus(-3.0 * (positive - negative)).mean())


def test_symba_judges_every_wrong_label_alike() -> None:
    rule, y = SymBa(), output((20,), 50)
    head = rule.head(spec((20,))).eval()
    local = rule.local(head, y, LABELS)
    goodness = mean_square(y).view(10, 5).T
    expected = [
        F.softplus(-4.0 * (goodness[b, label] - goodness[b, k]))
        for b, label in enumerate(LABELS)
        for k in range(10)
        if k != label
    ]
    assert local.loss is not None
    torch.testing.assert_close(local.loss, torch.stack(expected).mean())


@pytest.mark.parametrize("shape", [(3, 8, 8), (30,)])
def test_symbas_patterns_are_of_a_class_and_no_two_alike(shape: tuple[int, ...]) -> None:
    rule, x = SymBa(strength=0.5), torch.randn(5, *shape)
    marks = rule.stamp(x, LABELS, 10) - x
    torch.testing.assert_close(marks.abs(), torch.full_like(marks, 0.5))
    torch.testing.assert_close(marks[0], marks[3])
    assert not torch.allclose(marks[0], marks[1])
    torch.testing.assert_close(rule.stamp_all(x, 3, 10)[0], rule.stamp(x, LABELS, 10)[0])
    negatives = rule.prepare(x, LABELS, 10, torch.Generator().manual_seed(0))[5:]
    assert not any(map(torch.allclose, negatives, rms_normalised(rule.stamp(x, LABELS, 10))))


@pytest.mark.parametrize("shape", [(3, 8, 8), (30,)])
def test_scff_pairs_a_sample_with_itself_and_with_another(shape: tuple[int, ...]) -> None:
    x = torch.randn(5, *shape)
    pairs = SCFF().prepare(x, LABELS, 10, torch.Generator().manual_seed(0))
    torch.testing.assert_close(pairs[:5], rms_normalised(x))
    for mine, pair in zip(x, pairs[5:], strict=True):
        assert any(torch.allclose(rms_normalised((mine + other)[None])[0], pair) for other in x if other is not mine)
    torch.testing.assert_close(SCFF().prepare_eval(x, 10), rms_normalised(x))


def test_scffs_decay_is_of_the_positives_goodness_alone() -> None:
    y, place = output((20, 4, 6), 10), spec((20, 4, 6))
    losses = []
    for decay in (0.0, 0.5):
        rule = SCFF(decay=decay)
        torch.manual_seed(0)
        loss = rule.local(rule.head(place), y, LABELS).loss
        assert loss is not None
        losses.append(loss)
    goodness = y[:5].square().mean((2, 3)).sum(1)
    torch.testing.assert_close(losses[1] - losses[0], 0.5 * goodness.sqrt().mean())


def plain_sparsemax(z: Tensor) -> Tensor:
    """The nearest point of the simplex, by bisection."""
    low, high = z.max() - 1, z.max()
    for _ in range(80):
        tau = (low + high) / 2
        low, high = (tau, high) if (z - tau).clamp(min=0).sum() > 1 else (low, tau)
    return (z - low).clamp(min=0)


def test_the_gradient_of_sparsemaxs_loss_is_what_it_gives_less_what_is_true() -> None:
    scores = (3 * torch.randn(6, 10, dtype=torch.float64)).requires_grad_()
    shares = torch.rand(6, 10, dtype=torch.float64)
    shares = shares / shares.sum(1, keepdim=True)
    sparsemax_loss(scores, shares).backward()
    assert scores.grad is not None
    expected = torch.stack([plain_sparsemax(z.detach()) for z in scores]) - shares
    torch.testing.assert_close(6 * scores.grad, expected)
    certain = torch.tensor([[9.0, 0.0, 0.0]])
    assert sparsemax_loss(certain, torch.tensor([[1.0, 0.0, 0.0]])).abs() < 1e-5


@pytest.mark.parametrize("loss", ["ce", "mse", "sparsemax"])
@pytest.mark.parametrize("blocks", ["fixed", "dfa"])
def test_cafos_predictor_learns_by_its_loss_and_the_block_by_fixed_weights(loss: str, blocks: str) -> None:
    rule = CaFo(loss=loss, blocks=blocks)  # pyright: ignore[reportArgumentType]
    head = rule.head(spec((20,)))
    assert isinstance(head, CaFoHead)
    y = output((20,), 5).requires_grad_()
    local = rule.local(head, y, LABELS)
    assert local.loss is not None
    local.loss.backward()
    scores = F.linear(y.detach(), head.predictor.weight, head.predictor.bias).detach().requires_grad_()
    judged = rule.score_loss(scores, LABELS, learning=True)
    assert judged is not None
    judged.backward()
    assert scores.grad is not None
    torch.testing.assert_close(head.predictor.weight.grad, scores.grad.T @ y.detach())
    torch.testing.assert_close(head.predictor.bias.grad, scores.grad.sum(0))
    if blocks == "dfa":
        torch.testing.assert_close(y.grad, scores.grad @ head.feedback)
    else:
        assert y.grad is None


def test_fixed_blocks_stay_as_they_begin_and_their_predictors_learn() -> None:
    chain = load_model("cnnb", (1, 8, 8), 10, {"widths": "8,8,8"})
    block = build_block(chain, block_specs(chain)[0], CaFo(), BlockConfig(Settings().changed(weight_decay=0.5), 10))
    before = {name: p.detach().clone() for name, p in block.parts.named_parameters()}
    block.update(block.forward(torch.randn(4, 1, 8, 8), LABELS[:4], 1), LABELS[:4], 1)
    for name, p in block.parts.named_parameters():
        assert torch.equal(p, before[name]) == name.startswith("module."), name
    assert set(layers_crossed(chain, CaFo()).values()) == {1}
    assert set(layers_crossed(chain, CaFo(blocks="dfa")).values()) == {1}


@pytest.mark.parametrize(
    ("rule", "model", "widths", "least"),
    [("symba", "mlp", "200,200", 0.8), ("scff", "mlp", "200,200", 0.75), ("cafo", "cnnb", "8,16,16", 0.8)],
)
def test_each_learns_digits(rule: str, model: str, widths: str, least: float) -> None:
    pipeline = Pipeline(model, rule, model_args=[f"widths={widths}"], lr=5e-3, batch_size=64, epochs=6, threads=1)
    result = pipeline.fit(open_data("digits"), progress=False)
    assert result.test
    assert result.test["accuracy"]["mean"] > least


def test_what_makes_no_sense_is_refused() -> None:
    for wrong in (lambda: SymBa(alpha=0.0), lambda: SymBa(strength=0.0), lambda: SCFF(decay=-1.0)):
        with pytest.raises(ConfigError):
            wrong()
    with pytest.raises(ConfigError, match="loss has a wrong value"):
        CaFo(loss="hinge")  # pyright: ignore[reportArgumentType]
    assert isinstance(SCFF().head(spec((20,))), ThresholdHead)
