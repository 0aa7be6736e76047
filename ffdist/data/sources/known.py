"""The data sets that ffdist can fetch: what they are, where torchvision keeps them, how to open them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ffdist.data.sources.base import Source
from ffdist.data.sources.idx import Idx
from ffdist.data.sources.imagenette import imagenette
from ffdist.errors import DataError, setting


@dataclass(frozen=True)
class Known:
    """A data set with a name."""

    shape: tuple[int, int, int] | None
    """(C, H, W); None where its pictures differ in size."""
    num_classes: int
    counts: dict[str, int]
    folders: tuple[str, ...]
    """Where it may be below torchvision's root; the first that is there is taken."""
    open: Callable[[Path], Source]

    def find(self, root: Path) -> Path | None:
        return next((root / folder for folder in self.folders if (root / folder).is_dir()), None)


def cifar(official: str, folder: Path) -> Source:
    from ffdist.data.sources.cifar import Cifar  # imports torchvision, more than a second

    return Cifar(official.lower(), folder, official)


FASHION = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
GREY, COLOUR = (1, 28, 28), (3, 32, 32)
KNOWN = {
    "mnist": Known(
        GREY, 10, {"train": 60_000, "test": 10_000}, ("MNIST/raw",),
        partial(Idx, "mnist", classes=[str(digit) for digit in range(10)]),
    ),
    "fashion-mnist": Known(
        GREY, 10, {"train": 60_000, "test": 10_000}, ("FashionMNIST/raw",),
        partial(Idx, "fashion-mnist", classes=FASHION),
    ),
    "cifar10": Known(
        COLOUR, 10, {"train": 50_000, "test": 10_000}, ("cifar-10-batches-py",),
        partial(cifar, "CIFAR10"),
    ),
    "cifar100": Known(
        COLOUR, 100, {"train": 50_000, "test": 10_000}, ("cifar-100-python",),
        partial(cifar, "CIFAR100"),
    ),
    "imagenette": Known(
        None, 10, {"train": 9_469, "test": 3_925},
        ("imagenette2-320", "imagenette2", "imagenette2-160", "imagenette"), imagenette,
    ),
}  # fmt: skip


def open_known(name: str, root: Path, download: bool) -> Source:
    """The data set in torchvision's root, downloaded first where it is not there and `download` allows it.

    Raises DataError where it is not there or cannot be fetched.
    """
    known = KNOWN[name]
    if known.find(root) is None and download:
        from ffdist.data.sources.download import fetch  # imports torchvision, more than a second

        fetch(name, root)
    folder = known.find(root)
    if folder is None:
        raise DataError(
            f"{name} is not there",
            where=root,
            expected=" or ".join(known.folders),
            remedy=f"give torchvision's root with {setting('from_dir')}, or let it be downloaded",
        )
    return known.open(folder)
