from __future__ import annotations

import numpy as np
import pytest

from ffdist.calls import calls_of
from ffdist.data.transforms import TransformSteps, load_transforms
from ffdist.data.transforms.draws import RandomDraws, philox
from ffdist.errors import ConfigError

KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
"""Counters, keys and words of Random123's own table for philox4x32-10."""


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_the_generator_gives_the_words_of_its_authors(
    counter: tuple[int, ...], key: tuple[int, int], words: tuple[int, ...]
) -> None:
    given = [np.full(3, word, np.uint64) for word in counter]
    assert [word.tolist() for word in philox(given, key)] == [[word] * 3 for word in words]


def test_what_is_drawn_for_a_sample_depends_on_seed_epoch_purpose_and_sample_alone() -> None:
    rows = np.array([5, 0, 70000, 3])
    one, other = RandomDraws(7, [("a", 3), ("b", 6)]), RandomDraws(7, [("b", 6)])
    whole = one.uniform(2, rows)
    assert [part.shape for part in whole] == [(4, 3), (4, 6)]
    assert np.array_equal(whole[1], other.uniform(2, rows)[0])
    assert np.array_equal(whole[1][1:3], other.uniform(2, rows[1:3])[0])
    for another in (RandomDraws(8, [("a", 3)]).uniform(2, rows), one.uniform(3, rows), one.uniform(2, rows + 1)):
        assert not np.isin(another[0], whole[0]).any()
    assert not np.isin(whole[1], whole[0]).any()


def test_the_numbers_are_uniform() -> None:
    (drawn,) = RandomDraws(0, [("a", 8)]).uniform(0, np.arange(20_000))
    counts = np.histogram(drawn, 50, (0, 1))[0]
    expected = drawn.size / 50
    assert ((counts - expected) ** 2 / expected).sum() < 100  # of 49 degrees of freedom: 5 sigma
    assert np.abs(np.corrcoef(drawn.T) - np.eye(8)).max() < 0.04


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["crop", "padding=4", "mode=reflect", "flip"], ["crop(padding=4,mode=reflect)", "flip"]),
        (["crop(padding=4, mode='reflect')"], ["crop(padding=4,mode=reflect)"]),
        (["crop padding=4 mode=reflect", "flip"], ["crop(padding=4,mode=reflect)", "flip"]),
        (["resized-crop(scale=(0.08, 1), ratio=[0.5,2])"], ["resized-crop(scale=0.08,1,ratio=0.5,2)"]),
        (["my own/aug.py:Mine(a=1)", "lib.aug:Other", "b=x"], ["my own/aug.py:Mine(a=1)", "lib.aug:Other(b=x)"]),
        ([{"name": "crop", "padding": 4}], ["crop(padding=4)"]),
        (["flip()", "crop(4, mode=edge)"], ["flip", "crop(4,mode=edge)"]),
        ([{"crop": {"padding": 4, "mode": "edge"}, "flip": True}], ["crop(padding=4,mode=edge)", "flip"]),
    ],
)
def test_names_and_options_have_one_form(words: list[object], expected: list[str]) -> None:
    assert [str(call) for call in calls_of(words, "here")] == expected
    assert [str(call) for call in calls_of(expected, "here")] == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["p=1", "flip"], "before any name"),
        (["crop(padding=4"], "not a name with options"),
        (["crop(padding=4,padding=5)"], "given twice"),
        ([3], "not a name with options"),
        ([""], "not a name with options"),
    ],
)
def test_what_is_no_name_with_options_is_refused(words: list[object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        calls_of(words, "here")


def test_a_picture_of_any_size_is_cut_alike_in_any_part_of_any_batch() -> None:
    steps = TransformSteps(load_transforms(["resized-crop"]), seed=3, wanted=(12, 16))
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 256, (20 + i, 50 - i, 3), np.uint8) for i in range(8)]
    rows = np.array([11, 4, 2, 9, 0, 1, 30, 6])
    drawn, part = steps.draw(5, 0, rows), steps.draw(5, 0, rows, slice(3, 8))
    for i in range(3, 8):
        made = steps.picture(pictures[i], drawn, i)
        assert made.shape == (12, 16, 3)
        assert np.array_equal(made, steps.picture(pictures[i], part, i - 3))
