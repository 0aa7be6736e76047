from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from ffdist.errors import NetworkError
from ffdist.models import Chain, load_pretrained, mobilenet_v3_small, resnet18, torchvision_chain, vit


def through(chain: Chain, state: dict[str, Tensor] | None, x: Tensor) -> Tensor:
    for i in range(len(chain)):
        block = chain.build(i, seed=1).eval()
        if state is not None:
            load_pretrained(block, state)
        x = block(x)
    return x


@torch.no_grad()
def shaken(model: nn.Module) -> nn.Module:
    """Norms away from ones and zeros, so that a tensor put in a wrong place would show."""
    for m in model.modules():
        if isinstance(m, (nn.BatchNorm2d, nn.LayerNorm)):
            m.weight.uniform_(0.5, 1.5)
            m.bias.uniform_(-0.5, 0.5)
        if isinstance(m, nn.BatchNorm2d) and m.running_mean is not None and m.running_var is not None:
            m.running_mean.uniform_(-0.5, 0.5)
            m.running_var.uniform_(0.5, 1.5)
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("split", ["group", "block", "stem-group"])
def test_resnet18_with_torchvisions_weights_computes_what_torchvision_does(split: str) -> None:
    model = shaken(torchvision.models.resnet18())
    x = torch.randn(2, 3, 64, 64)
    model.avgpool = model.fc = nn.Identity()
    chain = resnet18((3, 64, 64), 10, stem=7, split=split)  # type: ignore[arg-type]
    torch.testing.assert_close(through(chain, model.state_dict(), x).flatten(1), model(x))


@torch.no_grad()
def test_mobilenet_with_torchvisions_weights_computes_what_torchvision_does() -> None:
    model = shaken(torchvision.models.mobilenet_v3_small())
    x = torch.randn(2, 3, 64, 64)
    expected = model.features[:12](x)  # type: ignore[index]
    torch.testing.assert_close(through(mobilenet_v3_small((3, 64, 64), 10), model.state_dict(), x), expected)


@torch.no_grad()
def test_vit_with_torchvisions_weights_computes_what_torchvision_does() -> None:
    settings = {"image_size": 16, "patch_size": 4, "num_heads": 2, "hidden_dim": 16}
    model = shaken(torchvision.models.VisionTransformer(**settings, num_layers=3, mlp_dim=32))
    nn.init.normal_(model.encoder.pos_embedding)  # type: ignore[arg-type]
    nn.init.normal_(model.class_token)  # type: ignore[arg-type]
    x = torch.randn(2, 3, 16, 16)
    chain = vit((3, 16, 16), 10, patch=4, dim=16, depth=3, heads=2, mlp_dim=32)
    ours = model.encoder.ln(through(chain, model.state_dict(), x))[:, 0]  # type: ignore[operator]
    model.heads = nn.Identity()
    torch.testing.assert_close(ours, model(x))


def test_weights_that_do_not_fit_are_refused_and_nothing_is_copied() -> None:
    state = torchvision.models.resnet18().state_dict()
    block = resnet18((3, 32, 32), 10, stem=3).build(0, seed=0)
    before = {k: v.clone() for k, v in block.state_dict().items()}
    with pytest.raises(NetworkError, match=r"conv1\.weight") as caught:
        load_pretrained(block, state)
    assert "stem=7" in (caught.value.remedy or "")
    assert all(torch.equal(before[k], v) for k, v in block.state_dict().items())
    with pytest.raises(NetworkError, match="no such tensor"):
        load_pretrained(nn.Linear(2, 2), state)


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "alexnet", "mobilenet_v2", "efficientnet_b0", "densenet121"])
def test_a_torchvision_classifier_as_a_chain_computes_its_features(name: str) -> None:
    model = shaken(torchvision.models.get_model(name))
    x = torch.randn(1, 3, 64, 64)
    if name == "resnet18":
        model.avgpool = model.fc = nn.Identity()
        expected = model(x).reshape(1, 512, 2, 2)
    else:
        expected = model.features(x)  # type: ignore[operator]
    chain = torchvision_chain(model, input_shape=(3, 64, 64), num_classes=10)
    assert len(chain) > 3
    torch.testing.assert_close(through(chain, None, x), expected)


@torch.no_grad()
def test_its_blocks_do_not_change_their_input() -> None:
    chain = torchvision_chain(torchvision.models.vgg11(), input_shape=(3, 32, 32), num_classes=10)
    assert len(chain) == 8
    x = torch.randn(1, 3, 32, 32)
    for i in range(len(chain)):
        before = x.clone()
        y = chain.build(i, seed=0)(x)
        assert torch.equal(x, before)
        x = y


def test_a_cut_joins_its_blocks() -> None:
    chain = torchvision_chain(torchvision.models.vgg11(), input_shape=(3, 32, 32), num_classes=10, cut=[2, 2, 4])
    assert [s[0] for s in chain.shapes()] == [128, 256, 512]


def test_a_model_without_a_known_split_is_refused() -> None:
    with pytest.raises(NetworkError, match="where to split"):
        torchvision_chain(nn.Linear(3, 3), input_shape=(3,), num_classes=10)
