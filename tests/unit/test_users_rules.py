"""A user's own rule or network: random numbers of any kind are seeded, settings are typed, mistakes are told."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffdist import SFF, Pipeline, models
from ffdist.errors import ConfigError, DivergedError, NetworkError
from ffdist.models import Chain, load_model
from ffdist.objectives import BlockSpec, CwC, Hinton, Local, LocalCE, Objective, PredSim, load_objective
from ffdist.pipeline.classifier import Classifier
from ffdist.runtime.agree import smallest_part
from ffdist.runtime.export import program
from ffdist.runtime.run import DataFacts

X = torch.rand(48, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(48) % 3


class Drawn(nn.Module):
    """A layer that draws from every generator there is."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).relu() * (1 + np.random.rand() + random.random() + torch.rand(()))


@dataclass(frozen=True)
class DrawingRule(LocalCE):
    """One that does so for each batch, at the source, while learning and in evaluation."""

    def head(self, spec: BlockSpec) -> nn.Module:
        head = super().head(spec)
        head.register_buffer("factor", torch.tensor(np.random.rand() + random.random()))
        return head

    def prepare(self, x: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
        return x + float(np.random.rand()) + random.random() + torch.rand(())

    def prepare_eval(self, x: Tensor, num_classes: int) -> Tensor:
        return x + float(np.random.rand())

    def local(self, head: nn.Module, out: Tensor, labels: Tensor | None) -> Local:
        local = super().local(head, out * (np.random.rand() + random.random()), labels)
        return local


def trained(stages: int, launcher: Any = "threads") -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    chain = Chain([(f"drawn{i}", Drawn) for i in range(2)], input_shape=(6,), num_classes=3)
    pipeline = Pipeline(chain, DrawingRule(), stages=stages, launcher=launcher)
    np.random.seed(stages)
    random.seed(stages)
    result = pipeline.fit((X, Y), epochs=2, batch_size=8, progress=False)
    return pipeline.classifier.state_dict(), [record["validation"]["accuracy"] for record in result.records]


def test_random_numbers_of_every_kind_are_the_same_for_one_stage_and_two() -> None:
    before = random.getstate()
    (one, scores), (two, others) = trained(1), trained(2)
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert scores == others
    random.setstate(before)


def test_fitting_leaves_the_processs_random_numbers_as_they_were() -> None:
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]
    trained_rule = Pipeline(Chain([("drawn", Drawn)], input_shape=(6,), num_classes=3), DrawingRule())
    trained_rule.fit((X, Y), epochs=1, batch_size=8, progress=False)
    assert before == (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index, union-attr]


class Forgets(nn.Module):
    """A layer with something that its state does not hold, or that nobody seeds."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.linear = nn.Linear(6, 6)
        self.count = 0
        nn.init.constant_(self.linear.weight, 0.1)  # no unit is dead: zeros would be the same, whatever they are times
        self.own = np.random.default_rng(0)
        self.register_buffer("steps", torch.zeros(()), persistent=kind == "buffer")

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.count += 1
            self.steps += 1  # type: ignore[operator]
        factor = {"count": self.count, "own generator": self.own.random(), "buffer": self.steps, "lost": self.steps}
        return self.linear(x).relu() * (1 + factor[self.kind])


@pytest.mark.parametrize("kind", ["count", "own generator", "lost"])
def test_what_a_snapshot_would_forget_is_refused(kind: str) -> None:
    network = nn.Sequential(Forgets(kind))
    with pytest.raises(NetworkError, match=r"does not go on from a snapshot(.|\n)*block 0(.|\n)*register_buffer"):
        Pipeline(network, "sff").fit((X, Y), epochs=1, batch_size=8, progress=False)


def test_what_a_buffer_holds_is_well() -> None:
    pipeline = Pipeline(nn.Sequential(Forgets("buffer")), "sff")
    result = pipeline.fit((X, Y), epochs=1, batch_size=8, progress=False)
    steps = next(value for name, value in pipeline.classifier.state_dict().items() if name.endswith("steps"))
    assert (result.reason, int(steps) > 0) == ("finished", True)


def test_a_classifier_says_the_same_twice() -> None:
    classifier = Classifier(Chain([("drawn", Drawn)], input_shape=(6,), num_classes=3), DrawingRule())
    before = random.getstate(), torch.get_rng_state()
    assert torch.equal(classifier(X), classifier(X))
    assert before[0] == random.getstate()
    assert torch.equal(before[1], torch.get_rng_state())


class Viewed(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.view(x.shape[0], -1))


def test_view_of_pictures_is_refused_with_what_works() -> None:
    network = nn.Sequential(nn.Conv2d(1, 6, 3), Viewed(6 * 36, 12))
    with pytest.raises(NetworkError, match=r"x\.flatten\(1\) or x\.reshape"):
        Pipeline(network, "sff").fit((torch.rand(24, 1, 8, 8), Y[:24]), epochs=1, batch_size=8, progress=False)


class Extra(nn.Linear):
    def get_extra_state(self) -> Any:
        return {"a": 1}

    def set_extra_state(self, state: Any) -> None:
        pass


class Squeezed(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze()


class Spectral(nn.Module):
    """A layer of complex weights, kept as real ones."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.view_as_real(torch.randn(6, 6, dtype=torch.cfloat)))

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(torch.cfloat) @ torch.view_as_complex(self.w)).abs()


class Counted(nn.Linear):
    """A layer with a whole number among its parameters."""

    def __init__(self) -> None:
        super().__init__(6, 6)
        self.count = nn.Parameter(torch.zeros(1, dtype=torch.int64), requires_grad=False)


def test_complex_weights_learn_as_the_remedy_has_them() -> None:
    network = nn.Sequential(Spectral())
    before = network[0].w.detach().clone()  # pyright: ignore[reportCallIssue]
    Pipeline(network, "sff").fit((X, Y), epochs=1, batch_size=8, progress=False)
    assert (network[0].w != before).any()  # pyright: ignore[reportAttributeAccessIssue]


REFUSED: dict[str, tuple[Any, str]] = {
    "extra state": (lambda: Extra(6, 6), r"not all plain tensors(.|\n)*_extra_state'(.|\n)*a dict"),
    "lazy": (lambda: nn.LazyLinear(6), r"no size yet(.|\n)*nn\.Linear\(in_features"),
    "lazy norm": (lambda: nn.LazyBatchNorm1d(), "no size yet"),
    "half": (lambda: nn.Linear(6, 6).half(), r"float32(.|\n)*float16(.|\n)*net\.float\(\)"),
    "double": (lambda: nn.Linear(6, 6).double(), "float64"),
    "complex": (lambda: nn.Linear(6, 6, dtype=torch.cfloat), r"complex64(.|\n)*torch\.view_as_real\(w\)"),
    "whole numbers": (Counted, r"int64(.|\n)*register_buffer"),
    "meta": (lambda: nn.Linear(6, 6, device="meta"), "has no weights"),
    "wrapped": (lambda: nn.DataParallel(nn.Linear(6, 6)), r"net\.module"),
    "scripted": (lambda: torch.jit.trace(nn.Linear(6, 6), X), "the nn.Module that was"),
    "squeezed": (lambda: Squeezed(6, 6), r"another shape for these samples(.|\n)*\[1, 6\](.|\n)*got: \[6\]"),
    "ids": (lambda: nn.Embedding(9, 6), r"x\.long\(\)"),
    "attention over the batch": (
        lambda: nn.Sequential(nn.Unflatten(1, (1, 6)), nn.TransformerEncoderLayer(6, 1, 8)),
        r"mixes the samples(.|\n)*batch_first=True",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore:Lazy modules", "ignore:.*jit.trace", "ignore:enable_nested_tensor")
def test_a_network_that_would_fail_later_is_refused_at_once(name: str) -> None:
    make, why = REFUSED[name]
    with pytest.raises(NetworkError, match=why):
        Pipeline(nn.Sequential(make()), "sff").fit((X, Y), epochs=1, batch_size=8, progress=False)


class Residual(nn.Sequential):
    def forward(self, input: Tensor) -> Tensor:
        return input + super().forward(input)


def with_buffer() -> nn.Sequential:
    network = nn.Sequential(nn.Linear(6, 6))
    network.register_buffer("scale", torch.ones(6))
    return network


def hooked(place: str) -> nn.Sequential:
    network = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    if place == "weight":
        network[0].weight.register_hook(lambda grad: grad * 0)
    elif place == "grad":
        network[0].weight.register_post_accumulate_grad_hook(lambda weight: None)
    else:
        (network if place == "whole" else network[1]).register_forward_hook(lambda part, args, out: out * 0)
    return network


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Residual(nn.Linear(6, 6), nn.Linear(6, 6)), "forward of its own(.|\n)*Residual.forward"),
        (lambda: hooked("whole"), "hook hangs on the whole"),
        (lambda: hooked("weight"), r"hook hangs on a weight(.|\n)*block '0', 'weight'"),
        (lambda: hooked("grad"), "hook hangs on a weight"),
        (with_buffer, "in none of its children(.|\n)*scale"),
    ],
)
def test_what_blocks_would_leave_out_of_a_network_is_refused(make: Any, why: str) -> None:
    with pytest.raises(NetworkError, match=why):
        Chain.from_sequential(make(), input_shape=(6,), num_classes=2)


def test_a_child_keeps_its_hooks_and_a_forward_of_its_own() -> None:
    x = torch.rand(3, 6)
    for network in (hooked("child"), nn.Sequential(Residual(nn.Linear(6, 6)), nn.Linear(6, 6))):
        chain = Chain.from_sequential(network, input_shape=(6,), num_classes=2)
        assert torch.equal(chain.build(1, 0)(chain.build(0, 0)(x)), network(x))


def test_a_users_function_may_not_return_what_runs_more_than_its_children() -> None:
    with pytest.raises(NetworkError, match=r"Residual\.forward"):
        load_model(f"{__file__}:residual", (6,), 2)


def residual(input_shape: Any, num_classes: int) -> nn.Sequential:
    return Residual(nn.Linear(6, 6), nn.Linear(6, 6))


def test_one_callback_where_a_list_is_wanted_is_told() -> None:
    with pytest.raises(ConfigError, match=r"a callback is called(.|\n)*expected: a list of functions"):
        Pipeline(nn.Sequential(nn.Linear(6, 6)), "sff").fit((X, Y), progress=False, callbacks=print)  # pyright: ignore


def test_a_network_that_gives_no_number_is_told_as_such() -> None:
    class Log(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input - 100).log()

    with pytest.raises(DivergedError, match="not a finite number") as raised:
        Pipeline(nn.Sequential(Log(6, 6)), "local-ce").fit((X, Y), epochs=1, batch_size=8, progress=False)
    assert str(raised.value.remedy).startswith("fit(..., out=FOLDER) keeps the batch")  # its own folder is gone
    assert "ffdist-" not in str(raised.value)


def test_numbers_that_tell_the_way_and_token_ids_in_floats_are_taken() -> None:
    class Branches(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).relu() if x.sum().item() > 0 else super().forward(x)

    class Ids(nn.Embedding):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.long())

    Pipeline(nn.Sequential(Branches(6, 6)), "sff").fit((X, Y), epochs=1, batch_size=8, progress=False)
    ids = (X * 9).floor()
    pipeline = Pipeline(nn.Sequential(Ids(9, 4), nn.Linear(4, 5)), "local-ce")
    pipeline.fit((ids, Y), epochs=1, batch_size=8, progress=False)
    assert pipeline.predict(ids).shape == (48,)


@pytest.mark.parametrize(("batch", "parts", "last"), [(13, 4, 1), (8, 8, 1), (8, 4, 2), (1, 1, 1), (128, 1, 128)])
def test_the_smallest_part_of_a_batch(batch: int, parts: int, last: int) -> None:
    assert smallest_part(batch, parts).samples == last == min(len(p) for p in torch.arange(batch).chunk(parts))


def test_batch_norm_over_one_sample_is_refused_before_anything_starts() -> None:
    normed = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
    message = r"from one sample(.|\n)*more than 1 value(.|\n)*training\.batch_size=2 or more"
    with pytest.raises(NetworkError, match=message):
        Pipeline(normed, "sff").fit((X, Y), epochs=1, batch_size=1, progress=False)
    Pipeline(nn.Sequential(nn.Linear(6, 6)), "sff").fit((X, Y), epochs=1, batch_size=1, progress=False)
    Pipeline(normed, "sff").fit((X, Y), epochs=1, batch_size=2, progress=False)
    by_plan = {"plan": "* @ 0-3", "epochs": 1, "batch_size": 4, "progress": False}
    with pytest.raises(NetworkError, match=r"from one sample(.|\n)*training\.batch_size=8") as refused:
        Pipeline(normed, "sff").fit((X, Y), **by_plan)
    assert "training.lanes" not in str(refused.value), "the plan has four workers"
    with pytest.raises(ConfigError, match=r"more than a batch holds(.|\n)*got: 4 \* 2"):
        Pipeline(normed, "sff").fit((X, Y), **by_plan, microbatches=2)


def test_what_no_memory_holds_is_refused_by_counting() -> None:
    chain = models.mlp((6,), 3, widths=(10**6, 10**6))
    with pytest.raises(NetworkError, match=r"does not fit(.|\n)*1,000,001,000,000 weights(.|\n)*GiB"):
        Pipeline(chain, "sff").fit((X, Y), epochs=1, batch_size=8, progress=False)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: SFF(kernel="3"), r"kernel has a wrong value(.|\n)*SFF(.|\n)*a whole number(.|\n)*'3'"),  # type: ignore[arg-type]
        (lambda: SFF(kernel=2), "side is not odd"),
        (lambda: SFF(kernel=3.0), "kernel has a wrong value"),  # type: ignore[arg-type]
        (lambda: SFF(kernel=True), "kernel has a wrong value"),
        (lambda: SFF(goodness="cube"), "goodness has a wrong value(.|\n)*square or mean"),  # type: ignore[arg-type]
        (lambda: PredSim(beta="0.5"), "beta has a wrong value"),  # type: ignore[arg-type]
        (lambda: PredSim(beta=float("nan")), "beta has a wrong value"),
        (lambda: CwC(label_smoothing=None), "label_smoothing has a wrong value"),  # type: ignore[arg-type]
        (lambda: Hinton(hard="yes", predict="linear"), "hard has a wrong value(.|\n)*true or false"),  # type: ignore[arg-type]
        (lambda: models.cnnb(10, (3, 32, 32)), "not an input shape(.|\n)*got: 10(.|\n)*input_shape first"),  # type: ignore[arg-type]
        (lambda: models.cnnb((3, 32, 32), "10"), "two classes(.|\n)*'10'"),  # type: ignore[arg-type]
        (lambda: models.mlp((3,), 10, widths="20"), "widths has a wrong value"),
        (lambda: models.mlp((3,), 10, width=(20,)), "did you mean 'widths'"),  # type: ignore[call-arg]
        (lambda: models.resnet18((3, 32, 32)), "other arguments(.|\n)*num_classes"),  # type: ignore[call-arg]
        (lambda: Pipeline([nn.Linear(6, 6)], "sff"), r"nn\.Sequential\(\*layers\)"),  # type: ignore[arg-type]
    ],
)
def test_a_value_of_another_type_is_refused_by_name(make: Any, why: str) -> None:
    with pytest.raises((ConfigError, NetworkError), match=why):
        make()


def test_numbers_of_numpy_and_lists_are_taken() -> None:
    assert SFF(kernel=np.int64(3)) == SFF(kernel=3)  # type: ignore[arg-type]
    assert models.mlp((6,), np.int64(3), widths=[4, 5]).shapes() == [(4,), (5,)]  # type: ignore[arg-type]


class Size(Enum):
    small = 2
    large = 4


OWN = """
from __future__ import annotations
from enum import Enum
from torch import nn
class Size(Enum):
    small = 2
    large = 4
def build(shape, k, width=16, sizes=(1,), deep=False, name="x", rest=None, size: Size = Size.small, odd: Nowhere = 3, **more):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, width))
    net.options = (width, sizes, deep, name, rest, size.name, odd, more)
    return net
made = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
def other(shape, k): return nn.Linear(3, 3)
"""  # noqa: E501


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    monkeypatch.delitem(__import__("sys").modules, "own_options", raising=False)
    (tmp_path / "own_options.py").write_text(OWN)
    return str(tmp_path / "own_options.py")


def test_options_without_annotation_take_the_type_of_their_default(own: str) -> None:
    text = {
        "width": "8",
        "sizes": "1,2",
        "deep": "yes",
        "name": "3",
        "rest": "0.5",
        "size": "large",
        "odd": "5",
        "extra": "none",
    }
    chain = load_model(f"{own}:build", (1, 8, 8), 10, text)
    options = chain.builders[0].given  # type: ignore[attr-defined]
    assert options | {"size": options["size"].name} == {
        "width": 8,
        "sizes": (1, 2),
        "deep": True,
        "name": "3",
        "rest": 0.5,
        "size": "large",
        "odd": 5,
        "extra": None,
    }
    assert chain.shapes() == [(8,)]
    with pytest.raises(ConfigError, match=r"'deep' has a wrong value(.|\n)*true or false"):
        load_model(f"{own}:build", (1, 8, 8), 10, {"deep": "perhaps"})
    with pytest.raises(ConfigError, match=r"'size' has a wrong value(.|\n)*small or large"):
        load_model(f"{own}:build", (1, 8, 8), 10, {"size": "middle"})


def test_what_is_no_function_of_a_network_is_refused(own: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a model(.|\n)*made already(.|\n)*def build\("):
        load_model(f"{own}:made", (1, 8, 8), 10)
    with pytest.raises(ConfigError, match=r"returns a Chain or an nn\.Sequential(.|\n)*remedy: "):
        load_model(f"{own}:other", (1, 8, 8), 10)


class Fails(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        if not x.is_meta and len(x) == 7:
            raise KeyError("late")
        return super().forward(x)


def test_a_block_that_fails_in_training_is_named_with_its_line() -> None:
    network = nn.Sequential(nn.Linear(6, 6), Fails(6, 6))
    with pytest.raises(NetworkError, match=r"cannot learn(.|\n)*block 1 '1'(.|\n)*KeyError: 'late', test_users_rules"):
        Pipeline(network, "sff", stages=2).fit((X, Y), epochs=1, batch_size=7, progress=False)


def test_backpropagation_goes_by_its_name_in_one_stage() -> None:
    network = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
    before = network[0].weight.detach().clone()
    pipeline = Pipeline(network, "backprop")
    pipeline.fit((X, Y), epochs=1, batch_size=8, progress=False)
    assert not torch.equal(before, network[0].weight)  # type: ignore[arg-type]
    whole = pipeline.classifier.blocks[0]
    scores = whole(X)
    assert scores.shape == (48, 3)
    assert F.cross_entropy(scores, Y).isfinite()
    with pytest.raises(ConfigError, match=r"twin is one block(.|\n)*plan\.stages(.|\n)*got: 2"):
        Pipeline(network, "backprop", stages=2).fit((X, Y), epochs=1, progress=False)


def test_an_exported_program_refuses_what_is_no_float32_and_gives_no_graph() -> None:
    classifier = Classifier(models.cnnb((1, 8, 8), 10), SFF())
    facts = DataFacts([str(k) for k in range(10)], (1, 8, 8), (0.0,), (1.0,))
    exported = program(classifier, facts).module()
    x = torch.rand(3, 1, 8, 8)
    assert not exported(x).requires_grad
    assert torch.equal(exported(x), classifier(x).detach())
    for dtype in (torch.uint8, torch.int64, torch.float64):
        with pytest.raises(RuntimeError, match="dtype mismatch!"):
            exported((x * 255).to(dtype))


def test_a_users_rule_is_checked_as_ours() -> None:
    @dataclass(frozen=True)
    class Own(LocalCE):
        width: int = 3
        anything: object = None

    assert Own(width=4, anything=object()).width == 4
    with pytest.raises(ConfigError, match=r"width has a wrong value(.|\n)*objective Own"):
        Own(width="4")  # type: ignore[arg-type]
    assert isinstance(load_objective("local-ce"), Objective)
