"""What a run tells of itself afterwards: `eval`, `predict`, `export` and `report` of a run with a fusion head."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from ffdist.cli import main
from ffdist.runtime.run import load_classifier

SMALL = ["--launcher", "threads", "--threads", "1", "--epochs", "3"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    main(["train", "digits", "--fusion", "--stages", "3", "--out", str(out), *SMALL])
    return out


def printed(capsys: pytest.CaptureFixture[str], *args: str | Path) -> str:
    capsys.readouterr()
    main([str(arg) for arg in args])
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *args: str | Path) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([str(arg) for arg in args])
    return capsys.readouterr().err


@pytest.mark.parametrize("predictor", ["mean", "last", "weighted", "fusion"])
def test_the_confusions_diagonal_is_the_top_1_that_training_found(
    predictor: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = json.loads(printed(capsys, "eval", run, "--confusion", "--predictor", predictor, "--json"))
    logged = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["test"]
    confusion = result.pop("confusion")
    counts = torch.tensor(confusion["counts"])
    assert result == logged
    assert int(counts.trace()) / int(counts.sum()) == logged["accuracy"][predictor]
    assert int(counts.sum()) == logged["samples"] == 360
    assert counts.sum(1).min() >= 35
    assert confusion["classes"] == [str(digit) for digit in range(10)]


def test_eval_gives_trainings_numbers_in_bf16_with_averaged_weights_and_hard_negatives_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for stages in ("1", "4"):
        out = tmp_path / stages
        main(
            [
                "train",
                "--model",
                "mlp",
                "--model-args",
                "widths=24,24,24",
                "--objective",
                "hinton",
                "--objective-args",
                "predict=linear",
                "hard=yes",
                "lag=10",
                "--fusion",
                "--precision",
                "bf16",
                "--ema",
                "0.9",
                "--stages",
                stages,
                "--out",
                str(out),
                *SMALL[:-1],
                "2",
            ]
        )
        logged = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["test"]
        assert json.loads(printed(capsys, "eval", out, "--json")) == logged
        found.append(logged)
    assert found[0] == found[1]


def test_eval_prints_both_accuracies_of_predictors_and_blocks_and_the_matrix(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, "eval", run, "--confusion")
    assert all(word in text for word in ("weighted blocks", "fusion head", "block conv3", "top-5", "Confusion"))
    bare = "no predictor 'fusion'"
    main(["train", "digits", "--out", str(run.parent / "bare"), *SMALL[:-1], "1"])
    assert bare in refused(capsys, "eval", run.parent / "bare", "--confusion", "--predictor", "fusion")
    assert "none is asked for" in refused(capsys, "eval", run, "--predictor", "last")
    assert bare in refused(capsys, "export", run.parent / "bare", "--predictor", "fusion", "--to", run / "m.pt2")
    assert "train with --fusion" in refused(capsys, "predict", run.parent / "bare", "x.png", "--predictor", "fusion")


@pytest.mark.parametrize("predictor", ["weighted", "fusion", "conv1"])
def test_predict_and_export_follow_the_predictor(
    predictor: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "picture.png"
    Image.linear_gradient("L").resize((8, 8)).save(picture)
    row = json.loads(printed(capsys, "predict", run, picture, "--predictor", predictor, "--json"))
    main(["export", str(run), "--to", str(tmp_path / "m.pt2"), "--predictor", predictor])
    program = torch.export.load(tmp_path / "m.pt2").module()
    x = torch.rand(5, 1, 8, 8)
    classifier = load_classifier(run)[0].choose(predictor)
    with torch.no_grad():
        torch.testing.assert_close(program(x), classifier(x))
    assert 0 < row["share"] <= 1


def test_a_report_tells_settings_curves_accuracies_and_stages(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "report", run, "--text")
    for word in ("finished, 3 epochs", "kernel=3", "->", "in 3", "fusion head", "waits for next"):
        assert word in text
    assert not list(run.glob("*.png"))
    assert not list(run.glob("*.html"))


def test_a_report_of_a_run_that_was_cut_off_tells_what_there_is(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "config.toml").write_text((run / "config.toml").read_text())
    assert "not at its end, 0 epochs" in printed(capsys, "report", tmp_path, "--text")
    (tmp_path / "metrics.jsonl").write_text(lines[0] + lines[1][:50])
    assert "not at its end, 1 epoch in" in printed(capsys, "report", tmp_path, "--text")
    (tmp_path / "metrics.jsonl").write_text("{]\n")
    assert "run log is not as it was written" in refused(capsys, "report", tmp_path)


def test_figures_are_drawn_where_asked_for(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "report", run, "--cam", "--figures", "--pictures", "4", "--to", tmp_path / "new")
    assert "half of the evidence" in text
    assert "of 4" in text
    for name in ("curves.png", "cam.png"):
        with Image.open(tmp_path / "new" / name) as figure:
            assert min(figure.size) > 300


def test_what_cannot_be_drawn_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["train", "--model", "mlp", "--model-args", "widths=16,16", "--out", str(tmp_path / "mlp"), *SMALL])
    assert "no block has class activation maps" in refused(capsys, "report", tmp_path / "mlp", "--cam")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "ffdist[bench]" in refused(capsys, "report", run, "--figures")
