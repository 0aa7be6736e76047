"""A sweep's choices are laid over a preset, and leave of it what they do not say."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ffdist.errors import ConfigError
from ffdist.presets import PRESETS, with_preset
from ffdist.runtime.on_ray import ALONE, alone_unless_told
from ffdist.settings import Settings

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::ResourceWarning")]
SCRIPT = Path(__file__).parents[2] / "launch" / "ray_sweep.py"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_stays_what_it_is_but_for_the_choice_and_has_samples_to_search_by(
    name: str, script: dict[str, Any]
) -> None:
    sweep, preset = script["Sweep"](preset=name, lr=(1e-3,)), with_preset(Settings(), name)
    for choice in script["choices"](sweep):
        settings = script["settings_of"](choice, sweep)
        for field in ("objective", "objective_args", "model", "model_args", "windows", "epochs"):
            assert settings.value(field) == preset.value(field)
        assert settings.optim.lr == 1e-3
        assert settings.dataset.validation is None or settings.dataset.validation > 0


def test_a_kernel_takes_the_place_of_the_presets_and_another_rule_leaves_its_options_out(
    script: dict[str, Any],
) -> None:
    sweep = script["Sweep"](preset="sff-cnnb-cifar10", lr=(1e-3,), kernel=(1, 3), objective=("sff", "local-ce"))
    args = [script["settings_of"](choice, sweep).rule.objective_args for choice in script["choices"](sweep)]
    assert args == [("kernel=1",), ("kernel=3",), ()]


def test_a_ray_that_a_program_starts_is_of_this_host_alone_unless_a_cluster_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (*ALONE, "RAY_ADDRESS"):
        monkeypatch.setenv(name, "")  # so that it is as before afterwards
        monkeypatch.delenv(name)
    sweep = [sys.executable, str(SCRIPT), "--validation", "0", "--out", "nowhere"]
    code = "import os, runpy, sys; sys.argv[:] = sys.argv[1:]; path = sys.argv[0]\n"
    code += "try: runpy.run_path(path, run_name='__main__')\n"
    code += "except SystemExit: print(*sorted(name for name in os.environ if name.startswith('RAY_')))"
    done = subprocess.run([sweep[0], "-c", code, *sweep[1:]], capture_output=True, text=True, check=True)
    assert {*done.stdout.split()} >= ALONE.keys()
    for address, environment in (("auto", ""), (None, "there:1")):
        monkeypatch.setenv("RAY_ADDRESS", environment)
        if not environment:
            monkeypatch.delenv("RAY_ADDRESS")
        alone_unless_told(address)
        assert not ALONE.keys() & os.environ.keys()


def test_a_search_without_a_validation_split_is_refused(script: dict[str, Any]) -> None:
    sweep = script["Sweep"](preset="digits", validation=0.0)
    with pytest.raises(ConfigError, match="goes by the validation accuracy"):
        script["settings_of"](script["choices"](sweep)[0], sweep)
