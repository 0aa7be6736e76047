"""Settings: defaults < preset < TOML < command line; what is unknown or wrong is told with a remedy, by its field."""

from __future__ import annotations

import dataclasses
import inspect
import re
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffdist.cli.train import parse
from ffdist.errors import ConfigError, spelled
from ffdist.plan import Plan
from ffdist.presets import PRESETS, with_preset
from ffdist.runtime.planning import count_stages, unused_by_plan
from ffdist.runtime.run import SETTINGS, read_settings, write_settings
from ffdist.settings import GROUP_OF, GROUPS, OptimSettings, Settings, TrainingSettings, apply, explained, flat
from ffdist.settings.toml import read_toml, tomllib, write_toml
from ffdist.settings.unused import unused_settings
from ffdist.spelling import as_flags


def test_each_layer_covers_the_one_below(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text('[training]\nepochs = 7\n[optim]\nlr = 1\n[network]\nmodel-args = ["widths=4,5,6"]\n')
    settings = parse(["sff-cnnb-cifar10", "--config", str(file), "--lr", "0.5"]).settings
    assert settings.dataset.data == "cifar10"  # the preset's
    assert settings.training.epochs == 7  # the file's, over the preset's
    assert settings.network.model_args == ("widths=4,5,6",)
    assert settings.optim.lr == 0.5  # the command line's, over the file's
    assert settings.run.keep == Settings().run.keep


def test_a_field_is_read_where_older_files_have_it(tmp_path: Path) -> None:
    assert apply(Settings(), {"ray": {"max_restarts": 7}}, "x.toml").run.max_restarts == 7
    with pytest.raises(ConfigError, match="set twice"):
        apply(Settings(), {"ray": {"max_restarts": 7}, "run": {"max_restarts": 8}}, "x.toml")
    with pytest.raises(ConfigError, match=r"no setting of \[plan\]"):
        apply(Settings(), {"plan": {"max_restarts": 7}}, "x.toml")


def test_with_nothing_at_all_it_is_the_digits() -> None:
    assert parse([]).settings == with_preset(Settings(), "digits")


def test_a_preset_may_stand_anywhere_and_several_may_not() -> None:
    wanted = with_preset(Settings(), "cwc-cifar10").changed(epochs=3, augment=("crop", "flip"))
    for args in (
        ["cwc-cifar10", "--epochs", "3", "--augment", "crop", "flip"],
        ["--epochs", "3", "cwc-cifar10", "--augment", "crop", "flip"],
        ["--augment", "crop", "flip", "cwc-cifar10", "--epochs=3"],
        ["--epochs", "3", "--augment", "crop", "flip", "cwc-cifar10"],
        ["--no-fusion", "cwc-cifar10", "--epochs=3", "--augment", "crop", "flip"],
    ):
        assert parse(args).settings == wanted
    with pytest.raises(ConfigError, match="one preset at a time"):
        parse(["cwc-cifar10", "sff-cnnb-mnist"])


@pytest.mark.parametrize(
    ("word", "remedy"),
    [
        ("sff-cnnb-minst", r"did you mean 'sff-cnnb-mnist'\?"),
        ("cifar10", "a data set: ffdist train --data cifar10"),
        ("cnnb", "a network: ffdist train --model cnnb"),
        ("sff", "a rule: ffdist train --objective sff"),
        ("own.toml", "a settings file: ffdist train --config own.toml"),
        ("qqqqq", "ffdist presets lists them"),
    ],
)
@pytest.mark.parametrize("before", [[], ["--epochs", "3"], ["--fusion"], ["--epochs=3"]])
def test_a_word_that_is_no_preset_is_refused_as_what_it_seems_to_be(word: str, remedy: str, before: list[str]) -> None:
    with pytest.raises(ConfigError, match=f"there is no preset '{word}'(.|\\n)*{remedy}"):
        parse([*before, word])


def test_a_run_where_a_preset_could_stand_is_refused_as_one(tmp_path: Path) -> None:
    write_settings(tmp_path, Settings())
    with pytest.raises(ConfigError, match=f"it is a run(.|\\n)*--resume {tmp_path}"):
        parse([str(tmp_path)])


def test_a_resubmitted_job_may_name_its_preset_after_resume(tmp_path: Path) -> None:
    write_settings(tmp_path, with_preset(Settings(), "digits"))
    assert parse(["--out", str(tmp_path), "--resume", "digits", "--stages", "1"]).resume == tmp_path


def test_options_stay_with_the_network_and_the_rule_that_they_are_of(tmp_path: Path) -> None:
    def args(*arguments: str) -> tuple[str, ...]:
        return parse(arguments).settings.rule.objective_args

    assert args() == ("kernel=3",)
    assert args("--objective", "cwc") == ()
    assert args("--objective", "sff") == ("kernel=3",)
    assert args("--objective", "predsim", "--objective-args", "kernel=3") == ("kernel=3",)
    assert args("--objective-args=beta=1", "--objective=predsim") == ("beta=1",)
    (tmp_path / "x.toml").write_text('model = "mlp"\nmodel_args = ["widths=5"]\n')
    arguments = ["--config", str(tmp_path / "x.toml")]
    assert parse([*arguments, "--model", "cnn"]).settings.network.model_args == ()
    assert parse([*arguments, "--lr", "1"]).settings.network.model_args == ("widths=5",)


def test_a_table_of_options_is_the_same_as_a_list_of_them(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[objective_args]\nkernel = 5\n[model_args]\nwidths = [1, 2, 3]\n")
    (tmp_path / "b.toml").write_text("[rule.objective_args]\nkernel = 5\n[network.model_args]\nwidths = [1, 2, 3]\n")
    for name in ("a.toml", "b.toml"):
        settings = apply(Settings(), read_toml(tmp_path / name), name)
        assert settings.rule.objective_args == ("kernel=5",)
        assert settings.network.model_args == ("widths=1,2,3",)


@given(
    st.fixed_dictionaries(
        {
            "data": st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])),
            "lr": st.floats(1e-9, 1e3),
            "stages": st.none() | st.integers(1, 9),
            "augment": st.lists(st.sampled_from(["crop", "flip"])).map(tuple),
            "fusion": st.booleans(),
            "out": st.none() | st.just(Path("a/b c")),
        }
    )
)
def test_settings_survive_being_written_as_toml(options: dict[str, object]) -> None:
    settings = Settings().changed(**options)
    assert apply(Settings(), tomllib.loads(write_toml(settings)), "") == settings


def test_files_with_keys_outside_of_any_table_are_read_as_they_were_meant(tmp_path: Path) -> None:
    settings = Settings().changed(lr=0.5, model="mlp", windows=("0:1", "0:2"), fusion=True, samples=7)
    keys = {name: value for name, value in settings.items() if value is not None}
    lines = write_toml(settings).splitlines()
    (tmp_path / "x.toml").write_text("\n".join(line for line in lines if not line.startswith("[")))
    assert flat(read_toml(tmp_path / "x.toml")).keys() == keys.keys()
    assert apply(Settings(), read_toml(tmp_path / "x.toml"), "x.toml") == settings


def test_a_run_of_an_older_version_is_read_and_its_digest_still_holds() -> None:
    run = Path(__file__).with_name("older") / "flat"
    settings = read_settings(run)
    assert (settings.optim.lr, settings.scheduler.windows, settings.run.timeout) == (0.05, ("0:1", "0:2", "1:2"), 30.0)
    assert "resume = false" in (run / SETTINGS).read_text()


def test_every_preset_is_made_of_settings_there_are() -> None:
    for name, preset in PRESETS.items():
        made = with_preset(Settings(), name)
        options = {key: tuple(value) if isinstance(value, list) else value for key, value in preset.settings.items()}
        assert {key: made.value(key) for key in options} == options, name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 3}, r"unknown setting 'epoch'(.|\n)*'epochs'"),
        ({"optim": {"epochs": 3}}, r"'epochs' is no setting of \[optim\](.|\n)*\[training\]"),
        ({"optim": {"lrr": 3}}, r"unknown setting 'lrr'(.|\n)*\[optim\](.|\n)*'lr'"),
        ({"optimm": {"lr": 3}}, r"unknown setting 'optimm'(.|\n)*'optim'"),
        ({"epochs": "three"}, "wrong value"),
        ({"out": ""}, r"'out' has a wrong value(.|\n)*got: ''"),
        ({"augment": 3}, r"not a name with options"),
        ({"epochs": 2.5}, "wrong value"),
        ({"precision": "fp17"}, r"wrong value(.|\n)*bf16"),
        ({"batch_size": 0}, "training.batch_size is too small"),
        ({"stages": 0}, "plan.stages is too small"),
        ({"validation": 1.0}, r"dataset.validation is too large(.|\n)*0 <= x < 1"),
        ({"stages": 2, "cut": [1, 1, 1]}, "plan.cut and plan.stages disagree"),
        ({"microbatches": 129}, "training.microbatches is more than a batch holds"),
        ({"transport": "object-store"}, r"plan.transport=.object-store. is Ray's(.|\n)*plan.launcher=.ray."),
        ({"fusion": True, "objective": "backprop"}, "rule.fusion=True reads the blocks' features"),
    ],
)
def test_a_wrong_setting_is_named_by_its_field(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        apply(Settings(), values, "here")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--batch-size", "0"], "--batch-size is too small"),
        (
            ["--stages", "2", "--cut", "1", "1", "1"],
            r"--cut and --stages disagree(.|\n)*as in --cut\n  got: --stages 2",
        ),
        (["--fusion", "--objective", "backprop"], "--fusion reads"),
        (["--resume"], r"which run is to go on(.|\n)*where: --resume\n  remedy: ffdist train --resume RUN"),
    ],
)
def test_the_command_line_spells_it_as_a_flag(args: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(args)
    assert re.search(message, raised.value.text(as_flags))


def test_a_folder_below_home_is_that_and_none_called_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert Settings().changed(out="~/runs/a").run.out == Path("/home/ann/runs/a")
    assert parse(["--out=~/runs/a"]).settings.run.out == Path("/home/ann/runs/a")


def test_a_text_that_may_name_a_file_below_home_does_so_by_every_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    one = {
        "data": "~/pets",
        "model": "~/n.py:net",
        "objective": "~/r.py:Rule",
        "plan": "~/p.json",
    }
    many = {"callback": "~/c.py:Seen", "metric": "~/m.py:F1", "augment": "~/t.py:Blur"}
    (tmp_path / "own.toml").write_text("\n".join(f"{name} = '{text}'" for name, text in one.items()))
    words = [f"--{name}={text}" for name, text in one.items()]
    lists = [word for name, text in many.items() for word in (f"--{name}", text)]
    doors = [
        Settings().changed(**one, **{name: [text] for name, text in many.items()}),
        parse([*words, *lists]).settings,
        parse(["--config", str(tmp_path / "own.toml"), *lists]).settings,
    ]
    for settings in doors:
        assert {name: settings.value(name) for name in one} == {k: v.replace("~", "/home/ann") for k, v in one.items()}
        assert {name: settings.value(name)[0] for name in many} == {
            k: v.replace("~", "/home/ann") for k, v in many.items()
        }
    assert Settings().changed(data="pets~1").dataset.data == "pets~1"


def test_another_rule_or_network_leaves_the_options_and_windows_of_the_former_behind() -> None:
    cwc = with_preset(Settings(), "cwc-cifar10")
    assert len(cwc.scheduler.windows) == 4
    assert apply(cwc, {"lr": 0.1}, "").scheduler.windows == cwc.scheduler.windows
    assert apply(cwc, {"objective": "sff"}, "").scheduler.windows == ()
    options = {"objective": "sff", "objective_args": ["kernel=3"], "windows": ["0:1", "0:2", "0:3", "0:4"]}
    sff = apply(cwc, options, "")
    assert (sff.rule.objective_args, sff.scheduler.windows) == (("kernel=3",), ("0:1", "0:2", "0:3", "0:4"))


@pytest.mark.parametrize("text", ["epochs = ", "\x00"])
def test_a_file_that_is_not_toml_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(ConfigError, match="not TOML"):
        parse(["--config", str(tmp_path / "x.toml")])


def test_stages_are_torchruns_ranks_and_never_more_than_blocks() -> None:
    assert count_stages(Settings(), 5, 3) == 3
    assert count_stages(Settings().changed(stages=4), 5, None) == 4
    assert count_stages(Settings().changed(cut=(1, 2)), 3, None) == 2
    with pytest.raises(ConfigError, match="disagree"):
        count_stages(Settings().changed(stages=2), 5, 3)
    with pytest.raises(ConfigError, match=r"more stages than blocks(.|\n)*1 to 3"):
        count_stages(Settings().changed(stages=4), 3, None)


def test_no_two_groups_have_a_field_of_one_name_and_every_field_is_explained_below_it() -> None:
    names = [f.name for group in GROUPS.values() for f in dataclasses.fields(group)]
    assert len(names) == len(set(names)) == len(GROUP_OF)
    for group in GROUPS.values():
        assert explained(group).keys() == {f.name for f in dataclasses.fields(group)}, inspect.getfile(group)


def test_groups_and_names_say_the_same() -> None:
    nested = Settings(optim=OptimSettings(lr=1e-3), training=TrainingSettings(epochs=30))
    assert nested == Settings().changed(lr=1e-3, epochs=30)
    assert Settings().changed(timeout=timedelta(minutes=1)) == Settings().changed(timeout=60)
    assert Settings().changed(windows=[(0, 1), (1, 2)]).scheduler.pairs == ((0, 1), (1, 2))
    with pytest.raises(ConfigError, match=r"unknown setting 'learning_rate'(.|\n)*'lr'"):
        Settings().changed(learning_rate=1)
    with pytest.raises(ConfigError, match="'optim' is no group of settings"):
        Settings(optim=0.1)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ({}, []),
        ({"nesterov": True}, ['nothing reads optim.nesterov, .* here it is optim.optimizer="adamw"']),
        ({"nesterov": True, "optimizer": "sgd"}, []),
        ({"momentum": 0.5, "optimizer": "muon"}, []),
        ({"ns_steps": 3, "optimizer": "sgd"}, ["nothing reads optim.ns_steps"]),
        ({"patience": 3}, ["nothing reads scheduler.patience"]),
        ({"patience": 3, "schedule": "plateau"}, []),
        ({"end": 0.1, "schedule": "constant"}, ["nothing reads scheduler.end"]),
        (
            {"schedule": "milestones", "milestones": (3.0, 12.5), "epochs": 12},
            ["the rate does not fall at .* 12.5, which"],
        ),
        ({"schedule": "milestones", "milestones": (3.0, 11.5), "epochs": 12}, []),
        ({"start": 0.1}, ["nothing reads scheduler.start, .* scheduler.warmup=0.0"]),
        ({"start": 0.1, "warmup": 0.1}, []),
        ({"max_restarts": 5}, []),
        ({"max_restarts": 5, "launcher": "threads"}, ["nothing reads run.max_restarts"]),
        ({"placement_timeout": 5.0}, ["nothing reads ray.placement_timeout"]),
        ({"placement_timeout": 5.0, "launcher": "ray"}, []),
        (
            {"sync_norms": True, "exchange_dtype": "bf16"},
            ["nothing reads training.exchange_dtype, .*sync_norms"],
        ),
        ({"sync_norms": True, "lanes": 1, "replicas": 1}, ["nothing reads training.sync_norms, .* training.lanes=1"]),
        ({"sync_norms": True, "exchange_dtype": "bf16", "replicas": 2}, []),
        ({"sync_norms": True, "lanes": 2}, []),
        ({"exchange": "slices", "stages": 2}, ["nothing reads plan.exchange, .* plan.stages=2"]),
        ({"exchange": "slices", "devices": 2}, []),
    ],
)
def test_a_setting_that_nothing_reads_is_noted(options: dict[str, object], lines: list[str]) -> None:
    found = list(map(spelled, unused_settings(Settings().changed(**options))))
    assert len(found) == len(lines)
    assert all(re.match(line, text) for line, text in zip(lines, found, strict=True))


@pytest.mark.parametrize(
    ("plan", "lines"),
    [
        ("* @ 0, 1 by batch", ["nothing reads plan.exchange", "nothing reads training.exchange_dtype"]),
        ("a @ 0 | b @ 1", ["nothing reads plan.exchange", "nothing reads training.exchange_dtype"]),
        ("* @ 0:0, 1:1", []),
    ],
)
def test_a_setting_that_nothing_reads_under_the_plan_is_noted(plan: str, lines: list[str]) -> None:
    settings = Settings().changed(plan="auto", exchange="whole", exchange_dtype="bf16")
    found = list(map(spelled, unused_by_plan(settings, Plan.parse(plan, ("a", "b"), None))))
    assert len(found) == len(lines)
    assert all(re.match(line, text) for line, text in zip(lines, found, strict=True))


def test_no_preset_has_a_setting_that_nothing_reads() -> None:
    assert not [text for name in PRESETS for text in unused_settings(with_preset(Settings(), name))]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("50", 50),
        (0, 0),
        ("10s", "10s"),
        ("1.50 S", "1.5s"),
        ("250ms", "0.25s"),
        ("2min", "120s"),
        (timedelta(minutes=1), "60s"),
    ],
)
def test_pulses_come_every_so_many_batches_or_seconds(given: object, kept: object, tmp_path: Path) -> None:
    settings = Settings().changed(log_every=given)
    assert settings.watch.log_every == kept
    (tmp_path / "x.toml").write_text(write_toml(settings))
    assert apply(Settings(), read_toml(tmp_path / "x.toml"), "x.toml") == settings
    if isinstance(given, str):
        assert parse(["digits", "--log-every", given]).settings.watch.log_every == kept


@pytest.mark.parametrize(
    "given", ["0s", "-5s", "s", "10 x", "1e3s", "nan s", "9999999999s", "", 2.5, True, None, -1, [1]]
)
def test_pulses_every_what_is_neither_are_refused(given: object) -> None:
    with pytest.raises(ConfigError, match=r"watch\.log_every|log_every|log-every"):
        Settings().changed(log_every=given)


def test_what_stands_alone_on_the_command_line_is_true_or_false_in_python() -> None:
    assert Settings().changed(keep_best=True).run == parse(["digits", "--keep-best"]).settings.run
    assert Settings().changed(keep_best="last").changed(keep_best=False).run.keep_best is None


def test_who_computes_what_is_set_in_one_way_at_a_time() -> None:
    """The last way stands, and the others are as nobody has told them; what belongs to it stays."""
    assert Settings().changed(replicas=2).changed(stages=3).plan == Settings().changed(stages=3).plan
    assert Settings().changed(cut=(1, 2)).changed(stages=2).plan.cut == (1, 2)
    planned = Settings().changed(plan="auto", devices=4)
    assert planned.changed(devices=8).plan == Settings().changed(plan="auto", devices=8).plan
    assert planned.changed(cut=(1, 2)).plan == Settings().changed(cut=(1, 2)).plan
    assert planned.changed(batch_size=8).plan == planned.plan
