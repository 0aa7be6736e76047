"""Settings: defaults < preset < TOML < command line; what is unknown or wrong is told with a remedy."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffdist.cli.train import parse
from ffdist.config import TrainSettings, apply, read_toml, write_toml
from ffdist.errors import ConfigError
from ffdist.presets import PRESETS, with_preset
from ffdist.runtime.start import count_stages


def test_each_layer_covers_the_one_below(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text('epochs = 7\nlr = 1\nmodel-args = ["widths=4,5,6"]\n')
    settings = parse(["sff-cnnb-cifar10", "--config", str(file), "--lr", "0.5"])
    assert settings.data == "cifar10"  # the preset's
    assert settings.epochs == 7  # the file's, over the preset's
    assert settings.model_args == ("widths=4,5,6",)
    assert settings.lr == 0.5  # the command line's, over the file's
    assert settings.keep == TrainSettings().keep


def test_with_nothing_at_all_it_is_the_digits() -> None:
    assert parse([]) == with_preset(TrainSettings(), "digits")


def test_options_stay_with_the_network_and_the_rule_that_they_are_of(tmp_path: Path) -> None:
    assert parse([]).objective_args == ("kernel=3",)
    assert parse(["--objective", "cwc"]).objective_args == ()
    assert parse(["--objective", "sff"]).objective_args == ("kernel=3",)
    assert parse(["--objective", "predsim", "--objective-args", "kernel=3"]).objective_args == ("kernel=3",)
    assert parse(["--objective-args=beta=1", "--objective=predsim"]).objective_args == ("beta=1",)
    (tmp_path / "x.toml").write_text('model = "mlp"\nmodel_args = ["widths=5"]\n')
    assert parse(["--config", str(tmp_path / "x.toml"), "--model", "cnn"]).model_args == ()
    assert parse(["--config", str(tmp_path / "x.toml"), "--lr", "1"]).model_args == ("widths=5",)


def test_a_table_of_options_is_the_same_as_a_list_of_them(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[objective_args]\nkernel = 5\n[model_args]\nwidths = [1, 2, 3]\n")
    settings = apply(TrainSettings(), read_toml(tmp_path / "a.toml"), "a.toml")
    assert settings.objective_args == ("kernel=5",)
    assert settings.model_args == ("widths=1,2,3",)


@given(
    st.builds(
        TrainSettings,
        data=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])),
        lr=st.floats(1e-9, 1e3),
        stages=st.none() | st.integers(1, 9),
        augment=st.lists(st.sampled_from(["crop", "flip"])).map(tuple),
        resume=st.booleans(),
        out=st.none() | st.just(Path("a/b c")),
    )
)
def test_settings_survive_being_written_as_toml(settings: TrainSettings) -> None:
    import tomllib

    assert apply(TrainSettings(), tomllib.loads(write_toml(settings)), "") == settings


def test_every_preset_is_made_of_settings_there_are() -> None:
    for name in PRESETS:
        with_preset(TrainSettings(), name)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 3}, r"unknown setting 'epoch'(.|\n)*'epochs'"),
        ({"epochs": "three"}, "wrong value"),
        ({"epochs": 2.5}, "wrong value"),
        ({"precision": "fp16"}, r"wrong value(.|\n)*bf16"),
        ({"batch_size": 0}, "--batch-size is too small"),
        ({"stages": 0}, "--stages is too small"),
        ({"validation": 1.0}, "--validation is a share"),
        ({"stages": 2, "cut": [1, 1, 1]}, "--cut and --stages disagree"),
    ],
)
def test_a_wrong_setting_is_told(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        apply(TrainSettings(), values, "here")


def test_another_rule_or_network_leaves_the_options_and_windows_of_the_former_behind() -> None:
    cwc = with_preset(TrainSettings(), "cwc-cifar10")
    assert len(cwc.windows) == 4
    assert apply(cwc, {"lr": 0.1}, "").windows == cwc.windows
    assert apply(cwc, {"objective": "sff"}, "").windows == ()
    told = {"objective": "sff", "objective_args": ["kernel=3"], "windows": ["0:1", "0:2", "0:3", "0:4"]}
    sff = apply(cwc, told, "")
    assert (sff.objective_args, sff.windows) == (("kernel=3",), ("0:1", "0:2", "0:3", "0:4"))


def test_an_unknown_preset_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'sff-cnnb-mnist'\?"):
        parse(["sff-cnnb-minst"])


@pytest.mark.parametrize("text", ["epochs = ", "\x00"])
def test_a_file_that_is_not_toml_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(ConfigError, match="not TOML"):
        parse(["--config", str(tmp_path / "x.toml")])


def test_stages_are_torchruns_ranks_and_never_more_than_blocks() -> None:
    assert count_stages(TrainSettings(), 5, 3) == 3
    assert count_stages(TrainSettings(stages=4), 5, None) == 4
    assert count_stages(TrainSettings(cut=(1, 2)), 3, None) == 2
    with pytest.raises(ConfigError, match="disagree"):
        count_stages(TrainSettings(stages=2), 5, 3)
    with pytest.raises(ConfigError, match=r"more stages than blocks(.|\n)*1 to 3"):
        count_stages(TrainSettings(stages=4), 3, None)


def test_every_setting_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"])
    text = capsys.readouterr().out
    for field in fields(TrainSettings):
        assert f"--{field.name.replace('_', '-')}" in text
    source = Path(parse.__code__.co_filename).parents[1].joinpath("config.py").read_text()
    assert source.count('    """') >= len(fields(TrainSettings))
