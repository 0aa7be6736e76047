"""What is predicted of a picture is what would be measured, had it been prepared: one way of reading for both."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ffdist import read_pictures
from ffdist.cli import main
from ffdist.data import Images, Loader, open_data, prepare
from ffdist.data.decode import decode
from ffdist.data.presenting import as_network_input
from ffdist.data.storing import Store
from ffdist.errors import DataError
from ffdist.runtime.data_facts import DataFacts
from ffdist.runtime.prediction import Predictions, decoding_of, network_input, printable
from ffdist.runtime.run import load_classifier

DRAWS = np.random.default_rng(0)


def noise(height: int, width: int, *channels: int) -> np.ndarray:
    """Smooth enough for a JPEG: uint8."""
    coarse = DRAWS.integers(0, 256, (height // 4 + 1, width // 4 + 1, *channels))
    return np.kron(coarse, np.ones((4, 4, *[1] * len(channels)), int))[:height, :width].astype(np.uint8)


def turned() -> Image.Image:
    image = Image.fromarray(noise(40, 80, 3))
    image.getexif()[0x112] = 6
    return image


KINDS: dict[str, tuple[Callable[[], Image.Image], str, dict]] = {
    "2:1": (lambda: Image.fromarray(noise(40, 80, 3)), "jpg", {"size": 16}),
    "2:1, large": (lambda: Image.fromarray(noise(400, 800, 3)), "jpg", {"size": 16}),
    "not square": (lambda: Image.fromarray(noise(40, 80, 3)), "png", {"size": (12, 20)}),
    "one size": (lambda: Image.fromarray(noise(24, 30, 3)), "jpg", {}),
    "turned": (turned, "jpg", {"size": (16, 8)}),
    "16 bits": (lambda: Image.fromarray(noise(24, 24).astype(np.uint16) * 257), "png", {}),
    "12 bits": (lambda: Image.fromarray(noise(24, 24).astype(np.uint16) * 16), "png", {"value_range": (0, 4095)}),
    "floats": (lambda: Image.fromarray((noise(24, 24) / 255).astype(np.float32)), "tif", {"value_range": (0, 1)}),
    "icon": (lambda: Image.fromarray(noise(24, 24, 4)), "png", {"background": "teal"}),
    "palette": (lambda: Image.fromarray(noise(24, 24, 3)).quantize(32), "png", {"mode": "grey", "size": 10}),
    "CMYK": (lambda: Image.fromarray(noise(24, 24, 4), "CMYK"), "jpg", {"size": 20}),
}


def tree(root: Path, kind: str) -> list[Path]:
    make, ending, _ = KINDS[kind]
    paths = [root / f"class{label}" / f"{place}.{ending}" for label in (0, 1) for place in range(4)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        image = make()
        image.save(path, exif=image.getexif()) if kind == "turned" else image.save(path)
    return paths


@pytest.mark.filterwarnings("ignore:'mode' parameter:DeprecationWarning")
@pytest.mark.parametrize("image_size", [None, 9])
@pytest.mark.parametrize("kind", KINDS)
def test_a_network_gets_the_same_bits_of_a_file_and_of_its_prepared_sample(
    kind: str, image_size: int | None, tmp_path: Path
) -> None:
    paths = tree(tmp_path / "tree", kind)
    out = prepare(str(tmp_path / "tree"), tmp_path / "out", test_fraction=0, **KINDS[kind][2])
    images = open_data(out, image_size)
    loader = Loader(images, images.train, np.arange(8), batch_size=8, seed=0, train=False)
    expected, _ = next(loader.epoch(0))
    facts = DataFacts.of(images)
    decoding, recorded = decoding_of(facts)
    assert recorded
    given = network_input(np.stack([decode(path, path, decoding) for path in paths]), facts)
    assert torch.equal(given, expected)
    pixels = read_pictures(paths, images)
    mean, std = (torch.tensor(of).reshape(1, -1, 1, 1) for of in (images.mean, images.std))
    torch.testing.assert_close((pixels - mean) / std, expected.contiguous(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("store", "size"), [("pixels", (30, 40)), ("encoded", None)])
def test_own_sizes_and_figures_are_those_of_files_and_of_exported_programs(
    store: Store, size: tuple[int, int] | None, tmp_path: Path
) -> None:
    """A split as it is evaluated, files as they are predicted, and pictures as an exported program gets them."""
    paths = tree(tmp_path / "tree", "2:1, large")
    data = open_data(prepare(str(tmp_path / "tree"), tmp_path / "out", test_fraction=0, store=store, size=size))
    own = {"preprocess": ["resize(side=20)", "center-crop(side=16)"], "mean": (0.4,), "std": (0.3, 0.2, 0.1)}
    images = as_network_input(data, **own)  # pyright: ignore[reportArgumentType]
    assert images.shape == (3, 16, 16)
    expected = Loader(images, images.train, np.arange(8), batch_size=8, seed=0, train=False).batch(np.arange(8), 0, 0)[
        0
    ]
    facts = DataFacts.of(images)
    decoding, _ = decoding_of(facts)
    assert torch.equal(network_input([decode(path, path, decoding) for path in paths], facts), expected)
    pixels = read_pictures(paths, images)
    whole = (pixels * 255).round()
    assert torch.equal(whole / 255, pixels)
    scale, shift = (torch.tensor(of).view(1, -1, 1, 1) for of in (images.std, images.mean))
    assert torch.equal(whole, ((expected * scale + shift) * 255).round())


def test_pictures_come_as_paths_bytes_arrays_and_opened(tmp_path: Path) -> None:
    array = noise(8, 8, 3)
    image = Image.fromarray(array)
    image.save(tmp_path / "a.png")
    buffer = io.BytesIO()
    image.save(buffer, "png")
    facts = DataFacts(["a", "b"], (3, 8, 8), (0.5,) * 3, (0.2,) * 3)
    expected = torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255
    for given in (tmp_path / "a.png", str(tmp_path / "a.png"), buffer.getvalue(), array, image):
        assert torch.equal(read_pictures(given, facts), expected)
        assert torch.equal(read_pictures([given, given], facts), expected.repeat(2, 1, 1, 1))
    (tmp_path / "b.png").touch()
    with pytest.raises(DataError, match=r"2 of 3 pictures cannot be read\n(.|\n)*b.png: .*\n.*c.png: No such file"):
        read_pictures([tmp_path / "b.png", array, tmp_path / "c.png"], facts)
    with pytest.raises(DataError, match="not trained on pictures"):
        read_pictures(array, replace(facts, pixels=False))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run that tells dark from bright, and its pictures: 16 bits deep, twice as wide as high."""
    root = tmp_path_factory.mktemp("run")
    for name, level in (("dark", 8_000), ("bright", 50_000)):
        (root / "tree" / name).mkdir(parents=True)
        for place in range(20):
            values = level + DRAWS.integers(-3_000, 3_000, (8, 16))
            Image.fromarray(values.astype(np.uint16)).save(root / "tree" / name / f"{place}.png")
    prepare(str(root / "tree"), root / "data", size=8)
    main(
        [
            "train",
            "--data",
            str(root / "data"),
            "--out",
            str(root / "run"),
            "--model",
            "mlp",
            "--epochs",
            "3",
            "--batch-size",
            "8",
            "--stages",
            "1",
            "--lr",
            "0.01",
        ]
    )
    return root / "run", root / "tree"


def test_what_was_trained_is_predicted_of_the_very_files(
    run: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["predict", str(run[0]), str(run[1]), "--json", "--batch-size", "7"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["image"] for row in rows] == [str(path) for path in sorted(run[1].rglob("*.png"))]
    assert all(row["class"] == Path(row["image"]).parent.name for row in rows)
    for row in rows:
        assert sum(one["share"] for one in row["top"]) == pytest.approx(1)
        assert row["top"][0]["class"] == row["class"]
    main(["predict", str(run[0]), str(run[1] / "dark" / "0.png"), "--json", "--top-k", "1"])
    assert len(json.loads(capsys.readouterr().out)["top"]) == 1


@pytest.mark.timeout(60)
def test_bad_ones_are_all_named_and_the_good_are_answered(
    run: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = run[1] / "dark" / "0.png"
    bad = {name: tmp_path / name for name in ("empty.png", "cut.png", "notes.txt", "pipe.png", "huge.png", "none.png")}
    bad["empty.png"].touch()
    bad["cut.png"].write_bytes(good.read_bytes()[:100])
    bad["notes.txt"].write_text("no picture")
    os.mkfifo(bad["pipe.png"])
    header = bytearray(good.read_bytes())
    header[16:24] = b"\x7f\xff\xff\xff\x7f\xff\xff\xff"
    bad["huge.png"].write_bytes(header)
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(run[0]), str(good), *map(str, bad.values()), str(good), "/dev/zero", "--json"])
    assert ended.value.code == 1
    captured = capsys.readouterr()
    assert [json.loads(line)["class"] for line in captured.out.splitlines()] == ["dark", "dark"]
    assert "7 of 9 pictures cannot be read" in captured.err
    for path in (*bad.values(), "/dev/zero"):
        assert f"\n    {path}: " in captured.err


def test_names_are_printed_as_they_are(
    run: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    names = [b"x[/b]0.png", b"[bold].png", b"a b.png", b"new\nline.png", b"no\xffutf.png", "grün.png".encode()]
    Path("x[").mkdir()
    for name in names:
        Path(os.fsdecode(name)).write_bytes((run[1] / "dark" / "0.png").read_bytes())
    main(["predict", str(run[0]), *map(os.fsdecode, names)])
    shown = capsys.readouterr().out
    for name in ("x[/b]0.png", "[bold].png", "a b.png", r"new\nline.png", r"no\xffutf.png", "grün.png"):
        assert f" {name} " in shown
    main(["predict", str(run[0]), *map(os.fsdecode, names), "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [os.fsencode(row["image"]) for row in rows] == names
    assert printable("a\tb") == r"a\tb"


def test_a_run_that_does_not_say_how_pictures_were_read_says_what_is_assumed(run: tuple[Path, Path]) -> None:
    classifier, _, facts = load_classifier(run[0])
    assert Predictions(classifier, facts).notes() == []
    old = Predictions(classifier, replace(facts, decoding=None))
    assert next(old.of([run[1] / "dark" / "0.png"]))[1].shape == (2,)
    assert old.notes()[-1].startswith("the run does not say how its pictures were read; assumed: turned upright")


def test_of_a_run_on_pictures_in_memory_what_had_to_be_changed_is_noted(run: tuple[Path, Path], tmp_path: Path) -> None:
    classifier, _, facts = load_classifier(run[0])
    given = replace(facts, in_memory=True)
    like = tmp_path / "like.png"
    Image.fromarray(noise(8, 8)).save(like)
    exact = Predictions(classifier, given)
    assert len(list(exact.of([like]))) == 1
    assert exact.notes() == [], "pixels of the very size and mode are what they are"
    kinds = {
        "wide.png": Image.fromarray(noise(8, 16)),
        "colour.png": Image.fromarray(noise(8, 8, 3)),
        "deep.png": Image.fromarray(noise(8, 8).astype(np.uint16) * 257),
        "clear.png": Image.fromarray(noise(8, 8, 2)),
    }
    changed = Predictions(classifier, given)
    for name, image in kinds.items():
        image.save(tmp_path / name)
    assert len(list(changed.of([like, *(tmp_path / name for name in kinds)]))) == 5
    assert changed.notes()[-1].startswith("4 of 5 pictures were made like those of the training, which were given in P")


def test_images_say_as_much_as_a_run() -> None:
    images = open_data("digits")
    assert isinstance(images, Images)
    assert decoding_of(images) == decoding_of(DataFacts.of(images))
