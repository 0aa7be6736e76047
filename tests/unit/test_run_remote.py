"""Runs behind an address of fsspec's: trained, killed, gone on with and read as those of a folder."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import ffdist
from ffdist.cli import main
from ffdist.errors import ConfigError, SnapshotError
from ffdist.remote import RemoteFolder
from ffdist.snapshot import committed, pulled
from ffdist.snapshot.mirror import HOLDER, MANIFEST, committed_at, mirror_of


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FFDIST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=["memory", "file"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RemoteFolder]:
    name = uuid.uuid4().hex
    made = RemoteFolder(f"memory://{name}/run" if request.param == "memory" else f"file://{tmp_path}/remote/run")
    yield made
    made.remove_all()


def trained(out: object, **options) -> ffdist.Pipeline:
    network = ffdist.models.load_model("mlp", (1, 8, 8), 10, {"widths": "16,16"})
    pipeline = ffdist.Pipeline(network, "sff", batch_size=64, samples=200, **{"epochs": 2, **options})
    pipeline.fit("digits", out=out, progress=False)
    return pipeline


def weights(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in committed(run)[-1].glob("*.safetensors")}


def test_a_run_at_an_address_has_the_files_of_one_in_a_folder(remote: RemoteFolder, tmp_path: Path) -> None:
    trained(remote.url)
    trained(tmp_path / "here")
    assert committed_at(remote) == [folder.name for folder in committed(tmp_path / "here")]
    newest = remote / "snapshots" / committed_at(remote)[-1]
    there = {name: newest.read(name) for name in newest.list_files() if name.endswith(".safetensors")}
    assert there == weights(tmp_path / "here")
    assert {"config.toml", "data.json", "metrics.jsonl"} <= {*remote.list_files()}
    assert not [name for name in newest.list_files() if name.startswith(".")]


def failing_after(files: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network goes after so many files of snapshots."""
    put, count = RemoteFolder.put, [0]

    def failing(self: RemoteFolder, name: str, file: Path) -> None:
        count[0] += name.startswith("snapshots/")
        if name.startswith("snapshots/") and count[0] > files:
            raise OSError("the network is down")
        put(self, name, file)

    monkeypatch.setattr(RemoteFolder, "put", failing)


def test_a_run_at_an_address_goes_on_from_another_machine_to_the_same_bits(
    remote: RemoteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(tmp_path / "whole", epochs=3)
    with monkeypatch.context() as down:
        failing_after(5, down)
        with pytest.raises(SnapshotError):
            trained(remote.url, epochs=3)
    monkeypatch.setenv("FFDIST_CACHE", str(tmp_path / "another"))
    ffdist.Pipeline.resume(remote.url, progress=False)
    assert weights(mirror_of(remote.url)) == weights(tmp_path / "whole")
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(ffdist.load(remote.url).predict(x), whole.predict(x))


def test_the_command_line_trains_reads_and_goes_on_at_an_address(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"file://{tmp_path}/store/run"
    flags = [
        "--model",
        "mlp",
        "--model-args",
        "widths=16",
        "--samples",
        "200",
        "--launcher",
        "threads",
        "--epochs",
        "1",
    ]
    main(["train", *flags, "--out", url])
    shown = capsys.readouterr().out
    assert f"run folder: {url}" in shown
    main(["eval", url, "--json"])
    first = json.loads(capsys.readouterr().out)
    main(["train", "--resume", url, "--epochs", "2"])
    capsys.readouterr()
    main(["eval", url, "--json"])
    assert json.loads(capsys.readouterr().out) != first
    with pytest.raises(SystemExit):
        main(["train", *flags, "--out", url])
    assert "already holds a run" in capsys.readouterr().err


def test_a_manifest_is_put_when_all_files_of_its_snapshot_are_there(
    remote: RemoteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    put = RemoteFolder.put

    def noting(self: RemoteFolder, name: str, file: Path) -> None:
        put(self, name, file)
        order.append(name)

    monkeypatch.setattr(RemoteFolder, "put", noting)
    trained(remote.url, epochs=1)
    snapshot = [name for name in order if name.startswith("snapshots/")]
    assert [Path(name).name == MANIFEST for name in snapshot] == [False] * (len(snapshot) - 1) + [True]


def test_a_network_that_fails_leaves_the_last_snapshot_whole(
    remote: RemoteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as down:
        failing_after(5, down)  # a whole snapshot of two blocks and a manifest, and two blocks of the next
        with pytest.raises(SnapshotError, match=r"an address cannot be read or written\n.*\n  got: the network is"):
            trained(remote.url, epochs=4)
    assert len(committed_at(remote)) == 1
    assert len(committed(pulled(remote.url))) == 1


def test_of_two_runs_at_one_address_the_later_one_stays(remote: RemoteFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    put = RemoteFolder.put

    def taken(self: RemoteFolder, name: str, file: Path) -> None:
        put(self, name, file)
        if name.endswith(MANIFEST):  # another begins there after our first commit
            self.write(HOLDER, b'{"token": "another"}')

    monkeypatch.setattr(RemoteFolder, "put", taken)
    with pytest.raises(SnapshotError, match="another run has taken the address"):
        trained(remote.url, epochs=3)
    assert len(committed_at(remote)) == 1


def test_nothing_at_an_address_is_overwritten_and_what_is_refused_leaves_nothing(remote: RemoteFolder) -> None:
    trained(remote.url, epochs=1)
    before = {*remote.list_files()}
    with pytest.raises(ConfigError, match=f"already holds a run\n  where: {remote.url}"):
        trained(remote.url, epochs=1)
    assert {*remote.list_files()} == before


def test_a_snapshot_that_is_damaged_at_an_address_is_noted_and_the_one_before_taken(
    remote: RemoteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(remote.url, epochs=2)
    last = remote / "snapshots" / committed_at(remote)[-1]
    name = next(name for name in last.list_files() if name.endswith(".safetensors"))
    last.write(name, b"damaged")
    monkeypatch.setenv("FFDIST_CACHE", str(tmp_path / "another"))
    ffdist.Pipeline.resume(remote.url, epochs=3, progress=False)
    assert "a snapshot is not whole" in capsys.readouterr().err
    assert isinstance(ffdist.load(remote.url).predict(torch.rand(1, 1, 8, 8)), torch.Tensor)


def test_an_address_without_a_run_is_one_error(remote: RemoteFolder) -> None:
    with pytest.raises(SnapshotError, match="there is no run here"):
        ffdist.load(remote.url)
