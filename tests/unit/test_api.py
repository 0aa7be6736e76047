"""The library as a user meets it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from ffdist import SFF, Pipeline, models, open_data
from ffdist.errors import ConfigError, DataError, NetworkError


def pictures() -> tuple[Tensor, Tensor]:
    bunch = load_digits()
    return torch.from_numpy((bunch.images * 15).astype(np.uint8)), torch.from_numpy(bunch.target)


def perceptron() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())


def test_five_lines_train_a_network() -> None:
    images = open_data("digits")
    pipeline = Pipeline(models.cnnb(images.shape, images.num_classes), SFF(kernel=3), stages=2)
    result = pipeline.fit(images, epochs=6, batch_size=32, progress=False)
    assert result.test is not None
    assert result.test["accuracy"]["mean"] > 0.95


def test_any_sequential_learns_in_place_and_children_are_cut_into_blocks() -> None:
    network = perceptron()
    before = network[1].weight.clone()
    pipeline = Pipeline(network, SFF(), stages=2, blocks=[3, 2])
    x, y = pictures()
    pipeline.fit((x, y), epochs=12, batch_size=32, lr=5e-3, progress=False)
    assert not torch.equal(before, network[1].weight)
    assert float((pipeline.predict(x) == y).float().mean()) > 0.93
    assert torch.equal(network[1].weight, pipeline.classifier.blocks[0][1].weight)


def test_the_same_data_in_three_forms_give_the_same_network() -> None:
    x, y = pictures()
    floats = x.flatten(1).float() / 240
    table = pa.table({"image": floats.tolist(), "label": y.tolist()})
    weights = []
    for data in ((floats, y), TensorDataset(floats, y), table):
        pipeline = Pipeline(perceptron(), SFF(), blocks=[3, 2])
        pipeline.fit(data, epochs=1, batch_size=32, progress=False)
        weights.append(pipeline.classifier.blocks[0][1].weight)
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])


def test_fitting_leaves_the_users_random_numbers_alone() -> None:
    x, y = pictures()
    pipeline = Pipeline(perceptron(), SFF(), blocks=[3, 2], stages=2)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    pipeline.fit((x, y), epochs=1, progress=False)
    assert torch.equal(torch.rand(3), expected)


def test_fitting_leaves_the_users_computing_threads_alone() -> None:
    def threads() -> int:
        """As a new thread sees it: torch counts by thread."""
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(torch.get_num_threads).result()

    before = threads()
    torch.set_num_threads(3)
    try:
        Pipeline(perceptron(), SFF(), blocks=[3, 2], threads=1).fit(pictures(), epochs=1, progress=False)
        assert (torch.get_num_threads(), threads()) == (3, 3)
    finally:
        torch.set_num_threads(before)


def test_weights_may_have_any_number_of_dimensions() -> None:
    x, y = pictures()
    volumes = (x.float() / 240).reshape(-1, 1, 4, 4, 4)
    network = nn.Sequential(
        nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.Flatten()),
        nn.Sequential(nn.Unflatten(1, (32, 16)), nn.Conv1d(32, 16, 1), nn.ReLU(), nn.Flatten()),
    )
    pipeline = Pipeline(network, SFF(), stages=2)
    pipeline.fit((volumes, y), epochs=5, batch_size=32, lr=5e-3, progress=False)
    assert float((pipeline.predict(volumes) == y).float().mean()) > 0.8


def test_a_run_is_kept_where_told_and_never_overwritten(tmp_path: Path) -> None:
    x, y = pictures()
    pipeline = Pipeline(perceptron(), SFF(), blocks=[3, 2])
    pipeline.fit((x, y), epochs=1, out=tmp_path, progress=False)
    assert list(tmp_path.glob("snapshots/*/manifest.json"))
    with pytest.raises(ConfigError, match="already holds a run"):
        pipeline.fit((x, y), epochs=1, out=tmp_path, progress=False)


def test_what_does_not_go_together_is_told() -> None:
    x, y = pictures()
    with pytest.raises(DataError, match="label is out of range"):
        Pipeline(perceptron(), SFF()).fit((x, y - 1), epochs=1, progress=False)
    with pytest.raises(NetworkError, match="block '1'"):
        Pipeline(nn.Sequential(nn.Flatten(), nn.Linear(63, 10)), SFF()).fit((x, y), epochs=1, progress=False)
    with pytest.raises(ConfigError, match="not trained"):
        _ = Pipeline(perceptron(), SFF()).classifier
    with pytest.raises(DataError, match="unknown kind of data"):
        Pipeline(perceptron(), SFF()).fit(7, epochs=1)  # pyright: ignore[reportArgumentType]
