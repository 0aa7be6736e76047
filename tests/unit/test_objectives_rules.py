"""Each rule against the plain formula it stands for."""

from __future__ import annotations

import math
import re
from dataclasses import is_dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ffdist import objectives
from ffdist.errors import ConfigError
from ffdist.objectives import (
    ASGE,
    OBJECTIVES,
    SFF,
    BlockSpec,
    CwC,
    CwCMod,
    DeeperForward,
    Hinton,
    HintonUnsupervised,
    Local,
    LocalCE,
    MonoForward,
    Objective,
    PredSim,
    SELFourier,
    SELMorphological,
    load_objective,
)
from ffdist.objectives.cwc import CIFAR100_SUPERCLASSES
from ffdist.objectives.hinton_unsupervised import masks
from ffdist.objectives.predsim import similarity
from ffdist.objectives.sel import SIDES, periods, transform, waves
from ffdist.objectives.threshold import wrong_labels

SHAPES = [(20, 4, 6), (7, 20), (20,)]
LABELS = torch.tensor([3, 0, 9, 3, 1])


def spec(shape: tuple[int, ...], classes: int = 10, index: int = 1, blocks: int = 3) -> BlockSpec:
    return BlockSpec(index, f"block{index}", blocks, classes, (1, 8, 8), shape)


def output(shape: tuple[int, ...], rows: int = 5) -> Tensor:
    out = torch.randn(rows, *shape, generator=torch.Generator().manual_seed(1)).relu()
    return out.contiguous(memory_format=torch.channels_last) if out.dim() == 4 else out


def mean_over_places(y: Tensor) -> Tensor:
    return {4: lambda: y.mean((2, 3)), 3: lambda: y.mean(1), 2: lambda: y}[y.dim()]()


def per_class(y: Tensor, classes: int = 10) -> Tensor:
    return torch.stack([group.mean(1) for group in mean_over_places(y).chunk(classes, 1)], 1)


def given_scores(local: Local) -> Tensor:
    assert local.scores is not None
    return local.scores


def given_loss(local: Local) -> Tensor:
    assert local.loss is not None
    return local.loss


def next_input(local: Local) -> Tensor:
    assert local.next_input is not None
    return local.next_input


def jittered(head: nn.Module) -> nn.Module:
    with torch.no_grad():
        for p in head.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(2)) * 0.3)
    return head


def log_sum_exp_margin(g: Tensor, labels: Tensor) -> Tensor:
    return -(g[torch.arange(len(g)), labels] - g.exp().sum(1).log()).mean()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["square", "mean"])
def test_sff_is_the_margin_of_the_auxiliary_maps_goodness(shape: tuple[int, ...], kind: str) -> None:
    rule = SFF(goodness=kind)  # type: ignore[arg-type]
    head, y = jittered(rule.head(spec(shape))), output(shape)
    z = head.aux(head.norm(y))  # type: ignore[operator]
    goodness = mean_over_places(z.square() if kind == "square" else z)
    local = rule.local(head, y, LABELS)
    torch.testing.assert_close(given_scores(local), goodness)
    torch.testing.assert_close(given_loss(local), log_sum_exp_margin(goodness, LABELS))
    assert torch.equal(next_input(local), head.norm(y))  # type: ignore[operator]


@pytest.mark.parametrize("shape", SHAPES)
def test_cwc_is_the_margin_of_the_classes_channels_squared(shape: tuple[int, ...]) -> None:
    y = output(shape)
    rule = CwC()
    local = rule.local(rule.head(spec(shape)), y, LABELS)
    torch.testing.assert_close(given_scores(local), per_class(y.square()))
    torch.testing.assert_close(given_loss(local), log_sum_exp_margin(per_class(y.square()), LABELS))
    assert torch.equal(next_input(local), y)


@pytest.mark.parametrize("shape", SHAPES)
def test_cwc_mod_is_cwc_with_a_norm_on_the_way_on(shape: tuple[int, ...]) -> None:
    rule, y = CwCMod(), output(shape)
    head = rule.head(spec(shape))
    local = rule.local(head, y, LABELS)
    torch.testing.assert_close(given_scores(local), per_class(y.square()))
    torch.testing.assert_close(given_loss(local), log_sum_exp_margin(per_class(y.square()), LABELS))
    torch.testing.assert_close(next_input(local), head.norm(y).detach())  # type: ignore[operator]
    assert not list(head.parameters()), "no loss would train them"


def test_cwcs_first_blocks_learn_the_official_super_classes_and_give_no_scores() -> None:
    rule = CwC(superclass_blocks=1)
    early, late = output((40, 2, 2)), output((200, 2, 2))
    labels = torch.tensor([0, 1, 50, 98, 99])  # apple, aquarium fish, mouse, woman, worm
    local = rule.local(rule.head(spec((40, 2, 2), 100, index=0)), early, labels)
    coarse = torch.tensor([4, 1, 16, 14, 13])
    torch.testing.assert_close(given_loss(local), log_sum_exp_margin(per_class(early.square(), 20), coarse))
    assert local.scores is None
    assert given_scores(rule.local(rule.head(spec((200, 2, 2), 100)), late, labels)).shape == (5, 100)
    assert all(CIFAR100_SUPERCLASSES.count(k) == 5 for k in range(20))


@pytest.mark.parametrize("shape", SHAPES)
def test_deeperforward_takes_the_goodness_out_of_what_goes_on(shape: tuple[int, ...]) -> None:
    rule, y = DeeperForward(), output(shape)
    head = rule.head(spec(shape))
    local = rule.local(head, y, LABELS)
    torch.testing.assert_close(given_scores(local), per_class(y))
    torch.testing.assert_close(given_loss(local), log_sum_exp_margin(per_class(y), LABELS))
    after = given_scores(rule.local(head, next_input(local), LABELS))
    torch.testing.assert_close(after, torch.zeros_like(after), atol=1e-5, rtol=0)


def test_deeperforward_drops_units_before_the_goodness_while_it_learns() -> None:
    rule, y = DeeperForward(dropout=0.5), output((20, 4, 4))
    head = rule.head(spec((20, 4, 4)))
    torch.manual_seed(0)
    kept = F.dropout(y, 0.5)
    torch.manual_seed(0)
    torch.testing.assert_close(given_scores(rule.local(head, y, LABELS)), per_class(kept))
    torch.testing.assert_close(given_scores(rule.local(head.eval(), y, None)), per_class(y))
    with pytest.raises(ConfigError, match="the dropout rate is out of range"):
        DeeperForward(dropout=1.0)


def test_deeperforward_standardises_the_picture() -> None:
    x = 3 + 2 * torch.randn(4, 3, 8, 8)
    for prepared in (DeeperForward().prepare_eval(x, 10), DeeperForward().prepare_eval(x.flatten(1), 10)):
        torch.testing.assert_close(prepared.flatten(1).mean(1), torch.zeros(4), atol=1e-5, rtol=0)
        torch.testing.assert_close(prepared.flatten(1).var(1, correction=0), torch.ones(4), atol=1e-3, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_local_cross_entropy_is_a_linear_classifier_of_the_mean(shape: tuple[int, ...]) -> None:
    rule, y = LocalCE(), output(shape)
    head = rule.head(spec(shape))
    weight = head.linear.weight.flatten(1)  # type: ignore[union-attr, operator]
    expected = mean_over_places(y) @ weight.T + head.linear.bias  # type: ignore[union-attr, operator]
    torch.testing.assert_close(given_scores(rule.local(head, y, LABELS)), expected)


def test_mono_forward_projects_every_activity() -> None:
    rule, y = MonoForward(), output((20, 4, 6))
    head = rule.head(spec((20, 4, 6)))
    matrix = head.project.weight.view(10, 4, 6, 20)  # type: ignore[union-attr, operator]
    torch.testing.assert_close(given_scores(rule.local(head, y, LABELS)), torch.einsum("nchw,khwc->nk", y, matrix))
    assert torch.equal(next_input(rule.local(head, y, LABELS)), y)


def test_mono_forward_pools_only_what_exceeds_its_limit() -> None:
    sizes = [MonoForward(limit=n).head(spec((20, 4, 6))).project.in_features for n in (480, 479, 100, 1)]  # type: ignore[union-attr]
    assert sizes == [480, 120, 40, 20]


@pytest.mark.parametrize("name", ["mono-forward", "cafo", "predsim"])
def test_a_readout_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="limit"):
        load_objective(name, {"limit": "0"})


def test_predsim_matches_the_correlations_between_samples() -> None:
    rule = PredSim(beta=1.0)
    head, y = jittered(rule.head(spec((20, 4, 6)))), output((20, 4, 6))
    spread = head.conv(y).flatten(2).std(2)  # type: ignore[operator]
    got, target = torch.corrcoef(spread), torch.corrcoef(F.one_hot(LABELS, 10).float())
    torch.testing.assert_close(
        given_loss(rule.local(head, y, LABELS)), (got - target).square().mean(), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(similarity(spread), got, rtol=1e-4, atol=1e-5)


def test_predsim_with_beta_0_is_a_local_classifier_that_starts_undecided() -> None:
    rule = PredSim(beta=0.0)
    loss = given_loss(rule.local(rule.head(spec((20, 4, 6))), output((20, 4, 6)), LABELS))
    assert loss.item() == pytest.approx(math.log(10), abs=0.1)


@pytest.mark.parametrize(("channels", "size"), [(32, 2048), (64, 4096), (128, 2048), (256, 1024), (512, 512)])
def test_asges_goodness_code_has_the_published_length(channels: int, size: int) -> None:
    assert ASGE().head(spec((channels, 32, 32))).feedback.shape == (10, size)


def test_asge_reads_its_frozen_feedback_off_the_pooled_squares() -> None:
    rule = ASGE(readout="feedback", dropout=0.0)
    head, y = rule.head(spec((128, 8, 8))), output((128, 8, 8))
    q = y.square().unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5)).permute(0, 2, 3, 1).flatten(1)
    local = rule.local(head, y, LABELS)
    logits = q @ head.feedback.T + head.bias  # type: ignore[operator, union-attr]
    torch.testing.assert_close(given_scores(local), logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(given_loss(local), log_sum_exp_margin(logits, LABELS), rtol=1e-4, atol=1e-4)
    assert list(head.parameters()) == []
    assert head.state_dict().keys() == {"feedback", "bias"}
    torch.testing.assert_close(next_input(local).square().mean((1, 2, 3)), torch.ones(5))


def test_asges_readout_does_not_touch_the_block() -> None:
    grads = []
    for readout in ("linear", "feedback"):
        torch.manual_seed(0)
        rule = ASGE(readout=readout)  # type: ignore[arg-type]
        y = output((128, 8, 8)).requires_grad_()
        given_loss(rule.local(rule.head(spec((128, 8, 8))), y, LABELS)).backward()
        grads.append(y.grad)
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize(
    "name", ["sff", "cwc", "cwc-mod", "asge", "predsim", "mono-forward", "deeperforward", "local-ce"]
)
def test_labels_are_smoothed_when_learning_and_never_when_judging(name: str) -> None:
    torch.manual_seed(0)
    plain, smooth = load_objective(name), load_objective(name, {"label_smoothing": "0.2"})
    head, y = plain.head(spec((20, 4, 6))), output((20, 4, 6))
    torch.manual_seed(0)
    learning = [given_loss(rule.local(jittered(head), y, LABELS)) for rule in (plain, smooth)]
    assert learning[0] != learning[1]
    head.eval()
    judging = [given_loss(rule.local(head, y, LABELS)) for rule in (plain, smooth)]
    assert judging[0] == judging[1]
    with pytest.raises(ConfigError, match="smoothing"):
        load_objective(name, {"label_smoothing": "1"})


# Rules of positives and negatives


@settings(max_examples=50, deadline=None)
@given(classes=st.integers(2, 100), seed=st.integers(0, 2**32 - 1), hard=st.booleans())
def test_wrong_labels_are_never_the_true_ones(classes: int, seed: int, hard: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (64,), generator=generator)
    scores = torch.randn(64, classes, generator=generator) * 5 if hard else None
    wrong = wrong_labels(labels, classes, generator, scores)
    assert (wrong != labels).all()
    assert wrong.min() >= 0
    assert wrong.max() < classes


def test_wrong_labels_are_even_and_hard_ones_follow_the_scores() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.full((9000,), 4)
    counts = wrong_labels(labels, 10, generator).bincount(minlength=10)
    assert counts[4] == 0
    assert counts[counts > 0].min() > 850
    scores = torch.zeros(9000, 10)
    scores[:, 4], scores[:, 7] = 9.0, math.log(8)  # 7 is as likely as the eight other wrong labels together
    counts = wrong_labels(labels, 10, generator, scores).bincount(minlength=10)
    assert counts[4] == 0
    assert 4200 < counts[7] < 4800


LABELLED = [Hinton(), SELFourier(), SELMorphological()]


@pytest.mark.parametrize("rule", LABELLED)
def test_positives_bear_the_right_label_and_negatives_a_wrong_one(rule: Hinton) -> None:
    x = torch.randn(5, 3, 12, 12)
    before = x.clone()
    prepared = rule.prepare(x, LABELS, 10, torch.Generator().manual_seed(0))
    passes = rule.prepare_eval(x, 10).view(10, 5, 3, 12, 12)
    assert torch.equal(x, before)
    assert prepared.shape == (10, 3, 12, 12)
    for i, label in enumerate(LABELS):
        torch.testing.assert_close(prepared[i], passes[label, i])
        same = [k for k in range(10) if torch.allclose(prepared[5 + i], passes[k, i])]
        assert len(same) == 1
        assert same[0] != label


@pytest.mark.parametrize("rule", [*LABELLED, HintonUnsupervised()])
def test_the_generator_alone_decides_the_negatives(rule: Objective) -> None:
    x = torch.randn(5, 1, 12, 12)
    one, same, other = (rule.prepare(x, LABELS, 10, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one[5:], other[5:])
    assert torch.equal(one[:5], other[:5])


@pytest.mark.parametrize("channels", [0, 1, 3])
def test_hintons_label_is_written_over_the_first_pixels_alone(channels: int) -> None:
    x = torch.randn(5, channels, 4, 5) if channels else torch.randn(5, 20)
    stamped = Hinton(strength=2.0).stamp(x, LABELS, 10)
    flat, old = (t.view(5, max(channels, 1), 20) for t in (stamped, x))
    torch.testing.assert_close(flat[..., :10], 2.0 * F.one_hot(LABELS, 10)[:, None].float().expand_as(flat[..., :10]))
    assert torch.equal(flat[..., 10:], old[..., 10:])
    neutral = Hinton(strength=2.0).neutral(x, 10).view_as(flat)
    torch.testing.assert_close(neutral[..., :10], torch.full_like(neutral[..., :10], 0.2))


@pytest.mark.parametrize(("shape", "units"), [((20, 4, 6), 20), ((7, 20), 20), ((20,), 20)])
def test_the_threshold_is_the_number_of_units(shape: tuple[int, ...], units: int) -> None:
    rule = SELFourier()
    head, y = rule.head(spec(shape)), 2 * output(shape, rows=10)
    goodness = mean_over_places(y.square()).sum(1)
    target = torch.tensor([1.0] * 5 + [0.0] * 5)
    local = rule.local(head, y, LABELS)
    expected = F.binary_cross_entropy_with_logits(goodness - units, target)
    torch.testing.assert_close(given_loss(local), expected)
    torch.testing.assert_close(next_input(local).flatten(1).square().mean(1), torch.ones(10))
    torch.testing.assert_close(F.cosine_similarity(next_input(local).flatten(1), y.flatten(1)), torch.ones(10))


def test_goodness_for_each_label_comes_out_pass_by_pass() -> None:
    rule = Hinton()
    head, y = rule.head(spec((20,))).eval(), output((20,), rows=50)
    local = rule.local(head, y, LABELS)
    scores = given_scores(local)
    for sample in range(5):
        for k in range(10):
            assert scores[sample, k].item() == pytest.approx(y[k * 5 + sample].square().sum().item() - 20, rel=1e-5)
    right = F.one_hot(LABELS, 10).bool()
    expected = (F.softplus(-scores[right]).mean() + F.softplus(scores[~right]).mean()) / 2
    torch.testing.assert_close(given_loss(local), expected)
    assert rule.local(head, y, None).loss is None


def test_the_first_layer_is_trained_but_does_not_vote() -> None:
    for predict in ("goodness", "linear"):
        rule = Hinton(predict=predict)  # type: ignore[arg-type]
        votes = []
        for index, blocks in ((0, 3), (1, 3), (0, 1)):
            head = rule.head(spec((20,), index=index, blocks=blocks))
            passes = 2 if predict == "goodness" else 3
            assert rule.local(head, output((20,), 5 * passes), LABELS).loss is not None
            head.eval()
            votes.append(rule.local(head, output((20,), 50 if predict == "goodness" else 5), None).scores is not None)
        assert votes == [False, True, True]


def test_peer_normalisation_draws_the_units_averages_together() -> None:
    rule, plain = Hinton(peer=0.5), Hinton()
    head, y = rule.head(spec((20,))), output((20,), 10)
    extra = given_loss(rule.local(head, y, LABELS)) - given_loss(plain.local(plain.head(spec((20,))), y, LABELS))
    average = 0.1 * y[:5].mean(0)
    torch.testing.assert_close(extra, 0.5 * (average.mean() - average).square().mean())
    torch.testing.assert_close(head.mean_activity, average)
    rule.local(head, y, LABELS)
    torch.testing.assert_close(head.mean_activity, average * 1.9)  # type: ignore[operator]


def test_a_linear_readout_does_not_touch_its_block() -> None:
    for linear, passes in ((Hinton(predict="linear"), 3), (HintonUnsupervised(), 2)):
        grads = []
        for read in (True, False):
            torch.manual_seed(0)
            head = linear.head(spec((20,), index=1 if read else 0))
            y = output((20,), 5 * passes).requires_grad_()
            given_loss(linear.local(head, y, LABELS)).backward()
            grads.append(y.grad)
        torch.testing.assert_close(grads[0], grads[1])


def test_the_first_ten_waves_are_the_published_ones() -> None:
    pictures = waves(10, 28, 28) / math.sqrt(2)
    rows, columns = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    for picture, (ky, kx) in zip(
        pictures,
        [(0, -6), (-2, 0), (0, -4), (0, -2), (-6, 0), (-4, 0), (-1, 1), (-2, 2), (-2, -2), (-1, -1)],
        strict=True,
    ):
        torch.testing.assert_close(picture, torch.cos(2 * math.pi * (ky * rows + kx * columns) / 28), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("classes", "size"), [(10, 7), (10, 8), (10, 28), (100, 16), (100, 32), (200, 33)])
def test_waves_are_distinct_with_mean_0_and_variance_1(classes: int, size: int) -> None:
    flat = waves(classes, size, size).flatten(1)
    assert len(flat) == classes
    alike = torch.corrcoef(flat) - torch.eye(classes)
    assert alike.abs().max() < 1e-3
    torch.testing.assert_close(flat.mean(1), torch.zeros(classes), atol=1e-4, rtol=0)
    torch.testing.assert_close(flat.var(1, correction=0), torch.ones(classes), atol=1e-4, rtol=0)


def test_pairs_of_periods_are_never_given_twice() -> None:
    for height, width in ((5, 9), (28, 28), (8, 32)):
        pairs = periods(height, width)
        assert len({frozenset({k, (-k[0], -k[1])}) for k in pairs}) == len(pairs)


def test_morphological_labels_are_distinct_transforms_of_the_picture() -> None:
    x = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    every = torch.stack([transform(x, k) for k in range(5 * len(SIDES))]).flatten(1)
    assert (torch.cdist(every, every) + 1e3 * torch.eye(len(every))).min() > 1e-2
    flat = torch.full((1, 1, 32, 32), 0.4)
    assert torch.equal(transform(flat, 0), flat)
    assert torch.equal(transform(flat, 2), torch.zeros_like(flat))


def test_dilation_is_the_maximum_under_the_structuring_element() -> None:
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 2, 2] = 1.0
    column = transform(x, 0)[0, 0]
    assert column.sum() == 3
    assert column[1:4, 2].sum() == 3
    assert transform(x, 1).sum() == 0


def test_hybrids_take_every_pixel_from_one_of_two_pictures() -> None:
    x = torch.randn(6, 3, 16, 16)
    generator = torch.Generator().manual_seed(3)
    prepared = HintonUnsupervised().prepare(x, LABELS, 10, generator)
    unit = x / x.square().mean((1, 2, 3), keepdim=True).sqrt()
    torch.testing.assert_close(prepared[:6], unit)
    mask = masks(6, 16, 16, 6, generator)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert 0.2 < mask.mean() < 0.8
    generator = torch.Generator().manual_seed(3)
    shift = int(torch.randint(1, 6, (), generator=generator))
    mask = masks(6, 16, 16, 6, generator)
    hybrid = torch.where(mask.bool(), x, x.roll(shift, 0))
    torch.testing.assert_close(prepared[6:], hybrid / hybrid.square().mean((1, 2, 3), keepdim=True).sqrt())


def test_more_blurs_make_larger_regions() -> None:
    def borders(blurs: int) -> float:
        mask = masks(32, 28, 28, blurs, torch.Generator().manual_seed(0))
        return (mask[..., 1:] != mask[..., :-1]).float().mean().item()

    assert borders(0) > borders(2) > borders(8)


def test_every_rule_is_a_frozen_dataclass_that_the_package_names() -> None:
    for cls in OBJECTIVES.values():
        assert cls.__name__ in objectives.__all__
        assert is_dataclass(cls)
        assert hash(cls()) == hash(cls())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_rule_says_which_layers_a_gradient_crosses(name: str) -> None:
    said = " ".join((OBJECTIVES[name].__doc__ or "").split())
    assert re.search(r"gradient crosses .*nothing before", said), said
