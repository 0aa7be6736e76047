"""Folders that are not files of this machine: s3://, gs://, memory:// and whatever else fsspec knows.

    place = RemoteFolder.of("s3://bucket/data")     # None for a folder of this machine
    place.read("manifest.json")

A file is put as a whole: on an object store by one request; where that writes in place (file://, sftp://), beside its
name first, and then renamed. So a reader has the whole of a file or none of it.
"""

from __future__ import annotations

import importlib
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ffdist.errors import ConfigError

URL = re.compile(r"([a-z][a-z0-9+.-]+):/{1,3}(.*)", re.DOTALL)
PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "hf": "huggingface_hub",
}
"""What gives fsspec a kind of address that it has not itself."""
IN_PLACE = ("file", "local", "sftp", "ssh", "smb", "hdfs", "arrow_hdfs", "dir")
"""File systems that write a file where it stands, and rename at once."""
PARTIAL = ".partial"


def url_of(place: object) -> str | None:
    """A remote folder's address, also of a Path, which has one slash of it left; None for what is none."""
    if not isinstance(place, (str, Path)):
        return None
    found = URL.fullmatch(str(place))
    if found is None:
        return None
    scheme, rest = found.groups()
    return f"{scheme}://{'/' if scheme in IN_PLACE[:2] else ''}{rest.strip('/')}"


class RemoteStat(NamedTuple):
    """A file system's facts on a file."""

    size: int
    mark: str
    """Its tag or time: another one where the file was written again."""


@dataclass(frozen=True)
class RemoteFolder:
    """A remote folder, or one below it. What goes wrong on the way is an OSError, whichever library raised it."""

    url: str

    @classmethod
    def of(cls, place: object) -> RemoteFolder | None:
        """The remote folder at an address; None for a folder of this machine."""
        url = url_of(place)
        return None if url is None else cls(url)

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> RemoteFolder:
        return RemoteFolder(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def fs(self) -> Any:
        """fsspec keeps one of each kind. Raises ConfigError for a kind that it does not know here."""
        fsspec = importlib.import_module("fsspec")
        scheme = self.url.partition("://")[0]
        try:
            return fsspec.core.url_to_fs(self.url)[0]
        except (ImportError, ValueError) as error:
            package = PACKAGES.get(scheme)
            raise ConfigError(
                f"addresses of {scheme}:// cannot be opened",
                where=self.url,
                expected="s3://, gs://, or another that fsspec knows",
                got=error,
                remedy=f"pip install {package}"
                if package
                else f"for a folder called so, ./{self.url.replace('://', ':/')}",
            ) from error

    def check(self) -> RemoteFolder:
        """The same. Raises ConfigError for a kind of address that cannot be opened here."""
        assert self.fs is not None
        return self

    @property
    def path(self) -> str:
        """The path as its file system has it."""
        return self.fs._strip_protocol(self.url)

    def read(self, name: str) -> bytes:
        """All of a file. Raises FileNotFoundError or another OSError."""
        with as_os_error():
            return self.fs.cat_file((self / name).path)

    @contextmanager
    def opened(self, name: str) -> Iterator[Any]:
        """A file to read from at any place, by a few small requests."""
        with as_os_error(), self.fs.open((self / name).path, "rb", block_size=2**16) as file:
            yield file

    def ranges(self, parts: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """Parts of files: name, first byte, length; at once, where the file system can."""
        base = self.path
        with as_os_error():
            got = self.fs.cat_ranges(
                [f"{base}/{name}" for name, _, _ in parts],
                [start for _, start, _ in parts],
                [start + length for _, start, length in parts],
                on_error="raise",
            )
        return [bytes(data) for data in got]

    def write(self, name: str, data: bytes) -> None:
        """A file, whole or not at all; there when this returns."""
        target = self / name
        with as_os_error():
            fs, path = self.fs, target.path
            if scheme_of(fs) not in IN_PLACE:
                fs.pipe_file(path, data)
                return
            fs.makedirs(fs._parent(path), exist_ok=True)
            partial = f"{fs._parent(path)}/.{target.name}.{uuid.uuid4().hex[:8]}{PARTIAL}"
            try:
                fs.pipe_file(partial, data)
                fs.mv(partial, path)
            except BaseException:  # an interrupt, too; raised again
                if fs.exists(partial):
                    fs.rm_file(partial)
                raise

    def put(self, name: str, file: Path) -> None:
        """A file of this machine, by parts where it is large; whole or not at all."""
        target = self / name
        with as_os_error():
            if scheme_of(self.fs) in IN_PLACE:
                self.write(name, file.read_bytes())
            else:
                self.fs.put_file(str(file), target.path)

    def list_files(self) -> dict[str, RemoteStat]:
        """The files of the folder, by name; none where there is no folder."""
        with as_os_error():
            self.fs.invalidate_cache()
            try:
                listed = self.fs.ls(self.path, detail=True)
            except FileNotFoundError:
                return {}
        return {
            info["name"].rpartition("/")[2]: RemoteStat(int(info["size"] or 0), mark_of(info))
            for info in listed
            if info["type"] == "file"
        }

    def folders(self) -> list[str]:
        """The names of the folders inside, sorted."""
        with as_os_error():
            self.fs.invalidate_cache()
            try:
                listed = self.fs.ls(self.path, detail=True)
            except FileNotFoundError:
                return []
        return sorted(info["name"].rstrip("/").rpartition("/")[2] for info in listed if info["type"] == "directory")

    def remove(self, name: str) -> None:
        """A file; nothing where there is none."""
        with as_os_error():
            try:
                self.fs.rm_file((self / name).path)
            except FileNotFoundError:
                return

    def remove_all(self) -> None:
        """The folder, and what is in it."""
        with as_os_error():
            if self.fs.exists(self.path):
                self.fs.rm(self.path, recursive=True)


def scheme_of(fs: Any) -> str:
    return fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]


def mark_of(info: dict[str, Any]) -> str:
    """The mark that differs from one writing of a file to the next, by whatever name a file system has for it."""
    for key in (
        "ETag",
        "etag",
        "md5Hash",
        "crc32c",
        "content_md5",
        "generation",
        "mtime",
        "LastModified",
        "updated",
        "last_modified",
        "created",
    ):
        if info.get(key) is not None:
            return f"{key} {info[key]}"
    return ""


@contextmanager
def as_os_error() -> Iterator[None]:
    """Raises OSError for whatever a store's own library raises inside."""
    try:
        yield
    except (OSError, ConfigError):
        raise
    except Exception as error:  # each library has its own
        raise OSError(f"{type(error).__name__}: {' '.join(str(error).split())}") from error
