"""A run that is kept from Python is the command line's run too, and goes on in either."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jobs import fingerprint
from PIL import Image
from torch import Tensor, nn

import ffdist
from ffdist import SFF, Images, Pipeline, models, open_data
from ffdist.cli import main
from ffdist.errors import ConfigError, DataError, FfdistError, SnapshotError
from ffdist.objectives import CwC, MonoForward
from ffdist.runtime.run import read_settings
from ffdist.settings import flat
from ffdist.settings.toml import tomllib

FIT: dict[str, Any] = {"batch_size": 32, "augment": ["crop"], "schedule": "constant", "progress": False}


@dataclass(frozen=True)
class OfThisModule(SFF):
    """A rule of a user's own, which a module defines."""

    widths: tuple[int, ...] = (1, 2)


def named() -> Pipeline:
    return Pipeline(models.mlp((1, 8, 8), 10, widths=(12, 12, 12)), SFF(kernel=3), blocks=[2, 1])


def layers(last: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), last())


def weights(pipeline: Pipeline) -> list[Tensor]:
    assert isinstance(pipeline.network, nn.Module)
    return [*pipeline.network.parameters()]


def samples() -> tuple[Tensor, Tensor]:
    return torch.rand(96, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(96) % 4


def ffdist_(*args: object) -> None:
    main([str(arg) for arg in args])


def refused(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    with pytest.raises(SystemExit) as stop:
        ffdist_(*args)
    assert stop.value.code == 1
    return capsys.readouterr().err


def test_a_kept_run_is_one_of_the_command_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, images = tmp_path / "r", open_data("digits")
    pipeline = named()
    result = pipeline.fit(images, epochs=1, samples=400, keep=1, out=run, **FIT)
    said = flat(tomllib.loads((run / "config.toml").read_text()))
    assert {name: said[name] for name in ("data", "model", "model_args", "blocks", "objective", "objective_args")} == {
        "data": "digits",
        "model": "mlp",
        "model_args": ["widths=12,12,12"],
        "blocks": [2, 1],
        "objective": "sff",
        "objective_args": ["kernel=3"],
    }
    assert (said["samples"], said["keep"], said["augment"]) == (400, 1, ["crop"])
    capsys.readouterr()
    ffdist_("eval", run, "--json")
    assert result.test is not None
    assert f'"mean": {result.test["accuracy"]["mean"]!r}' in capsys.readouterr().out
    ffdist_("report", run)
    ffdist_("export", run, "--to", tmp_path / "m.safetensors")
    x = torch.rand(3, 1, 8, 8)
    for place in (run, tmp_path / "m.safetensors"):
        assert torch.equal(ffdist.load(place)(x), pipeline.classifier(x))


def test_what_began_in_python_goes_on_anywhere_to_the_same_bits(tmp_path: Path) -> None:
    for name, epochs in (("whole", 3), ("python", 1), ("line", 1)):
        named().fit("digits", epochs=epochs, out=tmp_path / name, **FIT)
    pipeline = named()
    result = pipeline.fit(open_data("digits"), epochs=3, stages=2, out=tmp_path / "python", resume=True, **FIT)
    assert len(result.records) == 3
    ffdist_("train", "--resume", "--out", tmp_path / "line", "--epochs", 3)
    assert fingerprint(tmp_path / "python") == fingerprint(tmp_path / "line") == fingerprint(tmp_path / "whole")


def test_what_began_on_the_command_line_goes_on_in_python(tmp_path: Path) -> None:
    flags = [
        "train",
        "--launcher",
        "threads",
        "--stages",
        1,
        "--model",
        "mlp",
        "--model-args",
        "widths=12, 12,12",
        "--blocks",
        2,
        1,
        "--objective-args",
        "kernel=03",
        "--batch-size",
        32,
        "--augment",
        "crop",
        "--schedule",
        "constant",
    ]
    for name, epochs in (("whole", 2), ("cut", 1)):
        ffdist_(*flags, "--epochs", epochs, "--out", tmp_path / name)
    named().fit("digits", epochs=2, out=tmp_path / "cut", resume=True, **FIT)
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "whole")


@pytest.mark.parametrize("objective", [SFF(), "backprop"])
@pytest.mark.parametrize("launcher", ["threads", "processes"])
def test_a_network_without_a_name_goes_on_and_is_loaded_in_python(
    objective: SFF | str, launcher: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "r"
    fit: dict[str, Any] = {"schedule": "constant", "progress": False}
    whole = Pipeline(layers(), objective, blocks=[3, 2])
    whole.fit(samples(), epochs=3, out=tmp_path / "whole", **fit)
    Pipeline(layers(), objective, blocks=[3, 2]).fit(samples(), epochs=1, out=run, **fit)
    again = Pipeline(layers(), objective, blocks=[3, 2], launcher=launcher)
    again.fit(samples(), epochs=3, out=run, resume=True, **fit)
    assert fingerprint(run) == fingerprint(tmp_path / "whole")
    assert all(torch.equal(*pair) for pair in zip(weights(again), weights(whole), strict=True))
    loaded = ffdist.load(run, layers(), objective)
    assert torch.equal(loaded(samples()[0]), whole.classifier(samples()[0]))
    for args in (
        ("eval", run),
        ("export", run, "--to", tmp_path / "m.pt2"),
        ("predict", run, "x.png"),
        ("train", "--resume", "--epochs", 9, "--out", run),
    ):
        text = refused(capsys, *args)
        assert "the run's network was given in Python" in text
        assert f"ffdist.load({str(run)!r}, network, rule)" in text
    ffdist_("report", run)


def test_another_network_rule_setting_or_data_do_not_go_on(tmp_path: Path) -> None:
    fit: dict[str, Any] = {"schedule": "constant", "progress": False, "out": tmp_path}
    Pipeline(layers(), SFF()).fit(samples(), epochs=2, **fit)
    before = fingerprint(tmp_path)
    x, y = samples()
    for network, rule, data, more, said in (
        (layers(nn.Tanh), SFF(), (x, y), {}, "not the network that the run has learned with"),
        (models.mlp((1, 8, 8), 4, widths=(16, 16)), SFF(), (x, y), {}, "not the network"),
        (layers(), SFF(kernel=5), (x, y), {}, "not the rule"),
        (layers(), "sff", (x + 1, y), {}, "not the data"),
        (
            layers(),
            SFF(),
            (x, y),
            {"batch_size": 8},
            "^training.batch_size cannot change(.|\n)*expected: 128(.|\n)*give what",
        ),
        (layers(), SFF(), (x, y), {"epochs": 1}, "^training.epochs is less than"),
        (layers(), SFF(), (x, y), {"resume": False}, r"already holds a run(.|\n)*resume=True"),
    ):
        with pytest.raises(FfdistError, match=said):
            Pipeline(network, rule).fit(data, **({"epochs": 4, "resume": True} | fit | more))
    with pytest.raises(ConfigError, match="not the network"):
        ffdist.load(tmp_path, layers(nn.Tanh))
    with pytest.raises(ConfigError, match="not the rule"):
        ffdist.load(tmp_path, layers(), SFF(kernel=5))
    assert fingerprint(tmp_path) == before
    result = Pipeline(layers(), SFF()).fit(samples(), epochs=2, resume=True, **fit)
    assert (result.reason, len(result.records)) == ("finished", 2)
    with pytest.raises(ConfigError, match=r"which run is to go on\?"):
        Pipeline(layers(), SFF()).fit(samples(), resume=True)
    with pytest.raises(SnapshotError, match="there is no run here"):
        Pipeline(layers(), SFF()).fit(samples(), resume=True, out=tmp_path / "none")


def test_data_given_in_python_are_named_by_a_folder_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = open_data("digits")
    x, y = images.train.take(np.arange(600))[..., 0], images.train.labels[:600]
    named().fit((x, y), epochs=1, out=tmp_path / "r", **FIT)
    text = refused(capsys, "eval", tmp_path / "r")
    assert "given in Python" in text
    assert f"ffdist eval {tmp_path / 'r'} --data DATA" in text
    ffdist_("eval", tmp_path / "r", "--data", "digits")
    named().fit(images, epochs=1, out=tmp_path / "whole", **FIT)
    assert "not the data" in refused(
        capsys, "train", "--resume", "--epochs", 2, "--out", tmp_path / "r", "--data", "digits"
    )


def test_a_run_of_given_data_goes_on_and_is_asked_in_python_as_its_errors_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = samples()
    for name, given in (("floats", x), ("pictures", (x * 255).to(torch.uint8))):
        run = tmp_path / name
        pipeline = Pipeline(models.mlp((1, 8, 8), 4, widths=(12, 12)), SFF())
        pipeline.fit((given, y), epochs=1, out=run, progress=False)
        text = refused(capsys, "train", "--resume", "--epochs", 2, "--out", run)
        assert f"Pipeline(network, rule).fit(data, out={str(run)!r}, resume=True)" in text
        assert f"ffdist.load({str(run)!r}).predict(samples)" in refused(capsys, "eval", run)
        assert torch.equal(ffdist.load(run).predict(given), pipeline.predict(given))
        assert len(pipeline.fit((given, y), epochs=2, out=run, resume=True, progress=False).records) == 2
    assert "which no prepared data set holds" in refused(capsys, "eval", tmp_path / "floats")
    assert "ffdist.load(RUN).predict(samples)" in refused(capsys, "eval", tmp_path / "floats", "--data", "digits")


def test_an_error_for_pictures_of_another_shape_says_how_to_prepare_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named().fit("digits", epochs=1, out=tmp_path / "r", **FIT)
    for label in range(10):
        folder = tmp_path / "pictures" / str(label)
        folder.mkdir(parents=True)
        for index in range(2):
            Image.new("RGB", (20, 12), (label, 9 * index, 0)).save(folder / f"{index}.png")
    prepare = ["data", "prepare", tmp_path / "pictures"]
    ffdist_(*prepare, "--out", tmp_path / "wide")
    text = refused(capsys, "eval", tmp_path / "r", "--data", tmp_path / "wide")
    flags = text.split("--out FOLDER ")[1].split()
    ffdist_(*prepare, "--out", tmp_path / "fits", *flags)
    ffdist_("eval", tmp_path / "r", "--data", tmp_path / "fits")


def test_rules_are_named_with_their_fields_and_found_in_their_module(tmp_path: Path) -> None:
    network = models.mlp((1, 8, 8), 10, widths=(10, 10))
    for number, (rule, name, args) in enumerate(
        (
            (CwC(label_smoothing=0.1), "cwc", ["label_smoothing=0.1"]),
            (MonoForward(label_smoothing=0.2), "mono-forward", ["label_smoothing=0.2"]),
            (OfThisModule(kernel=3, widths=(3,)), f"{Path(__file__)}:OfThisModule", ["kernel=3", "widths=3"]),
        )
    ):
        run = tmp_path / str(number)
        pipeline = Pipeline(network, rule)
        pipeline.fit("digits", epochs=1, batch_size=256, out=run, progress=False)
        said = flat(tomllib.loads((run / "config.toml").read_text()))
        assert (said["objective"], said["objective_args"]) == (name, args)
        x = torch.rand(2, 1, 8, 8)
        assert torch.equal(ffdist.load(run)(x), pipeline.classifier(x))


def test_pictures_are_resized_as_on_the_command_line(tmp_path: Path) -> None:
    fit: dict[str, Any] = FIT | {"epochs": 1, "image_size": 4}
    pipeline = Pipeline(models.mlp((1, 4, 4), 10, widths=(8, 8)), SFF())
    pipeline.fit("digits", out=tmp_path / "size", **fit)
    pipeline.fit(open_data("digits", 4), out=tmp_path / "opened", **(fit | {"image_size": None}))
    assert fingerprint(tmp_path / "size") == fingerprint(tmp_path / "opened")
    assert read_settings(tmp_path / "opened").dataset.image_size == 4
    ffdist_("eval", tmp_path / "opened")
    with pytest.raises(ConfigError, match="only pictures are resized"):
        Pipeline(layers(), SFF()).fit(samples(), image_size=4, progress=False)


def test_what_is_refused_leaves_no_folder(tmp_path: Path) -> None:
    for data, network in (("no such data", layers()), ("digits", nn.Sequential(nn.Flatten(), nn.Linear(3, 3)))):
        with pytest.raises((DataError, FfdistError)):
            Pipeline(network, SFF()).fit(data, out=tmp_path / "a/b", progress=False)
    assert not (tmp_path / "a").exists()


def test_a_second_fit_begins_a_chain_anew_and_a_sequential_goes_on(tmp_path: Path) -> None:
    images: Images = open_data("digits")
    pipeline = named()
    for name in ("first", "second"):
        pipeline.fit(images, epochs=1, out=tmp_path / name, **FIT)
    assert fingerprint(tmp_path / "first") == fingerprint(tmp_path / "second")
    given = Pipeline(layers(), SFF())
    given.fit(samples(), epochs=1, progress=False, lr=1e-12)
    at_rest = [p.clone() for p in weights(given)]
    given.fit(samples(), epochs=1, progress=False, lr=1e-12)
    assert all(torch.allclose(*pair, atol=1e-6) for pair in zip(at_rest, weights(given), strict=True))
