"""The known data sets, fetched into torchvision's root by torchvision, which checks their published md5."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from torchvision import datasets
from torchvision.datasets.utils import download_and_extract_archive

from ffdist.errors import DataError, setting
from ffdist.folders import UNWRITABLE, remedy_unwritable, why_unwritable

ERRORS = (OSError, RuntimeError)
"""What urllib and torchvision raise."""


def fetch(name: str, root: Path) -> None:
    """Raises DataError where it cannot be had."""
    try:
        FETCH[name](root)
    except ERRORS as error:
        if isinstance(error, OSError) and error.errno in UNWRITABLE:
            raise DataError(
                f"there is no place to download {name} to",
                where=root,
                got=why_unwritable(root, error),
                remedy=remedy_unwritable(root, error, [setting("cache")]),
            ) from error
        raise DataError(
            f"{name} cannot be downloaded",
            where=root,
            got=error,
            remedy=f"get it elsewhere, and give torchvision's root with {setting('from_dir')}; "
            f"or give another place for downloads with {setting('cache')}",
        ) from error


def idx(official: type[datasets.MNIST], root: Path) -> None:
    for file, md5 in official.resources:
        from_any(official.mirrors, file, md5, root / official.__name__ / "raw")


def from_any(mirrors: Sequence[str], file: str, md5: str, folder: Path) -> None:
    """From the first mirror that has it whole."""
    mirror, *others = mirrors
    try:
        download_and_extract_archive(f"{mirror}{file}", str(folder), filename=file, md5=md5)
    except ERRORS:
        if not others:
            raise
        from_any(others, file, md5, folder)


def cifar(official: type[datasets.CIFAR10], root: Path) -> None:
    download_and_extract_archive(official.url, str(root), filename=official.filename, md5=official.tgz_md5)


def imagenette(root: Path) -> None:
    datasets.Imagenette(root, size="320px", download=True)


FETCH: dict[str, Callable[[Path], None]] = {
    "mnist": partial(idx, datasets.MNIST),
    "fashion-mnist": partial(idx, datasets.FashionMNIST),
    "cifar10": partial(cifar, datasets.CIFAR10),
    "cifar100": partial(cifar, datasets.CIFAR100),
    "imagenette": imagenette,
}
