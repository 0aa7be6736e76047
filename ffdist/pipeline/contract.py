"""Checks of what a rule owes the trainer: a user's mistake is reported with its rule and its block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from ffdist.errors import NetworkError, users_code
from ffdist.objectives import BlockSpec, Local, Objective

KNOWN = ("ffdist.", "torch.", "torchvision.")
"""Packages whose modules draw from torch's generators alone, and hold their state in parameters and buffers."""


def at(rule: Objective, spec: BlockSpec) -> str:
    """The rule and the block, for the `where` of an error."""
    return f"{type(rule).__name__}, {spec}"


def own_code(rule: Objective, parts: Iterable[nn.Module]) -> bool:
    """True if a rule or a module of a block is a user's, which may draw from any generator and keep any state."""
    return not all(type(part).__module__.startswith(KNOWN) for part in (rule, *parts))


def rule_code(rule: Objective, where: str) -> AbstractContextManager[None]:
    """The rule's code runs inside. Whatever a user's own raises is one NetworkError; what a rule of ffdist raises is
    ffdist's defect or the device's, and passes."""
    if type(rule).__module__.startswith("ffdist."):
        return nullcontext()
    return users_code(NetworkError, "the rule's own code fails", where=where, remedy="mend the rule at that line")


@contextmanager
def computing(rule: Objective, spec: BlockSpec, *, learning: bool) -> Iterator[None]:
    """A block computes inside: what its code raises becomes one NetworkError with the block's name. An error for lack
    of memory passes as it is, since the machine is to blame, and the rank tells of it with a remedy of its own."""
    what = "the block cannot learn under this rule" if learning else "the block cannot evaluate"
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if "can't allocate memory" in str(error):  # torch's on a CPU is known by its words alone
            raise
        with users_code(NetworkError, what, where=at(rule, spec)):
            raise


def check_local(local: object, rule: Objective, spec: BlockSpec, samples: int) -> Local:
    """Return what `rule.local` gave of a batch of so many samples, if it is as `Objective.local` has it; else
    NetworkError."""
    where = at(rule, spec)
    if not isinstance(local, Local):
        raise NetworkError(
            "the rule's `local` does not give a Local",
            where=where,
            expected="Local(loss, scores, next_input)",
            got=shape_and_dtype(local),
            remedy="end it with: return Local(loss, scores, next_input)",
        )
    for name, value in local._asdict().items():
        if value is not None and not isinstance(value, Tensor):
            raise NetworkError(
                f"the rule's {name} is no tensor", where=where, expected="a tensor or None", got=shape_and_dtype(value)
            )
    if local.loss is not None and (local.loss.dim() or not local.loss.is_floating_point()):
        raise NetworkError(
            "the rule's loss is not one number",
            where=where,
            expected="a float tensor of shape []",
            got=shape_and_dtype(local.loss),
            remedy="take the mean over the batch: loss.mean()",
        )
    if local.scores is not None and local.scores.shape != (samples, spec.num_classes):
        raise NetworkError(
            "the rule's scores have another shape",
            where=where,
            expected=f"[{samples}, {spec.num_classes}], a row a sample and a column a class",
            got=shape_and_dtype(local.scores),
            remedy="give a score for each class, or None",
        )
    check_features(local.features, where, samples)
    return local._replace(next_input=check_next_input(local.next_input, where, spec))


def check_features(features: object, where: str, samples: int) -> Tensor | None:
    """Return what `Objective.features` gave, if a fusion head can read it."""
    if features is not None and not (isinstance(features, Tensor) and features.dim() == 2 and len(features) == samples):
        raise NetworkError(
            "the rule's features have another shape",
            where=where,
            expected=f"[{samples}, F], or None",
            got=shape_and_dtype(features),
            remedy="give a row a sample: out.detach().flatten(1)",
        )
    return features


def check_next_input(next_input: Tensor | None, where: str, spec: BlockSpec) -> Tensor | None:
    """Return the next block's input, if it can take it; after the last there is none."""
    if spec.is_last:
        return None
    takes = f"[N, {', '.join(map(str, spec.output_shape))}], which block {spec.index + 1} takes"
    if next_input is None:
        raise NetworkError(
            "the rule passes nothing on",
            where=where,
            expected=f"`next_input` of {takes}",
            got="None",
            remedy="give None only where `spec.is_last`; else out.detach()",
        )
    if next_input.shape[1:] != spec.output_shape:
        raise NetworkError(
            "the rule passes on another shape than the block's output",
            where=where,
            expected=takes,
            got=shape_and_dtype(next_input),
            remedy="pass on the output in its shape",
        )
    return next_input


def check_graph(local: Local, rule: Objective, spec: BlockSpec) -> None:
    """Raises NetworkError for the loss of a block with parameters that depends on none of them."""
    if local.loss is not None and not local.loss.requires_grad:
        raise NetworkError(
            "the rule's loss does not depend on the block",
            where=at(rule, spec),
            expected="a loss with a graph to the block's parameters",
            got="a loss without a graph",
            remedy="compute it from `out` itself, not from out.detach() or under no_grad",
        )


def check_detached(local: Local, rule: Objective, spec: BlockSpec) -> None:
    """Raises NetworkError where what leaves the block still has its graph: a gradient would cross the border."""
    for name, leaving in (("next_input", local.next_input), ("features", local.features)):
        if leaving is not None and leaving.requires_grad:
            raise NetworkError(
                "the objective would let a gradient cross a block's border",
                where=at(rule, spec),
                expected=f"`{name}` without a graph",
                remedy=f"return {name}.detach()",
            )


def shape_and_dtype(value: object) -> str:
    """A tensor's shape and type; of anything else, what it is."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{list(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
