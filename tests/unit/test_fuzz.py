"""Bad input: some of what `benchmarks/fuzz.py` makes by the thousand, and what was once a finding."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from benchmarks import fuzz
from benchmarks.fuzz_strategies import inputs_of
from benchmarks.fuzz_targets import (
    TARGETS,
    Target,
    arrow,
    file_of,
    leave,
    pictures,
    use_data_manifest,
    use_mark,
    use_request,
    use_table,
    watched,
)
from ffdist.errors import FfdistError

INPUTS = 50


@pytest.fixture(scope="module", autouse=True)
def folders() -> Iterator[None]:
    yield
    watched().close()
    leave()


@pytest.mark.filterwarnings("ignore")  # of what reads pictures and tables
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_bad_input_is_an_error_for_users_and_whole_input_is_taken(target: Target) -> None:
    seeds = [*target.seeds()]
    for data in seeds:
        target.use(data)

    @settings(max_examples=INPUTS, derandomize=True, deadline=None, database=None)
    @given(inputs_of(seeds))
    def one(data: bytes) -> None:
        with suppress(FfdistError):
            target.use(data)

    one()


def test_what_is_no_request_is_quoted_in_the_answer_and_no_trace_of_ours() -> None:
    assert b"Traceback" in use_request(b"Traceback")


@pytest.mark.parametrize("data", [b"[" * 5000, b'{"snapshot": [], "accuracy": 0.5}', b"null", b"\xff"])
def test_a_mark_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(FfdistError, match="mark of the best snapshot"):
        use_mark(data)


@pytest.mark.parametrize(
    ("key", "value"),
    [("size", [6]), ("value_range", [0.5]), ("size", [float("inf"), 6]), ("size", 6), ("value_range", [10**400, 1])],
)
def test_a_decoding_that_is_none_is_refused(key: str, value: object) -> None:
    (data,) = file_of("manifest.json", "data")()
    values = json.loads(data)
    values["decoding"][key] = value
    with pytest.raises(FfdistError, match="manifest cannot be used"):
        use_data_manifest(json.dumps(values).encode())


def test_a_column_whose_name_is_no_text_is_refused() -> None:
    data = arrow()[0].replace(b"image", b"\xe9mage")
    with pytest.raises(FfdistError, match="table"):
        use_table(".arrow")(data)


def test_an_arrow_table_whose_places_lie_beyond_it_is_refused() -> None:
    """Reading there would end the process."""
    for data in arrow():
        offsets = np.array([0, len(pictures()[0])], "<i4").tobytes()
        at = data.index(offsets)
        for far in (2**31 - 1, 2**30, -(2**31)):
            bad = data[: at + 4] + far.to_bytes(4, "little", signed=True) + data[at + 8 :]
            with pytest.raises(FfdistError, match="table"):
                use_table(".arrow")(bad)


@pytest.mark.parametrize("wanted", [1, fuzz.STEP + 50])
def test_a_target_gets_as_many_inputs_as_were_asked_for(wanted: int, tmp_path: Path) -> None:
    seen: list[bytes] = []
    trial = fuzz.TargetTrial(Target("listing", lambda: [b"whole"], seen.append), tmp_path, wanted)
    fuzz.unguided(trial, inputs_of([b"whole"]), lambda: trial.left == 0, random.Random(0))
    assert (len(seen), trial.outcome.inputs) == (wanted, wanted)


def test_two_of_them_do_not_share_a_folder_of_findings(tmp_path: Path) -> None:
    with fuzz.in_use(tmp_path), pytest.raises(SystemExit, match="in use by another"), fuzz.in_use(tmp_path):
        pass
    with fuzz.in_use(tmp_path):
        pass
