"""Each transform beside torchvision's, given the same parameters; and the laws of what is drawn."""

from __future__ import annotations

import math
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as transforms
import torchvision.transforms.v2.functional as functional

from ffdist.data import ArraySplit, Images, Loader
from ffdist.data.presenting import as_network_input
from ffdist.data.sheet import drawable_name, of_each_class, sheet
from ffdist.data.transforms import auto, load_transform, pixels
from ffdist.data.transforms.erasing import Erasing
from ffdist.data.transforms.mixing import Cutmix, Mixup, beta
from ffdist.data.transforms.sizes import ResizedCrop
from ffdist.errors import ConfigError, DataError

DECILES = np.linspace(0.1, 0.9, 9)
EXTENTS = auto.Extents(0.3, (12, 15), 30, 0.9, 4)
RANDOM = np.random.default_rng(0)
NAMES = [
    "crop",
    "crop(padding=2,mode=reflect)",
    "flip",
    "flip(p=0.3)",
    "vertical-flip",
    "alternate",
    "shift(pixels=1)",
    "cutout(holes=2)",
    "randaugment",
    "trivial-augment",
    "color-jitter(hue=0.1)",
    "grayscale(p=0.5)",
    "erasing(value=noise)",
    "mixup(alpha=0.4)",
    "cutmix",
    "resized-crop",
    "random-crop(padding=2)",
    "torchvision.transforms.v2:RandomRotation(degrees=30)",
]


def blobs(count: int, channels: int, height: int = 33, width: int = 27) -> np.ndarray:
    small = torch.from_numpy(RANDOM.integers(0, 256, (count, channels, 5, 5), np.uint8))
    return np.ascontiguousarray(functional.resize(small, [height, width]).permute(0, 2, 3, 1).numpy())


def theirs(x: np.ndarray, call: Any) -> np.ndarray:
    made = [call(torch.from_numpy(picture).permute(2, 0, 1), i).permute(1, 2, 0) for i, picture in enumerate(x)]
    return np.stack([each.numpy() for each in made])


@pytest.mark.parametrize("channels", [1, 3])
def test_changes_of_colour_are_torchvisions_bit_for_bit(channels: int) -> None:
    x = np.concatenate([blobs(12, channels), RANDOM.integers(0, 256, (12, 33, 27, channels), np.uint8)])
    by, shifts, bits = RANDOM.uniform(0, 2, 24), RANDOM.uniform(-0.5, 0.5, 24), RANDOM.integers(0, 9, 24)
    limits = RANDOM.uniform(0, 255, 24)
    look = pixels.looked_up
    pairs = {
        "brightness": (
            look(x, pixels.brightness_tables(by)),
            theirs(x, lambda t, i: functional.adjust_brightness(t, float(by[i]))),
        ),
        "contrast": (
            look(x, pixels.contrast_tables(x, by)),
            theirs(x, lambda t, i: functional.adjust_contrast(t, float(by[i]))),
        ),
        "saturation": (pixels.saturation(x, by), theirs(x, lambda t, i: functional.adjust_saturation(t, float(by[i])))),
        "sharpness": (pixels.sharpness(x, by), theirs(x, lambda t, i: functional.adjust_sharpness(t, float(by[i])))),
        "posterize": (
            look(x, pixels.posterize_tables(bits)),
            theirs(x, lambda t, i: functional.posterize(t, int(bits[i]))),
        ),
        "solarize": (
            look(x, pixels.solarize_tables(limits)),
            theirs(x, lambda t, i: functional.solarize(t, float(limits[i]))),
        ),
        "autocontrast": (look(x, pixels.autocontrast_tables(x)), theirs(x, lambda t, i: functional.autocontrast(t))),
        "equalize": (look(x, pixels.equalize_tables(x)), theirs(x, lambda t, i: functional.equalize(t))),
    }
    for name, (ours, other) in pairs.items():
        assert np.array_equal(ours, other), name
    off = np.abs(pixels.hue(x, shifts).astype(int) - theirs(x, lambda t, i: functional.adjust_hue(t, float(shifts[i]))))
    assert off.max() <= 1
    assert (off > 0).mean() < 1e-3


def test_shears_shifts_and_turns_are_torchvisions() -> None:
    x, levels = blobs(40, 3, 32, 32), RANDOM.uniform(-1, 1, 40)

    def sheared(t: torch.Tensor, degrees: list[float]) -> torch.Tensor:
        return functional.affine(t, 0.0, [0, 0], 1.0, degrees, center=[0, 0])

    calls = {
        1: lambda t, i: sheared(t, [math.degrees(math.atan(levels[i] * 0.3)), 0.0]),
        2: lambda t, i: sheared(t, [0.0, math.degrees(math.atan(levels[i] * 0.3))]),
        3: lambda t, i: functional.affine(t, 0.0, [int(levels[i] * 12), 0], 1.0, [0.0, 0.0]),
        4: lambda t, i: functional.affine(t, 0.0, [0, int(levels[i] * 15)], 1.0, [0.0, 0.0]),
        5: lambda t, i: functional.rotate(t, float(levels[i]) * 30),
    }
    for change, call in calls.items():
        ours = auto.apply(x.copy(), np.full(40, change), levels, EXTENTS, 0)
        assert (ours == theirs(x, call)).mean() > 0.999, auto.CHANGES[change]  # but for places halfway between two


def test_a_resized_crop_is_torchvisions_of_the_same_part() -> None:
    crop = ResizedCrop()
    for drawn in RANDOM.random((20, crop.numbers)):
        picture = blobs(1, 3, *RANDOM.integers(30, 90, 2))[0]
        top, left, height, width = crop.part(picture.shape[:2], drawn)
        other = functional.resized_crop(
            torch.from_numpy(picture).permute(2, 0, 1), top, left, height, width, [24, 20], antialias=True
        )
        off = np.abs(crop.picture(picture, drawn, (24, 20)).astype(int) - other.permute(1, 2, 0).numpy())
        assert off.max() <= 1


def test_parts_are_distributed_as_torchvisions_are() -> None:
    crop, erasing = ResizedCrop(), Erasing(p=1)
    parts = np.array([crop.part((200, 300), drawn) for drawn in RANDOM.random((4000, 22))])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        other = [transforms.RandomResizedCrop(9).make_params([torch.zeros(3, 200, 300)]) for _ in range(4000)]
    others = np.array([[each[name] for name in ("top", "left", "height", "width")] for each in other])
    for ours, wanted in zip(parts.T, others.T, strict=True):
        assert np.abs(np.quantile(ours, DECILES) - np.quantile(wanted, DECILES)).max() < 12
    x = np.ones((2000, 40, 40, 3), np.float32)
    erased = (erasing.batch(x, RANDOM.random((2000, erasing.numbers))) == 0).mean((1, 2, 3))
    assert abs(erased.mean() - 0.17) < 0.03
    assert erased.max() < 0.36


def test_mixup_is_torchvisions_of_the_same_share_and_its_shares_are_beta() -> None:
    x, others = RANDOM.random((2, 50, 6, 5, 3), np.float32)
    drawn = RANDOM.random((50, 2))
    mixed = x.copy()
    share = Mixup(alpha=0.3).mix(mixed, others, drawn)
    expected = x * share[:, None, None, None] + others * (1 - share[:, None, None, None])
    assert np.allclose(mixed, expected, atol=1e-6)
    uniform = (np.arange(20000) + 0.5) / 20000
    for alpha in (0.1, 0.4, 1.0, 3.0):
        shares = beta(uniform, alpha)
        assert abs(shares.mean() - 0.5) < 1e-3
        assert abs(shares.var() - 1 / (4 * (2 * alpha + 1))) < 1e-3  # of Beta(alpha, alpha)


def test_cutmix_mixes_labels_by_the_area_that_was_put_in() -> None:
    x, others = np.zeros((400, 16, 12, 1), np.float32), np.ones((400, 16, 12, 1), np.float32)
    share = Cutmix().mix(x, others, RANDOM.random((400, 4)))
    assert np.allclose(1 - share, x.mean((1, 2, 3)))
    assert 0.1 < (1 - share).mean() < 0.5
    assert (share == 1).mean() < 0.2


def images(count: int = 96, classes: int = 3) -> Images:
    x = blobs(count, 3, 16, 16)
    split = ArraySplit(x, np.arange(count) % classes)
    return Images("blobs", split, None, [str(k) for k in range(classes)], (3, 16, 16), (0.5,) * 3, (0.25,) * 3)


def loader(data: Images, augment: tuple[str, ...], **options: Any) -> Loader:
    settings: dict[str, Any] = {"batch_size": 16, "seed": 5} | options
    return Loader(data, data.train, np.arange(len(data.train)), train=True, augment=augment, **settings)


@pytest.mark.parametrize("name", NAMES)
def test_batches_are_the_same_from_the_middle_in_parts_and_by_any_number_of_workers(name: str) -> None:
    data = images()
    whole = list(loader(data, (name,)).epoch(3))
    assert not torch.equal(whole[0][0], next(loader(data, ()).epoch(3))[0])
    others: list[list[Any]] = [
        list(loader(data, (name,), workers=1 if ":" in name else 3).epoch(3)),  # processes: see below
        [*whole[:2], *loader(data, (name,)).epoch(3, 2)],
    ]
    parts = [list(loader(data, (name,), shard=(rank, 3)).epoch(3)) for rank in range(3)]
    others.append([tuple(map(torch.cat, zip(*part, strict=True))) for part in zip(*parts, strict=True)])
    for batches in others:
        assert all(
            torch.equal(a, b) for one, two in zip(whole, batches, strict=True) for a, b in zip(one, two, strict=True)
        )


OWN = """
import os, random
from pathlib import Path
import numpy as np, torch

class Noise:
    def __init__(self, folder):
        self.folder, self.rng = Path(folder), np.random.default_rng()

    def __call__(self, picture):
        if (self.folder / "fail").exists():
            raise ValueError("no such colour")
        (self.folder / str(os.getpid())).touch()
        drawn = self.rng.random() + random.random() + np.random.rand() + torch.rand(picture.shape)
        return (picture * drawn / 4).to(torch.uint8)
"""


def test_callables_work_in_as_many_processes_and_all_that_they_draw_is_of_the_sample(tmp_path: Path) -> None:
    """Whatever generator they draw from, their own, too; and the next transform finds what they have made."""
    (tmp_path / "own_noise.py").write_text(OWN)
    augment = (f"{tmp_path}/own_noise.py:Noise(folder={tmp_path}/pids)", NAMES[-1], "flip")
    (tmp_path / "pids").mkdir()
    data = images()
    before = random.getstate()
    alone = list(loader(data, augment).epoch(1))
    assert [path.name for path in (tmp_path / "pids").iterdir()] == [str(os.getpid())]
    two = loader(data, augment, workers=2)
    assert all(torch.equal(x, other) for (x, _), (other, _) in zip(alone, two.epoch(1), strict=True))
    assert len([*(tmp_path / "pids").iterdir()]) == 3
    assert random.getstate() == before
    (tmp_path / "pids/fail").touch()
    with pytest.raises(DataError, match=r"a transform fails\n  where: transform .*Noise(.|\n)*no such colour"):
        list(two.epoch(0))


def test_a_transform_that_ends_its_thread_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "ends.py").write_text("import sys\n\nclass Ends:\n    def __call__(self, x):\n        sys.exit(7)\n")
    with pytest.raises(DataError, match=r"a transform fails(.|\n)*got: SystemExit: 7, ends.py line 5"):
        list(loader(images(), (f"{tmp_path}/ends.py:Ends",)).epoch(0))


@pytest.mark.parametrize("makes", ["x + self.count", "x + os.urandom(1)[0]", "x + (self.count > 20)"])
def test_a_transform_that_does_not_repeat_itself_is_refused(tmp_path: Path, makes: str) -> None:
    """How often it was called differs by process; so would its pictures, and the weights. The last changes late."""
    file = tmp_path / f"{'counts' if 'count' in makes else 'draws'}.py"
    file.write_text(
        "import os\n\nclass Counts:\n    count = 0\n\n    def __call__(self, x):\n        self.count += 1\n"
        f"        return {makes}\n"
    )
    with pytest.raises(DataError, match="another picture of the same one"):
        list(loader(images(), (f"{file}:Counts",)).epoch(0))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("crop", "flip", "mixup(alpha=0.4)", "cutmix")])
def test_a_sample_is_changed_alike_in_batches_of_any_size(name: str) -> None:
    data = images()
    one, other = (list(loader(data, (name,), batch_size=size).epoch(1)) for size in (16, 48))
    assert torch.equal(torch.cat([x for x, _ in one]), torch.cat([x for x, _ in other]))


def test_other_transforms_beside_it_and_its_place_in_the_list_do_not_change_what_one_draws() -> None:
    data = images()
    alone = next(loader(data, ("flip(p=0.3)",)).epoch(0))[0]
    beside = next(loader(data, ("erasing(p=0)", "grayscale(p=0)", "flip(p=0.3)")).epoch(0))[0]
    assert torch.equal(alone, beside)


def test_mixed_labels_are_shares_and_pictures_are_those_of_the_shares() -> None:
    x, y = next(loader(images(), ("mixup", "cutmix")).epoch(0))
    assert y.shape == (16, 3)
    assert torch.allclose(y.sum(1), torch.ones(16))
    assert ((y > 0).sum(1) == 2).any()
    assert x.shape == (16, 3, 16, 16)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("crop", {"padding": -1}),
        ("crop", {"mode": "mirror"}),
        ("flip", {"p": 1.5}),
        ("randaugment", {"m": 31}),
        ("randaugment", {"n": 0}),
        ("color-jitter", {"hue": 0.6}),
        ("erasing", {"scale": "0.5,0.2"}),
        ("mixup", {"alpha": 0}),
        ("cutmix", {"p": -0.1}),
        ("resized-crop", {"scale": "0,1"}),
        ("cutout", {"holes": 0}),
        ("crop", {"paddin": 2}),
        ("crop", {"padding": "x"}),
    ],
)
def test_options_out_of_their_range_are_named(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"option '{next(iter(options))}'"):
        load_transform(name, options)


def test_cutout_does_not_blacken_whole_pictures() -> None:
    with pytest.raises(ConfigError, match="less than the pictures' 16 x 16"):
        next(loader(images(), ("cutout(side=16)",)).epoch(0))
    x, _ = next(loader(images(), ("cutout(side=16, clipped=true)",)).epoch(0))
    assert x.any()


def test_classes_whose_letters_the_sheet_cannot_write_are_named_by_number() -> None:
    names = ["cat", "Kätzchen", "猫", "кот", "a b"]
    assert [drawable_name(name, number) for number, name in enumerate(names)] == [
        "cat",
        "Katzchen",
        "class 2",
        "class 3",
        "a b",
    ]


def test_a_contact_sheet_shows_pictures_as_they_are_below_their_labels_and_what_is_drawn_beside() -> None:
    data = images()
    plain, drawn, mixed = (
        np.asarray(sheet(data, augment, pictures=3, draws=2))
        for augment in ([], ["cutout(side=8)"], ["cutout(side=8)", "mixup"])
    )
    assert plain.shape == drawn.shape == (14 + 3 * (96 + 14 + 4), 3 * 100, 3)
    assert mixed.shape == (14 + 3 * (96 + 28 + 4), 3 * 100, 3)
    assert np.array_equal(plain[:, :100], drawn[:, :100])
    assert not np.array_equal(drawn[:, 100:200], drawn[:, 200:])
    scaled = np.asarray(sheet(as_network_input(data, mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7]), pictures=3, draws=1))
    height, width = data.shape[1:]
    side = 96 // height
    shown = scaled[28 : 28 + 96 : side, : width * side : side]
    first = data.train.take(of_each_class(data.train.labels, 1))[0]
    assert np.array_equal(shown[:height], first), "whatever figures it is normalised by"


def test_labels_of_a_contact_sheet_stay_above_their_own_pictures() -> None:
    data = replace(images(), classes=[f"{'a very long name of a class ' * 3}{k}" for k in range(images().num_classes)])
    pixels = np.asarray(sheet(data, ["mixup"], pictures=3, draws=2))
    assert (pixels[:, 96:100] == 255).all(), "the gap between two columns is empty"
    assert (pixels[14:42, :96] < 128).any()


@pytest.mark.parametrize(("kind", "own"), [("MixUp", "mixup"), ("CutMix", "cutmix")])
def test_torchvision_s_transforms_of_batches_are_refused_for_ours_that_do_the_same(kind: str, own: str) -> None:
    with pytest.raises(ConfigError, match="mixes whole batches") as error:
        load_transform(f"torchvision.transforms.v2:{kind}", {"num_classes": "10"})
    assert own in str(error.value.remedy)
    assert load_transform(own, {})
