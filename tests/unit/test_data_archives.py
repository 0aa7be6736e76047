"""Zips and tars of folders are prepared as the folders are, and nothing of them stays."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ffdist import open_data
from ffdist.data import prepare
from ffdist.data.sources.archive import unpack
from ffdist.errors import DataError


def pets(folder: Path, *, count: int = 12) -> Path:
    for row in range(count):
        path = folder / ("cats", "dogs")[row % 2] / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 6), (row * 20, 0, 9)).save(path)
    return folder


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(folder.parent))
        archive.writestr("__MACOSX/pets/._cats", b"junk")
    return path


def tarred(folder: Path, path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, folder.name)
    return path


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_an_archive_is_prepared_as_its_folder_is(pack, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = pets(tmp_path / "pets")
    path = pack(folder, tmp_path / f"pets.{'zip' if pack is zipped else 'tar.gz'}")
    made = open_data(prepare(path, tmp_path / "made"))
    assert "are unpacked to be prepared, and removed after" in capsys.readouterr().err
    expected = open_data(prepare(folder, tmp_path / "expected"))
    assert (made.name, made.digest) == ("pets", expected.digest)
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(["pets", path.name, "made", "expected"])


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_what_is_unpacked_is_counted(pack, tmp_path: Path) -> None:
    folder = tmp_path / "pets"
    folder.mkdir()
    for size in (7, 100, 1):
        (folder / f"{size}.png").write_bytes(bytes(size))
    path = pack(folder, tmp_path / f"pets.{'zip' if pack is zipped else 'tar.gz'}")
    (tmp_path / "out").mkdir()
    assert unpack(path, tmp_path / "out") == (3, 108)


def test_an_archive_given_as_data_is_prepared_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FFDIST_CACHE", str(tmp_path / "cache"))
    path = zipped(pets(tmp_path / "pets"), tmp_path / "pets.zip")
    first, again = open_data(path), open_data(path)
    said = capsys.readouterr().err
    assert said.count("unpacked to be prepared") == 1
    assert "of which the same files were prepared before" in said or "unchanged" in said
    assert first.digest == again.digest
    assert np.array_equal(first.train.labels, again.train.labels)


def test_broken_pictures_and_classes_are_named_by_their_place_in_the_archive(tmp_path: Path) -> None:
    folder = pets(tmp_path / "pets")
    (folder / "cats" / "0.png").write_bytes(b"broken")
    path = zipped(folder, tmp_path / "pets.zip")
    with pytest.raises(DataError) as caught:
        prepare(path, tmp_path / "out")
    assert f"{path}/cats/0.png" in str(caught.value)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["pets", "pets.zip"]


def test_archives_that_are_damaged_or_lead_elsewhere_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    path = zipped(pets(tmp_path / "pets"), tmp_path / "pets.zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"an archive cannot be read\n(.*\n)*  remedy: fetch or write .*pets.zip again"):
        prepare(path, tmp_path / "out")
    path.write_bytes(whole.replace(b"cats/2.png", b"../../../b"))
    with pytest.raises(DataError, match="would lie outside of it"):
        prepare(path, tmp_path / "out")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/0.png", bytes(2**20))
    huge = bytearray(path.read_bytes())
    for sign, place in ((b"PK\1\2", 24), (b"PK\3\4", 22)):  # where sizes stand: 4 GiB of each of many
        at = huge.find(sign) + place
        huge[at : at + 4] = (2**32 - 2).to_bytes(4, "little")
    path.write_bytes(huge)
    with pytest.raises(DataError, match=r"bytes, where its header says 4,294,967,294|no room"):
        prepare(path, tmp_path / "out")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["pets", "pets.zip"]
