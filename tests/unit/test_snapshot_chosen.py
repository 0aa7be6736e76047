"""The last snapshot, the best one, or that of a step: each front door reads the one that is named, or says why not."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import ffdist
from ffdist.cli import main
from ffdist.errors import ConfigError, DamagedSnapshotError, FfdistError, SnapshotError
from ffdist.runtime.run import load_classifier
from ffdist.snapshot import committed, read_manifest
from ffdist.snapshot.chosen import MARK, best_of, marked_best
from ffdist.snapshot.manifest import Manifest, commit


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs of four batches, each in a snapshot."""
    out = tmp_path_factory.mktemp("chosen") / "run"
    main(
        [
            "train",
            "--model",
            "mlp",
            "--model-args",
            "widths=24,24",
            "--samples",
            "160",
            "--epochs",
            "3",
            "--keep",
            "9",
            "--lr",
            "0.01",
            "--launcher",
            "threads",
            "--threads",
            "1",
            "--out",
            str(out),
        ]
    )
    return out


@pytest.fixture
def steps(run: Path) -> list[int]:
    return [read_manifest(folder).step for folder in committed(run)]


def weights(run: Path, snapshot: str | int) -> torch.Tensor:
    return torch.cat([p.flatten() for p in ffdist.load(run, snapshot=snapshot).parameters()])


def printed(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    capsys.readouterr()
    main([str(arg) for arg in args])
    return capsys.readouterr().out


def test_each_step_is_another_network_and_the_last_is_the_default(run: Path, steps: list[int]) -> None:
    found = [weights(run, step) for step in steps]
    assert len(found) == 3
    assert not any(torch.equal(a, b) for a, b in pairwise(found))
    assert torch.equal(found[-1], weights(run, "last"))
    assert torch.equal(weights(run, str(steps[0])), found[0])


def test_eval_measures_the_snapshot_that_is_named(
    run: Path, steps: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    data = ffdist.open_data("digits")
    for step in steps:
        text = json.loads(printed(capsys, "eval", run, "--snapshot", step, "--json"))
        assert text == ffdist.load(run, snapshot=step).evaluate(data)
    assert json.loads(printed(capsys, "eval", run, "--snapshot", steps[0], "--json")) != json.loads(
        printed(capsys, "eval", run, "--json")
    )


def test_export_and_predict_take_it(
    run: Path, steps: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["export", str(run), "--to", str(tmp_path / "first.safetensors"), "--snapshot", str(steps[0])])
    exported = torch.cat([p.flatten() for p in ffdist.load(tmp_path / "first.safetensors").parameters()])
    assert torch.equal(exported, weights(run, steps[0]))
    from PIL import Image

    Image.linear_gradient("L").resize((8, 8)).save(tmp_path / "x.png")
    shares = {
        s: json.loads(printed(capsys, "predict", run, tmp_path / "x.png", "--snapshot", s, "--json"))["top"]
        for s in (steps[0], "last")
    }
    pixels = ffdist.read_pictures([tmp_path / "x.png"], run)
    best = load_classifier(run, steps[0])[0](torch.as_tensor(pixels).float()).detach().max()
    assert shares[steps[0]][0]["score"] == pytest.approx(float(best), rel=1e-4)
    assert shares[steps[0]] != shares["last"]


def test_the_best_is_the_one_that_the_run_has_marked(run: Path, steps: list[int]) -> None:
    try:
        (run / MARK).write_text(json.dumps({"snapshot": committed(run)[1].name, "metric": "mean", "value": 0.5}))
        assert torch.equal(weights(run, "best"), weights(run, steps[1]))
        for text in ("", "[]", "{", '{"snapshot": "../../elsewhere"}', '{"snapshot": 3}', '{"snapshot": "step-9"}'):
            (run / MARK).write_text(text)
            with pytest.raises(DamagedSnapshotError, match="does not name one that is kept"):
                ffdist.load(run, snapshot="best")
    finally:
        (run / MARK).unlink()


def test_the_remedies_for_one_that_is_not_there_work(
    run: Path, steps: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    most = max(steps, key=lambda s: (load_accuracy(run, s), s))
    for value, kind in (("best", "no best snapshot"), ("1", "no snapshot of that step")):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main(["eval", str(run), "--snapshot", value])
        said = capsys.readouterr().err
        assert kind in said
        named = re.search(r"--snapshot (\d+)", said)
        assert named is not None
        assert int(named[1]) == (most if value == "best" else steps[-1])
        assert printed(capsys, "eval", run, "--snapshot", named[1])


def load_accuracy(run: Path, step: int) -> float:
    (record,) = [read_manifest(f).records[-1] for f in committed(run) if read_manifest(f).step == step]
    return record["validation"]["accuracy"]["mean"]


@pytest.mark.parametrize("value", ["Best", "", "-1", "1.0", "0x10", "9" * 30, "٣", -1, 1.0, True, None, 2**70])
def test_what_names_no_snapshot_is_refused(value: object, run: Path) -> None:
    with pytest.raises(ConfigError, match="no such choice of a snapshot"):
        ffdist.load(run, snapshot=value)  # pyright: ignore[reportArgumentType]


def test_a_run_without_a_snapshot_and_an_exported_file_say_so(run: Path, tmp_path: Path) -> None:
    for name in ("config.toml", "data.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    for value in ("last", "best", 4):
        with pytest.raises(SnapshotError, match="no snapshot yet"):
            ffdist.load(tmp_path, snapshot=value)
    main(["export", str(run), "--to", str(tmp_path / "one.safetensors")])
    with pytest.raises(FfdistError, match="holds one network"):
        ffdist.load(tmp_path / "one.safetensors", snapshot=4)


def test_of_kept_snapshots_the_most_accurate_is_one_that_ends_an_epoch(tmp_path: Path) -> None:
    """One within the next epoch has learned since, though its last record is the same."""
    validation = {"accuracy": {"mean": 0.9}, "weights": {}}
    records = [{"epoch": 1, "train": {"blocks": []}, "validation": validation}]
    for step, epoch, batch in ((4, 1, 0), (6, 1, 2)):
        folder = tmp_path / "snapshots" / f"step-{step:09d}-epoch-{epoch:05d}"
        folder.mkdir(parents=True)
        commit(tmp_path, Manifest(step, epoch, batch, [], [], records, []))
    assert len(committed(tmp_path)) == 2
    assert best_of(committed(tmp_path)) == 4
    with pytest.raises(SnapshotError, match="snapshot=4"):
        marked_best(tmp_path, committed(tmp_path))
