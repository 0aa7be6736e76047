"""From a name or a source to a data set in one step, by the cache."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import json
import multiprocessing
import os
import shutil
import struct
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from ffdist.data import Images, list_cache, open_data, prune_cache
from ffdist.data.places import CACHE, MIRROR
from ffdist.data.sources import KNOWN
from ffdist.errors import ConfigError, DataError
from ffdist.known import DATA_SETS
from ffdist.runtime.opened import open_dataset
from ffdist.settings import DatasetSettings

DRAWS = np.random.default_rng(0)
GREY = DRAWS.integers(0, 256, (52, 28, 28), np.uint8)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def tree(root: Path, side: int = 8, count: int = 10) -> Path:
    for label, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for row in range(count):
            Image.fromarray(GREY[label * count + row, :side, :side]).save(root / name / f"{row}.png")
    return root


def prepared(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "prepared").iterdir() if path.name != "index")


def long_ago(root: Path) -> None:
    """Wait until a change must show in the times of files."""
    while time.time_ns() < max(path.stat().st_ctime_ns for path in root.rglob("*")) + 2.2e9:
        time.sleep(0.1)


def test_a_folder_is_prepared_once_and_anew_when_its_content_changes(
    tmp_path: Path, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = tree(tmp_path / "pets")
    first = open_data("pets")
    assert first.source == str(source)
    assert "preparing pets (20 files" in capfd.readouterr().err
    assert open_data(source).digest == first.digest
    assert len(prepared(cache)) == 1
    before = (source / "cat" / "0.png").stat()
    Image.fromarray(GREY[40, :8, :8]).save(source / "cat" / "0.png")
    os.utime(source / "cat" / "0.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    changed = open_data("pets")
    assert changed.digest != first.digest
    assert "pets has changed since it was prepared before" in capfd.readouterr().err
    assert len(prepared(cache)) == 2


def test_an_unchanged_folder_is_not_read_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = tree(tmp_path / "pets")
    long_ago(source)
    digest = open_data("pets").digest
    capfd.readouterr()
    assert open_data("pets").digest == digest
    assert "pets, unchanged since it was prepared" in capfd.readouterr().err


def test_the_same_content_at_another_place_is_not_prepared_twice(tmp_path: Path, cache: Path) -> None:
    source = tree(tmp_path / "pets")
    digest = open_data("pets").digest
    shutil.copytree(source, tmp_path / "moved" / "pets")
    assert open_data("moved/pets").digest == digest
    assert len(prepared(cache)) == 1


def test_what_is_damaged_in_the_cache_is_prepared_anew(tmp_path: Path, cache: Path) -> None:
    tree(tmp_path / "pets")
    digest = open_data("pets").digest
    (folder,) = prepared(cache)
    (cache / "prepared" / folder / "train-00000.arrow").write_bytes(b"short")
    assert open_data("pets").digest == digest


def test_a_refused_source_leaves_nothing_in_the_cache(tmp_path: Path, cache: Path) -> None:
    tree(tmp_path / "pets")
    (tmp_path / "pets" / "cat" / "x.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="a picture cannot be read"):
        open_data("pets")
    assert prepared(cache) == []


def opened_at_once(start: object, done: object, name: str) -> None:
    start.wait()  # type: ignore[attr-defined]
    done.put(open_data(name).digest)  # type: ignore[attr-defined]


def test_processes_that_ask_at_once_prepare_once(
    tmp_path: Path, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tree(tmp_path / "pets", count=20)
    spawn = multiprocessing.get_context("spawn")
    start, done = spawn.Event(), spawn.Queue()
    processes = [spawn.Process(target=opened_at_once, args=(start, done, "pets")) for _ in range(2)]
    for process in processes:
        process.start()
    start.set()
    digests = {done.get(timeout=120) for _ in processes}
    for process in processes:
        process.join(60)
    assert len(digests) == 1
    assert len(prepared(cache)) == 1
    assert capfd.readouterr().err.count("preparing pets (") == 1


def test_how_a_source_is_prepared_is_noted_and_remedies_say_how(tmp_path: Path) -> None:
    tree(tmp_path / "pets")
    Image.fromarray(GREY[:3].transpose(1, 2, 0)).save(tmp_path / "pets" / "cat" / "colour.png")
    options = DatasetSettings(data="pets")
    with pytest.raises(DataError) as refused:
        open_dataset(options)
    assert "dataset.image_size=64" in str(refused.value)
    assert 'dataset.data_args=dict(mode="rgb")' in str(refused.value)
    images = open_dataset(DatasetSettings(data="pets", image_size=6, data_args=("mode=rgb", "test_fraction=0.5")))
    assert images.shape == (3, 6, 6)
    assert images.test is not None
    assert len(images.test) == 10
    assert open_data("pets", 6, mode="rgb", test_fraction=0.5).digest == images.digest
    with pytest.raises(ConfigError, match="unknown option 'mod'"):
        open_dataset(DatasetSettings(data="pets", data_args=("mod=rgb",)))
    with pytest.raises(ConfigError, match="a prepared data set cannot"):
        open_dataset(DatasetSettings(data="digits", data_args=("mode=rgb",)))


def test_a_cache_that_cannot_be_written_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path / "pets")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE, str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match=rf"the cache for data cannot be written\n(.*\n)*  remedy: set {CACHE}"):
        open_data("pets")


def test_a_cache_within_the_source_is_refused_and_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tree(tmp_path / "pets")
    monkeypatch.setenv(CACHE, str(source / "cache"))
    with pytest.raises(ConfigError, match="the cache for data would lie in the source"):
        open_data("pets")
    assert not (source / "cache").exists()


def test_a_filled_cache_needs_no_right_to_write(tmp_path: Path, cache: Path) -> None:
    source = tree(tmp_path / "pets")
    long_ago(source)
    digest = open_data("pets").digest
    for lock in cache.rglob("*.lock"):
        lock.unlink()
        lock.mkdir()  # what not even root opens for writing
    assert open_data("pets").digest == digest


# Known data sets, fetched from a server that has made files.


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that a web server serves, which is the only mirror."""
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / "served").mkdir()
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv(MIRROR, f"http://127.0.0.1:{running.server_port}")
        yield tmp_path / "served"
        running.shutdown()
        thread.join()


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">i{array.ndim}i", 0x800 + array.ndim, *array.shape) + array.tobytes()


def put(folder: Path, name: str, data: bytes) -> tuple[str, str]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return name, md5(data)


def pixels(images: Images) -> np.ndarray:
    return images.train.take(np.arange(len(images.train)))


def test_kmnist_is_fetched_and_prepared_on_first_use(
    cache: Path, server: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    files = []
    for stem, rows in (("train", 30), ("t10k", 20)):
        labels = (np.arange(rows) % 10).astype(np.uint8)
        for name, array in (("images-idx3", GREY[:rows]), ("labels-idx1", labels)):
            files.append(put(server / "kmnist", f"{stem}-{name}-ubyte.gz", gzip.compress(idx(array))))
    monkeypatch.setattr("torchvision.datasets.KMNIST.resources", files)
    images = open_data("KMNIST")
    assert f"into {cache}" in capfd.readouterr().err
    assert (images.source, images.classes[:3], images.shape) == ("kmnist", ["o", "ki", "su"], (1, 28, 28))
    assert np.array_equal(pixels(images)[..., 0], GREY[:30])
    shutil.rmtree(server / "kmnist")
    shutil.rmtree(cache / "KMNIST")
    assert open_data("kmnist").digest == images.digest  # neither the files nor the server are needed again


@pytest.mark.parametrize(("split", "classes", "first"), [("letters", 26, 1), ("balanced", 47, 0), ("digits", 10, 0)])
def test_emnist_is_upright_and_counts_its_classes_from_zero(
    server: Path, monkeypatch: pytest.MonkeyPatch, split: str, classes: int, first: int
) -> None:
    packed = io.BytesIO()
    labels = (np.arange(52) % classes + first).astype(np.uint8)
    with zipfile.ZipFile(packed, "w") as archive:
        for part in ("train", "test"):
            for name, array in (("images-idx3", GREY.transpose(0, 2, 1)), ("labels-idx1", labels)):
                archive.writestr(f"gzip/emnist-{split}-{part}-{name}-ubyte.gz", gzip.compress(idx(array)))
    monkeypatch.setattr(
        "torchvision.datasets.EMNIST.md5", put(server / f"emnist-{split}", "gzip.zip", packed.getvalue())[1]
    )
    images = open_data(f"emnist-{split}")
    assert np.array_equal(pixels(images)[..., 0], GREY)
    assert np.array_equal(images.train.labels, labels - first)
    assert images.num_classes == classes
    if split != "digits":
        assert images.classes[:2] == (["a", "b"] if split == "letters" else ["0", "1"])
        assert images.classes[-1] == ("z" if split == "letters" else "t")


def test_svhn_keeps_zero_as_class_zero(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = DRAWS.integers(0, 256, (32, 32, 3, 20), np.uint8)
    labels = (np.arange(20) % 10 + 1).astype(np.uint8)
    listed = {}
    for split in ("train", "test"):
        file = io.BytesIO()
        savemat(file, {"X": pictures, "y": labels[:, None]}, do_compression=True)
        name, digest = put(server / "svhn", f"{split}_32x32.mat", file.getvalue())
        listed[split] = ["", name, digest]
    monkeypatch.setattr("torchvision.datasets.SVHN.split_list", listed)
    images = open_data("svhn")
    assert np.array_equal(pixels(images), pictures.transpose(3, 0, 1, 2))
    assert images.train.labels.tolist() == (labels % 10).tolist()
    assert (images.classes, images.shape) == ([str(digit) for digit in range(10)], (3, 32, 32))


def test_stl10_is_upright(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures_nhwc = DRAWS.integers(0, 256, (10, 96, 96, 3), np.uint8)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, data in (
            *((f"{split}_X.bin", pictures_nhwc.transpose(0, 3, 2, 1).tobytes()) for split in ("train", "test")),
            *((f"{split}_y.bin", np.arange(1, 11, dtype=np.uint8).tobytes()) for split in ("train", "test")),
        ):
            member = tarfile.TarInfo(f"stl10_binary/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    name, digest = put(server / "stl10", "stl10_binary.tar.gz", packed.getvalue())
    monkeypatch.setattr("torchvision.datasets.STL10.filename", name)
    monkeypatch.setattr("torchvision.datasets.STL10.tgz_md5", digest)
    images = open_data("stl10")
    assert np.array_equal(pixels(images), pictures_nhwc)
    assert images.train.labels.tolist() == list(range(10))
    assert images.classes[0] == "airplane"


def test_without_network_the_error_names_the_file_the_place_and_what_else_helps(
    cache: Path, monkeypatch: pytest.MonkeyPatch, server: Path
) -> None:
    with pytest.raises(DataError) as refused:
        open_data("cifar10")  # the server has none
    assert "404" in str(refused.value)
    from torchvision.datasets import CIFAR10

    assert f"put cifar-10-python.tar.gz (md5 {CIFAR10.tgz_md5}) from elsewhere into {cache}" in str(refused.value)
    assert not [path for path in cache.rglob("*") if "cifar" in path.name and path.suffix != ".lock"]
    with pytest.raises(DataError, match="cifar10 is not there"):
        open_data("cifar10", download=False)


def test_a_file_that_was_put_into_the_cache_by_hand_is_not_fetched(
    cache: Path, server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.BytesIO()
    savemat(file, {"X": DRAWS.integers(0, 256, (32, 32, 3, 20), np.uint8), "y": np.arange(20)[:, None] % 10 + 1})
    listed = {}
    for split in ("train", "test"):
        name, digest = put(cache, f"{split}_32x32.mat", file.getvalue())
        listed[split] = ["", name, digest]
    monkeypatch.setattr("torchvision.datasets.SVHN.split_list", listed)
    assert len(open_data("svhn").train) == 20


def test_torchvisions_root_is_taken_as_it_is(tmp_path: Path, cache: Path) -> None:
    root = tmp_path / "root"
    for stem, rows in (("train", 30), ("t10k", 20)):
        put(root / "MNIST" / "raw", f"{stem}-images-idx3-ubyte", idx(GREY[:rows]))
        put(root / "MNIST" / "raw", f"{stem}-labels-idx1-ubyte", idx((np.arange(rows) % 10).astype(np.uint8)))
    images = open_dataset(DatasetSettings(data="mnist", data_root=Path("root")))
    assert np.array_equal(pixels(images)[..., 0], GREY[:30])
    assert not (cache / "MNIST").exists()


def test_what_is_prepared_says_its_counts_shares_and_duplicates(tmp_path: Path, cache: Path) -> None:
    from ffdist.data import describe

    source = tree(tmp_path / "pets")
    shutil.copyfile(source / "cat" / "0.png", source / "cat" / "again.png")
    images = open_data("pets", test_fraction=0.5, validation_fraction=0.2)
    assert {name: len(split) for name, split in images.splits.items()} == {"train": 7, "validation": 4, "test": 10}
    (folder,) = prepared(cache)
    described = describe(cache / "prepared" / folder)
    assert described["held_out"] == {"test_fraction": 0.5, "seed": 0, "validation_fraction": 0.2, "groups": None}
    assert sum(described["splits"]["train"]["by_class"]) == 7
    assert sum(described["duplicates"].values()) == 1
    assert json.dumps(described)


def test_the_names_that_the_command_line_knows_are_those_that_there_are() -> None:
    assert set(DATA_SETS) == set(KNOWN)


def test_the_cache_is_listed_and_what_is_removed_is_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tree(tmp_path / "pets")
    digest = open_data(source).digest
    assert "the cache holds 1 prepared data set," in capsys.readouterr().err
    (tmp_path / "cache" / "mine").mkdir()
    prepared, own = list_cache()
    assert (prepared.kind, own.kind, own.name) == ("prepared", "download", "mine")
    assert prepared.bytes == sum(file.stat().st_size for file in prepared.folder.iterdir()) > 0
    assert not prune_cache(unused_days=1)
    with pytest.raises(ConfigError, match="nothing of that name"):
        prune_cache(["pets"])
    os.utime(prepared.folder, (0, 0))
    open_data(source)
    assert not prune_cache(unused_days=1), "it was used just now"
    assert [each.name for each in prune_cache(unused_days=0)] == [prepared.name]
    assert [each.name for each in list_cache()] == ["mine"]
    assert open_data(source).digest == digest
    assert {each.name for each in prune_cache(["mine", prepared.name])} == {"mine", prepared.name}
