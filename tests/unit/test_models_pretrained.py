from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torchvision
from jobs import QUIET, fingerprint
from safetensors.torch import save_file
from torch import Tensor, nn

from ffdist.baselines.twin import BackpropRule, twin
from ffdist.data import open_data
from ffdist.errors import ConfigError, NetworkError
from ffdist.models import (
    Chain,
    cnn,
    cnnb,
    load_pretrained,
    mobilenet_v3_small,
    resnet18,
    torchvision_chain,
    vit,
    weights_file,
    with_weights,
)
from ffdist.models.chain import BlockGroup
from ffdist.models.weights import read_state
from ffdist.objectives import LocalCE
from ffdist.pipeline.classifier import Classifier
from ffdist.runtime.folder import write_run_files
from ffdist.runtime.run import load_classifier, read_settings
from ffdist.runtime.start import make_job
from ffdist.runtime.threads import run_threads
from ffdist.settings import Settings


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


def small_vit() -> nn.Module:
    return torchvision.models.VisionTransformer(64, 16, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64)


TORCHVISION = {
    "resnet18": (resnet18, {"stem": 7}, torchvision.models.resnet18, "fc.bias, fc.weight"),
    "mobilenet": (mobilenet_v3_small, {}, torchvision.models.mobilenet_v3_small, "features.12.0.weight"),
    "vit": (vit, {"patch": 16, "dim": 32, "depth": 2, "heads": 2, "mlp_dim": 64}, small_vit, "encoder.ln.bias"),
}


@torch.no_grad()
@pytest.mark.parametrize("name", TORCHVISION)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_chain_started_from_a_file_of_torchvisions_has_its_weights(name: str, suffix: str, tmp_path: Path) -> None:
    build, options, original, left_out = TORCHVISION[name]
    model, path = shaken(original()), tmp_path / f"state{suffix}"
    save(model, path)
    chain = with_weights(build((3, 64, 64), 10, **options), path)
    assert left_out in chain.origin
    state = model.state_dict()
    for index in range(len(chain)):
        for key, value in named(chain.build(index, seed=3)).items():
            assert torch.equal(value, state[key])


def save(model: nn.Module, path: Path) -> None:
    if path.suffix == ".safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path)


def named(block: nn.Module) -> dict[str, Tensor]:
    """By the names in the model that the block was cut out of."""
    parts = block if isinstance(block, BlockGroup) else [block]
    return {key: value for part in parts for key, value in part.state_dict().items()}


@torch.no_grad()
def test_a_file_without_the_counters_of_its_batch_norms_is_as_good(tmp_path: Path) -> None:
    model = shaken(torchvision.models.resnet18())
    state = {key: value for key, value in model.state_dict().items() if "num_batches" not in key}
    torch.save(state, tmp_path / "old.pth")
    chain = with_weights(resnet18((3, 64, 64), 10, stem=7), tmp_path / "old.pth")
    assert torch.equal(named(chain.build(3, seed=0))["layer4.1.bn2.running_var"], state["layer4.1.bn2.running_var"])


@torch.no_grad()
@pytest.mark.parametrize("form", ["sequential", "export"])
def test_equal_names_in_every_block_are_told_apart(form: str, tmp_path: Path) -> None:
    """Each block of this network is a `0.weight` and a `0.bias` to itself."""
    source, objective = cnn((1, 8, 8), 10, (6, 6, 6)), LocalCE()
    if form == "export":
        model: nn.Module = Classifier(source, objective)
    else:
        model = nn.Sequential(OrderedDict((name, source.build(i, seed=5)) for i, name in enumerate(source.names)))
    for parameter in model.parameters():
        parameter.uniform_()
    save(model, tmp_path / "state.safetensors")
    chain = with_weights(cnn((1, 8, 8), 10, (6, 6, 6)), tmp_path / "state.safetensors")
    blocks = model.blocks if isinstance(model, Classifier) else model
    for index, block in enumerate(blocks.children()):
        assert torch.equal(chain.build(index, seed=0).state_dict()["0.weight"], block.state_dict()["0.weight"])


def test_files_that_do_not_fit_are_refused_by_tensor_and_shape(tmp_path: Path) -> None:
    save(torchvision.models.resnet18(), path := tmp_path / "resnet.pth")
    with pytest.raises(NetworkError, match=r"block 'stem(.|\n)*conv1\.weight \[64, 3, 3, 3\](.|\n)*\[64, 3, 7, 7\]"):
        with_weights(resnet18((3, 32, 32), 10), path)
    with pytest.raises(NetworkError, match=r"features\.0\.0\.weight(.|\n)*no such tensor among conv1\.weight"):
        with_weights(mobilenet_v3_small((3, 32, 32), 10), path)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04nonsense"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_anything_else_is_refused(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"state{suffix}"
    path.write_bytes(content)
    with pytest.raises(NetworkError, match="not a file of weights"):
        with_weights(resnet18((3, 32, 32), 10), path)


def test_what_is_more_than_tensors_is_not_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(NetworkError, match="not a file of weights"):
        with_weights(resnet18((3, 32, 32), 10), path)
    torch.save({"model": {}, "epoch": 3}, path)
    with pytest.raises(NetworkError, match="a dict of other things"):
        with_weights(resnet18((3, 32, 32), 10), path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.pth(.|\n)*No such file"):
        with_weights(resnet18((3, 32, 32), 10), tmp_path / "nowhere.pth")


def test_imagenets_weights_are_torchvisions_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub" / "checkpoints" / torchvision.models.ResNet18_Weights.DEFAULT.url.rsplit("/", 1)[1]
    path.parent.mkdir(parents=True)
    path.touch()
    assert weights_file("imagenet", "resnet18") == path
    with pytest.raises(ConfigError, match="no ImageNet weights for this network"):
        weights_file("imagenet", "cnnb")


def test_imagenets_weights_out_of_reach_are_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(ConfigError, match=r"cannot be fetched(.|\n)*put the file there"):
        weights_file("imagenet", "vit")


@pytest.mark.parametrize("objective", ["sff", "backprop"])
def test_a_run_from_a_file_is_the_same_in_any_number_of_stages_and_resumes_without_the_file(
    objective: str, tmp_path: Path
) -> None:
    images = open_data("digits")
    chain = cnnb(images.shape, images.num_classes, (8, 12, 16))
    model = nn.Sequential(OrderedDict((name, chain.build(i, seed=9)) for i, name in enumerate(chain.names)))
    save(model, path := tmp_path / "state.safetensors")
    settings = Settings().changed(
        model_args=("widths=8,12,16",),
        samples=300,
        epochs=1,
        pretrained=str(path),
        lr=1e-9,
        objective=objective,
        out=tmp_path,
    )
    prints = []
    for stages in (1, 1 if objective == "backprop" else 3):
        run = tmp_path / str(len(prints))
        write_run_files(run, settings, images)
        run_threads(make_job(settings, images, run, stages), QUIET)
        prints.append(fingerprint(run))
    assert prints[0] == prints[1]
    assert read_settings(run).network.pretrained == str(path)
    classifier, _, _ = load_classifier(run)
    trained, given = classifier.state_dict(), model.state_dict()["conv1.0.weight"]
    torch.testing.assert_close(next(v for k, v in trained.items() if k.endswith("0.weight")), given, atol=1e-5, rtol=0)
    path.unlink()
    again = settings.changed(epochs=2)
    assert run_threads(make_job(again, images, run, resume=True), QUIET).reason == "finished"


def test_a_cut_joins_its_blocks() -> None:
    chain = torchvision_chain(
        torchvision.models.vgg11(), input_shape=(3, 32, 32), num_classes=10, blocks_per_block=[2, 2, 4]
    )
    assert [s[0] for s in chain.shapes()] == [128, 256, 512]


def test_a_model_without_a_known_split_is_refused() -> None:
    with pytest.raises(NetworkError, match="where to split"):
        torchvision_chain(nn.Linear(3, 3), input_shape=(3,), num_classes=10)


PICTURE = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"


@pytest.mark.parametrize(
    "content", [b"", b"hello\n", b"tensors\n", b"G\n", b"M\n", b"Results\n", b"PK\x03\x04", PICTURE]
)
@pytest.mark.parametrize("suffix", [".png", ".safetensors"])
def test_a_file_of_something_else_is_refused_as_no_file_of_weights(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(NetworkError, match="not a file of weights") as caught:
        read_state(path)
    assert caught.value.got
    assert "weights_only" not in str(caught.value)


def test_the_weights_of_a_twin_by_backpropagation_begin_a_local_run(tmp_path: Path) -> None:
    chain = resnet18((1, 16, 16), 3, widths=(4, 4, 6, 6), split="stem-group")
    learned = Classifier(twin(chain), BackpropRule())
    save_file(learned.state_dict(), tmp_path / "twin.safetensors")
    other = resnet18((1, 16, 16), 7, widths=(4, 4, 6, 6), split="stem-group")
    started = with_weights(other, tmp_path / "twin.safetensors")
    whole = learned.blocks[0]
    assert isinstance(whole, nn.Sequential)
    for index, block in enumerate(whole[:-1]):
        built = started.build(index, seed=0).state_dict()
        assert all(torch.equal(value, built[name]) for name, value in block.state_dict().items())
