"""The known data sets, fetched into torchvision's root by torchvision, which checks their published md5."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError

from torchvision import datasets
from torchvision.datasets.utils import check_integrity, download_url, extract_archive

from ffdist.data.places import MIRROR, locked
from ffdist.data.sources.known import KNOWN
from ffdist.errors import DataError, setting
from ffdist.folders import UNWRITABLE, remedy_unwritable, why_unwritable
from ffdist.notes import note
from ffdist.options import path_of

ERRORS = (OSError, RuntimeError, ValueError, HTTPException)
"""Errors of urllib and torchvision where a download fails."""
TIMEOUT = 30.0
"""Seconds without a byte until a server is given up."""


class RemoteFile(NamedTuple):
    """A file of a known data set."""

    urls: Sequence[str]
    """The file's addresses, tried in this order."""
    file: str
    md5: str
    into: str = ""
    """The folder below torchvision's root that it is unpacked in."""


def fetch(name: str, root: Path) -> None:
    """Fetch a known data set into `root`; files that are there already are not fetched again.

    Its folder appears when it is whole.

    Raises DataError where it cannot be had.
    """
    try:
        with locked(root / f".ffdist-{name}.lock", f"fetching {name} into {root}"):
            if KNOWN[name].find(root) is not None:  # another process was faster
                return
            with scratch(root, name) as new:
                for remote in remotes(name):
                    unpack(find_or_download(name, remote, root, new), new / remote.into)
                move(new / KNOWN[name].folders[0], root / KNOWN[name].folders[0])
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise DataError(
            f"there is no place to download {name} to",
            where=root,
            got=why_unwritable(root, error),
            remedy=f"{remedy_unwritable(root, error, [setting('cache')])}",
        ) from error


@contextmanager
def scratch(root: Path, name: str) -> Iterator[Path]:
    """A new folder in `root`, removed on exit; those that killed processes have left are removed first.

    The caller holds the data set's lock, so that no other process is at work in one of them.
    """
    for old in root.glob(f".ffdist-{name}-*"):
        shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=f".ffdist-{name}-") as folder:
        yield Path(folder)


def find_or_download(name: str, remote: RemoteFile, root: Path, new: Path) -> Path:
    """The file as it was published: one that lies in `root` already, or else from the first address that has it whole.

    Raises DataError where no address has.
    """
    for place in (root, root / remote.into):
        if check_integrity(str(place / remote.file), remote.md5):
            return place / remote.file
    tried = []
    for url in addresses(name, remote):
        note(f"fetching {url} into {root}")
        try:
            with connection_timeouts():
                download_url(url, str(new), remote.file, remote.md5)
            return new / remote.file
        except ERRORS as error:
            if isinstance(error, OSError) and error.errno in UNWRITABLE:
                raise
            if isinstance(error, HTTPError):  # it holds the connection
                error.close()
            tried.append(f"{url}: {error if isinstance(error, HTTPError) else getattr(error, 'reason', error)}")
    raise DataError(
        f"{name} cannot be downloaded",
        where=root,
        got="; ".join(tried),
        remedy=f"put {remote.file} (md5 {remote.md5}) from elsewhere into {root / remote.into}, which is found there "
        f"then; or give torchvision's root that has {KNOWN[name].folders[0]} with {setting('from_dir')}; or set "
        f"{MIRROR} to an address that has {name}/{remote.file}",
    )


@contextmanager
def connection_timeouts() -> Iterator[None]:
    """Give up a silent connection after `TIMEOUT` seconds inside the context; torchvision would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def addresses(name: str, remote: RemoteFile) -> list[str]:
    """The addresses that a file is fetched from: a user's own mirrors alone, where there are any."""
    mirrors = os.environ.get(MIRROR, "").split()
    mirrors = [mirror if "://" in mirror else path_of(mirror).absolute().as_uri() for mirror in mirrors]
    return [f"{mirror.rstrip('/')}/{name}/{remote.file}" for mirror in mirrors] or [*remote.urls]


def unpack(file: Path, folder: Path) -> None:
    """Unpack a file into a folder; one that is no archive is moved or copied there."""
    folder.mkdir(parents=True, exist_ok=True)
    if file.suffix in (".gz", ".tgz", ".zip"):
        extract_archive(str(file), str(folder))
    elif file.parent != folder:
        shutil.copyfile(file, folder / file.name)


def move(made: Path, place: Path) -> None:
    """Move a folder or file by one rename; into a folder that is there already, file by file."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        made.rename(place)
        return
    for path in made.iterdir():
        path.replace(place / path.name)


def remotes(name: str) -> list[RemoteFile]:
    """The files of a known data set, as torchvision lists them."""
    if name.startswith("emnist-"):
        return [RemoteFile([datasets.EMNIST.url], "gzip.zip", datasets.EMNIST.md5, "EMNIST/raw")]
    if name in LIKE_MNIST:
        official = LIKE_MNIST[name]
        folder = f"{official.__name__}/raw"
        return [
            RemoteFile([f"{mirror}{file}" for mirror in official.mirrors], file, md5, folder)
            for file, md5 in official.resources
        ]
    if name in CIFAR:
        official = CIFAR[name]
        return [RemoteFile([official.url], official.filename, official.tgz_md5)]
    if name == "svhn":
        files = datasets.SVHN.split_list
        return [RemoteFile([url], file, md5, "SVHN") for url, file, md5 in (files["train"], files["test"])]
    if name == "stl10":
        return [RemoteFile([datasets.STL10.url], datasets.STL10.filename, datasets.STL10.tgz_md5)]
    url, md5 = datasets.Imagenette._ARCHIVES["320px"]
    return [RemoteFile([url], url.rpartition("/")[2], md5)]


LIKE_MNIST = {"mnist": datasets.MNIST, "fashion-mnist": datasets.FashionMNIST, "kmnist": datasets.KMNIST}
CIFAR = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}
