"""The pipeline changes nothing, whatever the rule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from jobs import QUIET, DigitsJob, fingerprint, learned

from ffdist.models import load_model
from ffdist.objectives import OBJECTIVES, load_objective
from ffdist.runtime.threads import run_threads

MLP = ("mlp", {"widths": "20,20,20", "init": "he"})
OPTIONS = {"hinton": {"predict": "linear", "peer": "0.03"}}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_rule_learns_the_same_bits_in_one_stage_and_in_three(name: str, tmp_path: Path) -> None:
    model, options = MLP if name == "hinton" else ("cnnb", {"widths": "10,10,20"})
    rule, chain = load_objective(name, OPTIONS.get(name)), load_model(model, (1, 8, 8), 10, options)
    results = []
    for stages in (1, 3):
        run = tmp_path / str(stages)
        job = DigitsJob(run, epochs=1, objective=rule, settings={"stages": stages})()
        result = run_threads(replace(job, chain=chain), QUIET)
        results.append((fingerprint(run), learned(result.records), result.test))
    assert results[0] == results[1]
