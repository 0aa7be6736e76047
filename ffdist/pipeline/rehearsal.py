"""A rule tried on a network before anything starts, so that a mistake in it is told at once and not hours later."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ffdist.errors import NetworkError, users_code
from ffdist.models import Chain, seeded
from ffdist.objectives import Local, Objective
from ffdist.pipeline.block import LearningBlock
from ffdist.pipeline.contract import at, check_local, running, shown
from ffdist.pipeline.fusion import Fusion, passed_on

SAMPLES = 2
MOST_ROWS = 32
"""A rule of more passes over the two samples is not tried in evaluation, where each class may be a pass."""


def rehearse(blocks: Iterable[LearningBlock], chain: Chain, rule: Objective) -> None:
    """Take two made-up samples through the blocks, one block in memory at a time, on the CPU: each learns from them,
    then scores them with their labels and without. The process's random numbers stay as they are.

    Raises NetworkError, naming rule and block, for what breaks `Objective`'s promises, for code of a user's own that
    fails, for a block that learns nothing from its loss, and where no block has a loss.
    """
    with seeded(0):
        y = torch.arange(SAMPLES)
        x, evaluated = prepared(chain, rule, y)
        features: Tensor | None = None
        learns = False
        for block in blocks:
            assert x is not None
            local = _learn(block, x, y)
            learns = learns or (local.loss is not None and not isinstance(block.objective, Fusion))
            x, features = passed_on(local, features)
            if evaluated is not None:
                evaluated = _evaluate(block, evaluated, y)
    if not learns:
        raise NetworkError("no block has anything to learn", where=f"{type(rule).__name__}, while learning",
                           expected="a loss of one block at least", got="None of all blocks",
                           remedy="return Local(loss, scores, onward) with a loss where there are labels")  # fmt: skip


def prepared(chain: Chain, rule: Objective, y: Tensor) -> tuple[Tensor, Tensor | None]:
    """Made-up samples as the source prepares them to learn from and to score, [P * B, *input_shape] each; None for what
    would be many passes."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(y), *chain.input_shape, generator=generator)
    where = f"{type(rule).__name__}, the inputs it prepares"
    with running(rule, where):
        if rule.feedback:
            learned = rule.prepare_told(x, y, torch.zeros(len(y), chain.num_classes), generator)
        else:
            learned = rule.prepare(x, y, chain.num_classes, generator)
        evaluated = rule.prepare_eval(x, chain.num_classes)
    for given in (learned, evaluated):
        fits = isinstance(given, Tensor) and given.shape[1:] == chain.input_shape and len(given) % len(y) == 0
        if not fits or not len(given):
            raise NetworkError("the rule prepares other inputs than the network takes", where=where,
                               expected=f"[P * {len(y)}, {', '.join(map(str, chain.input_shape))}], pass by pass",
                               got=shown(given),
                               remedy="see `prepare` and `prepare_eval` in ffdist.objectives.Objective")  # fmt: skip
    return learned, evaluated if len(evaluated) <= MOST_ROWS else None


def _learn(block: LearningBlock, x: Tensor, y: Tensor) -> Local:
    """One batch forward and backward, as in training, without an update."""
    where = at(block.objective, block.site)
    with users_code(NetworkError, "the block cannot learn under this rule", where=where):
        local = block.forward(x, y, step=0)
        if local.loss is not None and block.learned:
            local.loss.backward()
    parameters = [p for p in block.module.parameters() if p.requires_grad]
    if local.loss is not None and parameters and all(p.grad is None for p in parameters):
        raise NetworkError("the rule's loss does not depend on the block", where=where,
                           expected="a loss with a graph to the block's parameters",
                           got="a loss with a graph to those of the rule's head alone",
                           remedy="compute it from `out` itself, not from out.detach(); freeze a block that is not to "
                           "learn: requires_grad_(False)")  # fmt: skip
    return local


def _evaluate(block: LearningBlock, x: Tensor, y: Tensor) -> Tensor | None:
    """What goes on of samples that are only scored; a fusion head needs no trial."""
    rule, site = block.objective, block.site
    if isinstance(rule, Fusion):
        return None
    block.parts.eval()
    with torch.no_grad(), users_code(NetworkError, "the block cannot evaluate", where=at(rule, site)):
        out = block.module(x)
        local = Local(None, None, None)
        for labels, when in ((y, "in evaluation"), (None, "in prediction, without labels")):
            where = f"{at(rule, site)}, {when}"
            with running(rule, where):
                local = rule.local(block.head, out, labels)
            local = check_local(local, rule, site, SAMPLES)
    return local.onward
