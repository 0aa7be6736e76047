"""Where stages go, by the GPUs that each process sees."""

from __future__ import annotations

from itertools import product

import pytest

from ffdist.device import Accelerators
from ffdist.errors import ConfigError
from ffdist.runtime.worker import idle_gpus_note, stage_device
from ffdist.runtime.world import World


def devices(wanted: str, stages: int, gpus: int, local_size: int = 0, kind: str = "cuda") -> list[str]:
    seen = Accelerators(kind if gpus else None, gpus)
    ranks = range(stages)
    return [str(stage_device(wanted, World(r, stages, r % (local_size or stages), 0, local_size), seen)) for r in ranks]


def test_by_default_stages_of_a_host_have_a_gpu_each_or_none_has() -> None:
    for stages, gpus in product(range(1, 5), range(6)):
        own = [f"cuda:{i}" for i in range(stages)]
        assert devices("auto", stages, gpus) == (own if gpus >= stages else ["cpu"] * stages)


def test_of_several_hosts_each_deals_its_own_gpus() -> None:
    assert devices("auto", 4, 2, local_size=2) == ["cuda:0", "cuda:1"] * 2
    assert devices("auto", 4, 1, local_size=1) == ["cuda:0"] * 4


def test_stages_that_are_set_to_share_gpus_do_so_evenly() -> None:
    assert devices("cuda", 4, 2) == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert devices("cpu", 2, 2) == ["cpu", "cpu"]
    with pytest.raises(ConfigError, match="there is no GPU"):
        devices("cuda", 1, 0)


def test_other_kinds_go_the_same_way() -> None:
    assert devices("auto", 2, 2, kind="xpu") == ["xpu:0", "xpu:1"]
    assert devices("mps", 2, 1, kind="mps") == ["mps:0", "mps:0"]
    for wanted in ("cuda", "mps:1", "npu"):
        with pytest.raises(ConfigError, match=rf"(?s)there is no device {wanted}.*cpu or mps.*compute.device=.mps."):
            devices(wanted, 1, 1, kind="mps")


def test_one_of_several_is_named_by_its_number_and_all_stages_share_it() -> None:
    assert devices("cuda:1", 3, 2) == ["cuda:1"] * 3
    with pytest.raises(ConfigError, match=r"(?s)there is no device cuda:2.*cpu or cuda or cuda:0 or cuda:1"):
        devices("cuda:2", 1, 2)


def test_gpus_left_idle_are_noted_unless_that_was_asked_for() -> None:
    text = idle_gpus_note("auto", World(size=4), Accelerators("cuda", 1))
    assert text
    assert text.startswith("stages of this host: 4; GPUs that each sees: 1;")
    for wanted, stages, gpus in (("auto", 4, 4), ("auto", 4, 0), ("cpu", 4, 1), ("cuda", 4, 1)):
        assert idle_gpus_note(wanted, World(size=stages), Accelerators("cuda" if gpus else None, gpus)) is None
