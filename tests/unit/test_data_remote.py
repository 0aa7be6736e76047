"""Prepared folders behind fsspec: the same data as here, put whole or not at all."""

from __future__ import annotations

import json
import pickle
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ffdist.data import Loader, open_data, parts, prepare, remote_pixels, shard_files, verify
from ffdist.data.images import Images
from ffdist.data.manifest import MANIFEST, read_manifest
from ffdist.errors import ConfigError, DataError
from ffdist.remote import RemoteFolder, url_of

STORES = ("pixels", "encoded")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    draws = np.random.default_rng(0)
    for place in range(48):
        folder = root / ("test" if place % 4 == 0 else "train") / f"class-{place % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (12, 12, 3), np.uint8)).save(folder / f"{place}.png")
    return root


@pytest.fixture(params=["memory", "file"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RemoteFolder]:
    """A folder that is not there yet, in each file system of fsspec's that needs no other package."""
    name = uuid.uuid4().hex
    made = RemoteFolder(f"memory://{name}/data" if request.param == "memory" else f"file://{tmp_path}/remote/data")
    yield made
    made.remove_all()


@pytest.mark.parametrize("store", STORES)
def test_a_remote_folder_holds_the_data_of_one_here(tree: Path, tmp_path: Path, remote: RemoteFolder, store) -> None:
    here = open_data(prepare(tree, tmp_path / "here", mode="rgb", store=store))
    assert prepare(tree, remote.url, mode="rgb", store=store) == remote.url
    there = open_data(remote.url)
    assert there.digest == here.digest
    batches = [
        [*Loader(of, of.train, np.arange(len(of.train)), batch_size=8, seed=1, train=True, workers=2).epoch(0)]
        for of in (here, there)
    ]
    assert all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(*batches, strict=True))
    assert verify(remote) == verify(tmp_path / "here")


@pytest.mark.parametrize("store", STORES)
def test_opening_a_remote_folder_fetches_no_picture(tree: Path, remote: RemoteFolder, store, monkeypatch) -> None:
    prepare(tree, remote.url, mode="rgb", store=store)
    asked: list[int] = []
    monkeypatch.setattr(RemoteFolder, "ranges", lambda *_: asked.append(1))
    monkeypatch.setattr(remote_pixels.RemoteSplit, "pixels", lambda *_: asked.append(1))
    assert len(open_data(remote.url).train) == 36
    assert not asked


def test_nothing_remote_is_overwritten_and_a_killed_upload_makes_room(tree: Path, remote: RemoteFolder) -> None:
    remote.write("train-00000.arrow", b"of an upload that was killed")
    prepare(tree, remote.url)
    before = {name: remote.read(name) for name in remote.list_files()}
    with pytest.raises(DataError, match="the folder exists, and nothing is overwritten"):
        prepare(tree, remote.url)
    assert {name: remote.read(name) for name in remote.list_files()} == before


def test_an_upload_that_fails_leaves_nothing_behind(
    tree: Path, remote: RemoteFolder, monkeypatch, tmp_path: Path
) -> None:
    put = RemoteFolder.put

    def failing(self: RemoteFolder, name: str, file: Path) -> None:
        if name == "train-00000.arrow":
            raise OSError("the network is down")
        put(self, name, file)

    monkeypatch.setattr(RemoteFolder, "put", failing)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "t"))
    (tmp_path / "t").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    with pytest.raises(DataError, match=r"the folder cannot be written\n  where: .*\n  got: the network is down"):
        prepare(tree, remote.url)
    assert not remote.list_files()
    assert not [*(tmp_path / "t").iterdir()]


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("harm", ["cut", "written", "gone"])
def test_a_remote_shard_that_changes_while_it_is_read_is_one_error(
    tree: Path, remote: RemoteFolder, store, harm: str, monkeypatch
) -> None:
    monkeypatch.setattr(parts, "CHECK_SECONDS", 0)
    prepare(tree, remote.url, mode="rgb", store=store)
    split = open_data(remote.url).train
    name = "train-00000.arrow"
    data = remote.read(name)
    if harm == "gone":
        remote.remove(name)
    else:
        remote.write(name, data[:700] if harm == "cut" else bytes(len(data)))
    with pytest.raises(DataError, match=r"changed while it was read|cannot be read any more") as raised:
        split.take(np.arange(20))
    assert "data" in str(raised.value)


@pytest.mark.parametrize("store", STORES)
def test_a_sample_that_is_not_what_was_written_is_named_and_not_learned_from(
    tree: Path, remote: RemoteFolder, store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One changed bit, in a part of a shard that is fetched alone: no file is looked at again, and no size differs."""
    monkeypatch.setattr(remote_pixels, "GAP", 1)
    prepare(tree, remote.url, mode="rgb", store=store)
    split = open_data(remote.url).train
    rows = np.array([3, 20])
    whole = split.take(rows)
    file = read_manifest(remote).splits["train"].files[0].file
    data = bytearray(remote.read(file))
    one = whole[1].tobytes() if store == "pixels" else split.encoded(rows)[1]  # type: ignore[attr-defined]
    data[bytes(data).index(one) + len(one) // 2] ^= 1
    remote.write(file, bytes(data))
    fresh = pickle.loads(pickle.dumps(split))
    assert np.array_equal(fresh.take(rows[:1]), whole[:1])
    with pytest.raises(DataError, match=rf"not what was written\n  where: .*{file}, row 20\n"):
        fresh.take(rows)


def test_a_folder_written_without_digests_is_read_which_is_noted(
    tree: Path, remote: RemoteFolder, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(remote_pixels, "GAP", 1)
    for store in STORES:
        there = remote / store
        prepare(tree, there.url, mode="rgb", store=store)
        whole = open_data(there.url).train.take(np.arange(36))
        assert "without digests" not in capsys.readouterr().err
        manifest = json.loads(there.read(MANIFEST))
        del manifest["digest"]  # as in a folder of an older version
        for of in manifest["splits"].values():
            there.remove(of.pop("digests")["file"])
        there.write(MANIFEST, json.dumps(manifest).encode())
        images = open_data(there.url)
        assert capsys.readouterr().err.count("prepared without digests") == 1
        assert np.array_equal(images.train.take(np.array([7, 9])), whole[[7, 9]])


def test_what_is_not_there_is_named_by_its_address(remote: RemoteFolder) -> None:
    with pytest.raises(DataError, match=f"not a prepared data set\n  where: {remote.url}"):
        open_data(remote.url)
    with pytest.raises(ConfigError, match="addresses of nosuch:// cannot be opened"):
        open_data("nosuch://bucket/data")
    with pytest.raises(DataError, match="from folders and files of this machine"):
        prepare(remote.url, "out")


def small_shards(monkeypatch: pytest.MonkeyPatch, bytes: int = 3000) -> None:
    writer = shard_files.ShardWriter.__init__
    monkeypatch.setattr(
        shard_files.ShardWriter, "__init__", lambda self, *args, **more: writer(self, *args, **more, shard_bytes=bytes)
    )


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Every file, or part of one, of pixels that is fetched: its name, and how many bytes."""
    seen: list[tuple[str, int]] = []
    read, ranges = RemoteFolder.read, RemoteFolder.ranges

    def reading(self: RemoteFolder, name: str) -> bytes:
        data = read(self, name)
        if name.endswith(".arrow"):
            seen.append((name, len(data)))
        return data

    def ranging(self: RemoteFolder, wanted: Sequence[tuple[str, int, int]]) -> list[bytes]:
        seen.extend((name, length) for name, _, length in wanted)
        return ranges(self, wanted)

    monkeypatch.setattr(RemoteFolder, "read", reading)
    monkeypatch.setattr(RemoteFolder, "ranges", ranging)
    return seen


PIXELS = 12 * 12 * 3


def test_of_remote_pixels_only_the_samples_of_a_loader_are_fetched_each_once(
    tree: Path, tmp_path: Path, remote: RemoteFolder, monkeypatch: pytest.MonkeyPatch, fetched: list[tuple[str, int]]
) -> None:
    small_shards(monkeypatch, 12 * PIXELS)
    here = open_data(prepare(tree, tmp_path / "here", mode="rgb"))
    prepare(tree, remote.url, mode="rgb")
    monkeypatch.setattr(remote_pixels, "GAP", PIXELS)
    there = open_data(remote.url)
    rows = np.array([1, 2, 9, 14])  # of three shards of twelve

    def batches(images: Images, rows: np.ndarray, **options: Any) -> list[torch.Tensor]:
        loader = Loader(images, images.train, rows, batch_size=2, seed=1, train=True, **options)
        return [x for epoch in range(2) for x, _ in loader.epoch(epoch)]

    assert all(map(torch.equal, batches(here, rows), batches(there, rows)))
    pixels = [(name, size) for name, size in fetched if size % PIXELS == 0]
    assert sorted(pixels) == [
        ("train-00000.arrow", PIXELS),
        ("train-00000.arrow", 2 * PIXELS),
        ("train-00001.arrow", PIXELS),
    ]
    fetched.clear()
    every = np.arange(36)
    assert all(map(torch.equal, batches(here, every), batches(there, every)))
    assert {*fetched} == {(of.file, of.bytes) for of in read_manifest(remote).splits["train"].files}
    assert len(fetched) == 3, "most of a shard is fetched as a whole, and stays"


def test_hosts_that_share_batches_fetch_their_own_samples_of_an_epoch(
    tree: Path, remote: RemoteFolder, monkeypatch: pytest.MonkeyPatch, fetched: list[tuple[str, int]]
) -> None:
    prepare(tree, remote.url, mode="rgb")
    monkeypatch.setattr(remote_pixels, "GAP", PIXELS)
    whole = open_data(remote.url)
    batch = next(Loader(whole, whole.train, np.arange(36), batch_size=12, seed=1, train=True).epoch(0))[0]
    parts = []
    for host in range(6):
        fetched.clear()
        own = open_data(remote.url)
        of = Loader(own, own.train, np.arange(36), batch_size=12, seed=1, train=True, shard=(host, 6))
        parts.append(next(x for x, _ in of.epoch(0)))
        assert 6 <= sum(size for _, size in fetched if size % PIXELS == 0) / PIXELS <= 12
    assert torch.equal(torch.cat(parts), batch)


def test_pixels_that_do_not_fit_into_memory_are_mixed_few_shards_at_a_time(
    tree: Path, remote: RemoteFolder, monkeypatch
) -> None:
    small_shards(monkeypatch)
    prepare(tree, remote.url, mode="rgb")
    monkeypatch.setattr(remote_pixels, "HELD", 9000)
    images = open_data(remote.url)
    rows = np.arange(len(images.train))
    with pytest.raises(ConfigError, match="cannot be mixed all at once"):
        Loader(images, images.train, rows, batch_size=4, seed=0, train=True)
    made = Loader(images, images.train, rows, batch_size=4, seed=0, train=True, shuffle_shards=2)
    held = []
    for _ in made.epoch(0):
        assert isinstance(made.split, remote_pixels.RemoteSplit)
        held.append(sum(of.pixels.nbytes for of in made.split.held.values()))
    assert max(held) <= 9000


@pytest.mark.parametrize(
    ("place", "url"),
    [
        ("s3://bucket/data", "s3://bucket/data"),
        (Path("s3://bucket/data"), "s3://bucket/data"),
        (Path("file:///tmp/x"), "file:///tmp/x"),
        ("memory://a/b/", "memory://a/b"),
        ("data/cifar10", None),
        ("package.module:Class", None),
        ("c:/data", None),
        (3, None),
    ],
)
def test_an_address_is_known_from_a_folder(place: object, url: str | None) -> None:
    assert url_of(place) == url
