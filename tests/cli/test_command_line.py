"""Reading a command line: help that fits, one paragraph for each mistake, completion, quiet and JSON."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ffdist.cli import COMMANDS, main
from ffdist.cli.bench import parse as parse_bench
from ffdist.cli.completion import completions
from ffdist.cli.train import help_page, parse
from ffdist.errors import ConfigError
from ffdist.presets import PRESETS
from ffdist.settings.toml import settings_in, write_toml

TINY = ["--launcher", "threads", "--stages", "1", "--epochs", "1", "--model-args", "widths=4,4,4", "--samples", "200"]


def outcome_of(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    """The exit status of a command, and what it prints."""
    capsys.readouterr()
    status = 0
    try:
        main(args)
    except SystemExit as stop:
        status = int(stop.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize("columns", [40, 60, 70, 80, 100, 120, 200])
def test_the_help_of_train_is_short_and_fits(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for args in ("train --help", "train -h", "help train", "train --help sff-resnet18-imagenette"):
        status, out, _ = outcome_of(capsys, *args.split())
        assert status == 0
        lines = out.splitlines()
        assert len(lines) < 120 or columns < 80
        assert max(map(len, lines)) <= columns
    assert all(len(help_page([preset, "--help"]).splitlines()) < 120 or columns < 80 for preset in PRESETS)
    for args in (
        "--help",
        "data --help",
        "completion --help",
        "rules",
        "rules sff",
        "models vit",
        "presets",
        "settings",
    ):
        status, out, _ = outcome_of(capsys, *args.split())
        assert status == 0
        assert max(map(len, out.splitlines())) <= max(columns, 44), args


def test_a_benchmarks_own_setting_stands_in_place_of_a_runs_of_the_same_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, out, _ = outcome_of(capsys, "bench", "--help")
    assert [line for line in out.splitlines() if "--devices" in line] == [
        "  --devices N                Devices each side has [2]"
    ]
    command = parse_bench(["throughput", "--devices", "3"])
    assert command.settings.compare.devices == 3
    assert command.settings.train.plan.devices is None


def test_a_benchmark_takes_a_presets_settings_wherever_it_stands() -> None:
    for words in (["step", "sff-cnn-mnist", "--lr", "0.5"], ["step", "--lr", "0.5", "sff-cnn-mnist"]):
        train = parse_bench(words).settings.train
        assert (train.dataset.data, train.network.model, train.optim.lr) == ("mnist", "cnn", 0.5)
        assert train.compute.precision == "bf16", "a benchmark's own default"
    held = ["step", "auglocal-speednet-cifar10", "--data", "digits"]
    assert parse_bench(held).settings.train.rule.label_smoothing == 0.2


def test_help_has_the_values_of_a_preset_and_no_value_is_taken_for_one(capsys: pytest.CaptureFixture[str]) -> None:
    _, bare, _ = outcome_of(capsys, "train", "--help")
    assert "[30]" in bare
    assert "[kernel=3]" in bare
    _, out, _ = outcome_of(capsys, "train", "--lr", "1", "--help", "cwc-cifar10")
    assert "cwc-cifar10" in out
    assert "[0:11" in out
    _, out, _ = outcome_of(capsys, "train", "--out", "cwc-cifar10", "--help")
    assert out == bare


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("trian", "did you mean 'train'?"),
        ("digits", "it is a preset: ffdist train digits"),
        ("train --lrr 3", "there is no option --lrr\n  where: ffdist train\n  remedy: did you mean --lr?"),
        ("train --learning_rate 3", "did you mean --lr?"),
        ("train --stag 2", "write it out: --stages"),
        ("train --lr", "--lr has no value"),
        ("train --out -x", "stands after =: --out="),
        ("train --lr x", "--lr has a wrong value\n  where: ffdist train\n  expected: a number\n  got: x"),
        ("train --schedule cosin", "did you mean 'cosine'?"),
        ("train --cut 1,2", "values by spaces: 1 2"),
        ("train --cut", "--cut has no value\n  where: ffdist train\n  expected: --cut N ...\n  remedy: --cut none"),
        ("train --augment --lr 1", "--augment has no value"),
        ("train --cut none 1", "--cut has a wrong value"),
        ("train --model-args digits", "--model-args has no value"),
        ("bench throughput --against", "--against has no value"),
        ("data prepare x --ignore", "--ignore has no value"),
        ("train --fusion=true", "--fusion takes no value"),
        ("train --dry-run=1 digits", "--dry-run takes no value"),
        ("eval", "RUN is missing"),
        ("export r", "--to PATH is missing"),
        ("rules a b", "unexpected argument: b"),
        ("bench thruput", "did you mean 'throughput'?"),
        ("data prep", "did you mean 'prepare'?"),
    ],
)
def test_a_command_line_that_cannot_be_read_is_one_paragraph(
    args: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = outcome_of(capsys, *args.split())
    assert (status, out) == (2, "")
    assert err.startswith("ffdist: error: ")
    assert err.count("error") == 1
    assert message in err


@pytest.mark.parametrize(
    "args",
    ["eval X", "report X", "watch X", "export X --to x.pt2", "predict X x", "train --resume X", "train digits --out X"],
)
def test_a_path_that_the_system_does_not_take_is_one_paragraph(args: str, capsys: pytest.CaptureFixture[str]) -> None:
    name = "x" * 300
    status, out, err = outcome_of(capsys, *args.replace("X", name).split())
    assert (status, out) == (1, "")
    assert "ffdist: error: a path cannot be looked for" in err
    assert f"where: {name}" in err
    assert "got: File name too long\n  remedy: a shorter name" in err


def test_a_settings_file_may_be_a_pipe_and_has_an_end() -> None:
    reader, writer = os.pipe()
    with open(writer, "wb") as file:
        file.write(b"[training]\nepochs = 7\n")
    assert settings_in(f"/dev/fd/{reader}").training.epochs == 7
    os.close(reader)
    with pytest.raises(ConfigError, match=r"a settings file cannot be read(.|\n)*got: it has more than"):
        settings_in("/dev/zero")


def test_words_are_read_as_they_are_meant() -> None:
    assert parse(["--lr=1", "--", "digits"]).preset == "digits"
    assert parse(["--out=-x"]).settings.run.out == Path("-x")
    assert parse(["--out", "digits", "--data", "digits"]).settings.run.out == Path("digits")
    assert parse(["--batch_size", "3", "--no-fusion"]).settings.training.batch_size == 3
    assert parse(["--clip", "none", "--augment", "none", "digits"]).settings.dataset.augment == ()
    assert parse(["cwc-cifar10", "--windows", "none"]).settings.scheduler.windows == ()
    with pytest.raises(ConfigError, match=r"too small(.|\n)*got: -0.001"):
        parse(["--lr", "-1e-3"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr = 1\n[optim]\nlr = 2", r"'lr' is set twice(.|\n)*lr and \[optim\] lr"),
        ("batch-size = 1\nbatch_size = 2", "'batch_size' is set twice"),
        ("optim = 3", r"'optim' is a group of settings(.|\n)*\[optim\]"),
        ("resume = true", "which run is to go on"),
        ("resume = 3", "'resume' has a wrong value"),
        ("dry_run = 'x'", "'dry_run' has a wrong value"),
        ("preset = 'digits'", "ffdist train digits --config"),
        ("json = true", "on the command line"),
        ("[nope]\nx = 1", "unknown setting 'nope'"),
    ],
)
def test_a_file_that_says_what_cannot_be_meant_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        parse(["--config", str(tmp_path / "x.toml")])


@pytest.mark.parametrize("preset", ["digits", "cwc-cifar10", "hinton-mlp-mnist", "sff-resnet18-imagenette"])
def test_a_printed_configuration_read_back_is_the_same(preset: str, tmp_path: Path) -> None:
    settings = parse([preset, "--lr", "0.25"]).settings
    (tmp_path / "x.toml").write_text(write_toml(settings))
    assert parse(["--config", str(tmp_path / "x.toml")]).settings == settings


def test_a_configuration_is_printed_in_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = outcome_of(capsys, "train", "digits", "--print-config", "--json", "--out", "x")
    assert status == 0
    settings = json.loads(out)
    assert (settings["training"]["epochs"], settings["dataset"]["augment"]) == (30, ["crop"])
    assert settings["run"]["out"] == "x"


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["tr"], ["train"]),
        (["help", "tr"], ["train"]),
        (["-q", "tr"], ["train"]),
        (["train", "sff-cnn-m"], ["sff-cnn-mnist"]),
        (["train", "--lr", "1", "digi"], ["digits"]),
        (["train", "--warm"], ["--warmup"]),
        (["train", "--no-f"], ["--no-fusion"]),
        (["train", "--optimizer", "ad"], ["adamw", "adam"]),
        (["train", "--optimizer", "=", "s"], ["sgd"]),
        (["train", "--optimizer=s"], ["--optimizer=sgd"]),
        (["train", "--augment", "crop", "f"], ["flip"]),
        (["train", "--model", "vgg"], ["vgg8", "vgg11"]),
        (["train", "--config", ""], []),
        (["bench", "throughput", "--against", "dd"], ["ddp"]),
        (["rules", "hinton-"], ["hinton-unsupervised"]),
        (["rules", "--j"], ["--json"]),
        (["settings", "warm"], ["warmup"]),
        (["data", "prepare", "cifar10"], ["cifar10", "cifar100"]),
        (["data", "c"], ["check", "cache"]),
        (["data", "cache", "--un"], ["--unused-days"]),
        (["bench", "faults", "--k"], ["--kills"]),
        (["bench", "so"], ["soak"]),
        (["bench", "step", "digi"], ["digits"]),
        (["eval", "r", "--predictor", "l"], ["last"]),
    ],
)
def test_words_are_completed(words: list[str], wanted: list[str]) -> None:
    found = completions(words)
    assert (found[: len(wanted)] if wanted else found) == wanted


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_options_values_and_files(tmp_path: Path) -> None:
    script = """
eval "$(ffdist completion bash)"
complete_words() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _ffdist; printf '%s|' "${COMPREPLY[@]}"; echo; }
complete_words ffdist tr
complete_words ffdist train --optimizer ad
complete_words ffdist train --config my
"""
    env = with_ffdist(tmp_path)
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["train|transforms|", "adamw|adam|", "my run.toml|"]


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
def test_fish_completes_commands_options_values_and_files(tmp_path: Path) -> None:
    script = """
ffdist completion fish | source
for words in "ffdist tr" "ffdist train --optimizer ad" "ffdist train --optimizer=s" "ffdist train --config my"
    complete -C $words | string join "|"
end
complete -C "ffdist train --config=my"
"""
    done = subprocess.run(
        ["fish", "-c", script], cwd=tmp_path, env=with_ffdist(tmp_path), capture_output=True, text=True
    )
    files = ["my run.toml", "--config=my run.toml"]
    assert done.stdout.splitlines() == ["train", "adam|adamw", "--optimizer=sgd", *files], done.stderr


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_completes_commands_options_values_and_files_in_a_shell_that_has_loaded_nothing(tmp_path: Path) -> None:
    """In a terminal of its own: zsh completes nowhere else."""
    startup = """
eval "$(ffdist completion zsh)"
show() { zle complete-word; print -r -- "<$BUFFER>"; BUFFER=; }
zle -N show
bindkey '^T' show
"""
    script = """
zmodload zsh/zpty
zpty shell zsh -i
for words in "ffdist tr" "ffdist train --optimizer m" "ffdist train --optimizer=s" "ffdist train --config=my"; do
    zpty -w -n shell "$words"$'\\x14'
    zpty -r -m shell line '*<*>*'
    print -r -- ${${line##*<}%%>*}
done
"""
    env = with_ffdist(tmp_path)
    (tmp_path / ".zshrc").write_text(startup)
    done = subprocess.run(
        ["zsh", "-f", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == [
        "ffdist train ",
        "ffdist train --optimizer muon ",
        "ffdist train --optimizer=sgd ",
        r"ffdist train --config=my\ run.toml ",
    ], done.stderr


def with_ffdist(folder: Path) -> dict[str, str]:
    """An environment where the command is found; and in the folder a file, whose name has a space."""
    (folder / "my run.toml").touch()
    (folder / "bin").mkdir()
    (folder / "bin" / "ffdist").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ffdist "$@"\n')
    (folder / "bin" / "ffdist").chmod(0o755)
    here = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(Path(__file__).parents[2])}
    return os.environ | here | {"HOME": str(folder), "ZDOTDIR": str(folder), "XDG_CONFIG_HOME": str(folder)}


def test_every_network_and_rule_explains_each_of_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    from ffdist.known import MODEL_PLACES, OBJECTIVE_PLACES

    for command, names in (("models", MODEL_PLACES), ("rules", [*OBJECTIVE_PLACES, "backprop"])):
        for name in names:
            _, out, _ = outcome_of(capsys, command, name, "--json")
            for option in json.loads(out)["options"]:
                assert all((option["text"], option["type"])), f"{name}: {option['name']}"


def test_a_data_set_that_is_not_prepared_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, _ = outcome_of(capsys, "datasets", "cifar10")
    assert status == 0
    assert "3 x 32 x 32, 10 classes, train 50,000, test 10,000" in out
    assert "next: ffdist train --data cifar10" in out
    _, out, _ = outcome_of(capsys, "datasets", "imagenette", "--json")
    assert json.loads(out)["state"] == "preparable"


def test_the_name_of_a_thing_of_another_kind_is_said_to_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    for args, remedy in (
        ("rules mlp", "ffdist models mlp"),
        ("models sff", "ffdist rules sff"),
        ("presets cifar10", "ffdist datasets cifar10"),
    ):
        status, _, err = outcome_of(capsys, *args.split())
        assert status == 1
        assert remedy in err


def test_quiet_says_results_alone_and_json_is_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "run")
    status, out, err = outcome_of(capsys, "-q", "train", "--out", run, "--json", *TINY)
    assert (status, err) == (0, "")
    assert "FFDIST_QUIET" not in os.environ, "a program that has run the command says what it has to say"
    assert json.loads(out)["run"] == run
    for args in (
        ["train", "--resume", run, "--json"],
        ["train", "--resume", run, "--epochs", "2", "--dry-run", "--json"],
        ["report", run, "--json"],
        ["eval", run, "--json"],
        ["export", run, "--to", str(tmp_path / "x.safetensors"), "--json"],
    ):
        status, out, _ = outcome_of(capsys, *args)
        assert status == 0
        assert isinstance(json.loads(out), dict), args


def test_every_command_is_listed_and_helped(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = outcome_of(capsys)
    assert status == 0
    for name in COMMANDS:
        assert f"\n  {name} " in out
        assert outcome_of(capsys, "help", name)[1] == outcome_of(capsys, name, "--help")[1] != ""


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_listed_presets_name_and_what_it_is_stand_apart(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    _, out, _ = outcome_of(capsys, "presets")
    for name in PRESETS:
        assert f"\n  {name}  " in out, name


def test_a_contact_sheet_is_written_and_nothing_is_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "sheet.png")
    words = ["data", "show", "digits", "--augment", "crop", "padding=2", "flip", "--pictures", "2", "--out", out]
    assert outcome_of(capsys, *words)[0] == 0
    status, _, err = outcome_of(capsys, *words)
    assert status == 1
    assert "the file exists" in err


def test_an_option_of_several_values_given_twice_has_them_all() -> None:
    words = ["--callback", "own.py:A", "--metric", "own.py:f", "own.py:g", "--callback", "own.py:B", "--epochs", "3"]
    settings = parse(words).settings
    assert settings.watch.callback == ("own.py:A", "own.py:B")
    assert settings.watch.metric == ("own.py:f", "own.py:g")
    assert settings.training.epochs == 3


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ("--keep-best", "mean"),
        ("--keep_best --keep 3", "mean"),
        ("--keep-best last", "last"),
        ("--keep-best=weighted --keep 3", "weighted"),
        ("--keep 3", None),
    ],
)
def test_the_best_is_kept_by_the_mean_of_blocks_where_no_predictor_is_named(words: str, kept: str | None) -> None:
    assert parse(words.split()).settings.run.keep_best == kept


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit what is mapped")
def test_a_library_for_which_there_is_no_memory_is_one_error() -> None:
    limited = f"ulimit -v 400000; exec {sys.executable} -m ffdist train digits --dry-run --quiet"
    done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    what, got, remedy = done.stderr.splitlines()
    assert what == "ffdist: error: a library cannot be loaded"
    assert got.startswith("  got: libtorch")
    assert "`ulimit -v`" in remedy


def test_a_folder_that_was_removed_under_a_command_is_one_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    status, _, err = outcome_of(capsys, "models")
    assert status == 1
    assert err.startswith("ffdist: error: the folder that this was started in is gone\n")
