"""A fusion head learns along, and changes nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from jobs import QUIET, DigitsJob, fingerprint, learned
from safetensors.torch import load_file

from ffdist.errors import ConfigError, NetworkError
from ffdist.events import ProgressMade, RunEvent
from ffdist.models import Chain, load_model
from ffdist.objectives import SFF, Hinton, Objective, load_objective
from ffdist.pipeline.classifier import Classifier
from ffdist.pipeline.fusion import FUSION
from ffdist.pipeline.plan import block_specs
from ffdist.runtime.agree import check_job
from ffdist.runtime.job import Job
from ffdist.runtime.outcome import Result
from ffdist.runtime.threads import run_threads
from ffdist.snapshot import SnapshotStore, latest

MLP = load_model("mlp", (1, 8, 8), 10, {"widths": "20,20,20", "init": "he"})
CNN = load_model("cnnb", (1, 8, 8), 10, {"widths": "8,12,16"})
RULES = {
    "sff": CNN,
    "asge": CNN,
    "hinton-unsupervised": MLP,
    "hinton": MLP,
    "hinton both": MLP,
    "sel-fourier both": CNN,
}


def rule(name: str) -> Objective:
    name, *both = name.split()
    options = {"predict": "both"} if both else {"predict": "linear"} if name == "hinton" else {}
    return load_objective(name, options)


def job(run: Path, objective: Objective, chain: Chain = CNN, epochs: int = 1, **settings: Any) -> Job:
    made = DigitsJob(run, epochs, objective, settings={"fusion": True, "snapshot_every": 5, **settings})()
    return replace(made, chain=chain)


def ended(run: Path, result: Result) -> tuple[Any, ...]:
    return fingerprint(run), learned(result.records), result.test


@pytest.mark.parametrize("name", RULES)
def test_a_fusion_head_learns_the_same_bits_for_any_number_of_stages(name: str, tmp_path: Path) -> None:
    ends = []
    for stages in (1, 2, 4):
        run = tmp_path / str(stages)
        ends.append(ended(run, run_threads(job(run, rule(name), RULES[name], stages=stages), QUIET)))
    assert ends[0] == ends[1] == ends[2]
    assert ends[0][0][-1].split()[1] == "block-003-fusion.safetensors"


def test_the_blocks_learn_the_same_with_and_without_a_fusion_head(tmp_path: Path) -> None:
    for fusion in (True, False):
        run_threads(job(tmp_path / str(fusion), SFF(), epochs=2, fusion=fusion), QUIET)
    assert fingerprint(tmp_path / "True")[:3] == fingerprint(tmp_path / "False")


def test_blocks_at_rest_still_offer_their_features(tmp_path: Path) -> None:
    windows = ((0, 1), (1, 2), (0, 2))
    ends = []
    for stages in (1, 3):
        run = tmp_path / str(stages)
        ends.append(ended(run, run_threads(job(run, rule("hinton"), MLP, 2, windows=windows, stages=stages), QUIET)))
    assert ends[0] == ends[1]


@pytest.mark.parametrize(("before", "after"), [([1, 2, 1], [4]), ([4], [2, 1, 1])])
def test_a_fusion_run_cut_off_and_resumed_with_another_cut_ends_with_the_same_bits(
    before: list[int], after: list[int], tmp_path: Path
) -> None:
    whole = run_threads(job(tmp_path / "whole", SFF(), epochs=2), QUIET)

    class PowerCutError(Exception):
        pass

    def cut_power(event: RunEvent) -> None:
        if isinstance(event, ProgressMade) and event.step >= 12:
            raise PowerCutError

    first = job(tmp_path / "cut", SFF(), epochs=2, stages=len(before), cut=before, report_every=0.0)
    with pytest.raises(PowerCutError):
        run_threads(first, cut_power)
    rest = run_threads(job(tmp_path / "cut", SFF(), epochs=2, stages=len(after), cut=after, resume=True), QUIET)
    assert ended(tmp_path / "cut", rest) == ended(tmp_path / "whole", whole)


def test_the_head_reads_the_features_of_all_blocks_and_nothing_else(tmp_path: Path) -> None:
    trained = job(tmp_path, rule("asge"), epochs=6, batch_size=32)
    result = run_threads(trained, QUIET)
    manifest = latest(tmp_path)
    assert manifest is not None
    classifier = Classifier(trained.chain, trained.objective, fusion=True)
    SnapshotStore(tmp_path, trained.names).load_weights(classifier, manifest)
    weights = load_file(manifest.folder / manifest.files[-1]["file"])
    x = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        features, next_input = [], x
        for block, head in zip(classifier.blocks, classifier.heads, strict=True):
            out = block(next_input)
            features.append(trained.objective.features(head, out, 5))
            next_input = trained.objective.local(head, out, None).next_input
        joined = torch.cat([f for f in features if f is not None], 1)
        expected = F.layer_norm(joined, joined.shape[1:]) @ weights["module.1.weight"].T + weights["module.1.bias"]
        torch.testing.assert_close(classifier.scores(x)[FUSION], expected)
    assert features[0] is None
    assert joined.shape[1] == block_specs(trained.chain, trained.objective)[-1].input_shape[0]
    assert result.test is not None
    assert result.test["accuracy"][FUSION] > 0.6


def test_one_network_predicts_by_goodness_and_by_a_head_on_neutral_pictures(tmp_path: Path) -> None:
    wide = load_model("mlp", (1, 8, 8), 10, {"widths": "128,128", "init": "he"})
    trained = job(tmp_path, rule("hinton both"), wide, epochs=15, batch_size=32, lr=3e-3, augment=())
    result, manifest = run_threads(trained, QUIET), latest(tmp_path)
    assert manifest is not None
    assert result.test is not None
    assert min(result.test["accuracy"].values()) > 0.8
    both, goodness = Classifier(wide, trained.objective, fusion=True), Classifier(wide, Hinton())
    SnapshotStore(tmp_path, trained.names).load_weights(both, manifest)
    goodness.load_state_dict({k: v for k, v in both.state_dict().items() if not k.startswith(FUSION)})
    x = torch.randn(7, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(both.choose("mean")(x), goodness(x))


class Leaky(SFF):
    """A rule whose features bear the block's graph."""

    def features(self, head: Any, out: torch.Tensor, samples: int) -> torch.Tensor:
        return out.flatten(1)


def test_features_that_would_let_a_gradient_back_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"return features.detach\(\)"):
        run_threads(job(tmp_path, Leaky()), QUIET)


def test_what_a_fusion_head_cannot_read_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(
        NetworkError,
        match=r'rule\.objective_args=dict\(predict="both"\), or rule\.objective_args=dict\(predict="linear"\)',
    ):
        check_job(job(tmp_path, Hinton(), MLP))
    named = Chain([(FUSION, MLP.builders[0])], input_shape=(1, 8, 8), num_classes=10)
    with pytest.raises(NetworkError, match="no block may be called 'fusion'"):
        check_job(job(tmp_path, SFF(), named))
    with pytest.raises(ConfigError, match=r"plan\.cut does not fit"):
        check_job(replace(job(tmp_path, SFF(), cut=[1, 2]), workers=2))
