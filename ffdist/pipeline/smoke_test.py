"""A rule tried on a network before anything starts, so that a mistake in it is reported at once and not hours later."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from ffdist.errors import NetworkError, described, setting, users_code
from ffdist.models import Chain, seeded
from ffdist.objectives import BlockSpec, Local, Objective
from ffdist.objectives.base import main_labels
from ffdist.pipeline.block import LearningBlock
from ffdist.pipeline.contract import at, check_local, rule_code, shape_and_dtype
from ffdist.pipeline.fusion import Fusion, next_tensors

MAX_ROWS = 32
"""A rule of more passes over the samples is not tried in evaluation, where each class may be a pass."""
Build = Callable[[BlockSpec], LearningBlock]


class SmallestBatch(NamedTuple):
    """The fewest samples that a block will learn from at once."""

    samples: int
    remedy: str = f"a larger {setting('training.batch_size')}"
    """How there would be more."""


TWO = SmallestBatch(2)


@dataclass
class SmokeTest:
    """Samples on their way through the blocks."""

    y: Tensor
    learned: Tensor | None
    """What comes next to be learned from, [P * B, *shape]; None where nothing is."""
    evaluated: Tensor | None
    """The same of what is scored."""
    features: Tensor | None = None
    companion: Tensor | None = None
    """What the rule wants beside what is learned."""


def smoke_test(
    places: Iterable[BlockSpec],
    build: Build,
    chain: Chain,
    rule: Objective,
    x: Tensor,
    y: Tensor,
    smallest: SmallestBatch,
) -> None:
    """Take two samples through the blocks, one block in memory at a time, on the CPU: each learns from them, then
    scores them with their labels and without. Then one sample is scored, and learned from where a run will have that.
    Where code is a user's own, what a block saves is loaded into another, which must go on as the first. The process's
    random numbers stay as they are.

    x: float32 [2, *input_shape]; y: int64 [2].

    Raises NetworkError, naming rule and block, for what breaks `Objective`'s promises, for code of a user's own that
    fails, for a block that learns nothing from its loss, that mixes the samples of a batch, whose state cannot be
    saved, that cannot learn from one sample and must, and where no block has a loss.
    """
    with seeded(0):
        two = SmokeTest(y, *prepared(chain, rule, x, y), companion=companion_of(rule, x))
        one = SmokeTest(y[:1], *prepared(chain, rule, x[:1], y[:1]), companion=companion_of(rule, x[:1]))
        if smallest.samples > 1:
            one.learned = None
        learns = False
        for spec in places:
            block = build(spec)
            check_state(block)
            given = two.learned
            local = _through(block, two)
            learns = learns or (local.loss is not None and not isinstance(block.objective, Fusion))
            _one_sample(block, one, smallest)
            if block.own_code and given is not None:
                check_recovery(block, build(spec), given, y, two.companion)
    if not learns:
        raise NetworkError(
            "no block has anything to learn",
            where=f"{type(rule).__name__}, while learning",
            expected="a loss of one block at least",
            got="None of all blocks",
            remedy="return a Local with a loss where there are labels",
        )


def prepared(chain: Chain, rule: Objective, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
    """Samples as the source prepares them to learn from and to score, [P * B, *input_shape] each; None for what would
    be many passes."""
    generator = torch.Generator().manual_seed(0)
    where = f"{type(rule).__name__}, the inputs it prepares"
    with rule_code(rule, where):
        if rule.score_lag:
            learned = rule.prepare_with_scores(x, y, torch.zeros(len(y), chain.num_classes), generator)
        else:
            learned = rule.prepare(x, y, chain.num_classes, generator)
        evaluated = rule.prepare_eval(x, chain.num_classes)
    for given in (learned, evaluated):
        fits = isinstance(given, Tensor) and given.shape[1:] == chain.input_shape and len(given) % len(y) == 0
        if not fits or not len(given):
            raise NetworkError(
                "the rule prepares other inputs than the network takes",
                where=where,
                expected=f"[P * {len(y)}, {', '.join(map(str, chain.input_shape))}], pass by pass",
                got=shape_and_dtype(given),
                remedy="see `prepare` and `prepare_eval` in ffdist.objectives.Objective",
            )
    return learned, evaluated if len(evaluated) <= MAX_ROWS else None


def companion_of(rule: Objective, x: Tensor) -> Tensor | None:
    """Raises NetworkError for what cannot travel with the samples x."""
    where = f"{type(rule).__name__}, `companion`"
    with rule_code(rule, where):
        found = rule.companion(x)
    if found is not None and (not isinstance(found, Tensor) or len(found) != len(x) or found.requires_grad):
        raise NetworkError(
            "the rule's companion cannot travel with the activations",
            where=where,
            expected=f"a tensor [{len(x)}, ...] without a graph, a row a sample, or None",
            got=shape_and_dtype(found),
        )
    return found


def check_state(block: LearningBlock) -> None:
    """Raises NetworkError where a block's state holds more than snapshots do, which is numbers by name."""
    where = at(block.objective, block.spec)
    with users_code(NetworkError, "the block's state cannot be read", where=where):
        state = block.parts.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
            got = f"a tensor of layout {value.layout}" if isinstance(value, Tensor) else shape_and_dtype(value)
            raise NetworkError(
                "the block's state is not all plain tensors",
                where=f"{where}, '{name}'",
                expected="a dense tensor, as snapshots hold; nothing is pickled",
                got=got,
                remedy="keep it in a buffer (register_buffer), or let get_extra_state give a tensor",
            )


def _through(block: LearningBlock, trial: SmokeTest) -> Local:
    """The samples learn, and are scored; what goes on of them is left in the trial."""
    assert trial.learned is not None
    local = _learn(block, trial.learned, trial.y, trial.companion)
    trial.learned, trial.features = next_tensors(local, trial.features)
    if trial.evaluated is not None:
        trial.evaluated = _evaluate(block, trial.evaluated, main_labels(trial.y))
    return local


def _one_sample(block: LearningBlock, trial: SmokeTest, smallest: SmallestBatch) -> None:
    """Do as `_through` with a single sample, which a run always has to score, and sometimes to learn from."""
    where = at(block.objective, block.spec)
    if trial.evaluated is not None:
        trial.evaluated = _evaluate(block, trial.evaluated, main_labels(trial.y))
    if trial.learned is None:
        return
    try:
        local = _learn(block, trial.learned, trial.y, trial.companion)
    except NetworkError as error:
        cause = error.__cause__
        raise NetworkError(
            "the block cannot learn from one sample, and a part of some batch has no more",
            where=where,
            expected="two samples at once",
            got=described(cause) if isinstance(cause, Exception) else error.details["what"],
            remedy=smallest.remedy,
        ) from error
    trial.learned, trial.features = next_tensors(local, trial.features)


def _learn(block: LearningBlock, x: Tensor, y: Tensor, companion: Tensor | None) -> Local:
    """One batch forward and backward, as in training, without an update."""
    where = at(block.objective, block.spec)
    with users_code(NetworkError, "the block cannot learn under this rule", where=where):
        try:
            local = block.forward(x, y, step=0, companion=companion)
        except NetworkError as error:
            raise _with_layout_remedy(error) from error.__cause__
        if local.loss is not None and block.learned:
            local.loss.backward()
    parameters = [p for p in block.module.parameters() if p.requires_grad]
    if local.loss is not None and parameters and all(p.grad is None for p in parameters):
        raise NetworkError(
            "the rule's loss does not depend on the block",
            where=where,
            expected="a loss with a graph to the block's parameters",
            got="a loss with a graph to those of the rule's head alone",
            remedy="compute it from `out` itself, not from out.detach(); freeze a block that is not to "
            "learn: requires_grad_(False)",
        )
    return local


def _with_layout_remedy(error: NetworkError) -> NetworkError:
    """An error with a remedy for `x.view`, which looks at how pictures lie in memory."""
    if "view size is not compatible" not in str(error.__cause__):
        return error
    return error.again(
        expected="code for maps that lie channels last in memory, as torch's convolutions give them",
        remedy="x.flatten(1) or x.reshape(...) in place of x.view(...)",
    )


def _evaluate(block: LearningBlock, x: Tensor, y: Tensor) -> Tensor | None:
    """The next block's input of samples that are only scored; a fusion head needs no trial."""
    rule, spec = block.objective, block.spec
    if isinstance(rule, Fusion):
        return None
    block.parts.eval()
    with torch.no_grad(), users_code(NetworkError, "the block cannot evaluate", where=at(rule, spec)):
        with seeded(0):
            raw = block.module(x)
        if len(y) > 1:
            _check_apart(block, x, raw)
        out = block.layout.to_images(raw)
        if out.shape[1:] != spec.output_shape:
            raise NetworkError(
                "the block's output has another shape for these samples",
                where=at(rule, spec),
                expected=f"[{len(x)}, {', '.join(map(str, spec.output_shape))}]",
                got=shape_and_dtype(out),
                remedy="keep the batch the first axis, of one sample too: squeeze no axis but by its number",
            )
        local = Local(None, None, None)
        for labels, when in ((y, "in evaluation"), (None, "in prediction, without labels")):
            where = f"{at(rule, spec)}, {when}"
            with rule_code(rule, where):
                local = rule.local(block.head, out, labels)
            local = check_local(local, rule, spec, len(y))
    return None if local.next_input is None else block.layout.to_next_input(local.next_input)


def _check_apart(block: LearningBlock, x: Tensor, out: Tensor) -> None:
    """Raises NetworkError where what a block says of the first sample depends on the others beside it."""
    batch_statistics = any(isinstance(part, BatchNorm) and part.running_mean is None for part in block.module.modules())
    if batch_statistics or len(out) != len(x):
        return
    with seeded(0):
        alone = block.module(x[:1].expand_as(x).contiguous())
    if _alike(alone[0], out[0]):
        return
    with seeded(0):
        again = block.module(x)
    if not _alike(again, out):
        raise _unlike_error(block, "output")
    raise NetworkError(
        "the block mixes the samples of a batch",
        where=at(block.objective, block.spec),
        expected="an output for each sample that does not depend on the others, in evaluation",
        got="another output beside other samples",
        remedy="let the batch be the first axis throughout: batch_first=True for attention and recurrent layers",
    )


def _alike(one: Tensor, other: Tensor) -> bool:
    """Equal but for rounding, which is measured by the largest of the numbers."""
    largest = float(other.nan_to_num().abs().max())  # a loss that is not finite is reported when it is learned
    return torch.allclose(one, other, rtol=1e-3, atol=1e-4 * largest, equal_nan=True)


def _same(one: Tensor, other: Tensor) -> bool:
    """Equal, and not a number where the other is none: that is reported when it is learned."""
    if one.is_floating_point() and one.shape == other.shape:
        return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
    return torch.equal(one, other)


def check_recovery(
    block: LearningBlock, other: LearningBlock, x: Tensor, y: Tensor, companion: Tensor | None = None
) -> None:
    """Raises NetworkError unless `other`, newly built, goes on from what `block` saves just as `block` does."""
    where = at(block.objective, block.spec)
    with users_code(NetworkError, "the block's state cannot be saved and loaded again", where=where):
        tensors, fields = block.state()
        other.load_state({name: value.clone() for name, value in tensors.items()}, json.loads(json.dumps(fields)))
    goes_on, again = (one.forward(x, y, step=1, companion=companion) for one in (block, other))
    for name, mine, others in zip(Local._fields, goes_on, again, strict=True):
        if mine is not None and not (others is not None and _same(mine, others)):
            raise _unlike_error(block, name)


def _unlike_error(block: LearningBlock, what: str) -> NetworkError:
    return NetworkError(
        "the block does not go on from a snapshot as it would have without",
        where=at(block.objective, block.spec),
        expected=f"the same {what} from the same weights, inputs and seed",
        got="another: there is state, or a random number, that ffdist does not know of",
        remedy="keep state in buffers (register_buffer); draw from the default generators of torch, numpy.random or "
        "random, which are seeded for each batch",
    )
