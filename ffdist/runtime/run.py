"""A run folder: what its settings say, and the network of its last snapshot."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from ffdist.baselines.twin import BackpropRule, twin
from ffdist.data import Images
from ffdist.digests import with_digest, without_digest
from ffdist.errors import ConfigError, SnapshotError, described, setting
from ffdist.folders import command, remedy_unwritable, why_unwritable
from ffdist.models import Chain, load_model, weights_file, with_weights
from ffdist.models.dirac import with_dirac
from ffdist.notes import listed, note
from ffdist.objectives import Objective, load_objective
from ffdist.options import pairs
from ffdist.pipeline.classifier import Classifier
from ffdist.pipeline.sink import counted_from_one
from ffdist.plan import Plan
from ffdist.regular import read_bytes, read_text
from ffdist.runtime.data_facts import DataFacts, read_facts
from ffdist.runtime.own_code import GIVEN, WORDS, check_code, named_code
from ffdist.settings import Settings, apply, flat
from ffdist.settings.toml import parsed, read_toml, write_toml
from ffdist.snapshot import Manifest, SnapshotStore, as_snapshot, committed, use_snapshot
from ffdist.snapshot.files import write_durably
from ffdist.snapshot.manifest import passed_over
from ffdist.snapshot.mirror import as_user_named as named
from ffdist.trust import check_may_run

T = TypeVar("T")
SETTINGS = "config.toml"
PLAN = "plan.json"
HEAD = "# settings of a run of ffdist; digest "
"""Begins the file: a file that was cut short still has it."""
ACTIONS = ("resume", "dry_run")
"""In files of older versions, and no settings."""
LAST = "timeout"
"""The last of the settings in files without a digest: those that lack it were cut short."""


def network(
    settings: Settings, shape: tuple[int, ...], num_classes: int, *, start: bool = False, run: Path | None = None
) -> tuple[Chain, Objective]:
    """The chain and the rule the settings name; for "backprop", the twin of one block and a global loss.

    start: whether a run starts with it, by --pretrained weights if any; otherwise a snapshot's will be loaded.
    run: the folder of the run whose they are, for errors.
    """
    check_named(settings, run)
    chain = load_model(
        settings.network.model, shape, num_classes, pairs(settings.network.model_args, setting("network.model_args"))
    )
    chain = chain.regroup(settings.network.blocks) if settings.network.blocks else chain
    chain = with_dirac(chain) if settings.network.dirac else chain
    if start and settings.network.pretrained:
        chain = with_weights(chain, weights_file(settings.network.pretrained, settings.network.model))
    if settings.rule.objective == "backprop":
        return twin(chain), smoothed(BackpropRule(), settings)
    objective = load_objective(
        settings.rule.objective, pairs(settings.rule.objective_args, setting("rule.objective_args"))
    )
    return chain, smoothed(objective, settings, start=start)


def check_named(settings: Settings, run: Path | None = None) -> None:
    """Raises ConfigError for a network or a rule that has no name; run: the folder of theirs, which it then says."""
    for kind in ("model", "objective"):
        if settings.value(kind) == GIVEN:
            raise not_here_error(kind, run)


def not_here_error(kind: str, run: Path | None) -> ConfigError:
    """The error for a run that was begun in Python with what has no name."""
    place = run_argument(run)
    return ConfigError(
        f"the run's {WORDS[kind]} was given in Python, and cannot be made again here",
        where=run,
        expected="one of ffdist's, or one that a module defines",
        remedy=f"in Python, with the same network and rule: ffdist.load({place}, network, rule) is the trained network "
        f"(.predict(samples), torch.export), and Pipeline(network, rule).fit(data, out={place}, resume=True) goes on",
    )


def run_argument(run: Path | None) -> str:
    """A run's folder as an argument in Python."""
    return "RUN" if run is None else repr(str(run))


def no_data_to_measure_error(run: Path, facts: DataFacts, words: str) -> ConfigError:
    """The error for a command, `words`, that needs data where the run's own were given in Python."""
    here = f"in Python: ffdist.load({run_argument(run)}).predict(samples)"
    folder = f"name a prepared data set: {command(*words.split(), run, '--data')} DATA; or {here}"
    return ConfigError(
        "the run's data were given in Python, and cannot be opened here",
        where=run,
        expected="a prepared data set" if facts.pixels else "floats, which no prepared data set holds",
        remedy=folder if facts.pixels else here,
    )


def no_data_to_learn_error(run: Path | None) -> ConfigError:
    """The error for a run that is to go on where its data were given in Python."""
    return ConfigError(
        "the run's data were given in Python, and cannot be opened here",
        where=run,
        expected="the same data, given again",
        remedy="in Python, with the same network, rule and data: "
        f"Pipeline(network, rule).fit(data, out={run_argument(run)}, resume=True)",
    )


def smoothed(objective: Objective, settings: Settings, *, start: bool = False) -> Objective:
    """The rule with --label-smoothing.

    start: whether a run starts with it; one that has begun is read as it was.
    Raises ConfigError for a rule that has no such setting, and at a start for one that has another share of its own.
    """
    if not settings.rule.label_smoothing:
        return objective
    if not (is_dataclass(objective) and any(f.name == "label_smoothing" for f in fields(objective))):
        raise ConfigError(
            "label smoothing is for rules with a cross-entropy over their scores",
            where=setting("rule.label_smoothing"),
            expected="such a rule: sff, cwc, local-ce, ...",
            got=setting("rule.objective", settings.rule.objective),
            remedy="leave it out",
        )
    own = getattr(objective, "label_smoothing")  # noqa: B009
    if start and own not in (0, settings.rule.label_smoothing):
        raise ConfigError(
            "label smoothing is set twice, to different values",
            where=setting("rule.label_smoothing"),
            expected="one of them",
            got=f"{settings.rule.label_smoothing:g}, and {own:g} among the rule's options",
            remedy=f"leave one out: {setting('rule.label_smoothing', settings.rule.label_smoothing)} alone",
        )
    return replace(objective, label_smoothing=settings.rule.label_smoothing)


def write_settings(run: Path, settings: Settings) -> None:
    """Write the settings without what makes them a run's own, and a digest before them.

    Raises ConfigError where the folder cannot be written.
    """
    text = write_toml(settings.changed(out=None))
    with writing_to(run):
        write_durably(run / SETTINGS, f"{HEAD}{digest_of(parsed(text))}\n{text}".encode())


@contextmanager
def writing_to(out: Path) -> Iterator[None]:
    """Raises ConfigError for the OSError of a folder that cannot be written."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            "the run folder cannot be written",
            where=out,
            got=why_unwritable(out, error),
            remedy=remedy_unwritable(out, error, [setting("run.out")]),
        ) from error


def digest_of(values: Mapping[str, Any]) -> str:
    """A digest of settings, in whatever order, spacing or comments."""
    return hashlib.sha256(repr(sorted(flat(values).items())).encode()).hexdigest()[:32]


def write_plan(run: Path, plan: Plan) -> None:
    """Write the plan; it is on disk when this returns. Raises ConfigError when it cannot be written."""
    with writing_to(run):
        write_durably(run / PLAN, (json.dumps(with_digest(plan.as_json()), indent=1) + "\n").encode())


def saved_plan(run: Path | None) -> Plan | None:
    """The plan by which a run was last started; None where there is none. Raises SnapshotError for one that is not as
    it was written."""
    path = run and run / PLAN
    if path is None or not path.exists():
        return None
    try:
        values = json.loads(read_text(path))
        return Plan.from_json(without_digest(values), path)
    except (OSError, ValueError, TypeError, RecursionError, ConfigError) as error:
        raise SnapshotError(
            "the plan of the run is not as it was written",
            where=path,
            expected="a file that is whole",
            got=described(error),
            remedy=f"restore it, or put a plan of as many lanes there: `ffdist plan ... --lanes N --json > {PLAN}`",
        ) from error


def are_of_a_run(path: Path) -> bool:
    """True if a file of that name was written by a run, whole or not, and is no other's."""
    try:
        text = read_text(path)
        return text.startswith(HEAD) or LAST in flat(read_toml(path, read_bytes))
    except (OSError, ValueError, ConfigError):
        return False


def read_settings(run: Path) -> Settings:
    """Raises SnapshotError where there is no run, or where its settings are not as they were written. The code that
    they name is doubted."""
    path = run / SETTINGS
    if not path.is_file():
        raise SnapshotError(
            "there is no run here",
            where=named(run),
            expected=f"a folder with {SETTINGS}",
            remedy="name the run folder that `ffdist train` printed",
        )
    values = read_toml(path, read_bytes)
    head = read_text(path).removeprefix("\ufeff").partition("\n")[0].rstrip()
    whole = head == f"{HEAD}{digest_of(values)}" if head.startswith(HEAD) else LAST in flat(values)
    if not whole:
        raise SnapshotError(
            "the settings of the run are not as they were written",
            where=path,
            expected="a file that is whole",
            got="one that was cut short, or changed",
            remedy="restore it; settings that may change are given to `ffdist train --resume`",
        )
    given = {name: value for name, value in flat(values).items() if name not in ACTIONS}
    settings = apply(Settings(), given, str(path))
    check_may_run(named_code(settings), path)
    try:
        plan = saved_plan(run)
    except SnapshotError as error:  # who learns by it says so
        note(f"{error.what}: {error.where}")
        plan = None
    return settings if plan is None or plan.lanes == 1 else settings.changed(lanes=plan.lanes)


def with_snapshot(run: Path, use: Callable[[Manifest], T], snapshot: str | int = "final") -> T:
    """Return what `use` makes of the run's last whole snapshot, or of another, as `chosen` has it. Raises SnapshotError
    where there is none yet."""
    chosen_snapshot = as_snapshot(snapshot)
    if not committed(run):
        raise SnapshotError(
            "the run has no snapshot yet",
            where=run,
            got=listed(passed_over(run)) or None,
            remedy="wait for the first epoch to end",
        )
    made = use_snapshot(run, chosen_snapshot, lambda manifest: (use(manifest),))
    assert made, "a snapshot stays until another is committed"
    return made[0]


def load_classifier(run: Path, snapshot: str | int = "final") -> tuple[Classifier, Settings, DataFacts]:
    """The network of a run's last whole snapshot, or of another, on the CPU in evaluation mode."""
    settings, facts = read_settings(run), read_facts(run)
    check_code(run, settings, strict=False)
    chain, objective = network(settings, facts.shape, len(facts.classes), run=run)
    return trained(run, chain, objective, facts, settings, snapshot), settings, facts


def classifier_of(chain: Chain, objective: Objective, data: DataFacts | Images, settings: Settings) -> Classifier:
    """A network that has learned from these data by these settings, its weights still to be loaded."""
    made = Classifier(chain, objective, mean=data.mean, std=data.std, fusion=settings.rule.fusion)
    made.classes, made.decoding = list(data.classes), data.decoding
    made.pixels, made.spread, made.settings = data.pixels, data.spread, settings
    return made


def trained(
    run: Path,
    chain: Chain,
    objective: Objective,
    data: DataFacts | Images,
    settings: Settings,
    snapshot: str | int = "final",
) -> Classifier:
    """The last whole snapshot's weights, or another's, in a network that is there already."""
    classifier = classifier_of(chain, objective, data, settings)
    store = SnapshotStore(run, classifier.names)

    def load(manifest: Manifest) -> None:
        store.load_weights(classifier, manifest)
        classifier.records = counted_from_one(manifest.records)

    with_snapshot(run, load, snapshot)
    return classifier
