from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from ffdist.errors import ConfigError, FfdistError, NetworkError
from ffdist.models import MODELS, Chain, load_model, resnet18, vgg8
from ffdist.objectives import SFF, BlockSpec

SMALLEST = {"vgg8": 16, "vgg11": 16, "speednet": 16}
SMALL = {"mlp": {"widths": "12,12"}, "sel-cnn": {"width": "8"}, "vit": {"dim": "24", "depth": "2"}}


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def bp_parameters(chain: Chain) -> int:
    blocks = sum(parameters(chain.build_meta(i)) for i in range(len(chain)))
    return blocks + parameters(chain.build_classifier(chain.shapes()[-1], chain.num_classes))


def sff_parameters(chain: Chain, kernel: int) -> int:
    total = 0
    for i, shape in enumerate(chain.shapes()):
        head = SFF(kernel).head(BlockSpec(i, chain.names[i], len(chain), chain.num_classes, (), shape))
        total += parameters(chain.build_meta(i)) + parameters(head)
    return total


@pytest.mark.parametrize(
    ("model", "classes", "kernel", "sff", "bp"),
    [
        ("cnn", 10, 5, 149_726, 175_178),
        ("cnnb", 10, 5, 150_174, 175_626),
        ("cnn", 100, 3, 295_596, 912_548),
        ("cnnb", 100, 3, 296_044, 912_996),
    ],
)
def test_cnn_and_cnnb_have_the_papers_numbers_of_parameters(
    model: str, classes: int, kernel: int, sff: int, bp: int
) -> None:
    chain = load_model(model, (3, 32, 32), classes)
    assert sff_parameters(chain, kernel) == sff
    assert bp_parameters(chain) == bp


@pytest.mark.parametrize("model", ["cnn", "cnnb", "cfse-cnn", "sel-cnn", "vgg8", "vgg11", "resnet18"])
def test_backpropagations_classifier_gives_its_map_a_gradient_of_the_same_layout(model: str) -> None:
    """Another would be copied by every operation behind it: the baseline of a benchmark would be slow for nothing."""
    chain = load_model(model, (3, 32, 32), 10)
    shape = chain.shapes()[-1]
    out = torch.randn(4, *shape).contiguous(memory_format=torch.channels_last).requires_grad_()
    logits = chain.build_classifier(shape, 10)(out)
    assert logits.shape == (4, 10)
    (gradient,) = torch.autograd.grad(logits.square().sum(), out)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


def test_dropout_is_of_the_classifier_and_at_the_rate_set() -> None:
    features = torch.ones(1, 128, 2, 2)
    for rate, equal in (("0", True), ("0.25", False)):
        classifier = load_model("cnnb", (3, 8, 8), 10, {"dropout": rate}).build_classifier((128, 2, 2), 10)
        assert torch.equal(classifier(features), classifier(features)) is equal


def test_mobilenet_has_the_papers_numbers_of_parameters() -> None:
    chain = load_model("mobilenet-v3-small", (3, 224, 224), 10)
    assert len(chain) == 12
    assert sff_parameters(chain, kernel=5) == 1_017_848
    assert bp_parameters(chain) == 932_778


def test_resnet18_with_a_stem_of_its_own_has_the_papers_number_of_parameters() -> None:
    chain = resnet18((3, 224, 224), 10, stem=7, split="stem-group")
    norms = 2 * sum(shape[0] for shape in chain.shapes())
    assert bp_parameters(chain) + norms == 11_183_690  # the paper's row CwC-mod: a norm a block, a linear head


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_network_gives_the_shapes_it_predicts(name: str, channels: int) -> None:
    side = SMALLEST.get(name, 8)
    chain = load_model(name, (channels, side, side), 10, SMALL.get(name))
    x = torch.randn(2, channels, side, side).contiguous(memory_format=torch.channels_last)
    for i, shape in enumerate(chain.shapes()):
        before = x.clone()
        y = chain.build(i, seed=0).to(memory_format=torch.channels_last)(x)
        assert tuple(y.shape) == (2, *shape)
        assert torch.equal(x, before), "a block changed its input"
        if len(shape) == 3 and min(shape[1:]) > 1:
            assert y.is_contiguous(memory_format=torch.channels_last)
        x = y.detach()
    assert chain.build_classifier(chain.shapes()[-1], 10)(x).shape == (2, 10)


@pytest.mark.parametrize("name", MODELS)
def test_every_network_takes_colour_pictures_of_32_pixels(name: str) -> None:
    chain = load_model(name, (3, 32, 32), 100, {"widths": "100,200", "groups": "100"} if name == "cfse-cnn" else None)
    assert chain.shapes()[-1][0] > 0


@pytest.mark.parametrize("name", MODELS)
def test_every_network_travels_to_another_process_and_builds_the_same_there(name: str) -> None:
    side = SMALLEST.get(name, 8)
    chain = load_model(name, (1, side, side), 10, SMALL.get(name))
    copy = pickle.loads(pickle.dumps(chain))
    ours, theirs = chain.build(0, seed=3).state_dict(), copy.build(0, seed=3).state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("vgg8", (3, 8, 8), {}),
        ("cnn", (1, 2, 2), {}),
        ("resnet18", (3, 28, 28), {"stem": "7"}),
        ("resnet18", (64,), {}),
        ("cfse-cnn", (1, 2, 8), {}),
        ("vit", (3, 30, 30), {}),
        ("vit", (3, 32, 32), {"dim": "10"}),
        ("cnnb", (8, 8), {}),
        ("cnn", (3, 8, 8), {"dropout": "1"}),
        ("cfse-cnn", (3, 32, 32), {"widths": "20,84"}),
        ("cfse-cnn", (3, 32, 32), {"groups": "10"}),
        ("sel-cnn", (1, 8, 8), {"kernel": "4"}),
        ("sel-cnn", (1, 2, 2), {"depth": "9", "pool_every": "1"}),
        ("mobilenet-v3-small", (3, 4, 4), {}),
        ("mobilenet-v3-small", (3, 32, 32), {"stem_stride": "3"}),
        ("resnet18", (3, 32, 32), {"split": "half"}),
        ("mlp", (64,), {"widths": ""}),
        ("mlp", (64,), {"widths": "0"}),
    ],
)
def test_a_wrong_input_or_option_is_refused_with_what_was_expected(
    name: str, shape: tuple[int, ...], options: dict[str, str]
) -> None:
    with pytest.raises((NetworkError, ConfigError)) as caught:
        load_model(name, shape, 10, options)
    error = caught.value
    assert isinstance(error, FfdistError)
    assert error.expected
    assert error.got is not None


def test_resnet18_is_cut_into_groups_or_residual_blocks_of_one_network() -> None:
    lengths = {split: len(resnet18((3, 32, 32), 10, split=split)) for split in ("group", "block", "stem-group")}  # type: ignore[arg-type]
    assert lengths == {"group": 4, "block": 8, "stem-group": 5}
    x = torch.randn(2, 3, 16, 16)
    outputs = []
    for split, cut in (("group", [2, 2, 2, 2]), ("block", [1] * 8)):
        chain = resnet18((3, 16, 16), 10, split=split)  # type: ignore[arg-type]
        assert sum(cut) == 8
        y = x
        for i in range(len(chain)):
            torch.manual_seed(0)
            block = chain.build_meta(i).to_empty(device="cpu")
            for tensor in block.state_dict().values():
                tensor.fill_(0.01) if tensor.is_floating_point() else tensor.zero_()
            y = block.eval()(y)
        outputs.append(y)
    torch.testing.assert_close(outputs[0], outputs[1])


@pytest.mark.parametrize("pool", ["max", "avg"])
def test_vgg_pools_at_a_blocks_end_or_at_the_next_ones_beginning(pool: str) -> None:
    ends, opens = (vgg8((3, 16, 16), 10, pool=pool, pool_first=first) for first in (False, True))  # type: ignore[arg-type]
    assert [s[1] for s in ends.shapes()] == [16, 8, 8, 4, 2, 1, 1]
    assert [s[1] for s in opens.shapes()] == [16, 16, 8, 8, 4, 2, 1]
    with pytest.raises(ConfigError, match="not after the last"):
        vgg8((3, 16, 16), 10, (8, -8), pool_first=True)


def test_vgg_without_norm_has_none() -> None:
    chain = vgg8((3, 32, 32), 10, norm=False)
    assert not any(isinstance(m, nn.BatchNorm2d) for i in range(len(chain)) for m in chain.build_meta(i).modules())


def test_a_block_that_writes_into_its_input_is_refused() -> None:
    layers = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4))
    with pytest.raises(NetworkError, match="block '1' changes its input"):
        Chain.from_sequential(layers, input_shape=(4,), num_classes=2, layers_per_block=[1, 1, 1]).shapes()
    joined = Chain.from_sequential(layers, input_shape=(4,), num_classes=2)
    assert joined.shapes() == [(4,), (4,)]


@pytest.mark.parametrize("name", ["cnnb", "resnet18", "mobilenet-v3-small", "vit", "sel-cnn"])
def test_what_blocks_give_is_the_same_by_zeros_and_on_the_meta_device(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_zeros = MODELS[name]((3, 32, 32), 10).outputs()
    monkeypatch.setattr("ffdist.models.outputs.SMALL", -1)
    assert MODELS[name]((3, 32, 32), 10).outputs() == by_zeros


def test_a_block_that_zeros_do_not_suit_is_traced_without_numbers() -> None:
    class Inverse(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.inv(x)  # of zeros there is none

    chain = Chain.from_sequential(
        nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.Unflatten(1, (1, 4, 4)), Inverse()),
        input_shape=(1, 4, 4),
        num_classes=2,
        layers_per_block=[3, 1],
    )
    zeros = Chain([("inverse", Inverse)], input_shape=(1, 4, 4), num_classes=2)
    assert chain.shapes()[-1] == zeros.shapes()[0] == (1, 4, 4)
