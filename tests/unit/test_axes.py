"""Where a block's channels are: told by its layers, or by itself; rules read signals as pictures of one row."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ffdist import Pipeline
from ffdist.data import Images, from_tensors
from ffdist.errors import NetworkError
from ffdist.models import Chain, OutputLayout, torchvision_chain
from ffdist.objectives import load_objective
from ffdist.pipeline.classifier import Classifier


class Does(nn.Module):
    """A layer that does what a function says."""

    def __init__(self, function: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.layers)


class Says(Does):
    axes: Any = "channels_last"


def mixed(x: Tensor, norm: nn.Module, tokens: nn.Module, features: nn.Module) -> Tensor:
    x = x + tokens(norm(x).mT).mT
    return x + features(x)


def attended(x: Tensor, qkv: nn.Module, out: nn.Module) -> Tensor:
    q, k, v = qkv(x).unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4)
    return out(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2))


def heads_joined(x: Tensor, layer: nn.Module) -> Tensor:
    q = layer(x).unflatten(2, (2, 4)).transpose(1, 2)
    return nn.functional.scaled_dot_product_attention(q, q, q).transpose(1, 2).flatten(2)


def turned(x: Tensor) -> Tensor:
    return x.transpose(1, 2)


CONV = nn.Conv1d(5, 7, 3)
ROWS: dict[str, nn.Module] = {
    "convolution": nn.Sequential(CONV, nn.BatchNorm1d(7), nn.ReLU(), nn.MaxPool1d(2), nn.Dropout()),
    "batch norm": nn.Sequential(nn.BatchNorm1d(5), nn.GELU()),
    "sliced": nn.Sequential(CONV, Does(lambda x: x[:, :, ::2])),
    "turned twice": nn.Sequential(CONV, Does(turned), nn.LayerNorm(7), Does(lambda x: x.swapaxes(1, 2))),
    "gated": nn.Sequential(nn.Conv1d(5, 8, 3), nn.GLU(1)),
    "linear over positions": nn.Sequential(CONV, nn.Linear(14, 9)),
    "largest of a window": nn.Sequential(CONV, Does(lambda x: x.unfold(2, 2, 2).max(-1).values)),
    "maps in rows": Does(lambda x, conv: conv(x.unsqueeze(1)).flatten(1, 2), nn.Conv2d(1, 2, 3)),
}
TOKENS: dict[str, nn.Module] = {
    "linear": nn.Sequential(nn.Linear(16, 8), nn.ReLU()),
    "encoder": nn.TransformerEncoderLayer(16, 2, 32, batch_first=True),
    "recurrent": Does(lambda x, lstm: lstm(x)[0], nn.LSTM(16, 8, batch_first=True)),
    "mixer": Does(mixed, nn.LayerNorm(16), nn.Linear(5, 5), nn.Linear(16, 16)),
    "own attention": Does(attended, nn.Linear(16, 48), nn.Linear(16, 16)),
    "own attention without an output layer": Does(heads_joined, nn.Linear(16, 8)),
    "own weights": Does(lambda x, layer: x @ layer.weight.T, nn.Linear(16, 8)),
    "own weights over positions": Does(lambda x, a, b: a.weight @ b(x), nn.Linear(5, 5), nn.Linear(16, 8)),
    "turned": nn.Sequential(CONV, Does(turned)),
    "embedded": nn.Sequential(Does(lambda x: x[..., 0].long()), nn.Embedding(3, 4)),
    "said": Says(lambda x, layer: torch.einsum("ntc,c->ntc", x, layer.weight[0]), nn.Linear(16, 1)),
    "said of a part": nn.Sequential(Says(lambda x: torch.einsum("ntc->ntc", x)), nn.ReLU()),
}
UNKNOWN: dict[str, nn.Module] = {
    "activation": nn.Sequential(nn.ReLU(), nn.Dropout()),
    "einsum": Does(lambda x, layer: torch.einsum("ntc,c->ntc", x, layer.weight[0]), nn.Linear(16, 1)),
    "turned in place": nn.Sequential(nn.Conv1d(5, 16, 12), Does(lambda x: x.transpose_(1, 2))),
    "linear over either axis": Does(lambda x, layer: x + layer(x.mT).mT, nn.Linear(5, 5)),
    "own weights over either axis": Does(lambda x, layer: layer.weight @ x, nn.Linear(5, 5)),
    "batch norm of tokens": nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(5)),
}


OF_VECTORS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "a token each": (Does(lambda x, layer: layer(x.unsqueeze(-1)), nn.Linear(1, 4)), (12, 4)),
    "steps": (Does(lambda x, lstm: lstm(x.unsqueeze(-1))[0], nn.LSTM(1, 4, batch_first=True)), (12, 4)),
    "windows": (Does(lambda x, layer: layer(x.unfold(1, 4, 2)), nn.Linear(4, 6)), (5, 6)),
    "signal": (nn.Sequential(nn.Unflatten(1, (1, 12)), nn.Conv1d(1, 4, 3)), (4, 1, 10)),
}


def chain_of(block: nn.Module, shape: tuple[int, ...] = (5, 16)) -> Chain:
    return Chain([("block", lambda: copy.deepcopy(block))], input_shape=shape, num_classes=3)


@pytest.mark.parametrize("name", ROWS)
def test_layers_with_channels_first_give_signals(name: str) -> None:
    assert chain_of(ROWS[name]).layouts() == [OutputLayout.SIGNALS]


@pytest.mark.parametrize("name", TOKENS)
def test_layers_with_channels_last_give_tokens(name: str) -> None:
    assert chain_of(TOKENS[name]).layouts() == [OutputLayout.AS_IS]


@pytest.mark.parametrize("name", OF_VECTORS)
def test_a_vectors_numbers_become_channels_or_positions_as_layers_take_them(name: str) -> None:
    block, seen = OF_VECTORS[name]
    chain = chain_of(block, (12,))
    assert chain.layouts()[0].shape(chain.shapes()[0]) == seen


@pytest.mark.parametrize("name", UNKNOWN)
def test_where_the_layers_do_not_tell_the_block_is_asked(name: str) -> None:
    with pytest.raises(NetworkError, match=r"cannot tell which axis(.|\n)*\[N, 5, (8|16)\](.|\n)*axes = 'channels"):
        chain_of(UNKNOWN[name]).layouts()
    network = nn.Sequential(UNKNOWN[name])
    network.axes = "channels_first"  # type: ignore[assignment]
    given = Chain.from_sequential(network, input_shape=(5, 16), num_classes=3)
    assert given.layouts() == [OutputLayout.SIGNALS]


def test_maps_may_have_their_channels_last() -> None:
    last = nn.Sequential(nn.Conv2d(3, 8, 3), Does(lambda x: x.permute(0, 2, 3, 1)), nn.LayerNorm(8))
    assert chain_of(last, (3, 9, 9)).layouts() == [OutputLayout.LAST]
    assert chain_of(nn.Conv2d(3, 8, 3), (3, 9, 9)).layouts() == [OutputLayout.AS_IS]
    between = nn.Sequential(nn.Conv2d(3, 8, 3), Does(lambda x: x.transpose(1, 2)))
    with pytest.raises(NetworkError, match=r"are at axis 2(.|\n)*permute"):
        chain_of(between, (3, 9, 9)).layouts()


def test_what_a_block_says_of_its_axes_is_one_of_two_words() -> None:
    wrong = Says(lambda x: x)
    wrong.axes = "channels"
    with pytest.raises(NetworkError, match=r"`axes` with an unknown value(.|\n)*'channels_first' or"):
        chain_of(wrong).layouts()


@pytest.mark.parametrize("batch", ["joined", "turned"])
def test_a_batch_that_is_not_the_first_axis_is_refused(batch: str) -> None:
    turns = Does(lambda x: x.transpose(0, 1)) if batch == "turned" else Does(lambda x: x.flatten(0, 1))
    with pytest.raises(NetworkError, match="does not keep the samples of a batch apart"):
        chain_of(turns).layouts()


def signals() -> tuple[Tensor, Tensor]:
    """Sines of three frequencies, float32 [N, 1, 64]."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(96) % 3
    phase = torch.rand(96, 1, generator=generator) * 6.28
    wave = torch.sin(6.28 * (3 + 4 * y[:, None]) * torch.arange(64) / 64 + phase)
    return wave[:, None] + 0.1 * torch.randn(96, 1, 64, generator=generator), y


def network(dims: int) -> nn.Sequential:
    """The same network of three blocks, over signals or over pictures of one row."""
    torch.manual_seed(0)
    conv, norm, pool = (
        (nn.Conv1d, nn.BatchNorm1d, nn.MaxPool1d) if dims == 1 else (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d)
    )
    row = lambda n: n if dims == 1 else (1, n)  # noqa: E731
    same = 3 if dims == 1 else (0, 3)
    return nn.Sequential(
        conv(1, 6, row(7), padding=same),
        norm(6),
        nn.ReLU(),
        pool(row(2)),
        conv(6, 12, row(7), padding=same),
        nn.ReLU(),
        pool(row(2)),
        conv(12, 12, row(7), padding=same),
        nn.ReLU(),
    )


RULES = {
    "local-ce": {},
    "asge": {"dropout": "0"},
    "sff": {"kernel": "3"},
    "mono-forward": {"limit": "64"},
    "cwc": {},
    "cwc-mod": {},
    "predsim": {},
    "deeperforward": {},
}


@pytest.mark.parametrize("rule", RULES)
def test_a_network_of_signals_is_that_of_pictures_of_one_row(rule: str) -> None:
    x, y = signals()
    trained = []
    for dims, samples in ((1, x), (2, x[:, :, None])):
        pipeline = Pipeline(network(dims), load_objective(rule, RULES[rule]), fusion=True)
        pipeline.fit((samples, y), epochs=2, batch_size=24, validation=0, progress=False, optimizer="sgd", lr=0.01)
        trained.append(pipeline.classifier)
    for one, other in zip(*(classifier.parameters() for classifier in trained), strict=True):
        assert torch.allclose(one.flatten(), other.flatten(), atol=1e-5)
    assert torch.allclose(trained[0](x), trained[1](x[:, :, None]), atol=1e-4)


def test_stages_and_the_classifier_see_channels_last_alike() -> None:
    last = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), Does(lambda x: x.permute(0, 2, 3, 1))),
        nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 9), nn.ReLU()),
    )
    generator = torch.Generator().manual_seed(0)
    images: Images = from_tensors(torch.rand(32, 1, 6, 5, generator=generator), torch.arange(32) % 3)
    states = []
    for stages in (1, 2):
        chain = Chain.from_sequential(last, input_shape=images.shape, num_classes=3)
        pipeline = Pipeline(chain, "local-ce", stages=stages)
        pipeline.fit(images, epochs=1, batch_size=8, progress=False)
        states.append(pipeline.classifier.state_dict())
    assert all(torch.equal(one, other) for one, other in zip(*(s.values() for s in states), strict=True))
    assert states[0]["heads.1.linear.weight"].shape == (3, 9, 1, 1)


def test_torchvisions_shifted_windows_have_their_channels_last() -> None:
    from torchvision.models.swin_transformer import SwinTransformer

    swin = SwinTransformer([2, 2], 8, [1, 1], [2, 2], [2, 2], num_classes=3)
    chain = torchvision_chain(swin, input_shape=(3, 16, 16), num_classes=3)
    assert set(chain.layouts()) == {OutputLayout.LAST}
    scores = Classifier(chain, load_objective("sff"))(torch.rand(1, 3, 16, 16))
    assert scores.shape == (1, 3)


def test_backpropagation_averages_over_positions_wherever_they_are() -> None:
    for block, shape in ((nn.Conv1d(5, 7, 3), (5, 16)), (ROWS["sliced"], (5, 16))):
        chain = chain_of(block, shape)
        given = torch.randn(2, *chain.shapes()[-1])
        torch.manual_seed(0)
        classifier = chain.classifier()
        assert torch.allclose(classifier(given), classifier[1](given[:, :, None]))  # type: ignore[index]
        assert classifier(given.flip(2)).allclose(classifier(given), atol=1e-6)
