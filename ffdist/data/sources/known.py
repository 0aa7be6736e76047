"""The data sets with a name: what they are, where torchvision keeps them, how to open them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ffdist.data.sources.base import DataSource
from ffdist.data.sources.idx import EMNIST, Idx, emnist
from ffdist.data.sources.imagenette import imagenette
from ffdist.data.sources.stl10 import Stl10
from ffdist.data.sources.svhn import Svhn
from ffdist.errors import DataError, setting


@dataclass(frozen=True)
class KnownDataset:
    """A data set with a name."""

    shape: tuple[int, int, int] | None
    """(C, H, W); None where its pictures differ in size."""
    num_classes: int
    counts: dict[str, int]
    folders: tuple[str, ...]
    """Where it may be below torchvision's root; the first that is there is taken, and made where it is fetched."""
    open: Callable[[Path], DataSource]
    has: str = ""
    """A file in the folder, perhaps with .gz, where the folder alone says nothing."""
    files: str = ""
    """Its files in a folder that may hold others, as a pattern; empty: the whole folder."""

    def find(self, root: Path) -> Path | None:
        """The data set's folder below torchvision's root; None where it is not there."""
        return next((root / folder for folder in self.folders if self.is_in(root / folder)), None)

    def parts(self, folder: Path) -> list[Path]:
        """The files in the folder that it is made of."""
        return sorted(folder.glob(self.files)) if self.files else [folder]

    def is_in(self, folder: Path) -> bool:
        """True if the folder has this data set's files."""
        if not self.has:
            return folder.is_dir()
        return any((folder / f"{self.has}{ending}").is_file() for ending in ("", ".gz"))


def cifar(official: str, folder: Path) -> DataSource:
    """CIFAR-10 or CIFAR-100. official: the name of torchvision's class for it."""
    from ffdist.data.sources.cifar import Cifar  # imports torchvision, more than a second

    return Cifar(official.lower(), folder, official)


DIGITS = [str(digit) for digit in range(10)]
FASHION = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
KUZUSHIJI = ["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"]
GREY, COLOUR = (1, 28, 28), (3, 32, 32)
LIKE_MNIST = {"train": 60_000, "test": 10_000}
EMNIST_COUNTS = {
    "byclass": {"train": 697_932, "test": 116_323},
    "bymerge": {"train": 697_932, "test": 116_323},
    "balanced": {"train": 112_800, "test": 18_800},
    "letters": {"train": 124_800, "test": 20_800},
    "digits": {"train": 240_000, "test": 40_000},
    "mnist": LIKE_MNIST,
}


def like_mnist(name: str, folder: str, classes: list[str]) -> KnownDataset:
    """A data set in MNIST's format and counts, in `folder` below torchvision's root."""
    return KnownDataset(GREY, 10, LIKE_MNIST, (f"{folder}/raw",), partial(Idx, name, classes=classes))


def emnist_entry(split: str) -> KnownDataset:
    """The entry of one of EMNIST's splits."""
    places = ("EMNIST/raw/gzip", "EMNIST/raw", "gzip", "EMNIST")  # as unpacked, as torchvision leaves it, by hand
    return KnownDataset(
        GREY,
        len(EMNIST[split]),
        EMNIST_COUNTS[split],
        places,
        partial(emnist, split),
        has=f"emnist-{split}-train-images-idx3-ubyte",
        files=f"emnist-{split}-*",
    )


KNOWN = {
    "mnist": like_mnist("mnist", "MNIST", DIGITS),
    "fashion-mnist": like_mnist("fashion-mnist", "FashionMNIST", FASHION),
    "kmnist": like_mnist("kmnist", "KMNIST", KUZUSHIJI),
    **{f"emnist-{split}": emnist_entry(split) for split in EMNIST},
    "cifar10": KnownDataset(
        COLOUR, 10, {"train": 50_000, "test": 10_000}, ("cifar-10-batches-py",), partial(cifar, "CIFAR10")
    ),
    "cifar100": KnownDataset(
        COLOUR, 100, {"train": 50_000, "test": 10_000}, ("cifar-100-python",), partial(cifar, "CIFAR100")
    ),
    "svhn": KnownDataset(
        COLOUR,
        10,
        {"train": 73_257, "test": 26_032},
        ("SVHN", "svhn", ""),
        Svhn,
        has="train_32x32.mat",
        files="*_32x32.mat",
    ),
    "stl10": KnownDataset((3, 96, 96), 10, {"train": 5_000, "test": 8_000}, ("stl10_binary",), Stl10),
    "imagenette": KnownDataset(
        None,
        10,
        {"train": 9_469, "test": 3_925},
        ("imagenette2-320", "imagenette2", "imagenette2-160", "imagenette"),
        imagenette,
    ),
}
OTHER_NAMES = {
    "cifar-10": "cifar10",
    "cifar-100": "cifar100",
    "fashionmnist": "fashion-mnist",
    "fashion_mnist": "fashion-mnist",
    "fmnist": "fashion-mnist",
    "kuzushiji-mnist": "kmnist",
    "stl-10": "stl10",
    "imagenette2": "imagenette",
}
"""What else they are called, in small letters."""


def known_name(name: str) -> str | None:
    """The name of a known data set, whatever its case; None for others."""
    small = name.casefold().replace("_", "-") if name.casefold() not in OTHER_NAMES else name.casefold()
    return small if small in KNOWN else OTHER_NAMES.get(small)


def open_known(name: str, root: Path, download: bool) -> DataSource:
    """The data set in torchvision's root, fetched first where it is not there and `download` allows it.

    Raises DataError where it is not there or cannot be fetched.
    """
    return KNOWN[name].open(have_known(name, root, download))


def have_known(name: str, root: Path, download: bool) -> Path:
    """Its folder in torchvision's root."""
    known = KNOWN[name]
    if known.find(root) is None and download:
        from ffdist.data.sources.download import fetch  # imports torchvision, more than a second

        fetch(name, root)
    folder = known.find(root)
    if folder is None:
        raise DataError(
            f"{name} is not there",
            where=root,
            expected=" or ".join(f"{folder}/{known.has}".strip("/") for folder in known.folders),
            remedy=f"give torchvision's root with {setting('from_dir')}, or let it be downloaded",
        )
    return folder
