"""The library as a user meets it."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from forked import run
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import ffdist
from ffdist import SFF, Pipeline, models, open_data
from ffdist.errors import ConfigError, DataError, FfdistError, NetworkError


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


def test_a_run_is_kept_where_asked_and_never_overwritten(tmp_path: Path) -> None:
    x, y = pictures()
    pipeline = Pipeline(perceptron(), SFF(), blocks=[3, 2])
    pipeline.fit((x, y), epochs=1, out=tmp_path, progress=False)
    assert list(tmp_path.glob("snapshots/*/manifest.json"))
    with pytest.raises(ConfigError, match="already holds a run"):
        pipeline.fit((x, y), epochs=1, out=tmp_path, progress=False)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            {"launcher": "thread"},
            r"launcher has a wrong value(.|\n)*expected: processes or threads or ray\n  got: 'thread'",
        ),
        ({"device": 3}, "device has a wrong value"),
        ({"device": "cuda:one"}, "compute.device names no device"),
        ({"precision": "fp8"}, "precision has a wrong value"),
        ({"stages": 0}, "^plan.stages is too small"),
        ({"stages": 1.5}, "stages has a wrong value"),
        ({"cut": "1,1"}, "cut has a wrong value"),
        ({"cut": [1, 1, 1], "stages": 2}, "^plan.cut and plan.stages disagree"),
        ({"queue": 0}, "^plan.queue is too small"),
        ({"seed": None}, "seed has a wrong value"),
        ({"timeout": "60"}, "timeout has a wrong value"),
        ({"timeout": timedelta(0)}, "run.timeout is too small"),
        ({"objective": SFF}, r"not a rule(.|\n)*remedy: make one: SFF\(\)"),
        ({"objective": "sf"}, r"no objective 'sf'(.|\n)*did you mean 'sff'"),
        ({"objective": 3}, "not a rule"),
    ],
)
def test_a_setting_that_a_pipeline_cannot_have_is_refused_when_it_is_made(
    setting: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Pipeline(**{"network": perceptron(), "objective": SFF()} | setting)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"epochs": 0}, "^training.epochs is too small"),
        ({"epochs": -1}, r"^training.epochs is too small\n  expected: >= 1\n  got: -1"),
        ({"epochs": 1.5}, r"epochs has a wrong value(.|\n)*a whole number\n  got: 1.5"),
        ({"batch_size": "16"}, "batch_size has a wrong value"),
        ({"batch_size": 0}, "^training.batch_size is too small"),
        ({"validation": float("nan")}, "^dataset.validation is not a finite number"),
        ({"augment": ["rotate"]}, r"no transform .rotate.(.|\n)*RandomRotation"),
        ({"lr": "0.1"}, "lr has a wrong value"),
        ({"lr": None}, "lr has a wrong value"),
        ({"lr": float("nan")}, "^optim.lr is not a finite number"),
        ({"lr": 0}, "^optim.lr is too small"),
        ({"clip": -1.0}, "^optim.clip is too small"),
        ({"optimizer": "lion"}, r"no optimiser 'lion'(.|\n)*adamw, adam, sgd"),
        ({"schedule": "step"}, "schedule has a wrong value"),
        ({"out": 7}, "out has a wrong value"),
        ({"learning_rate": 1}, r"there is no 'learning_rate'(.|\n)*remedy: did you mean 'lr'\?"),
        ({"epoch": 3}, r"there is no 'epoch'(.|\n)*did you mean 'epochs'"),
        ({"weight_deca": 3}, r"there is no 'weight_deca'(.|\n)*did you mean 'weight_decay'"),
    ],
)
def test_a_setting_that_fit_cannot_use_is_refused_before_anything_is_done(
    setting: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Pipeline(perceptron(), SFF()).fit("no such data", **setting)


def test_a_path_is_taken_where_a_text_may_be_one(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("no plan")
    with pytest.raises(ConfigError, match=r"plan\.json"):
        Pipeline("cnnb", "sff").fit("digits", plan=tmp_path / "plan.json")
    with pytest.raises(FfdistError, match=r"no\.safetensors"):
        Pipeline("cnnb", "sff").fit("digits", pretrained=tmp_path / "no.safetensors")
    with pytest.raises(DataError, match=r"read_pictures(.|\n)*got: a list"):
        ffdist.read_pictures("run", ["picture.png"])  # pyright: ignore[reportArgumentType]


def test_a_rules_name_and_numbers_of_other_libraries_are_taken() -> None:
    rules = [
        Pipeline(perceptron(), rule, blocks=blocks) for rule, blocks in ((SFF(), [3, 2]), ("sff", np.array([3, 2])))
    ]
    for pipeline, one in zip(rules, (1, np.int64(1)), strict=True):
        pipeline.fit(pictures(), epochs=one, lr=torch.tensor(0.5) if pipeline is rules[1] else 0.5, progress=False)
    weights = [pipeline.classifier.blocks[0][1].weight for pipeline in rules]
    assert torch.equal(*weights)


def test_a_chain_made_for_other_data_is_refused_and_in_larger_blocks_it_learns() -> None:
    with pytest.raises(
        NetworkError, match=r"expected: samples \(3, 32, 32\), 10 classes\n  got: samples \(1, 8, 8\), 10"
    ):
        Pipeline(models.cnnb((3, 32, 32), 10), SFF()).fit("digits", epochs=1, progress=False)
    with pytest.raises(NetworkError, match="11 classes"):
        Pipeline(models.cnnb((1, 8, 8), 11), SFF()).fit("digits", epochs=1, progress=False)
    pipeline = Pipeline(models.mlp((1, 8, 8), 10, widths=(12, 12, 12)), SFF(), blocks=[1, 2])
    pipeline.fit("digits", epochs=1, batch_size=256, progress=False)
    assert len(pipeline.classifier.blocks) == 2


def test_what_is_predicted_is_told_apart_by_shape_and_type() -> None:
    x, y = pictures()
    pipeline = Pipeline(perceptron(), SFF(), blocks=[3, 2])
    pipeline.fit((x, y), epochs=1, progress=False)
    expected = pipeline.predict(x)
    for same in (x.numpy(), x.long(), x[:, None], x[..., None], x / 255, (x.numpy()[:, None] / 255)):
        assert torch.equal(pipeline.predict(same), expected)
    for wrong in (x[:, :5], x[0], x.flatten(1), x * 1j, x.permute(1, 2, 0), np.array(["a"]), [[1], [1, 2]]):
        with pytest.raises(DataError, match=r"where: predict\n  expected"):
            pipeline.predict(wrong)  # pyright: ignore[reportArgumentType]


def test_a_rule_that_no_process_can_import_is_refused_before_one_is_started() -> None:
    class Local(SFF):
        pass

    pipeline = Pipeline(perceptron(), Local(), blocks=[3, 2], launcher="processes")
    with pytest.raises(ConfigError, match=r"objective cannot be sent(.|\n)*Local(.|\n)*take threads as the launcher"):
        pipeline.fit(pictures(), epochs=1, progress=False)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU())
    network[1].function = lambda: 3
    pipeline = Pipeline(network, SFF(), blocks=[3], launcher="processes")
    with pytest.raises(ConfigError, match="network cannot be sent"):
        pipeline.fit(pictures(), epochs=1, progress=False)


def test_what_a_session_without_a_file_defines_goes_to_threads_alone() -> None:
    code = """if True:
        from ffdist import SFF, Pipeline, models
        class Own(SFF): pass
        network = models.mlp((1, 8, 8), 10, widths=(12, 12))
        Pipeline(network, Own()).fit("digits", epochs=1, progress=False)
        Pipeline(network, Own(), launcher="processes").fit("digits", epochs=1, progress=False)
    """
    done = run([sys.executable, "-c", code])
    assert "ConfigError: the objective cannot be sent to a process" in done.stderr
    assert "Own is defined in an interactive session" in done.stderr


def test_what_does_not_go_together_is_refused() -> None:
    x, y = pictures()
    with pytest.raises(DataError, match="label is out of range"):
        Pipeline(perceptron(), SFF()).fit((x, y - 1), epochs=1, progress=False)
    with pytest.raises(NetworkError, match="does not take the input"):
        Pipeline(nn.Sequential(nn.Flatten(), nn.Linear(63, 10)), SFF()).fit((x, y), epochs=1, progress=False)
    with pytest.raises(
        ConfigError, match=r'^scheduler.schedule="plateau" follows(.|\n)*remedy: [^-]*: dataset.validation=0\.1'
    ):
        Pipeline(perceptron(), SFF()).fit((x, y), schedule="plateau", validation=0, progress=False)
    with pytest.raises(ConfigError, match="not trained"):
        _ = Pipeline(perceptron(), SFF()).classifier
    with pytest.raises(DataError, match="unknown kind of data"):
        Pipeline(perceptron(), SFF()).fit(7, epochs=1)  # pyright: ignore[reportArgumentType]
