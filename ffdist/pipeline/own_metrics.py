"""Metrics of a user's own, on the scores and labels of each split that is measured."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from math import isfinite
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ffdist.errors import ConfigError, described, setting, users_code
from ffdist.models import derive_seed, seeded
from ffdist.notes import note
from ffdist.options import find

Metric: TypeAlias = Any
"""Called with the scores float32 [N, K] of a whole split, by the mean of the blocks, and its labels int64 [N]; or, as
torchmetrics has it, an object with `update(scores, labels)`, which gets them batch by batch, `compute()` and `reset()`.
It gives a number, several in a tensor, or several by name."""
REQUIRED = inspect.Parameter.empty
EXPECTED = "a callable on scores [N, K] and labels [N], or an object with update, compute and reset"


def named_metrics(names: Sequence[str], num_classes: int) -> dict[str, Metric]:
    """Metrics from module:Name or file.py:Name, by their last parts. Raises ConfigError for what is not there, and for
    two of one name."""
    found: dict[str, Metric] = {}
    for text in names:
        name = text.rpartition(":")[2]
        if name in found:
            raise ConfigError("two metrics have one name", where=setting("watch.metric"), got=text)
        found[name] = make_metric(find(text, {}, "metric"), num_classes, text)
    return found


def given_metrics(given: Mapping[str, Metric] | Sequence[Metric], num_classes: int) -> dict[str, Metric]:
    """Metrics that Python code hands over, by the names that it gives them, or that they have. Raises ConfigError for
    what is none, and for two of one name."""
    pairs = list(given.items()) if isinstance(given, Mapping) else [(name_of(each), each) for each in given]
    names = [name for name, _ in pairs]
    for name in names:
        if not isinstance(name, str) or not name or names.count(name) > 1:
            raise ConfigError(
                "metrics need names, each its own",
                where="fit(metrics=...)",
                got=", ".join(map(str, names)),
                remedy='metrics={"a name": ..., "another": ...}',
            )
    return {name: make_metric(each, num_classes, name) for name, each in pairs}


def name_of(metric: Metric) -> str:
    return str(getattr(metric, "__name__", None) or type(metric).__name__)


def make_metric(metric: Any, num_classes: int, name: str) -> Metric:
    """An instance of a class, or the function itself, with "num_classes" and "task" filled in where it has parameters
    of these names without defaults, as torchmetrics' classes do. Raises ConfigError for what is no metric."""
    with users_code(ConfigError, "the metric cannot be made", where=f"metric {name}", expected=EXPECTED):
        known = {"num_classes": num_classes, "task": "multiclass"}
        if inspect.isclass(metric):
            metric = metric(**named_parameters_of(metric, known))
        elif inspect.isroutine(metric) and (more := named_parameters_of(metric, known)):
            metric = partial(metric, **more)
    if not (is_stateful(metric) or callable(metric)):
        raise ConfigError("this is not a metric", where=f"metric {name}", expected=EXPECTED, got=type(metric).__name__)
    return metric


def named_parameters_of(call: Callable[..., Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The known values that it names among its parameters, without defaults of its own."""
    makers = (call.__init__, call.__new__) if inspect.isclass(call) else (call,)
    found: dict[str, Any] = {}
    for maker in makers:
        try:
            parameters = inspect.signature(maker).parameters
        except (TypeError, ValueError):  # written in C
            continue
        found |= {n: v for n, v in known.items() if n in parameters and parameters[n].default in (REQUIRED, None)}
    return found


def is_stateful(metric: Metric) -> bool:
    """True if it takes a split batch by batch, as torchmetrics' do; else it is called with the whole of it."""
    return all(callable(getattr(metric, name, None)) for name in ("update", "compute", "reset"))


class OwnMetrics:
    """A user's metrics on one split after the other. One that fails is reported, and left out from then on.

    They see copies, and draw random numbers of their own, so that they change nothing of a run.
    """

    def __init__(self, metrics: Mapping[str, Metric] | None = None, seed: int = 0) -> None:
        self.metrics = dict(metrics or {})
        self.seed = seed
        self.scores: list[Tensor] = []
        self.labels: list[Tensor] = []
        """The labels of the split so far, where a metric wants them all."""

    def add(self, scores: Tensor, labels: Tensor) -> None:
        """scores: [B, K]; labels: int64 [B]."""
        if any(not is_stateful(metric) for metric in self.metrics.values()):
            self.scores.append(scores.detach().float().cpu().clone())
            self.labels.append(labels.detach().cpu().clone())
        for name, metric in list(self.metrics.items()):
            if is_stateful(metric):
                self._try(name, lambda metric=metric: metric.update(scores.detach().clone(), labels.clone()))

    def result(self) -> dict[str, float | None]:
        """Each one's value, None for one that is not finite; they begin anew."""
        found = {name: self._try(name, partial(self._value, metric)) for name, metric in list(self.metrics.items())}
        self.scores = []
        self.labels = []
        return {key: value for name, values in found.items() for key, value in (values or {name: None}).items()}

    def _value(self, metric: Metric) -> Any:
        if not is_stateful(metric):
            return metric(torch.cat(self.scores), torch.cat(self.labels))
        value = metric.compute()
        metric.reset()
        return value

    def _try(self, name: str, call: Callable[[], Any]) -> dict[str, float | None] | None:
        """Compute its values, by name."""
        try:
            with seeded(derive_seed(self.seed, "metric", name)), torch.no_grad():
                return dict(numbers(name, call()))
        except Exception as error:  # a user's own code: the run is worth more than one of its numbers
            self.metrics.pop(name, None)
            note(f"a metric has failed and is left out: {name}: {described(error)}")
            return None


def numbers(name: str, result: Any) -> Iterator[tuple[str, float | None]]:
    """The value or values of a metric, each with a name."""
    if result is None:  # of an update
        return
    if isinstance(result, Mapping):
        for key, value in result.items():
            yield from numbers(f"{name}/{key}", value)
        return
    values = torch.as_tensor(result, dtype=torch.float64).flatten().tolist()
    for index, value in enumerate(values):
        yield (name if len(values) == 1 else f"{name}/{index}"), (value if isfinite(value) else None)


def check_metrics(metrics: Mapping[str, Metric], num_classes: int) -> None:
    """Try each, in a copy, on a few scores before anything starts. Raises ConfigError for one that fails."""
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.rand(2 * num_classes, num_classes, generator=generator), torch.arange(num_classes).repeat(2)
    for name, metric in metrics.items():
        with (
            users_code(ConfigError, "the metric fails", where=f"metric {name}", expected=EXPECTED),
            seeded(0),
            torch.no_grad(),
        ):
            tried = deepcopy(metric)
            if is_stateful(tried):
                tried.update(scores, labels)
                value = tried.compute()
            else:
                value = tried(scores, labels)
            if not dict(numbers(name, value)):
                raise TypeError("it gives no number")
