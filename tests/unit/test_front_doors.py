"""The same settings, told on the command line and in Python, are the same run."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import MISSING, fields
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jobs import NEEDS_MUON, fingerprint, learned

import ffdist
from ffdist import SFF, OptimSettings, Pipeline, Settings, TrainingSettings, models, open_data
from ffdist.cli import main
from ffdist.cli.evaluate import Eval
from ffdist.cli.export import Export
from ffdist.cli.report import Report
from ffdist.cli.train import parse
from ffdist.cli.watch import WatchCommand
from ffdist.cores import available_cores
from ffdist.errors import ConfigError
from ffdist.notes import spelled_as_flags
from ffdist.plan import Plan
from ffdist.presets import with_preset
from ffdist.report.log import read_run_log
from ffdist.runtime.planning import given_plan, settled_plan
from ffdist.runtime.record import read_starts
from ffdist.runtime.run import read_settings
from ffdist.settings.toml import settings_in

SMALL: dict[str, Any] = {"model_args": ["widths=4,6,8"], "batch_size": 128, "epochs": 1}
SAME: dict[str, dict[str, Any]] = {
    "bf16, parts": {"precision": "bf16", "microbatches": 2, "validation": 0.1},
    "fusion, average": {"fusion": True, "ema": 0.9, "label_smoothing": 0.1, "clip": 0.5},
    "windows": {"windows": ["0:1", "0:2", "1:2"], "epochs": 2, "augment": ["crop", "flip"], "samples": 600},
    "optimiser": {"optimizer": "sgd", "schedule": "linear", "warmup": 0.2, "no_decay": ["bias"], "seed": 5},
    "muon": {"optimizer": "muon", "muon_momentum": 0.9, "head_lr": 0.01, "bias_lr": 0.02},
    "pictures": {"image_size": 6, "snapshot_every": 3, "keep": 3, "early_stop": 1, "objective_args": ["kernel=3"]},
    "twin": {"objective": "backprop", "label_smoothing": 0.1},
}
TWO: dict[str, Any] = {"cut": [1, 2]}


def flags(options: dict[str, Any]) -> list[str]:
    words = []
    for name, value in options.items():
        values = [] if value is True else value if isinstance(value, list) else [value]
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return words


def line(folder: Path) -> list[str]:
    """A file of no settings stands in place of the preset of a bare `ffdist train`."""
    (folder / "none.toml").touch()
    return ["train", "--config", str(folder / "none.toml"), "--launcher", "threads", "--stages", "1"]


def test_functions_have_their_commands_defaults() -> None:
    doors = {ffdist.export: Export, ffdist.write_report: Report, ffdist.PageServer: WatchCommand, ffdist.load: Eval}
    for function, command in doors.items():
        defaults = {name: each.default for name, each in signature(function).parameters.items()}
        same = [each for each in fields(command) if each.name in defaults and each.default is not MISSING]
        assert len(same) > 1
        assert {each.name: defaults[each.name] for each in same} == {each.name: each.default for each in same}


@pytest.mark.parametrize("name", [pytest.param(name, marks=NEEDS_MUON if name == "muon" else ()) for name in SAME])
def test_a_run_set_up_in_python_is_the_command_lines(name: str, tmp_path: Path) -> None:
    options = SMALL | SAME[name]
    main([*line(tmp_path), *flags(options), "--out", str(tmp_path / "line")])
    rule = options.pop("objective", "sff")
    cut = {} if rule == "backprop" or options.get("fusion") else TWO
    pipeline = Pipeline("cnnb", rule, **options, **cut)
    result = pipeline.fit("digits", out=tmp_path / "python", progress=False)
    assert fingerprint(tmp_path / "python") == fingerprint(tmp_path / "line")
    records, end = read_run_log(tmp_path / "line")
    assert end
    assert result.test == end["test"] == pipeline.classifier.evaluate("digits")
    assert learned(result.records) == learned(records)
    of_line, of_python = (read_settings(tmp_path / of).changed(cut=(), stages=1) for of in ("line", "python"))
    assert of_line == of_python


def test_a_run_without_settings_has_the_same_stages_by_either_door(tmp_path: Path) -> None:
    (tmp_path / "none.toml").touch()
    words = ["train", "--config", str(tmp_path / "none.toml"), "--launcher", "threads", *flags(SMALL)]
    main([*words, "--out", str(tmp_path / "line")])
    Pipeline("cnnb", "sff", **SMALL).fit("digits", out=tmp_path / "python", progress=False)
    started = [read_starts(tmp_path / of)[0]["stages"] for of in ("line", "python")]
    assert started == [min(2, available_cores())] * 2
    assert fingerprint(tmp_path / "python") == fingerprint(tmp_path / "line")


def test_settings_come_whole_by_a_preset_or_a_file_or_by_their_names(tmp_path: Path) -> None:
    groups = Settings(optim=OptimSettings(lr=1e-3), training=TrainingSettings(epochs=3))
    assert groups == Settings().changed(lr=1e-3, epochs=3)
    assert Pipeline("mlp", "cwc", settings=groups).settings == groups.changed(model="mlp", objective="cwc")
    preset = with_preset(Settings(), "digits")
    assert parse(["digits"]).settings == preset
    (tmp_path / "my.toml").write_text("[optim]\nlr = 0.5\n[training]\nepochs = 7\n")
    assert settings_in(tmp_path / "my.toml") == Settings().changed(lr=0.5, epochs=7)
    assert ffdist.settings.Settings is ffdist.Settings


@pytest.mark.parametrize("began", ["line", "python"])
def test_a_run_goes_on_to_the_same_bits_by_either_door(began: str, tmp_path: Path) -> None:
    options = SMALL | {"augment": ["crop"], "schedule": "constant", "ema": 0.9}
    words = [*line(tmp_path), *flags(options)]
    main([*words, "--epochs", "2", "--out", str(tmp_path / "whole")])
    if began == "line":
        main([*words, "--out", str(tmp_path / "run")])
        pipeline = Pipeline.resume(tmp_path / "run", epochs=2, cut=[2, 1], progress=False)
        assert pipeline.result
        assert len(pipeline.result.records) == 2
    else:
        Pipeline("cnnb", "sff", **options).fit("digits", out=tmp_path / "run", progress=False)
        main(["train", "--resume", str(tmp_path / "run"), "--epochs", "2"])
    assert fingerprint(tmp_path / "run") == fingerprint(tmp_path / "whole")
    again = Pipeline.resume(tmp_path / "run", progress=False)
    _, end = read_run_log(tmp_path / "whole")
    assert end
    assert again.result
    assert again.result.test == end["test"]


def test_an_own_validation_set_is_given_to_fit(tmp_path: Path) -> None:
    images = open_data("digits")
    x, y = images.train.take(np.arange(200))[..., 0], images.train.labels[:200]
    pipeline = Pipeline("mlp", "sff", model_args={"widths": (12, 12)}, batch_size=256, epochs=1)
    result = pipeline.fit("digits", validation=(x, y), out=tmp_path / "own", progress=False)
    assert result.records[-1]["validation"]["samples"] == 200


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"settings": {"epochs": 3}}, r"settings is not a Settings object(.|\n)*got: a dict"),
        ({"preset": "digits"}, r"remedy: settings=ffdist\.presets\.with_preset"),
        ({"optim": {"lr": 1}}, r"remedy: settings=ffdist\.Settings\(optim="),
        ({"data": "digits"}, "expected: the first argument of fit"),
        ({"model": "mlp"}, "expected: the first argument of Pipeline"),
        ({"augment": "crop"}, r'remedy: augment=\["crop"\]'),
        ({"augment": "crop, flip"}, r'remedy: augment=\["crop", "flip"\]'),
        ({"cut": "1 2"}, r"remedy: cut=\[1, 2\]"),
        ({"validation": (np.zeros((2, 8, 8), np.uint8), [0, 1])}, r"remedy: fit\(data, validation="),
        ({"validation": "digits"}, r"remedy: fit\(data, validation="),
        ({"validation": "0.1"}, "dataset.validation has a wrong value"),
        ({"label_smoothing": 0.1, "objective": "hinton"}, 'got: objective="hinton"'),
        ({"network": models.mlp((1, 8, 8), 10), "model_args": ["widths=4"]}, "options of a network that is given by"),
        ({"objective": SFF(), "objective_args": ["kernel=3"]}, r"options of a rule that (.|\n)*, or SFF\(kernel=3\)$"),
        ({"objective": "backprop", "fusion": True}, "expected: a local rule"),
    ],
)
def test_an_error_for_what_is_set_in_a_wrong_place_says_the_right_one(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Pipeline(**{"network": "mlp", "objective": "sff"} | options)


def test_devices_and_options_are_given_as_torch_and_python_have_them() -> None:
    pipeline = Pipeline("mlp", "sff", model_args={"widths": [8, 8]}, device=torch.device("cpu"), objective_args=None)
    assert pipeline.settings.network.model_args == ("widths=8,8",)
    assert pipeline.settings.compute.device == "cpu"
    with pytest.raises(ConfigError, match=r"there are more stages than blocks(.|\n)*expected: 1 to 2"):
        pipeline.fit("digits", stages=9, progress=False)


def test_a_setting_that_is_set_on_a_finished_pipeline_is_an_error() -> None:
    pipeline = Pipeline("mlp", "sff")
    with pytest.raises(AttributeError, match="epochs"):
        pipeline.epochs = 30  # pyright: ignore[reportAttributeAccessIssue]


def test_weights_in_a_runs_folder_are_exported_first(tmp_path: Path) -> None:
    (tmp_path / "config.toml").touch()
    with pytest.raises(ConfigError, match=r"remedy: ffdist export .* --to FILE.safetensors"):
        Pipeline("mlp", "sff", pretrained=str(tmp_path)).fit("digits", progress=False)


NOTE = "from ffdist.notes import note; from ffdist.spelling import setting; note(setting('plan.exchange', 'whole'))"


def test_notes_spell_settings_as_the_front_door_does_in_processes_of_a_run_too(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = SMALL | {"plan": "* @ 0, 1 by batch", "exchange": "slices", "samples": 64}
    (tmp_path / "none.toml").touch()
    words = ["train", "--config", str(tmp_path / "none.toml"), "--launcher", "threads", *flags(options)]
    main([*words, "--out", str(tmp_path / "line")])
    assert "ffdist: nothing reads --exchange, which is for lanes" in capfd.readouterr().err
    Pipeline("cnnb", "sff", **options).fit("digits", progress=False)
    assert "ffdist: nothing reads plan.exchange, which is for lanes" in capfd.readouterr().err
    with spelled_as_flags():
        subprocess.run([sys.executable, "-c", NOTE], check=True)
    subprocess.run([sys.executable, "-c", NOTE], check=True)
    assert capfd.readouterr().err == 'ffdist: --exchange whole\nffdist: plan.exchange="whole"\n'


def test_a_plan_of_a_file_may_have_names_with_blanks(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    plan = Plan.pipeline(["conv 1 | @", "conv2"], [1, 1])
    file.write_text(json.dumps(plan.as_json()))
    text = settled_plan(Settings().changed(plan=str(file))).plan.plan
    assert text == '"conv 1 | @" @ 0 | conv2 @ 1'
    assert given_plan(text, plan.blocks, None) == plan


def test_a_plan_of_a_file_goes_with_the_run_by_either_door(tmp_path: Path) -> None:
    file, options = tmp_path / "plan.json", SMALL | {"samples": 64}
    plan = Plan.parse("* @ 0-1", ("conv1", "conv2", "conv3"), 2)
    file.write_text(json.dumps(plan.as_json()))
    (tmp_path / "none.toml").touch()
    words = ["train", "--config", str(tmp_path / "none.toml"), "--launcher", "threads", *flags(options)]
    words += ["--plan", str(file), "--out"]
    main([*words, str(tmp_path / "line")])
    pipeline = Pipeline("cnnb", "sff", **options, plan=str(file))
    with pytest.raises(ConfigError, match=rf"lanes and the plan disagree(.|\n)*{file}(.|\n)*expected: 2 lanes"):
        pipeline.fit("digits", lanes=3, out=tmp_path / "python", progress=False)
    pipeline.fit("digits", out=tmp_path / "python", progress=False)
    file.unlink()
    with pytest.raises(ConfigError, match=r"lanes and the plan disagree(.|\n)*expected: 2 lanes"):
        Pipeline("cnnb", "sff", **options).fit("digits", plan=plan, lanes=3, progress=False)
    Pipeline("cnnb", "sff", **options).fit("digits", plan=plan, out=tmp_path / "typed", progress=False)
    assert fingerprint(tmp_path / "typed") == fingerprint(tmp_path / "python")
    for of in ("line", "python"):
        assert read_settings(tmp_path / of).plan.plan == str(plan)
        resumed = Pipeline.resume(tmp_path / of, epochs=2, progress=False)
        assert resumed.result
        assert len(resumed.result.records) == 2
    assert fingerprint(tmp_path / "python") == fingerprint(tmp_path / "line")
