"""Runs begun in Python and kept: folders that `ffdist.load`, the commands and `resume=True` take as their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ffdist
from ffdist import SFF, Chain, Pipeline, models, open_data
from ffdist.errors import ConfigError, DataError
from ffdist.models import MODELS, load_model
from ffdist.models.recipe import ChainRecipe
from ffdist.objectives import Hinton
from ffdist.runtime.evaluation import measure_run
from ffdist.runtime.in_python import rule_settings
from ffdist.runtime.own_code import GIVEN
from ffdist.runtime.run import load_classifier, read_settings

DRAWS = np.random.default_rng(0)
X = DRAWS.integers(0, 256, (48, 4, 4), np.uint8)
Y = np.arange(48) % 3


def sequential() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())


def inputs(x: np.ndarray = X) -> Tensor:
    return torch.from_numpy(x)[:, None].float() / 255


def test_a_run_of_named_parts_is_made_again_from_its_folder_alone(tmp_path: Path) -> None:
    images, out = open_data("digits"), tmp_path / "run"
    pipeline = Pipeline(models.mlp(images.shape, 10, widths=[12, 8]), SFF(kernel=3), blocks=[1, 1], seed=3)
    pipeline.fit(images, epochs=1, batch_size=256, lr=0.01, out=out, progress=False)
    settings = read_settings(out)
    assert (settings.dataset.data, settings.network.model, settings.network.model_args) == (
        "digits",
        "mlp",
        ("widths=12,8",),
    )
    assert (settings.rule.objective, settings.rule.objective_args) == ("sff", ("kernel=3",))
    assert (settings.optim.lr, settings.training.seed, settings.training.batch_size, settings.network.blocks) == (
        0.01,
        3,
        256,
        (1, 1),
    )
    again, _, facts = load_classifier(out)
    assert facts.digest == images.digest
    assert images.test
    pixels = torch.from_numpy(images.test.take(np.arange(50))).permute(0, 3, 1, 2) / 255
    assert torch.equal(again(pixels), pipeline.classifier(pixels))


def test_a_run_of_given_parts_is_loaded_with_them(tmp_path: Path) -> None:
    for name, rule in (("local", Hinton()), ("global", "backprop")):
        pipeline = Pipeline(sequential(), rule, blocks=[3, 2])
        pipeline.fit((X, Y), epochs=1, out=tmp_path / name, progress=False)
        assert read_settings(tmp_path / name).network.model == GIVEN
        again = ffdist.load(tmp_path / name, sequential())
        assert torch.equal(again(inputs()), pipeline.classifier(inputs()))
        with pytest.raises(ConfigError, match=r"was given in Python(.|\n)*ffdist.load\(.*, network, rule\)"):
            ffdist.load(tmp_path / name)


def test_going_on_in_python_equals_an_uninterrupted_run(tmp_path: Path) -> None:
    options = {"batch_size": 16, "schedule": "constant", "progress": False}
    first, second = sequential(), sequential()
    second.load_state_dict(first.state_dict())
    whole = Pipeline(first, SFF(), blocks=[3, 2])
    whole.fit((X, Y), epochs=3, **options)
    parts = Pipeline(second, SFF(), blocks=[3, 2], stages=2)
    parts.fit((X, Y), epochs=1, out=tmp_path / "run", **options)
    result = parts.fit((X, Y), epochs=3, out=tmp_path / "run", resume=True, **options)
    assert len(result.records) == 3
    assert read_settings(tmp_path / "run").training.epochs == 3
    for value, expected in zip(parts.classifier.parameters(), whole.classifier.parameters(), strict=True):
        assert torch.equal(value, expected)


def test_what_does_not_go_on_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    pipeline = Pipeline(sequential(), SFF(), blocks=[3, 2])
    pipeline.fit((X, Y), epochs=2, out=out, progress=False)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="already holds a run"):
        pipeline.fit((X, Y), epochs=3, out=out, progress=False)
    with pytest.raises(DataError, match="not the data that the run has learned"):
        pipeline.fit((X[::-1], Y), epochs=3, out=out, resume=True, progress=False)
    with pytest.raises(ConfigError, match="lr cannot change"):
        pipeline.fit((X, Y), epochs=3, lr=0.1, out=out, resume=True, progress=False)
    with pytest.raises(ConfigError, match="epochs is less than the run has begun"):
        pipeline.fit((X, Y), epochs=1, out=out, resume=True, progress=False)
    with pytest.raises(ConfigError, match="which run is to go on"):
        pipeline.fit((X, Y), epochs=3, resume=True, progress=False)
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_data_that_got_another_split_are_given_data(tmp_path: Path) -> None:
    images = open_data("digits")
    x, y = images.train.take(np.arange(60))[..., 0], images.train.labels[:60]
    pipeline = Pipeline(models.mlp(images.shape, 10, widths=(8,)), SFF())
    pipeline.fit("digits", validation=(x, y), epochs=1, batch_size=512, out=tmp_path / "run", progress=False)
    assert read_settings(tmp_path / "run").dataset.data == GIVEN


def test_a_run_in_python_is_evaluated_as_one_of_the_command_line(tmp_path: Path) -> None:
    pipeline = Pipeline(models.mlp((1, 8, 8), 10, widths=(8,)), SFF())
    result = pipeline.fit("digits", epochs=1, batch_size=512, out=tmp_path / "run", progress=False)
    settings = read_settings(tmp_path / "run")
    measured, _ = measure_run(tmp_path / "run", settings, open_data(settings.dataset.data))
    assert result.test
    assert measured["accuracy"] == result.test["accuracy"]


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_builder_s_network_is_made_again_by_its_name(name: str) -> None:
    shape = (3, 32, 32)
    built: Chain = MODELS[name](shape, 10)
    assert built.recipe == ChainRecipe(name)
    assert load_model(name, shape, 10).names == built.names


def test_options_are_spelled_as_the_command_line_reads_them() -> None:
    built = models.cnnb((1, 8, 8), 3, [4, 8], dropout=0.25)
    assert built.recipe == ChainRecipe("cnnb", ("widths=4,8", "dropout=0.25"))
    again = load_model("cnnb", (1, 8, 8), 3, {"widths": "4,8", "dropout": "0.25"})
    assert again.shapes() == built.shapes()
    assert rule_settings(Hinton(strength=2.5)) == {"objective": "hinton", "objective_args": ("strength=2.5",)}

    class Inner(Hinton):
        pass

    assert rule_settings(Inner())["objective"] == GIVEN


def test_a_loaded_network_refuses_samples_of_another_type_or_scale(tmp_path: Path) -> None:
    bytes_ = X.copy()
    bytes_[:, 0, 0] = 255
    floats = bytes_.astype(np.float32)[:, None]
    forms = {"x": floats, "x / 255": floats / 255, "pixels": bytes_[:, None]}
    taken = {"x": {"x"}, "x / 255": {"x / 255"}, "pixels": {"pixels", "x / 255"}}
    for trained, own in taken.items():
        out = tmp_path / str(len(trained))
        pipeline = Pipeline(sequential(), SFF(), blocks=[3, 2])
        pipeline.fit((forms[trained], Y), epochs=1, out=out, progress=False)
        loaded = ffdist.load(out, sequential())
        for name, samples in forms.items():
            for predict in (pipeline.predict, loaded.predict):
                if name in own:
                    assert torch.equal(predict(samples), pipeline.predict(forms[trained]))
                else:
                    with pytest.raises(DataError, match=r"where: predict(.|\n)*remedy: "):
                        predict(samples)


def test_the_remedy_for_another_scale_is_the_scale() -> None:
    x = X.astype(np.float32)[:, None]
    for trained, given, remedy in ((x, x / 255, r"x \* 255"), (x / 255, x, "x / 255")):
        pipeline = Pipeline(sequential(), SFF(), blocks=[3, 2])
        pipeline.fit((trained, Y), epochs=1, progress=False)
        with pytest.raises(DataError, match=rf"another scale(.|\n)*remedy: {remedy}$"):
            pipeline.predict(given)


def test_classes_without_an_order_are_refused() -> None:
    for classes in ({"a", "b", "c"}, frozenset("abc")):
        with pytest.raises(DataError, match=r"no order(.|\n)*remedy: sorted"):
            ffdist.from_tensors(X, Y, classes=classes)
    assert ffdist.from_tensors(X, Y.astype(np.float16), classes=list("abc")).classes == ["a", "b", "c"]
