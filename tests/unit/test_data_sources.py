from __future__ import annotations

import functools
import gzip
import hashlib
import io
import pickle
import struct
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from ffdist.data import open_data, prepare
from ffdist.errors import DataError

DRAWS = np.random.default_rng(0)
GREY = DRAWS.integers(0, 256, (12, 28, 28), np.uint8)
PLANES = DRAWS.integers(0, 256, (8, 3072), np.uint8)
LABELS = (np.arange(12) % 10).astype(np.uint8)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">i{array.ndim}i", 0x800 + array.ndim, *array.shape) + array.tobytes()


def write_idx(root: Path, kind: str = "MNIST", packed: bool = False) -> Path:
    """Twelve training and six test pictures as torchvision keeps them; packed: as they are downloaded."""
    folder = root / kind / "raw" if kind else root
    folder.mkdir(parents=True)
    for stem, rows in (("train", 12), ("t10k", 6)):
        for name, data in (("images-idx3-ubyte", GREY[:rows]), ("labels-idx1-ubyte", LABELS[:rows])):
            content = gzip.compress(idx(data)) if packed else idx(data)
            (folder / f"{stem}-{name}{'.gz' if packed else ''}").write_bytes(content)
    return folder


@pytest.mark.parametrize(("name", "kind"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_become_the_same_pictures(tmp_path: Path, name: str, kind: str, packed: bool) -> None:
    write_idx(tmp_path, kind, packed)
    images = open_data(prepare(name, tmp_path / "out", from_dir=tmp_path))
    assert (images.name, images.shape, images.num_classes) == (name, (1, 28, 28), 10)
    assert np.array_equal(images.train.take(np.arange(12))[..., 0], GREY)
    assert np.array_equal(images.train.labels, LABELS)
    assert images.test is not None
    assert np.array_equal(images.test.take(np.arange(6))[..., 0], GREY[:6])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train-images-idx3-ubyte", idx(GREY)[:-1], r"ubyte, row 11\n  expected: 9,408 bytes.*\n  got: 9,407 bytes"),
        ("train-images-idx3-ubyte", idx(GREY) + b"0", r"expected: 9,408 bytes, of 12 x 28 x 28\n  got: more"),
        (
            "t10k-labels-idx1-ubyte",
            b"\0\0\x08\x01\xee\x6b\x28\0" + bytes(9),
            r"ubyte, row 9\n  expected: 4,000,000,000",
        ),
        ("train-images-idx3-ubyte", idx(GREY[:5]), r"expected: 12 pictures\n  got: 5"),
        ("t10k-labels-idx1-ubyte", idx(GREY), "magic number 0x803, not 0x801"),
        ("t10k-labels-idx1-ubyte", b"", r"cannot be read\n  where: .*t10k-labels-idx1-ubyte"),
        ("train-labels-idx1-ubyte", idx(LABELS + 1), r"train labels, row 9\n  expected: 0\.\.9\n  got: 10"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path: Path, file: str, content: bytes, message: str) -> None:
    (write_idx(tmp_path) / file).write_bytes(content)
    with pytest.raises(DataError, match=message):
        prepare("mnist", tmp_path / "out", from_dir=tmp_path)


class Python2Pickler(pickle._Pickler):
    """Writes byte strings and NumPy's old name, as Python 2 wrote the official files."""

    def save_bytes(self, data: bytes) -> None:
        self.write(b"T" + struct.pack("<I", len(data)) + data)

    dispatch = pickle._Pickler.dispatch | {bytes: save_bytes}


def official(fields: object) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, 2).dump(fields)
    return buffer.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def publish(monkeypatch: pytest.MonkeyPatch, kind: type, folder: Path, files: dict[str, dict[str, bytes]]) -> None:
    """Write official CIFAR files (of "train", "test" and "meta", by name), and let torchvision publish their md5."""
    folder.mkdir()
    md5 = {}
    for name, data in (pair for of in files.values() for pair in of.items()):
        (folder / name).write_bytes(data)
        md5[name] = hashlib.md5(data, usedforsecurity=False).hexdigest()
    monkeypatch.setattr(kind, "train_list", [[name, md5[name]] for name in files["train"]])
    monkeypatch.setattr(kind, "test_list", [[name, md5[name]] for name in files["test"]])
    (meta,) = files["meta"]
    monkeypatch.setattr(kind, "meta", {**kind.meta, "filename": meta, "md5": md5[meta]})


def cifar10(monkeypatch: pytest.MonkeyPatch, root: Path, **replaced: bytes) -> Path:
    files = {
        "train": {
            f"data_batch_{i + 1}": official({"data": PLANES[4 * i : 4 * i + 4], "labels": [0, 1, 2, 1]})
            for i in range(2)
        },
        "test": {"test_batch": official({"data": PLANES[:2], "labels": [2, 0]})},
        "meta": {"batches.meta": official({"label_names": ["plane", "car", "bird"]})},
    }
    files["train"] |= replaced
    publish(monkeypatch, datasets.CIFAR10, root / "cifar-10-batches-py", files)
    return root


def test_cifar10_becomes_the_same_pictures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    images = open_data(prepare("cifar10", tmp_path / "out", from_dir=cifar10(monkeypatch, tmp_path)))
    pictures = PLANES.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    assert (images.shape, images.classes) == ((3, 32, 32), ["plane", "car", "bird"])
    assert np.array_equal(images.train.take(np.arange(8)), pictures)
    assert images.train.labels.tolist() == [0, 1, 2, 1, 0, 1, 2, 1]
    assert images.test is not None
    assert np.array_equal(images.test.take(np.arange(2)), pictures[:2])


def test_cifar100_has_its_fine_labels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def batch(rows: slice, fine: list[int], coarse: list[int]) -> bytes:
        return official({"data": PLANES[rows], "fine_labels": fine, "coarse_labels": coarse})

    files = {
        "train": {"train": batch(slice(0, 4), [0, 1, 2, 1], [1, 0, 1, 0])},
        "test": {"test": batch(slice(4, 6), [2, 0], [1, 1])},
        "meta": {"meta": official({"fine_label_names": ["apple", "bear", "cup"]})},
    }
    publish(monkeypatch, datasets.CIFAR100, tmp_path / "cifar-100-python", files)
    images = open_data(prepare("cifar100", tmp_path / "out", from_dir=tmp_path))
    assert images.classes == ["apple", "bear", "cup"]
    assert images.train.labels.tolist() == [0, 1, 2, 1]


class Evil:
    """Pickles into a call that creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_a_pickle_with_another_md5_is_not_unpickled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cifar10(monkeypatch, tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").write_bytes(pickle.dumps(Evil(tmp_path / "touched")))
    message = r"not unpickled\n  where: .*data_batch_2\n  expected: md5 \w+\n  got: md5 \w+\n  remedy"
    with pytest.raises(DataError, match=message):
        prepare("cifar10", tmp_path / "out", from_dir=tmp_path)
    assert not (tmp_path / "touched").exists()


def test_a_pickle_with_the_right_md5_still_runs_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cifar10(monkeypatch, tmp_path, data_batch_2=pickle.dumps(Evil(tmp_path / "touched")))
    with pytest.raises(DataError, match=r"more than arrays\n  where: .*data_batch_2\n  got: .* is not allowed"):
        prepare("cifar10", tmp_path / "out", from_dir=tmp_path)
    assert not (tmp_path / "touched").exists()


def test_a_missing_official_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cifar10(monkeypatch, tmp_path)
    (tmp_path / "cifar-10-batches-py" / "test_batch").unlink()
    with pytest.raises(DataError, match=r"missing\n  where: .*test_batch"):
        prepare("cifar10", tmp_path / "out", from_dir=tmp_path)


@pytest.mark.parametrize(
    ("folder", "names"),
    [
        ("imagenette2-320", ["n01440764", "n03028079"]),
        ("imagenette2", ["n01440764", "n03028079"]),
        ("imagenette", ["church", "tench"]),
        ("imagenette2-160", ["n02979186", "n03888257"]),
    ],
)
def test_imagenette_has_its_own_names_and_order_whatever_its_folders(
    tmp_path: Path, folder: str, names: list[str]
) -> None:
    for split in ("train", "val"):
        for name in names:
            (tmp_path / folder / split / name).mkdir(parents=True)
            Image.fromarray(GREY[0]).save(tmp_path / folder / split / name / "a.JPEG", "jpeg")
    images = open_data(prepare("imagenette", tmp_path / "out", from_dir=tmp_path, size=8, mode="rgb"))
    expected = ["cassette player", "parachute"] if folder == "imagenette2-160" else ["tench", "church"]
    assert (images.classes, images.shape) == (expected, (3, 8, 8))
    assert len(images.test or ()) == 2


def test_a_named_data_set_that_is_not_there_is_not_downloaded_unasked(tmp_path: Path) -> None:
    for where in ({"from_dir": tmp_path}, {"cache": tmp_path, "download": False}):
        with pytest.raises(DataError, match=r"cifar10 is not there\n.*\n  expected: cifar-10-batches-py"):
            prepare("cifar10", tmp_path / "out", **where)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A web server for tmp_path/served; its address."""
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / "served").mkdir()
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()
        thread.join()


def test_what_is_not_in_the_cache_is_downloaded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    write_idx(tmp_path / "served" / "mnist", "", packed=True)
    files = sorted((tmp_path / "served" / "mnist").iterdir())
    md5 = [(file.name, hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()) for file in files]
    monkeypatch.setattr(datasets.MNIST, "resources", md5)
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{server}nothing/", f"{server}mnist/"])
    first = open_data(prepare("mnist", tmp_path / "first", cache=tmp_path / "cache"))
    for file in files:
        file.unlink()
    again = open_data(prepare("mnist", tmp_path / "again", cache=tmp_path / "cache"))
    for images in (first, again):
        assert np.array_equal(images.train.take(np.arange(12))[..., 0], GREY)


def test_a_download_that_fails_says_what_else_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    monkeypatch.setattr(datasets.CIFAR10, "url", f"{server}cifar-10-python.tar.gz")
    with pytest.raises(DataError, match=r"cifar10 cannot be downloaded\n(.*\n)*  remedy: .* from_dir"):
        prepare("cifar10", tmp_path / "out", cache=tmp_path / "cache")
