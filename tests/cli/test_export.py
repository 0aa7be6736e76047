"""What `ffdist export` writes, and what of it can be read back."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

import ffdist
from ffdist.cli import main
from ffdist.errors import ConfigError, DataError, SnapshotError
from ffdist.runtime.exported import write_whole

TINY = ["--launcher", "threads", "--stages", "1", "--threads", "1", "--epochs", "2", "--fusion"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    main(["train", "--out", str(out), "--model-args", "widths=8,8,8", *TINY])
    return out


@pytest.mark.parametrize("predictor", ["mean", "weighted", "fusion", "conv2"])
def test_an_exported_network_comes_back_with_its_predictor_and_names(
    predictor: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.safetensors"
    main(["export", str(run), "--to", str(path), "--predictor", predictor])
    assert "ffdist.load(" in capsys.readouterr().out
    x = torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(ffdist.load(path)(x), ffdist.load(run).choose(predictor)(x))
    loaded = ffdist.load(str(path))
    assert (loaded.predictor, loaded.classes) == (predictor, [str(k) for k in range(10)])
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
    assert json.loads(about["predictor"]) == predictor
    assert json.loads(about["network"])["model"] == "cnnb"
    assert json.loads(about["classes"]) == loaded.classes


def test_python_exports_what_the_command_does_and_refuses_what_it_refuses(run: Path, tmp_path: Path) -> None:
    main(["export", str(run), "--to", str(tmp_path / "command.safetensors"), "--predictor", "conv2"])
    said = ffdist.export(run, tmp_path / "python.safetensors", predictor="conv2")
    command, python = (tmp_path / f"{name}.safetensors" for name in ("command", "python"))
    files = [safe_open(path, framework="pt") for path in (command, python)]
    assert files[0].metadata() == files[1].metadata()
    assert all(torch.equal(*(file.get_tensor(name) for file in files)) for name in {*files[0].keys(), *files[1].keys()})
    assert (said["file"], said["bytes"], said["predictor"]) == (str(python), python.stat().st_size, "conv2")
    refused = {python: "the file exists", tmp_path / "m.onnx": "unknown form", tmp_path / "no/m.pt2": "no such"}
    for to, message in refused.items():
        with pytest.raises(ConfigError, match=message):
            ffdist.export(run, to)
    with pytest.raises(SnapshotError):
        ffdist.export(tmp_path / "nowhere", tmp_path / "m.pt2")


@pytest.mark.parametrize("name", ["m.safetensors", "m.pt2"])
def test_the_file_has_the_mode_of_any_new_file(name: str, run: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        main(["export", str(run), "--to", str(tmp_path / name)])
    finally:
        os.umask(before)
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_program_says_of_itself_what_the_weights_do(run: Path, tmp_path: Path) -> None:
    main(["export", str(run), "--to", str(tmp_path / "m.pt2"), "--predictor", "last"])
    extra = {"ffdist.json": ""}
    torch.export.load(tmp_path / "m.pt2", extra_files=extra)
    assert json.loads(json.loads(extra["ffdist.json"])["predictor"]) == "last"


def test_a_program_refuses_what_it_was_not_trained_on(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["export", str(run), "--to", str(tmp_path / "m.pt2")])
    assert "pixels in [0, 1], not normalised, float32 [B, 1, 8, 8]" in capsys.readouterr().out
    extra = {"ffdist.json": ""}
    program = torch.export.load(tmp_path / "m.pt2", extra_files=extra)
    assert json.loads(json.loads(extra["ffdist.json"])["input"]).startswith("pixels in [0, 1]")
    x = torch.rand(5, 1, 8, 8)
    loaded = ffdist.load(run)
    for module in (program.module(), program.run_decompositions().module()):
        with torch.no_grad():
            torch.testing.assert_close(module(x), loaded(x))
            assert module(x.round()[:1]).shape == (1, 10)
        for other in (x * 255, x - 0.5, x * 2, torch.full_like(x, torch.nan)):
            with pytest.raises(RuntimeError, match=r"pixels are beyond 0\.\.1: x / 255"):
                module(other)
        with pytest.raises(RuntimeError, match="dtype mismatch"):
            module((x * 255).to(torch.uint8))


def test_a_loaded_network_refuses_bytes(run: Path) -> None:
    loaded, x = ffdist.load(run), torch.rand(5, 1, 8, 8)
    for other in ((x * 255).to(torch.uint8), (x * 255).to(torch.uint8).float(), x > 0.5):
        with pytest.raises(DataError, match=r"expected: pixels in \[0, 1\](.|\n)*classifier\.predict"):
            loaded(other)
    assert torch.equal(loaded.predict((x * 255).to(torch.uint8)), loaded((x * 255).to(torch.uint8) / 255).argmax(1))


def test_a_program_of_floats_takes_any_range_and_says_which_it_was(tmp_path: Path) -> None:
    x, y = torch.rand(40, 6) * 500 - 100, torch.arange(40) % 2
    network = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8))
    ffdist.Pipeline(network, "local-ce").fit((x, y), epochs=1, batch_size=8, out=tmp_path / "run", progress=False)
    about = ffdist.load(tmp_path / "run", network, "local-ce")
    assert about(x).shape == (40, 2)
    with pytest.raises(DataError, match=r"expected: floats as in training"):
        about(x.long())


def test_where_it_cannot_be_written_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="cannot be written"):
        write_whole(tmp_path / "m.pt2", b"x" * 100)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_export_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(SnapshotError, match="not an exported network"):
        ffdist.load(tmp_path / "x.safetensors")
    with pytest.raises(SnapshotError, match="there is no run here"):
        ffdist.load(tmp_path)


def test_a_users_own_network_is_given_and_never_imported_because_a_file_names_it(tmp_path: Path) -> None:
    (tmp_path / "net_of_export.py").write_text(
        "from torch import nn\n\n\ndef build(shape, classes):\n"
        "    return nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(64, 8)), nn.Linear(8, 8))\n"
    )
    run, path = tmp_path / "run", tmp_path / "m.safetensors"
    main(["train", "--out", str(run), "--model", f"{tmp_path}/net_of_export.py:build", *TINY])
    main(["export", str(run), "--to", str(path)])
    with pytest.raises(ConfigError, match="user's own"):
        ffdist.load(path)
    net = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(64, 8)), nn.Linear(8, 8))
    x = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(ffdist.load(path, net)(x), ffdist.load(run)(x))
