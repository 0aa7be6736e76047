"""Every rule on every network: it runs and keeps its gradients at home, or it refuses beforehand."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from ffdist.device import CPU
from ffdist.errors import NetworkError
from ffdist.models import MODELS, Chain, load_model
from ffdist.objectives import OBJECTIVES, BlockSpec, Objective, load_objective
from ffdist.pipeline.block import module_to
from ffdist.pipeline.plan import block_specs

NARROW = {
    "mlp": {"widths": "40,40", "init": "he"},
    "cnn": {"widths": "20,40,40"},
    "cnnb": {"widths": "20,40,40"},
    "cfse-cnn": {"widths": "20,40,40,80"},
    "sel-cnn": {"width": "20", "kernel": "3"},
    "vgg8": {"widths": "20,-20,20,-40,-40,-40,40"},
    "vgg11": {"widths": "20,-20,20,-40,40,-40,40,-40,40,40"},
    "resnet18": {"widths": "20,20,40,40"},
    "mobilenet-v3-small": {"stem_stride": "1"},
    "vit": {"dim": "30", "depth": "2"},
    "speednet": {"widths": "20,20"},
}
CONVOLUTIONAL = set(MODELS) - {"mlp", "vit"}
CHANNEL_WISE = {"cwc", "cwc-mod", "deeperforward"}


def senseless(objective: str, model: str) -> bool:
    """Labels in a corner that filters cannot see; channels (16, 24, ...) that 10 classes cannot share; attention, of
    which there is no narrow copy; pictures that are made of maps alone."""
    return (
        (objective == "hinton" and model in CONVOLUTIONAL)
        or (objective in CHANNEL_WISE and model == "mobilenet-v3-small")
        or (objective, model) in {("auglocal", "vit"), ("infopro", "vit"), ("infopro", "mlp")}
    )


def heads_on_meta(rule: Objective, places: list[BlockSpec]) -> list[nn.Module]:
    """What tells beforehand whether a rule can use a network, at no cost."""
    with torch.device("meta"):
        return [rule.head(spec) for spec in places]


SENSIBLE = [(name, model) for name in OBJECTIVES for model in MODELS if not senseless(name, model)]
SENSELESS = [(name, model) for name in OBJECTIVES for model in MODELS if senseless(name, model)]
SIZED = [(*pair, side) for pair in SENSIBLE for side in (8, 32) if side == 32 or not pair[1].startswith("vgg")]


@pytest.mark.parametrize(("name", "model", "side"), SIZED)
def test_every_sensible_pair_takes_a_step_and_keeps_its_gradients_within_the_block(
    name: str, model: str, side: int
) -> None:
    rule, chain = load_objective(name), load_model(model, (3, side, side), 10, NARROW[model])
    x, labels = torch.randn(4, 3, side, side).contiguous(memory_format=torch.channels_last), torch.tensor([1, 0, 9, 1])
    x = rule.prepare(x, labels, 10, torch.Generator().manual_seed(0))
    owned: list[nn.ModuleList] = []
    places = block_specs(chain)
    assert all(p.is_meta for head in heads_on_meta(rule, places) for p in head.parameters())
    for spec in places:
        block = nn.ModuleList([chain.build(spec.index, seed=0), rule.head(spec)])
        module_to(block, CPU)  # as a stage does
        block[0].requires_grad_(not rule.fixed_blocks)
        given = x.clone().requires_grad_()
        local = rule.local(block[1], block[0](given), labels)
        assert torch.equal(given, x), "the rule or the block changed its input"
        assert local.loss is not None
        assert local.loss.dtype == torch.float32
        assert local.scores is None or (local.scores.shape == (4, 10) and local.scores.dtype == torch.float32)
        local.loss.backward()
        assert torch.isfinite(local.loss)
        assert all(
            p.grad is not None and p.grad.any() for p in block[0].parameters() if p.requires_grad and p.dim() > 1
        )
        assert spec.is_last or local.next_input is not None
        if local.next_input is not None:
            assert not local.next_input.requires_grad
            assert local.next_input.shape == (len(x), *spec.output_shape)
            assert torch.isfinite(local.next_input).all()
            x = local.next_input
        for before in owned:
            assert all(p.grad is None for p in before.parameters()), "a gradient crossed a block's border"
        block.zero_grad()
        owned.append(block)


@pytest.mark.parametrize(("name", "model"), SENSELESS)
def test_senseless_pairs_are_refused_before_training(name: str, model: str) -> None:
    with pytest.raises(NetworkError) as caught:
        heads_on_meta(load_objective(name), block_specs(load_model(model, (3, 32, 32), 10, NARROW[model])))
    error = caught.value
    assert "block 0" in str(error.where)
    assert error.remedy


@pytest.mark.parametrize(
    ("name", "options", "model", "shape", "classes", "what"),
    [
        ("cwc", {}, "cnn", (1, 8, 8), 10, "evenly"),
        ("cwc-mod", {}, "mlp", (8,), 1001, "evenly"),
        ("deeperforward", {}, "mlp", (8,), 2000, "nothing to normalise"),
        ("cwc", {"superclass_blocks": "1"}, "cfse-cnn", (1, 8, 8), 10, "CIFAR-100"),
        ("hinton", {}, "mlp", (1, 3, 3), 10, "too small"),
        ("hinton", {}, "mlp", (9,), 10, "too small"),
        ("hinton", {}, "cnnb", (1, 8, 8), 10, "corner"),
        ("hinton-unsupervised", {}, "mlp", (64,), 10, "made of pictures"),
        ("sel-fourier", {}, "mlp", (64,), 10, "whole pictures"),
        ("sel-morphological", {}, "mlp", (64,), 10, "whole pictures"),
        ("sel-fourier", {}, "sel-cnn", (1, 8, 8), 100, "distinct labels"),
        ("sel-morphological", {}, "sel-cnn", (1, 64, 64), 100, "distinct labels"),
    ],
)
def test_a_network_that_a_rule_cannot_use_is_refused_with_a_reason(
    name: str, options: dict[str, str], model: str, shape: tuple[int, ...], classes: int, what: str
) -> None:
    with pytest.raises(NetworkError, match=what) as caught:
        heads_on_meta(load_objective(name, options), block_specs(load_model(model, shape, classes)))
    assert caught.value.expected
    assert caught.value.where


@pytest.mark.parametrize("name", OBJECTIVES)
def test_in_bf16_the_scores_and_losses_are_float32_and_finite(name: str) -> None:
    model = "mlp" if name == "hinton" else "cnnb"
    rule, chain = load_objective(name), load_model(model, (1, 8, 8), 10, NARROW[model])
    x, labels = torch.randn(4, 1, 8, 8), torch.tensor([1, 0, 9, 1])
    for training in (True, False):
        h = rule.prepare(x, labels, 10, torch.Generator()) if training else rule.prepare_eval(x, 10)
        for spec in block_specs(chain):
            block, head = chain.build(spec.index, seed=0).train(training), rule.head(spec).train(training)
            with torch.autocast("cpu", torch.bfloat16):
                local = rule.local(head, block(h.bfloat16()), labels)
            for given in (local.loss, local.scores):
                assert given is None or (given.dtype == torch.float32 and torch.isfinite(given).all())
            h = local.next_input if local.next_input is not None else h


@pytest.mark.parametrize("name", OBJECTIVES)
def test_features_for_a_fusion_head_are_one_float32_row_a_sample(name: str) -> None:
    model = "mlp" if name == "hinton" else "cnnb"
    options = {"predict": "linear"} if name.startswith("sel") or name in ("hinton", "symba") else {}
    rule, chain = load_objective(name, options), load_model(model, (1, 8, 8), 10, NARROW[model])
    x, labels = torch.randn(4, 1, 8, 8), torch.tensor([1, 0, 9, 1])
    for training in (True, False):
        h = rule.prepare(x, labels, 10, torch.Generator()) if training else rule.prepare_eval(x, 10)
        for spec in block_specs(chain):
            block, head = chain.build(spec.index, seed=0).train(training), rule.head(spec).train(training)
            out = block(h)
            features = rule.features(head, out, 4)
            assert (features is None) == (spec.index == 0 and rule.local(head, out, labels).scores is None)
            if features is not None:
                assert features.shape[0] == 4
                assert features.dim() == 2
                assert features.dtype == torch.float32
                assert not features.requires_grad
            h = rule.local(head, out, labels).next_input
            if h is None:
                break


@pytest.mark.parametrize("name", ["hinton", "sel-fourier", "sel-morphological"])
def test_passes_for_each_label_offer_no_features(name: str) -> None:
    spec = BlockSpec(1, "second", 3, 10, (20,), (20,))
    rule = load_objective(name)
    head = rule.head(spec).eval()
    assert rule.features(head, torch.randn(40, 20), 4) is None


# Learning


@cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """1400 to learn from and 397 to judge by: [N, 1, 8, 8] of mean 0 and variance 1, and labels."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(data.images, dtype=torch.float32)[order, None]
    y = torch.tensor(data.target)[order]
    x = (x - x[:1400].mean()) / x[:1400].std()
    return x[:1400], y[:1400], x[1400:], y[1400:]


def learn(rule: Objective, chain: Chain, epochs: int, lr: float) -> float:
    """The pipeline in one plain loop; accuracy of the mean of the blocks' scores on pictures not learned from."""
    x, y, x_test, y_test = digits()
    blocks = [nn.ModuleList([chain.build(spec.index, seed=0), rule.head(spec)]) for spec in block_specs(chain)]
    optimizers = [torch.optim.AdamW(block.parameters(), lr) for block in blocks]
    steps = epochs * (len(x) // 64)
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(o, steps) for o in optimizers]
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=generator).split(64)[:-1]:
            h = rule.prepare(x[batch], y[batch], 10, generator)
            for block, optimizer, schedule in zip(blocks, optimizers, schedules, strict=True):
                local = rule.local(block[1], block[0](h), y[batch])
                assert local.loss is not None
                local.loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                h = local.next_input if local.next_input is not None else h
    with torch.no_grad():
        total = total_scores(rule, [(block[0].eval(), block[1].eval()) for block in blocks], x_test)
    return (total.argmax(1) == y_test).float().mean().item()


def total_scores(rule: Objective, blocks: list[tuple[nn.Module, nn.Module]], x: Tensor) -> Tensor:
    """The sum of the blocks' scores, [B, K]."""
    h, total = rule.prepare_eval(x, 10), torch.zeros(len(x), 10)
    for block, head in blocks:
        local = rule.local(head, block(h), None)
        total += 0 if local.scores is None else local.scores
        h = local.next_input if local.next_input is not None else h
    return total


WIDE = {"widths": "200,200,200", "init": "he"}
CONV = {"widths": "20,40,80"}
SEL = {"width": "16", "kernel": "5"}


@pytest.mark.parametrize(
    ("name", "options", "model", "model_options", "epochs", "least"),
    [
        ("hinton", {}, "mlp", WIDE, 15, 0.9),
        ("hinton", {"predict": "linear", "peer": "0.03"}, "mlp", WIDE, 10, 0.9),
        ("hinton-unsupervised", {}, "mlp", WIDE, 10, 0.85),
        ("hinton-unsupervised", {}, "sel-cnn", SEL, 4, 0.9),
        ("sel-fourier", {}, "sel-cnn", SEL, 5, 0.75),
        ("sel-fourier", {"predict": "linear"}, "sel-cnn", SEL, 4, 0.9),
        ("sel-morphological", {}, "sel-cnn", SEL, 8, 0.55),
        ("cwc", {}, "cfse-cnn", {"widths": "20,40,80,80"}, 6, 0.92),
        ("cwc-mod", {}, "cnnb", CONV, 6, 0.95),
        ("sff", {"kernel": "3"}, "cnnb", CONV, 6, 0.95),
        ("asge", {}, "cnn", {"widths": "32,64,64"}, 8, 0.87),
        ("asge", {"readout": "feedback"}, "cnnb", CONV, 8, 0.87),
        ("predsim", {}, "cnnb", CONV, 4, 0.9),
        ("mono-forward", {}, "cnnb", CONV, 4, 0.92),
        ("deeperforward", {}, "cnnb", CONV, 8, 0.9),
        ("local-ce", {}, "cnnb", CONV, 6, 0.93),
        ("sff", {}, "vit", {"dim": "30", "depth": "2"}, 8, 0.88),
        ("sff", {}, "resnet18", {"widths": "16,16,32,32"}, 3, 0.85),
        ("examples/own_objective.py:Prototypes", {}, "cnnb", CONV, 6, 0.93),
    ],
)
def test_every_rule_learns_the_digits(
    name: str, options: dict[str, str], model: str, model_options: dict[str, str], epochs: int, least: float
) -> None:
    rule, chain = load_objective(name, options), load_model(model, (1, 8, 8), 10, model_options)
    assert learn(rule, chain, epochs, lr=3e-3) > least


def test_the_example_of_ones_own_rule_is_under_40_lines() -> None:
    with open("examples/own_objective.py", encoding="utf-8") as file:
        assert len(file.readlines()) < 40


def test_a_networks_scores_do_not_depend_on_the_batch_they_are_in() -> None:
    for name in OBJECTIVES:
        model = "mlp" if name == "hinton" else "cnnb"
        rule, chain = load_objective(name), load_model(model, (1, 8, 8), 10, NARROW[model])
        x = torch.randn(6, 1, 8, 8)
        modules = [(chain.build(spec.index, seed=0).eval(), rule.head(spec).eval()) for spec in block_specs(chain)]
        with torch.no_grad():
            together, apart = total_scores(rule, modules, x), total_scores(rule, modules, x[2:4])
        torch.testing.assert_close(F.normalize(together)[2:4], F.normalize(apart), rtol=1e-4, atol=1e-4)
