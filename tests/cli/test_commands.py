"""The commands as a user types them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import forked
import numpy as np
import pytest
import torch
from forked import Forked
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from ffdist.cli import main
from ffdist.runtime.folder import last_seen
from ffdist.settings.toml import tomllib

TINY = ["--launcher", "threads", "--stages", "2", "--threads", "1", "--epochs", "8", "--model-args", "widths=8,12,16"]


def ffdist(*args: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    return forked.run([sys.executable, "-m", "ffdist", *args], timeout=240)


def refused(capsys: pytest.CaptureFixture[str], *args: str | Path) -> str:
    """What a command says on stderr when it ends with status 1."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(arg) for arg in args])
    assert stop.value.code == 1
    text = capsys.readouterr().err
    assert text.count("ffdist: error") == 1
    return text


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run, trained by two threads."""
    out = tmp_path_factory.mktemp("runs") / "run"
    main(["train", "--out", str(out), *TINY])
    return out


def test_a_run_directory_holds_settings_log_snapshots_and_a_log_for_each_stage(run: Path) -> None:
    assert {"config.toml", "data.json", "metrics.jsonl", "snapshots", "stage-0.log", "stage-1.log"} <= {
        path.name for path in run.iterdir()
    }
    assert "epoch 7: seconds" in (run / "stage-1.log").read_text()


def test_an_epoch_of_one_batch_has_no_speed_and_says_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one_batch = [*TINY, "--epochs", "1", "--batch-size", "1000"]
    main(["train", "--out", str(tmp_path / "a"), *one_batch])
    assert json.loads((tmp_path / "a/metrics.jsonl").read_text().splitlines()[0])["train"]["samples_per_second"] is None
    main(["train", "--out", str(tmp_path / "b"), *one_batch, "--validation", "0"])
    said = capsys.readouterr()
    assert "epoch 1/1: trained\n" in said.err
    assert "samples/s" not in said.out + said.err


@pytest.mark.parametrize("below", ["a-file", "no-such-place"])
def test_a_place_that_cannot_be_written_is_refused(
    below: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a-file").touch()
    place = tmp_path if below == "a-file" else Path("/proc")  # where nobody can make a folder
    text = refused(capsys, "train", *TINY, "--out", place / below / "runs" / "run")
    assert "the run folder cannot be written" in text
    assert (tmp_path / "a-file").is_file()


def test_eval_agrees_with_what_training_measured(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["eval", str(run), "--json"])
    result = json.loads(capsys.readouterr().out)
    logged = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["test"]
    assert result["samples"] == 360
    assert [block["block"] for block in result["blocks"]] == ["conv1", "conv2", "conv3"]
    assert result == logged


def test_predict_names_the_class_of_pictures_of_any_size_and_mode(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = load_digits()
    paths = []
    for i in range(20):
        pixels = Image.fromarray((digits.images[i] * 255 / 16).astype(np.uint8))
        paths.append(tmp_path / f"{i}.png")
        pixels.resize((40, 40), Image.Resampling.NEAREST).convert("RGBA" if i % 2 else "L").save(paths[-1])
    main(["predict", str(run), *map(str, paths), "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sum(row["class"] == str(digits.target[i]) for i, row in enumerate(rows)) >= 15
    assert all(0 < row["share"] <= 1 for row in rows)


def test_an_exported_program_runs_with_torch_alone_and_predicts_the_same(run: Path, tmp_path: Path) -> None:
    main(["export", str(run), "--to", str(tmp_path / "m.pt2")])
    code = (
        "import sys, torch\n"
        f"program = torch.export.load({str(tmp_path / 'm.pt2')!r}).module()\n"
        "torch.manual_seed(0); x = torch.rand(7, 1, 8, 8)\n"
        "torch.save(program(x), sys.argv[1]); torch.save(program(x[:1]), sys.argv[2])\n"
        "assert not [name for name in sys.modules if name.startswith('ffdist')]\n"
    )
    files = [str(tmp_path / "all"), str(tmp_path / "one")]
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, *files], check=True, timeout=120, cwd=tmp_path)
    from ffdist.runtime.run import load_classifier

    torch.manual_seed(0)
    with torch.no_grad():
        expected = load_classifier(run)[0](torch.rand(7, 1, 8, 8))
    torch.testing.assert_close(torch.load(files[0], weights_only=True), expected)
    torch.testing.assert_close(torch.load(files[1], weights_only=True), expected[:1])


def test_exported_weights_are_the_state_of_one_plain_module(run: Path, tmp_path: Path) -> None:
    from ffdist.runtime.run import load_classifier

    main(["export", str(run), "--to", str(tmp_path / "m.safetensors")])
    classifier = load_classifier(run)[0]
    expected = {name: value.clone() for name, value in classifier.state_dict().items()}
    torch.nn.init.zeros_(next(classifier.parameters()))
    classifier.load_state_dict(load_file(tmp_path / "m.safetensors"))
    assert all(torch.equal(expected[name], value) for name, value in classifier.state_dict().items())


def test_resume_goes_on_with_the_runs_own_settings_and_refuses_others(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["train", "--resume", "--out", str(run), "--epochs", "9", "--stages", "3", "--launcher", "threads"])
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 10
    text = refused(capsys, "train", "--resume", "--out", run, "--lr", "0.5")
    assert "--lr cannot change when a run is resumed" in text
    assert "0.002" in text


def test_a_folder_has_one_run_at_a_time_and_one_asked_to_stop_ends_with_its_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "ffdist", "train", *TINY, "--launcher", "processes", "--epochs", "100000"]
    with Forked([*command, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr
        assert any(line.startswith(b"epoch") for line in process.stderr)  # one has ended
        assert "another run is at work" in refused(capsys, "train", "--resume", "--out", out)
        assert "already holds a run" in refused(capsys, "train", *TINY, "--out", out)
        process.terminate()
        assert process.wait(60) == 143
    manifest = last_seen(out)
    assert manifest
    main(["train", "--resume", "--out", str(out), "--epochs", str(manifest.epochs_begun), "--launcher", "threads"])
    assert "try next" in capsys.readouterr().out


def test_the_report_of_a_resumed_run_has_its_last_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    main(["train", *TINY, "--epochs", "1", "--out", str(out)])
    main(["train", "--resume", "--out", str(out), "--epochs", "2", "--stages", "3"])
    settings = tomllib.loads((out / "config.toml").read_text())
    assert (settings["training"]["epochs"], settings["plan"]["stages"]) == (2, 3)
    refused(capsys, "train", "--resume", "--out", out, "--launcher", "processes", "--queue", "65", "--epochs", "3")
    assert tomllib.loads((out / "config.toml").read_text()) == settings
    capsys.readouterr()
    main(["report", str(out), "--text"])
    shown = [line.strip("│ ").split("│") for line in capsys.readouterr().out.splitlines()]
    assert {"stages": "3", "epochs": "2"}.items() <= {row[0].strip(): row[-1].strip() for row in shown}.items()


def test_a_run_is_never_overwritten(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert "already holds a run" in refused(capsys, "train", "--out", run, *TINY)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--stages", "9"], "more stages than blocks"),
        (["--data", "digitz"], "did you mean digits?"),
        (["--model", "cnnbb"], "did you mean 'cnnb'"),
        (["--objective", "sfff"], "did you mean 'sff'"),
        (["--objective-args", "kernal=3"], "did you mean 'kernel'"),
        (["--objective-args", "kernel=4"], "1, 3, 5"),
        (["--batch-size", "0"], "--batch-size is too small"),
        (["--samples", "0"], "--samples is too small"),
        (["--epochs", "0"], "--epochs is too small"),
        (["--timeout", "nan"], "--timeout is not a finite number"),
        (["--timeout", "1e12"], "--timeout is too large"),
        (["--threads", "100000"], "--threads is too large"),
        (["--launcher", "processes", "--queue", "65"], "too deep for shared memory"),
        (["--address", "auto"], "--address is a Ray cluster's"),
        (["--device", "cuda"], "there is no GPU"),
        (["--lr", "-1"], "--lr is too small"),
        (["--cut", "1", "1"], "--cut does not fit"),
        (["--epochs", "2", "--lr", "1e30"], "the loss is not a finite number"),
        (["--model", "vgg8", "--image-size", "4096"], "does not fit into this machine"),
    ],
)
def test_bad_input_is_one_clear_error(
    args: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = refused(capsys, "train", "--launcher", "threads", "--out", tmp_path / "run", *args)
    assert message in text
    assert not (tmp_path / "run").exists() or "the loss" in message


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["throughput", "--lrs", "1e-3"], "only accuracy tries recipes"),
        (["memory", "--lengths", "3", "4"], "only accuracy tries recipes"),
        (["throughput", "--link", "1gbit"], "only accuracy has hosts"),
        (["throughput", "sff-cnb-mnist"], "did you mean 'sff-cnnb-mnist'?"),
        (["throughput", "hinton-mlp-mnist"], "a preset's is taken away by --no-fusion"),
        (["throughput", "--against", "dpp"], "did you mean"),
        (["throughput", "--data", "digitz"], "did you mean digits?"),
    ],
)
def test_what_a_benchmark_cannot_use_is_refused_before_it_begins(
    args: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, "bench", *args, "--record", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_dry_run_prints_settings_and_stages_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["train", "--dry-run", "--out", str(tmp_path / "run"), "--stages", "3"])
    text = capsys.readouterr().out
    assert "stages = 3" in text
    assert "conv3" in text
    assert not (tmp_path / "run").exists()


def test_the_twin_of_backpropagation_trains_by_the_same_command(tmp_path: Path) -> None:
    main(["train", "--objective", "backprop", "--out", str(tmp_path / "bp"), "--launcher", "threads", "--epochs", "6"])
    logged = json.loads((tmp_path / "bp" / "metrics.jsonl").read_text().splitlines()[-1])
    assert logged["test"]["accuracy"]["mean"] > 0.9


def test_data_list_prepare_check_and_train_on_a_tree_of_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = load_digits()
    for i in range(300):
        folder = tmp_path / "tree" / f"class{digits.target[i]}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[i] * 255 / 16).astype(np.uint8)).resize((16, 16)).save(folder / f"{i}.png")
    out = str(tmp_path / "prepared")
    main(["data", "prepare", str(tmp_path / "tree"), "--out", out, "--size", "12"])
    main(["data", "check", out])
    main(["data", "list", "--root", str(tmp_path)])
    text = capsys.readouterr().out
    assert "is whole" in text
    main(["train", "--data", out, "--out", str(tmp_path / "run"), *TINY, "--batch-size", "32"])
    main(["eval", str(tmp_path / "run"), "--json"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["accuracy"]["mean"] > 0.2


def test_a_corrupt_shard_ends_training_with_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(40):
        folder = tmp_path / "tree" / f"c{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(folder / f"{i}.png")
    out = tmp_path / "prepared"
    main(["data", "prepare", str(tmp_path / "tree"), "--out", str(out)])
    shard = out / "train-00000.arrow"
    shard.write_bytes(shard.read_bytes()[:-100])
    assert "train-00000.arrow" in refused(capsys, "train", "--data", out, "--out", tmp_path / "run", *TINY)
    shard.unlink()
    assert "train-00000.arrow" in refused(capsys, "train", "--data", out, "--out", tmp_path / "run", *TINY)
    assert not (tmp_path / "run").exists()


@pytest.mark.distributed
def test_train_by_processes_ends_with_tables_and_exit_status_0(tmp_path: Path) -> None:
    done = ffdist("train", "--stages", "2", "--epochs", "2", "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert "edges of the run: shared-memory" in (tmp_path / "run/stage-0.log").read_text() or sys.platform != "linux"
    assert "Accuracy on 360 test samples" in done.stdout
    assert f"run folder: {tmp_path / 'run'}" in done.stdout


@pytest.mark.distributed
def test_doctor_sends_between_processes_and_finds_this_machine_well(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--json"])
    findings = json.loads(capsys.readouterr().out)
    assert {"3 processes by gloo", "torch", "python"} <= {finding["what"] for finding in findings}


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    from ffdist.cli import COMMANDS

    for name in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            main([name, "--help"])
        assert stop.value.code == 0
        assert f"ffdist {name}" in capsys.readouterr().out


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.startswith("ffdist 0.")


def test_a_program_that_has_called_a_command_goes_on_while_a_stages_thread_still_runs() -> None:
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait, name="stage-0", daemon=True)
    thread.start()
    try:
        with pytest.raises(SystemExit, match="2"):
            main(["train", "--no-such-option"])
    finally:
        ended.set()
        thread.join()
