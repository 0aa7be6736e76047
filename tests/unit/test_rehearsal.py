"""A mistake in a user's own rule is one error with its class and its block, before anything is trained."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from jobs import QUIET, DigitsJob
from torch import Tensor, nn

from ffdist.errors import NetworkError
from ffdist.models import Chain, cnnb, load_model
from ffdist.objectives import OBJECTIVES, BlockSpec, Local, Objective, load_objective
from ffdist.pipeline.plan import check_objective
from ffdist.runtime.threads import run_threads

CHAIN = cnnb((1, 8, 8), 10, (6, 8, 12))
Rule = Callable[[nn.Module, Tensor, Tensor | None], Any]


class Head(nn.Module):
    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        self.spec = spec
        self.linear = nn.Linear(spec.output_shape[0], spec.num_classes)


class Own(Objective):
    """A sound rule, of which `change` spoils what it gives."""

    def __init__(self, change: Callable[..., Any] = lambda local, **_: local) -> None:
        self.change = change

    def head(self, spec: BlockSpec) -> nn.Module:
        return Head(spec)

    def local(self, head: nn.Module, out: Tensor, labels: Tensor | None) -> Any:
        assert isinstance(head, Head)
        scores = head.linear(out.mean((2, 3)))
        loss = None if labels is None else F.cross_entropy(scores, labels)
        local = Local(loss, scores, None if head.spec.is_last else out.detach())
        return self.change(local, head=head, out=out, labels=labels)


def at_conv2(change: Callable[..., Any]) -> Callable[..., Any]:
    """The change in the second block alone."""
    return lambda local, head, **rest: change(local, head=head, **rest) if head.spec.index == 1 else local


def loss_of(head: Head, x: Tensor, labels: Tensor | None) -> Tensor | None:
    return None if labels is None else F.cross_entropy(head.linear(x.mean((2, 3))), labels)


def learning(local: Local, loss: Tensor | None) -> Local:
    return local._replace(loss=None if local.loss is None else loss)


GIVEN: dict[str, tuple[Callable[..., Any], str]] = {
    "nothing": (lambda local, **_: None, "does not give a Local(.|\n)*a NoneType"),
    "tuple": (lambda local, **_: tuple(local)[:3], "does not give a Local(.|\n)*a tuple"),
    "a number as loss": (lambda local, **_: learning(local, 1.5), "loss is no tensor(.|\n)*a float"),  # type: ignore[arg-type]
    "loss a sample": (lambda local, out, **_: learning(local, out.flatten(1).mean(1)), r"one number(.|\n)*loss\.mean"),
    "loss without graph": (lambda local, **_: learning(local, torch.tensor(1.0)), r"does not depend(.|\n)*out\.detach"),
    "loss of the head": (
        lambda local, head, out, labels: learning(local, loss_of(head, out.detach(), labels)),
        "does not depend(.|\n)*head alone",
    ),
    "few columns": (lambda local, **_: local._replace(scores=local.scores[:, :4]), r"another shape(.|\n)*\[\d+, 10\]"),
    "no rows": (lambda local, **_: local._replace(scores=local.scores.mean(0)), r"another shape(.|\n)*got: \[10\]"),
    "scores as numbers": (lambda local, **_: local._replace(scores=local.scores.tolist()), "scores is no tensor"),
    "nothing passed": (lambda local, **_: local._replace(next_input=None), "passes nothing on"),
    "flat next_input": (
        lambda local, out, **_: local._replace(next_input=out.detach().flatten(1)),
        r"passes on another shape(.|\n)*\[N, 8, 2, 2\], which block 2 takes(.|\n)*\[2, 32\]",
    ),
    "next_input with graph": (lambda local, out, **_: local._replace(next_input=out), r"return next_input\.detach\(\)"),
    "error": (lambda local, **_: {}["key"], r"own code fails(.|\n)*KeyError: 'key', test_rehearsal\.py line \d+"),
    "torch error": (lambda local, out, **_: out @ torch.zeros(3, 3), "own code fails(.|\n)*RuntimeError"),
    "error without labels": (
        lambda local, labels, **_: local._replace(scores=local.scores + labels.sum()),
        r"own code fails(.|\n)*in prediction, without labels(.|\n)*AttributeError",
    ),
    "no scores of a class in evaluation": (
        lambda local, head, **_: local if head.training else local._replace(scores=local.scores[:, 1:]),
        r"another shape(.|\n)*\[2, 9\]",
    ),
    "error in backward": (
        lambda local, out, **_: learning(local, Spoilt.apply(out).mean()),
        "cannot learn(.|\n)*ZeroDivisionError",
    ),
}


class Spoilt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return 1 / 0


@pytest.mark.parametrize("mistake", GIVEN)
def test_what_local_gives_wrongly_is_an_error_beforehand_with_rule_and_block(mistake: str) -> None:
    change, why = GIVEN[mistake]
    with pytest.raises(NetworkError, match=why) as caught:
        check_objective(CHAIN, Own(at_conv2(change)))
    assert str(caught.value.where).startswith("Own, block 1 'conv2' with output [8, 2, 2]")
    assert caught.value.got or caught.value.expected


@pytest.mark.parametrize("mistake", ["nothing", "loss a sample", "few columns", "nothing passed", "error"])
def test_what_shows_only_in_training_is_an_error_in_the_same_words(mistake: str) -> None:
    change, why = GIVEN[mistake]
    with pytest.raises(NetworkError, match=why) as caught:
        run_threads(DigitsJob(objective=Own(at_conv2(change)))(), QUIET)
    assert "Own, block 1 'conv2'" in str(caught.value)


def test_the_users_own_error_is_the_cause() -> None:
    with pytest.raises(NetworkError) as caught:
        check_objective(CHAIN, Own(lambda local, **_: {}["key"]))
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_rule_that_gives_no_block_a_loss_is_refused() -> None:
    with pytest.raises(NetworkError, match="no block has anything to learn"):
        check_objective(CHAIN, Own(lambda local, **_: local._replace(loss=None)))
    check_objective(CHAIN, Own(at_conv2(lambda local, **_: local._replace(loss=None))))


def test_what_the_last_block_passes_on_goes_nowhere() -> None:
    for fusion in (False, True):
        check_objective(CHAIN, Own(lambda local, out, **_: local._replace(next_input=out.detach())), fusion=fusion)


class Elsewhere(Own):
    """A rule with a mistake outside of `local`."""

    def __init__(self, place: str, gives: Callable[[Any], Any]) -> None:
        super().__init__()
        self.place = place
        self.gives = gives

    def _spoilt(self, place: str, value: Any) -> Any:
        return self.gives(value) if place == self.place else value

    def head(self, spec: BlockSpec) -> nn.Module:
        return self._spoilt("head", super().head(spec))

    def prepare(self, x: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
        return self._spoilt("prepare", x)

    def prepare_eval(self, x: Tensor, num_classes: int) -> Tensor:
        return self._spoilt("prepare_eval", x)

    def features(self, head: nn.Module, out: Tensor, samples: int) -> Tensor | None:
        return self._spoilt("features", super().features(head, out, samples))


@pytest.mark.parametrize(
    ("place", "gives", "why"),
    [
        ("head", lambda head: None, "does not give a module(.|\n)*block 0(.|\n)*NoneType"),
        ("head", lambda head: head.nothing, "own code fails(.|\n)*block 0(.|\n)*AttributeError"),
        ("prepare", lambda x: x[:, :, 1:], r"prepares other inputs(.|\n)*\[P \* 2, 1, 8, 8\](.|\n)*\[2, 1, 7, 8\]"),
        ("prepare", lambda x: None, "prepares other inputs(.|\n)*NoneType"),
        ("prepare_eval", lambda x: x[:1], "prepares other inputs(.|\n)*got: \\[1, 1, 8, 8\\]"),
        ("prepare_eval", lambda x: x @ x[:0], "own code fails(.|\n)*RuntimeError"),
        ("features", lambda given: given.mean(0), r"features have another shape(.|\n)*Elsewhere(.|\n)*\[2, F\]"),
        ("features", lambda given: given.nothing, "own code fails(.|\n)*Elsewhere(.|\n)*AttributeError"),
    ],
)
def test_a_mistake_in_another_method_is_one_error(place: str, gives: Callable[[Any], Any], why: str) -> None:
    with pytest.raises(NetworkError, match=why):
        check_objective(CHAIN, Elsewhere(place, gives), fusion=place == "features")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_rule_passes_and_no_random_number_of_the_process_is_drawn(name: str) -> None:
    model, options = ("mlp", {"widths": "20,20"}) if name == "hinton" else ("cnnb", {"widths": "10,10,20"})
    values = {"predict": "linear", "hard": "yes"} if name == "hinton" or name.startswith("sel") else {}
    chain = load_model(model, (1, 8, 8), 10, options)
    before = torch.get_rng_state(), random.getstate()
    for rule in (load_objective(name), load_objective(name, values)):
        check_objective(chain, rule)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()


class Measured(Own):
    """A rule whose head looks at its own numbers while it is made."""

    def head(self, spec: BlockSpec) -> nn.Module:
        head = super().head(spec)
        assert isinstance(head, Head)
        head.norm = head.linear.weight.norm().item()
        return head


def test_a_head_may_look_at_its_numbers() -> None:
    check_objective(CHAIN, Measured())


class Fails(nn.Module):
    """Fails over numbers, not over shapes."""

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_meta and x.sum() != float("inf"):
            raise RuntimeError("too small")
        return x.clone()


def test_a_block_that_fails_over_numbers_is_named_too() -> None:
    chain = Chain([("flat", nn.Flatten), ("fails", Fails)], input_shape=(1, 8, 8), num_classes=10)
    with pytest.raises(NetworkError, match=r"cannot learn(.|\n)*LocalCE, block 1 'fails'(.|\n)*too small, test_reh"):
        check_objective(chain, load_objective("local-ce"))
