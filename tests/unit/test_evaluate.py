"""A trained network, measured and looked into, in Python as on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import ffdist
from ffdist import Classifier, open_data
from ffdist.cli import main
from ffdist.errors import ConfigError, DataError
from ffdist.report.log import read_run_log

CNN = ["--model-args", "widths=4,6,8", "--batch-size", "64"]
RUNS = {
    "fused": [*CNN, "--ema", "0.9", "--fusion"],
    "parts": [*CNN, "--precision", "bf16", "--microbatches", "2", "--label-smoothing", "0.1", "--validation", "0"],
    "passes": ["--model", "mlp", "--model-args", "widths=12,12", "--objective", "hinton", "--image-size", "6"],
    "twin": [*CNN, "--objective", "backprop"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name, flags in RUNS.items():
        main(["train", "--launcher", "threads", "--stages", "1", "--epochs", "1", *flags, "--out", str(folder / name)])
    return folder


def labelled_samples() -> tuple[np.ndarray, np.ndarray]:
    split = open_data("digits").test
    assert split
    return split.take(np.arange(len(split)))[..., 0], split.labels


@pytest.mark.parametrize("name", RUNS)
def test_a_loaded_network_has_the_numbers_of_eval_and_of_training(
    name: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    main(["eval", str(runs / name), "--json", "--confusion"])
    as_json = json.loads(capsys.readouterr().out)
    found = ffdist.load(runs / name).evaluate("digits", confusion=True)
    assert found == as_json
    assert sum(map(sum, found.pop("confusion")["counts"])) == found["samples"] == 360
    _, end = read_run_log(runs / name)
    assert end
    assert found == end["test"]
    main(["export", str(runs / name), "--to", str(tmp_path / "m.safetensors")])
    exported = ffdist.load(tmp_path / "m.safetensors").evaluate("digits")
    assert {**exported, "blocks": 0} == {**found, "blocks": 0}


def labelled_samples_with_labels_are_measured_whole_in_any_form(runs: Path) -> None:
    network = ffdist.load(runs / "fused")
    x, y = labelled_samples()
    expected = network.evaluate("digits")
    pixels = torch.from_numpy(x)[:, None]
    for data in ((x, y), TensorDataset(pixels, torch.from_numpy(y)), {"train": (x, y), "test": (x, y)}):
        assert network.evaluate(data) == expected
    assert network.evaluate((pixels / 255, y))["accuracy"] == expected["accuracy"]
    few = y < 3
    assert network.evaluate((x[few], y[few]), batch_size=7)["samples"] == few.sum()


def test_what_cannot_be_measured_is_one_error(runs: Path) -> None:
    network = ffdist.load(runs / "fused")
    x, y = labelled_samples()
    for data, said in (
        ({"train": (x, y)}, "no test split"),
        ((x, y + 1), r"label is out of range(.|\n)*expected: 0\.\.9"),
        ((x[:, :5], y), r"expected: samples of \(1, 8, 8\)"),
        ((x.astype(np.float32)[:, None], y), r"beyond the range(.|\n)*remedy: x / 255"),
    ):
        with pytest.raises(DataError, match=said):
            network.evaluate(data)
    with pytest.raises(ConfigError, match="batch_size is too small"):
        network.evaluate("digits", batch_size=0)
    with pytest.raises(ConfigError, match="no confusion of 'conv1'"):
        network.choose("conv1").evaluate("digits", confusion=True)


def shapes(network: Classifier, *, pooled: bool) -> dict[str, tuple[int, ...]]:
    x = torch.rand(5, *network.input_shape)
    return {name: tuple(made.shape) for name, made in network.features(x, pooled=pooled).items()}


def test_features_are_the_blocks_outputs_and_their_means_over_space(runs: Path) -> None:
    network = ffdist.load(runs / "fused")
    assert shapes(network, pooled=False) == {"conv1": (5, 4, 4, 4), "conv2": (5, 6, 2, 2), "conv3": (5, 8, 2, 2)}
    x, _ = labelled_samples()
    whole, pooled = network.features(x, pooled=False), network.features(x)
    for name, out in whole.items():
        assert torch.equal(out.mean((2, 3)), pooled[name])
    assert network.fusion is not None
    fused = network.fusion(torch.cat([*pooled.values()], 1))
    assert torch.equal(fused.argmax(1), network.choose("fusion").predict(x))
    assert shapes(ffdist.load(runs / "passes"), pooled=False) == {"linear1": (50, 12), "linear2": (50, 12)}
