"""Data sets that draw at random: anew in each epoch, from (seed, epoch, item), whoever reads them."""

from __future__ import annotations

import gc
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawing import FLOATS, LABELS, OF_MODULE, Noisy, Pair, of_closure, of_module, of_shared, of_torch
from forked import Forked
from jobs import fingerprint
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset
from torchvision import transforms as v1
from torchvision.datasets import FakeData
from torchvision.transforms import v2

from ffdist import SFF, Pipeline, from_dataset, from_tensors, models
from ffdist.data import ArraySplit, Images, Loader, torch_dataset
from ffdist.data.given import as_images
from ffdist.data.images import moments
from ffdist.data.items_split import ItemsSplit
from ffdist.data.readers import ReaderProcess, ReaderStart, wait_for_readers_at_most
from ffdist.errors import DataError, FfdistError, StageLostError
from ffdist.objectives import Objective
from ffdist.payload import pack


def noise(x: Any, rows: np.ndarray) -> np.ndarray:
    """What was added to each."""
    return (np.asarray(x) - FLOATS[rows])[:, 0, 0, 0].round(5)


def epoch(images: Images, at: int, *, seed: int = 0, start: int = 0, **options: Any) -> dict[int, bytes]:
    """Each sample's bits in an epoch, by the item that it is of."""
    options = {"batch_size": 5, "workers": 1} | options
    loader = Loader(images, images.train, np.arange(len(images.train)), seed=seed, train=True, **options)
    order = loader.order(at)
    rows = iter(order[start * options["batch_size"] :].tolist())
    return {next(rows): one.numpy().tobytes() for x, _ in loader.epoch(at, start) for one in x}


def test_items_are_drawn_anew_in_each_epoch_and_by_nothing_but_seed_epoch_and_item(
    capsys: pytest.CaptureFixture[str],
) -> None:
    images = from_dataset(Noisy())
    assert "draw from torch's, NumPy's and Python's generators, and are read anew" in capsys.readouterr().err
    first = epoch(images, 0)
    assert len({*first.values()}) == 20, "each draws its own"
    assert first == epoch(images, 0)
    again, another, later = epoch(from_dataset(Noisy()), 0), epoch(images, 0, seed=1), epoch(images, 1)
    assert first == again
    assert not set(first.values()) & (set(another.values()) | set(later.values()))
    for other in ({"batch_size": 24}, {"batch_size": 3}, {"start": 2}):
        made = epoch(images, 0, **other)
        assert len(made) > 5
        assert all(first.get(row, bits) == bits for row, bits in made.items()), other


def test_reading_uses_up_nobody_s_random_numbers() -> None:
    own = np.random.default_rng(2)

    def state() -> Any:
        return of_shared(), own.random(), OF_MODULE.bit_generator.state

    def begun() -> None:
        torch.manual_seed(5), np.random.seed(5), random.seed(5)
        own.bit_generator.state = type(own.bit_generator)(5).state

    begun()
    expected = state()
    begun()
    epoch(from_dataset(Noisy(own.random)), 0)
    epoch(from_dataset(Noisy(of_module)), 0)
    epoch(from_dataset(Noisy()), 0)
    assert state() == expected


@pytest.mark.parametrize(
    "draw",
    [
        lambda: np.random.default_rng().random,
        lambda: np.random.RandomState(4).random_sample,
        lambda: random.Random().random,
        lambda: partial(of_torch, torch.Generator()),
        lambda: of_module,
        of_closure,
    ],
)
def test_generators_that_a_data_set_holds_are_seeded_alike(
    draw: Callable[[], Callable[[], float]], capsys: pytest.CaptureFixture[str]
) -> None:
    images = from_dataset(Noisy(draw()))
    assert "draw from its own generators" in capsys.readouterr().err
    assert len({*epoch(images, 0).values()}) == 20
    assert epoch(images, 1) == epoch(from_dataset(Noisy(draw())), 1) != epoch(images, 0)


def test_what_no_seed_reaches_is_read_once_and_noted(capsys: pytest.CaptureFixture[str]) -> None:
    images = from_dataset(Noisy(lambda: os.urandom(1)[0] + os.urandom(1)[0] / 256))
    assert "24 of 24 items are others when read again, whatever the seed; every item was read once" in (
        capsys.readouterr().err
    )
    assert isinstance(images.train, ArraySplit)
    assert epoch(images, 0, batch_size=24) == epoch(images, 1, batch_size=24)


def test_what_does_not_draw_stays_in_memory_unless_it_is_too_large(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = TensorDataset(torch.from_numpy(FLOATS), torch.from_numpy(LABELS))
    held = from_dataset(data)
    assert not capsys.readouterr().err
    monkeypatch.setattr(torch_dataset, "HELD", 1000)
    streamed = from_dataset(data)
    assert "do not stay in memory; items are read when they are needed" in capsys.readouterr().err
    assert isinstance(held.train, ArraySplit)
    assert isinstance(streamed.train, ItemsSplit)
    assert epoch(held, 1) == epoch(streamed, 1)
    assert held.spread == pytest.approx(streamed.spread)
    scaled, others = from_dataset(data, normalize=True), from_tensors(FLOATS, LABELS, normalize=True)
    assert (scaled.mean, scaled.std) == (pytest.approx(others.mean), pytest.approx(others.std))
    with pytest.raises(DataError, match="others each time"):
        from_dataset(Noisy(lambda: float(os.urandom(1)[0])))


def pictures(transform: Any) -> Any:
    """torchvision's own kind of data set."""
    return FakeData(12, (3, 16, 16), 3, transform, random_offset=5)


@pytest.mark.parametrize(
    "transform",
    [
        v1.Compose([v1.RandomCrop(16, padding=2), v1.RandomHorizontalFlip(), v1.ColorJitter(0.4), v1.ToTensor()]),
        v1.Compose([v1.RandAugment(), v1.PILToTensor()]),
        v2.Compose([v2.PILToTensor(), v2.RandomResizedCrop(12, antialias=True), v2.RandomHorizontalFlip()]),
        v2.TrivialAugmentWide(),
    ],
)
def test_torchvision_s_transforms_of_a_data_set_draw_anew(transform: Any) -> None:
    images = from_dataset(pictures(transform))
    assert epoch(images, 0) == epoch(images, 0)
    assert {
        row for row, bits in epoch(images, 1, batch_size=12).items() if epoch(images, 0, batch_size=12)[row] != bits
    }


def test_pixels_are_normalised_by_what_was_read_first() -> None:
    images = from_dataset(pictures(v1.PILToTensor()))
    drawn = from_dataset(pictures(v1.Compose([v1.RandomHorizontalFlip(), v1.PILToTensor()])))
    assert isinstance(drawn.train, ItemsSplit)
    assert isinstance(images.train, ArraySplit)
    mean, std = moments(images.train.samples)
    assert (drawn.mean, drawn.std) == (pytest.approx(mean), pytest.approx(std))


def test_parts_and_loaders_of_such_data_sets_draw_anew_and_other_splits_stay() -> None:
    whole = Noisy()
    made = {"part": Subset(whole, range(4, 24)), "two": ConcatDataset([whole, whole]), "loader": DataLoader(whole)}
    for data in made.values():
        images = as_images({"train": data, "test": whole})
        assert epoch(images, 0) != epoch(images, 1)
        assert images.test is not None
        rows = np.arange(24)
        fixed = [images.test.in_epoch(0, at).take(rows) for at in (0, 1)]
        assert np.array_equal(*fixed)
        assert len({*noise(fixed[0], rows)}) == 24
    shared = from_dataset(whole, test=0.25, validation=0.25)
    assert (len(shared.train), len(shared.splits)) == (12, 3)
    loader = Loader(shared, shared.splits["test"], np.arange(6), batch_size=6, seed=3, train=False)
    first, later = (next(loader.epoch(at))[0] for at in (0, 4))
    assert torch.equal(first, later), "a share that is tested on is drawn once"


def test_a_split_that_is_sent_to_a_process_reads_the_same() -> None:
    split = from_dataset(Noisy()).train.in_epoch(5, 2)
    sent = pickle.loads(pickle.dumps(split))
    rows = np.array([3, 0, 17])
    assert np.array_equal(split.take(rows), sent.take(rows))
    assert split.digest() == sent.digest() == from_dataset(Noisy()).train.digest()


class Relabelled(Dataset):
    """The last item's label is drawn, too."""

    def __init__(self) -> None:
        self.epochs = 0

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        self.epochs += index == 1
        shade = random.randrange(256)
        return Image.new("L", (8, 8), (shade, 255 - shade)[index % 2]), index % 2 if self.epochs < 5 else 1


def test_an_item_whose_label_changes_is_refused_by_its_row() -> None:
    images = from_dataset(Relabelled())
    with pytest.raises(DataError, match="another label when it is read again") as caught:
        [epoch(images, at) for at in range(4)]
    assert "row " in str(caught.value)
    assert (caught.value.expected, caught.value.got) == (0, 1)


def test_any_cut_and_a_stop_in_mid_epoch_come_to_the_same_bits(tmp_path: Path) -> None:
    rule: Objective = SFF()

    def pipeline(**options: Any) -> Pipeline:
        return Pipeline(
            models.cnnb((3, 8, 8), 3, (4, 4, 4)),
            rule,
            batch_size=4,
            device="cpu",
            threads=1,
            snapshot_every=2,
            validation=0,
            **options,
        )

    quiet = {"epochs": 3, "progress": False}
    pipeline(stages=1).fit(Noisy(), out=tmp_path / "one", **quiet)
    pipeline(stages=3, loader_workers=2).fit(Noisy(), out=tmp_path / "three", **quiet)
    assert fingerprint(tmp_path / "one") == fingerprint(tmp_path / "three")
    first = Noisy()
    from_dataset(first)
    with pytest.raises(DataError, match="the disk is gone"):
        pipeline(stages=2).fit(Noisy(stop_at=first.readings + 24 + 15), out=tmp_path / "cut", **quiet)
    Pipeline.resume(tmp_path / "cut", Noisy(), progress=False, stages=1, loader_workers=1)
    assert fingerprint(tmp_path / "one") == fingerprint(tmp_path / "cut")


def readers_of(loader: Loader) -> set[int]:
    """The processes that read an epoch."""
    return {int(one[2]) for x, _ in loader.epoch(0) for one in x}


def test_processes_read_what_draws_side_by_side_with_the_bits_of_one_and_are_gone_with_the_loader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawing = from_dataset(Noisy())
    alone = [epoch(drawing, at, workers=1) for at in range(2)]
    began: list[ReaderProcess] = []
    monkeypatch.setattr(ReaderProcess, "__init__", counted(ReaderProcess.__init__, began))
    loader = Loader(drawing, drawing.train, np.arange(24), batch_size=5, seed=0, train=True, workers=2)
    beside = Loader(drawing, drawing.train, np.arange(6), batch_size=5, seed=0, train=False, workers=2)
    for at in range(2):
        rows = iter(loader.order(at).tolist())
        assert {next(rows): one.numpy().tobytes() for x, _ in loader.epoch(at) for one in x} == alone[at]
    assert len(list(beside.epoch(0))) == 2
    assert len(began) == 2, "two epochs and two loaders have the same two"
    del loader, beside
    gc.collect()
    assert all(reader.process.returncode is not None for reader in began)


def counted(begin: Callable[..., None], began: list[ReaderProcess]) -> Callable[..., None]:
    def begin_counted(self: ReaderProcess, *arguments: Any) -> None:
        began.append(self)
        begin(self, *arguments)

    return begin_counted


@pytest.fixture
def briefly() -> Iterator[None]:
    """A reader's silence is short."""
    wait_for_readers_at_most(2.0)
    yield
    wait_for_readers_at_most(120.0)


ENDINGS: list[tuple[str, type[FfdistError], str]] = [
    ("die", DataError, "exit status 3"),
    ("fail", DataError, "RuntimeError: the disk is gone"),
    ("killed", StageLostError, "killed by SIGKILL"),
    ("stopped", StageLostError, "silence"),
]


def test_a_reader_that_fails_or_dies_is_one_error_and_after_one_that_was_killed_or_stopped_another_attempt_may_begin(
    tmp_path: Path, briefly: None
) -> None:
    images = from_dataset(Pair(tmp_path / "end", at=4))
    loader = Loader(images, images.train, np.arange(12), batch_size=4, seed=0, train=False, workers=2)
    assert os.getpid() not in readers_of(loader)
    (tmp_path / "end").write_text("slow")
    assert os.getpid() not in readers_of(loader)
    for said, kind, got in ENDINGS:
        (tmp_path / "end").write_text(said)
        with pytest.raises(kind) as error:
            readers_of(loader)
        assert got in str(error.value.got), said
        (tmp_path / "end").unlink()
        loader = Loader(images, images.train, np.arange(12), batch_size=4, seed=0, train=False, workers=2)
        assert os.getpid() not in readers_of(loader), said


def test_a_reader_that_is_stopped_before_it_has_given_any_sign_is_noticed_like_others(briefly: None) -> None:
    reader = ReaderProcess(ReaderStart([], 1, pack(len, "it")))
    reader.process.send_signal(signal.SIGSTOP)
    with pytest.raises(StageLostError, match="does not answer") as error:
        reader.answer("here", 1000.0)
    assert error.value.expected == "a sign of life within 2 s"
    assert reader.process.returncode == -signal.SIGKILL


READER = """
import os, signal, sys
from threading import Thread
from ffdist.data.readers import ReaderProcess, ReaderStart
from ffdist.payload import pack
found = []
first = Thread(target=lambda: found.append(ReaderProcess(ReaderStart([], 1, pack(len, "it")))))
first.start()
first.join()
assert found[0].answer("here", 60) is None
os.kill(found[0].process.pid, signal.SIGSTOP)
print(found[0].process.pid, flush=True)
signal.pause()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no signal at a parent's death")
def test_a_stopped_reader_outlives_the_thread_that_wanted_it_and_goes_with_its_process() -> None:
    with Forked([sys.executable, "-c", READER], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        reader = int(parent.stdout.readline())
        stopped = comes_to(reader, "T")
        parent.kill()
    assert stopped
    assert comes_to(reader, "Z", "")


def comes_to(pid: int, *states: str) -> bool:
    """Whether a process comes to one of these states within ten seconds: letters, as ps has them; "" where it is
    gone."""
    state, deadline = None, time.monotonic() + 10
    while state not in states and time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            state = ""
        time.sleep(0.01)
    return state in states


def test_what_no_other_process_can_have_is_read_one_after_another_which_is_noted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    local = from_dataset(Noisy(lambda: torch.rand(1).item()))
    capsys.readouterr()
    assert epoch(local, 0, workers=2) == epoch(local, 0)
    text = capsys.readouterr().err
    assert "items are read one after another" in text
    assert "lambda" in text
    assert text.count("\n") == 1
