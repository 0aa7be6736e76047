"""Pictures kept as they were encoded: the same samples, bits and order as pixels, whoever decodes them."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from ffdist.data import Images, Loader, encoded_writer, open_data, prepare, shards, verify
from ffdist.data import loader as loaders
from ffdist.data.encoded import EncodedSplit
from ffdist.data.sampler import shuffled_by_shard
from ffdist.errors import ConfigError, DataError


def drawn(seed: int, height: int, width: int) -> Image.Image:
    """A picture that is no noise, so that it is encoded in few bytes."""
    draws = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(draws).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of pictures of several formats and sizes."""
    root = tmp_path_factory.mktemp("tree")
    for place in range(60):
        kind = ("jpg", "png", "webp")[place % 3]
        folder = root / ("test" if place % 5 == 0 else "train") / f"class-{place % 4 % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        drawn(place, 20 + place, 80 - place).save(folder / f"{place:03d}.{kind}")
    return root


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few pictures make several shards, and are read when they are asked for."""
    monkeypatch.setattr(encoded_writer, "SHARD_BYTES", 8000)
    monkeypatch.setattr(loaders, "SMALL", 0)


@pytest.fixture
def encoded(tree: Path, tmp_path: Path, small_shards: None) -> Path:
    return prepare(tree, tmp_path / "encoded", size=24, mode="rgb", store="encoded")


def loader(images: Images, **options) -> Loader:
    rows = np.arange(len(images.train))
    return Loader(images, images.train, rows, **{"batch_size": 8, "seed": 5, "train": True, **options})


def test_encoded_pictures_are_the_very_samples_that_pixels_are(tree: Path, tmp_path: Path, encoded: Path) -> None:
    pixels = open_data(prepare(tree, tmp_path / "pixels", size=24, mode="rgb", store="pixels"))
    kept = open_data(encoded)
    assert (kept.shape, kept.mean, kept.std, kept.decoding) == (pixels.shape, pixels.mean, pixels.std, pixels.decoding)
    for one, other in zip(kept.splits.values(), pixels.splits.values(), strict=True):
        rows = np.arange(len(one))
        assert np.array_equal(one.labels, other.labels)
        assert np.array_equal(one.take(rows), other.take(rows))
    batches = zip(loader(kept, augment=("crop",)).epoch(1), loader(pixels, augment=("crop",)).epoch(1), strict=True)
    assert all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in batches)


def test_shards_keep_the_files_byte_for_byte(tree: Path, encoded: Path) -> None:
    split = open_data(encoded).train
    assert isinstance(split, EncodedSplit)
    assert len({*split.shards}) > 2
    files = {path.read_bytes() for path in (tree / "train").rglob("*.*")}
    assert {*split.encoded(np.arange(len(split)))} == files
    verify(encoded)


@pytest.mark.parametrize("window", [0, 2])
def test_no_number_of_workers_changes_a_bit(encoded: Path, window: int) -> None:
    images = open_data(encoded)
    runs = [
        [*loader(images, workers=workers, shuffle_shards=window, augment=("flip",)).epoch(3)]
        for workers in (0, 1, 2, 7)
    ]
    for batches in runs[1:]:
        assert all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(runs[0], batches, strict=True))


def test_an_epoch_by_shards_takes_each_sample_once_and_few_shards_at_a_time() -> None:
    draws = np.random.default_rng(0)
    shards = draws.integers(0, 10, 500)
    rows = draws.permutation(500)
    order = shuffled_by_shard(rows, shards[rows], 3, 4, window=3)
    assert sorted(order) == list(range(500))
    groups = [shards[order[start : start + 50]] for start in range(0, 500, 50)]
    assert max(len({*group}) for group in groups) <= 6  # of two windows, at most
    assert not np.array_equal(order, shuffled_by_shard(rows, shards[rows], 3, 5, window=3))
    assert not np.array_equal(order, shuffled_by_shard(rows, shards[rows], 4, 4, window=3))
    begins = {int(shards[shuffled_by_shard(rows, shards[rows], 3, epoch, window=1)[0]]) for epoch in range(5)}
    assert len(begins) > 1  # shards, too, come in an order of the epoch
    first = shards[order[: np.isin(shards, [*{*shards[order[:60]]}]).sum()]]
    assert (np.diff(first) != 0).mean() > 0.4  # mixed within the window, and no shard behind another


def test_an_epoch_by_shards_goes_on_in_its_middle_reading_nothing_before(encoded: Path) -> None:
    images = open_data(encoded)
    assert isinstance(images.train, EncodedSplit)
    whole = [*loader(images, shuffle_shards=2).epoch(1)]
    read: list[int] = []

    class Counting(EncodedSplit):
        def encoded(self, indices: np.ndarray) -> list[bytes]:
            read.extend(indices)
            return super().encoded(indices)

    counting = Counting(*images.train.source, images.train.size)
    made = Loader(images, counting, np.arange(len(counting)), batch_size=8, seed=5, train=True, shuffle_shards=2)
    rest = [*made.epoch(1, 2)]
    assert all(torch.equal(x, u) for (x, _), (u, _) in zip(rest, whole[2:], strict=True))
    assert sorted(read) == sorted(made.order(1)[16 : 8 * len(made)])


def test_a_rank_reads_its_part_of_a_batch_alone(encoded: Path) -> None:
    images = open_data(encoded)
    whole = [x for x, _ in loader(images, shuffle_shards=2, augment=("crop",)).epoch(0)]
    parts = [[x for x, _ in loader(images, shuffle_shards=2, augment=("crop",), shard=(r, 2)).epoch(0)] for r in (0, 1)]
    assert all(torch.equal(torch.cat([a, b]), x) for a, b, x in zip(*parts, whole, strict=True))
    rows = loader(images, shard=(1, 2))
    assert len(rows.split.take(rows.order(0)[4:8])) == 4


def test_evaluation_by_shards_takes_every_sample_shard_by_shard(encoded: Path) -> None:
    images = open_data(encoded)
    made = loader(images, train=False, shuffle_shards=2)
    order = made.order(0)
    assert sorted(order) == list(range(len(images.train)))
    shards = made.split.shard_of(order)
    assert shards is not None
    assert np.all(np.diff(shards) >= 0)


def test_data_in_memory_have_no_shards_to_be_read_by() -> None:
    images = open_data("digits")
    with pytest.raises(ConfigError, match="only shards are read a few at a time"):
        loader(images, shuffle_shards=4)
    assert len(loader(images, shuffle_shards=0)) > 0


def test_pictures_of_several_sizes_are_decoded_straight_to_the_size_that_is_asked_for(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = prepare(tree, tmp_path / "any", mode="rgb", store="encoded")
    assert "pictures differ in size" in capsys.readouterr().err
    assert open_data(folder).shape == (3, 224, 224)
    images = open_data(folder, 16)
    assert (images.shape, images.decoding and images.decoding.size) == ((3, 16, 16), (16, 16))
    resized = open_data(prepare(tree, tmp_path / "16", size=16, mode="rgb"))
    rows = np.arange(len(resized.train))
    assert np.array_equal(images.train.take(rows), resized.train.take(rows))
    x, _ = next(loader(images, train=False).epoch(0))
    assert x.shape[1:] == (3, 16, 16)
    verify(folder)


def test_a_split_is_sent_to_another_process_by_its_folder(encoded: Path) -> None:
    split = open_data(encoded, 12).train
    again = pickle.loads(pickle.dumps(split))
    rows = np.arange(5)
    assert np.array_equal(again.take(rows), split.take(rows))
    assert len(pickle.dumps(split)) < 10_000


def test_a_broken_picture_is_left_out_of_encoded_shards_or_refused(tree: Path, tmp_path: Path) -> None:
    broken = tree / "train" / "class-0" / "broken.jpg"
    broken.write_bytes((tree / "train" / "class-0").glob("*.jpg").__next__().read_bytes()[:200])
    try:
        with pytest.raises(DataError, match=r"broken\.jpg"):
            prepare(tree, tmp_path / "out", size=24, mode="rgb", store="encoded")
        assert not any(tmp_path.iterdir())
        folder = prepare(tree, tmp_path / "out", size=24, mode="rgb", store="encoded", skip_broken=True)
    finally:
        broken.unlink()
    manifest = verify(folder)
    assert [entry.what for entry in manifest.left_out] == [str(broken)]
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def rewrite(path: Path, start: int, data: bytes) -> None:
    """Other bytes in the place of some, the time of the last change as it was."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def place_of(split: EncodedSplit, row: int) -> tuple[Path, int]:
    folder, manifest, name = split.source
    return Path(folder) / manifest.splits[name].files[split.shards[row]].file, int(split.starts[row])


def test_a_picture_that_was_damaged_is_named_by_file_and_row(encoded: Path) -> None:
    split = open_data(encoded).train
    assert isinstance(split, EncodedSplit)
    path, start = place_of(split, 7)
    rewrite(path, start, b"no picture begins like this")
    with pa.memory_map(str(path)) as source:
        row = pa.ipc.open_file(source).get_batch(0).column("sample").to_pylist().index(7)
    with pytest.raises(DataError, match=rf"a picture cannot be read\n  where: .*{path.name}, row {row}\n"):
        split.take(np.arange(len(split)))
    with pytest.raises(DataError, match="a shard is corrupt"):
        verify(encoded)


@pytest.mark.parametrize("store", ["pixels", "pixels, large", "encoded"])
@pytest.mark.parametrize("harm", ["cut", "written", "replaced", "gone"])
def test_a_shard_that_changes_while_it_is_read_is_one_error(
    tree: Path, tmp_path: Path, small_shards: None, store: str, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is mapped: a page behind the end of a file that was cut off would end the process by SIGBUS."""
    store, _, large = store.partition(", ")
    monkeypatch.setattr(shards, "HELD", 0 if large else shards.HELD)
    folder = prepare(tree, tmp_path / "data", size=24, mode="rgb", store=store)  # pyright: ignore[reportArgumentType]
    images = open_data(folder)
    batches = loader(images, prefetch=0).epoch(0)
    next(batches)
    if (maps := Path("/proc/self/maps")).exists():
        assert str(folder) not in maps.read_text()
    for path in folder.glob("train-0*.arrow"):
        data = path.read_bytes()
        if harm == "cut":
            os.truncate(path, 100)
        elif harm == "written":
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        else:
            path.unlink()
            if harm == "replaced":
                path.write_bytes(bytes(len(data)))
    message = "cannot be read any more" if harm == "gone" else "a shard changed while it was read"
    with pytest.raises(DataError, match=message) as raised:
        list(batches)
    assert re.search(r"train-0\d+\.arrow" + (", row \\d+\n" if harm != "gone" else "\n"), str(raised.value))


@pytest.mark.parametrize("store", ["pixels", "encoded"])
def test_a_shard_that_was_only_touched_or_copied_back_is_read_on(tree: Path, tmp_path: Path, store: str) -> None:
    folder = prepare(tree, tmp_path / "data", size=24, mode="rgb", store=store)  # pyright: ignore[reportArgumentType]
    split = open_data(folder).train
    before = split.take(np.arange(10))
    for path in folder.glob("train-0*.arrow"):
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
    assert np.array_equal(split.take(np.arange(10)), before)


def changed_index(folder: Path, **columns) -> None:
    """The index of the training split with other columns, and a manifest that lists it."""
    path = folder / "train-index.arrow"
    table = pa.ipc.open_file(path.read_bytes()).read_all()
    for name, change in columns.items():
        values = table.column(name).to_numpy().copy()
        change(values)
        place = table.column_names.index(name)
        table = table.set_column(place, encoded_writer.INDEX.field(name), pa.array(values))
    listed = encoded_writer.write_arrow_file(path, table.combine_chunks().to_batches()[0])
    text = (folder / "manifest.json").read_text()
    head, _, tail = text.partition('"train-index.arrow"')
    tail = re.sub(r'"bytes": \d+', f'"bytes": {listed.bytes}', tail, count=1)
    tail = re.sub(r'"sha256": "\w+"', f'"sha256": "{listed.sha256}"', tail, count=1)
    values = json.loads(f'{head}"train-index.arrow"{tail}')
    values.pop("digest")
    (folder / "manifest.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("label", 3, "a label is out of range"),
        ("label", -1, "a label is out of range"),
        ("shard", 99, "points to where no picture is"),
        ("start", 2**62, "points to where no picture is"),
        ("start", -8, "points to where no picture is"),
        ("length", 2**62, "points to where no picture is"),
        ("length", 0, "points to where no picture is"),
    ],
)
def test_an_index_that_lies_is_refused_with_its_row(encoded: Path, column: str, value: int, message: str) -> None:
    def change(values: np.ndarray) -> None:
        values[5] = value

    changed_index(encoded, **{column: change})
    with pytest.raises(DataError, match=message) as raised:
        open_data(encoded)
    assert "train-index.arrow, row 5" in str(raised.value)


def test_a_header_that_claims_a_thousand_million_pixels_is_refused_before_they_are_made(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "tree" / name).mkdir(parents=True)
        drawn(1, 20, 20).save(tmp_path / "tree" / name / "one.png")
    file = io.BytesIO()
    drawn(1, 20, 20).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[16:24] = (40_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "tree" / "a" / "huge.png").write_bytes(data)
    for store in ("pixels", "encoded"):
        with pytest.raises(DataError, match=r"huge\.png"):
            prepare(tmp_path / "tree", tmp_path / "out", size=20, store=store)  # pyright: ignore[reportArgumentType]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tree"]


@pytest.mark.parametrize(("kind", "side"), [("PNG", 24), ("PNG", 5000), ("JPEG", 10_000)])
@pytest.mark.parametrize("store", ["pixels", "encoded"])
def test_a_header_that_claims_more_pixels_than_there_are_is_refused(
    tmp_path: Path, kind: str, side: int, store
) -> None:
    for name in ("a", "b"):
        (tmp_path / "tree" / name).mkdir(parents=True)
        drawn(1, 20, 20).save(tmp_path / "tree" / name / "one.png")
    file = io.BytesIO()
    drawn(1, 20, 20).save(file, kind)
    data = bytearray(file.getvalue())
    if kind == "PNG":
        data[16:24] = side.to_bytes(4, "big") * 2
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    else:
        place = data.index(b"\xff\xc0") + 5
        data[place : place + 4] = side.to_bytes(2, "big") * 2
    (tmp_path / "tree" / "a" / f"lies.{kind.lower()}").write_bytes(data)
    with pytest.raises(DataError, match=rf"a picture cannot be read\n  where: .*lies\.{kind.lower()}\n"):
        prepare(tmp_path / "tree", tmp_path / "out", size=16, mode="rgb", store=store)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tree"]


def test_pixels_that_take_more_room_than_the_pictures_are_kept_encoded(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not isinstance(open_data(prepare(tree, tmp_path / "few", size=64, mode="rgb")).train, EncodedSplit)
    monkeypatch.setattr("ffdist.data.storing.PIXELS", 1000)
    assert isinstance(open_data(prepare(tree, tmp_path / "many", size=64, mode="rgb")).train, EncodedSplit)
    assert "pictures are kept as they are encoded" in capsys.readouterr().err
    assert not isinstance(open_data(prepare(tree, tmp_path / "tiny", size=4, mode="rgb")).train, EncodedSplit)
    with pytest.raises(ConfigError, match="auto or pixels or encoded"):
        prepare(tree, tmp_path / "none", store="raw")  # pyright: ignore[reportArgumentType]
