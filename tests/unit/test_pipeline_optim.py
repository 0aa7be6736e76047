"""How a block is optimised: clipping, decay, averages, schedules, windows of epochs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import QUIET, DigitsJob
from safetensors.torch import load_file
from torch import Tensor, nn

from ffdist import Pipeline
from ffdist.errors import ConfigError
from ffdist.models import cnnb, load_model
from ffdist.objectives import OBJECTIVES, SFF, load_objective
from ffdist.pipeline.average import RAMP
from ffdist.pipeline.block import BlockConfig, LearningBlock
from ffdist.pipeline.classifier import Classifier
from ffdist.pipeline.optim import in_groups
from ffdist.pipeline.plan import block_specs, build_block
from ffdist.pipeline.predictors import predictions
from ffdist.runtime.agree import check_job
from ffdist.runtime.run import network
from ffdist.runtime.threads import run_threads
from ffdist.settings import OptimSettings, Settings
from ffdist.snapshot import SnapshotStore, latest

X, Y = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 10
PLAIN = Settings().changed(optimizer="sgd", lr=1.0, momentum=0.0, weight_decay=0.0, schedule="constant")


def first_block(settings: Settings, total_steps: int = 100) -> LearningBlock:
    chain = cnnb((1, 8, 8), 10, (8, 12, 16))
    return build_block(chain, block_specs(chain)[0], SFF(), BlockConfig(settings, total_steps))


def learn(block: LearningBlock, steps: int = 1) -> list[dict[str, Tensor]]:
    """The block's tensors behind each step."""
    states = []
    for step in range(1, steps + 1):
        block.update(block.forward(X, Y, step), Y, step)
        states.append({name: value.clone() for name, value in block.parts.state_dict().items()})
    return states


@pytest.mark.parametrize("clip", [0.1, 1e-3])
def test_a_clipped_blocks_whole_gradient_is_no_longer_than_set(clip: float) -> None:
    block = first_block(PLAIN.changed(clip=clip))
    before = torch.nn.utils.parameters_to_vector(block.parts.parameters()).detach().clone()
    learn(block)
    moved = (torch.nn.utils.parameters_to_vector(block.parts.parameters()) - before).norm().item()
    assert moved == pytest.approx(clip, rel=1e-3)


def test_weight_decay_spares_what_it_is_set_to_and_nothing_else() -> None:
    parts = nn.ModuleDict({"conv": nn.Conv2d(3, 4, 3), "norm": nn.BatchNorm2d(4), "frozen": nn.Linear(2, 2)})
    parts["frozen"].requires_grad_(False)
    names = {id(p): name for name, p in parts.named_parameters()}

    def spared(*no_decay: Any) -> list[list[str]]:
        return [[names[id(p)] for p in group["params"]] for group in in_groups(parts, OptimSettings(no_decay=no_decay))]

    assert spared() == [["conv.weight", "conv.bias", "norm.weight", "norm.bias"]]
    assert spared("bias") == [["conv.weight", "norm.weight"], ["conv.bias", "norm.bias"]]
    assert spared("norm") == [["conv.weight", "conv.bias"], ["norm.weight", "norm.bias"]]
    assert spared("bias", "norm") == [["conv.weight"], ["conv.bias", "norm.weight", "norm.bias"]]


def test_what_is_spared_stays_and_the_rest_decays() -> None:
    block = first_block(
        Settings().changed(
            optimizer="sgd", lr=0.1, momentum=0.0, weight_decay=1.0, no_decay=("bias", "norm"), clip=1e-9
        )
    )
    before = {name: value.clone() for name, value in block.parts.state_dict().items()}
    after = learn(block)[0]
    torch.testing.assert_close(after["module.0.weight"], 0.9 * before["module.0.weight"])
    torch.testing.assert_close(after["module.0.bias"], before["module.0.bias"])
    torch.testing.assert_close(after["head.norm.weight"], before["head.norm.weight"])


def test_the_average_is_the_moving_average_of_weights_and_running_means() -> None:
    block = first_block(Settings().changed(ema=0.8))
    states = learn(block, 60)
    for name in ("module.0.weight", "module.1.running_mean", "head.aux.weight"):
        expected = states[0][name]
        for n, state in enumerate(states[1:], 1):
            keep = min(0.8, n / (RAMP + n))
            expected = keep * expected + (1 - keep) * state[name]
        assert block.average
        torch.testing.assert_close(block.average.state()[name], expected)
    assert block.average.state()["module.1.num_batches_tracked"] == 60


def test_evaluation_goes_by_the_average_and_training_does_not() -> None:
    averaged, plain = first_block(Settings().changed(ema=0.99)), first_block(Settings().changed())
    assert all(
        torch.equal(a, b) for a, b in zip(learn(averaged, 9)[-1].values(), learn(plain, 9)[-1].values(), strict=True)
    )
    assert averaged.average
    plain.parts.load_state_dict(averaged.average.state())
    assert torch.equal(averaged.evaluate(X, Y).scores, plain.evaluate(X, Y).scores)  # type: ignore[arg-type]


def test_a_runs_test_is_of_the_averaged_weights_and_so_is_its_classifier(tmp_path: Path) -> None:
    job = DigitsJob(tmp_path, objective=SFF(kernel=3), settings={"lr": 0.02, "ema": 0.95})()
    result = run_threads(job, QUIET)
    manifest = latest(tmp_path)
    assert manifest
    assert result.test
    images = job.images
    classifier = Classifier(job.chain, job.objective, mean=images.mean, std=images.std)
    SnapshotStore(tmp_path, job.chain.names).load_weights(classifier, manifest)
    file = load_file(manifest.folder / manifest.files[0]["file"])
    weight = classifier.blocks[0].state_dict()["0.weight"]
    assert torch.equal(weight, file["average.module.0.weight"])
    assert not torch.equal(weight, file["module.0.weight"])
    test = job.loaders().test
    assert test
    with torch.no_grad():
        answers = [(predictions(classifier.scores(x), None)["mean"], y) for x, y in test.epoch(0)]
    right = sum(int((mean.argmax(1) == y).sum()) for mean, y in answers)
    assert right / result.test["samples"] == result.test["accuracy"]["mean"]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_windows_of_epochs_let_the_blocks_of_any_rule_rest(name: str, tmp_path: Path) -> None:
    model, options = ("mlp", {"widths": "20,20"}) if name == "hinton" else ("cnn", {"widths": "10,10"})
    weights = []
    for epochs, windows in ((1, ()), (2, ((0, 1), (0, 2)))):
        run = tmp_path / str(epochs)
        settings = {"schedule": "constant", "windows": windows, "samples": 200}
        job = DigitsJob(run, epochs, load_objective(name), settings)()
        run_threads(replace(job, chain=load_model(model, (1, 8, 8), 10, options)), QUIET)
        manifest = latest(run)
        assert manifest
        weights.append([load_file(manifest.folder / entry["file"]) for entry in manifest.files])
    rested, learned = zip(*weights, strict=True)
    names = [k for k in rested[0] if k.startswith(("module.", "head."))]
    assert all(torch.equal(rested[0][k], rested[1][k]) for k in names)
    learning = "head." if load_objective(name).fixed_blocks else "module."
    assert any(not torch.equal(learned[0][k], learned[1][k]) for k in learned[0] if k.startswith(learning))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0, 1.0]),
        ("cosine", [1.0, 0.853553, 0.5, 0.146447, 0.0]),
        ("linear-late", [1.0, 1.0, 1.0, 0.5, 0.0]),
    ],
)
def test_the_learning_rate_at_each_quarter_of_a_run(schedule: Any, expected: list[float]) -> None:
    block = first_block(PLAIN.changed(schedule=schedule, clip=1e-3), total_steps=40)
    rates = [block.lr]
    for _ in range(4):
        learn(block, 10)
        rates.append(block.lr)
    assert rates == pytest.approx(expected, abs=1e-6)


def test_the_learning_rate_rises_to_its_full_height_in_the_warm_up() -> None:
    block = first_block(PLAIN.changed(warmup=0.25, clip=1e-3), total_steps=20)
    rates = [block.lr]
    for _ in range(5):
        learn(block)
        rates.append(block.lr)
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_each_block_follows_its_own_plateau() -> None:
    block = first_block(PLAIN.changed(schedule="plateau", patience=1, factor=0.5))
    rates = []
    nothing = float("nan")  # a block that rests, or gives no scores, has no loss; that is no plateau
    for loss in (nothing, nothing, nothing, 1.0, 0.9, 0.95, 0.95, 0.95):
        block.validation_loss = loss
        block.end_epoch()
        rates.append(block.lr)
    assert rates == [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5]


@pytest.mark.parametrize("objective", ["sff", "cwc", "asge", "predsim", "backprop"])
def test_label_smoothing_changes_what_is_learned_and_not_how_it_is_judged(objective: str) -> None:
    losses = {}
    for smoothing in (0.0, 0.2):
        settings = Settings().changed(objective=objective, label_smoothing=smoothing, model_args=("widths=10,10,20",))
        chain, rule = network(settings, (1, 8, 8), 10)
        block = build_block(chain, block_specs(chain)[0], rule, BlockConfig(PLAIN, 10))
        learning, judged = block.forward(X, Y, 1).loss, block.evaluate(X, Y).loss
        assert learning is not None
        assert judged is not None
        losses[smoothing] = learning.item(), judged.item()
    assert losses[0.0][0] != losses[0.2][0]
    assert losses[0.0][1] == losses[0.2][1]


def test_label_smoothing_is_set_once() -> None:
    options = Settings().changed(objective_args=("label_smoothing=0.1",), label_smoothing=0.2)
    with pytest.raises(ConfigError, match="set twice"):
        network(options, (1, 8, 8), 10, start=True)
    with pytest.raises(ConfigError, match="set twice"):
        Pipeline("cnnb", SFF(label_smoothing=0.1), label_smoothing=0.2).fit("digits", progress=False)
    assert network(options, (1, 8, 8), 10)[1] == SFF(label_smoothing=0.2), "a run of an earlier version"
    same, without = (network(options.changed(label_smoothing=share), (1, 8, 8), 10)[1] for share in (0.1, 0.0))
    assert same == without


@pytest.mark.parametrize("objective", ["hinton", "hinton-unsupervised", "sel-fourier", "sel-morphological"])
def test_label_smoothing_is_refused_where_there_is_no_such_loss(objective: str) -> None:
    with pytest.raises(ConfigError, match="cross-entropy over their scores"):
        network(Settings().changed(objective=objective, label_smoothing=0.1, model="mlp"), (1, 8, 8), 10)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"clip": 0.0}, "optim.clip is too (small|large)"),
        ({"ema": 1.0}, "optim.ema is too (small|large)"),
        ({"factor": 1.5}, "scheduler.factor is too (small|large)"),
        ({"weight_decay": -1.0}, "optim.weight_decay is too (small|large)"),
        ({"warmup": float("nan")}, "scheduler.warmup is not a finite number"),
        ({"warmup": 0.1, "schedule": "plateau"}, "no warm-up"),
        ({"windows": ((3, 2),)}, "no windows of epochs"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Settings().changed(**wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"windows": ((0, 1),)}, "3 windows"),
        ({"schedule": "plateau"}, "scheduler.schedule=.plateau. follows the validation results"),
        ({"early_stop": 2}, "training.early_stop follows the validation results"),
    ],
)
def test_what_does_not_go_with_the_network_or_the_data_is_refused_before_anything_is_started(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_job(DigitsJob(settings={**options, "validation": 0.0})())


def test_a_share_that_holds_no_sample_out_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"(?s)dataset.validation holds no sample out.*0\.0001 of [\d,]+ samples"):
        check_job(DigitsJob(settings={"validation": 1e-4})())


def test_windows_are_given_as_from_and_to() -> None:
    with pytest.raises(ConfigError, match="from:to"):
        Settings().changed(windows=("0-11",))
