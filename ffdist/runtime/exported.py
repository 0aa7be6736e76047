"""A trained network as one file and back, and out of a run's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ffdist.data.decode import read_decoding
from ffdist.data.images import ValueSpread
from ffdist.errors import ConfigError, SnapshotError
from ffdist.folders import remedy_of, system_reason
from ffdist.models import Chain
from ffdist.objectives import Objective, load_objective
from ffdist.pipeline.classifier import Classifier
from ffdist.runtime.data_facts import DataFacts, read_facts
from ffdist.runtime.in_python import BACKPROP, given_network
from ffdist.runtime.own_code import GIVEN, KINDS, WORDS, check_code, named_code, own_transforms
from ffdist.runtime.run import classifier_of, read_settings, trained
from ffdist.runtime.run import network as named_network
from ffdist.settings import Settings
from ffdist.snapshot import as_snapshot, pulled
from ffdist.snapshot.files import detached_copies, write_durably
from ffdist.trust import check_may_run, trusting

NETWORK = ("model", "model_args", "blocks", "objective", "objective_args", "label_smoothing", "fusion")
"""The settings that say which network and rule it is."""
MEASURED = ("image_size", "preprocess", "batch_size", "microbatches", "lanes", "precision", "seed")
"""Those by which it is measured as in training."""


def metadata(classifier: Classifier, settings: Settings, facts: DataFacts) -> dict[str, str]:
    """An exported file's metadata: JSON texts by name."""
    values = {
        "ffdist": version("ffdist"),
        "torch": version("torch"),
        "predictor": classifier.predictor,
        "weights": classifier.block_weights,
        "network": {name: settings.value(name) for name in NETWORK},
        "measured": {name: settings.value(name) for name in MEASURED},
        "input": f"{input_of(facts)}, float32 [B, {', '.join(map(str, facts.shape))}]",
        "shape": facts.shape,
        "classes": facts.classes,
        "mean": facts.mean,
        "std": facts.std,
        "pixels": facts.pixels,
        "spread": facts.spread,
        "decoding": facts.decoding and asdict(facts.decoding),
        "in_memory": facts.in_memory,
        "preprocess": facts.preprocess,
    }
    return {name: json.dumps(value) for name, value in values.items()}


def input_of(facts: DataFacts) -> str:
    """The network's input, in words."""
    if facts.pixels:
        return "pixels in [0, 1], not normalised"
    spread = facts.spread
    return "floats as in training" + (f", {spread.low:g}..{spread.high:g}" if spread else "")


def weights(classifier: Classifier, about: Mapping[str, str]) -> bytes:
    """A .safetensors file of the state of the classifier; tied weights under each of their names."""
    return ordered(save(detached_copies(classifier.state_dict()), metadata={"format": "pt", **about}))


def ordered(data: bytes) -> bytes:
    """The same .safetensors file with its metadata by name: safetensors writes them in another order each time, and
    what is exported twice should be the same file."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors are aligned
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def write_whole(path: Path, data: bytes) -> None:
    """The whole file or none of it. Raises ConfigError where it cannot be written."""
    try:
        write_durably(path, data)
    except OSError as error:
        raise ConfigError(
            "the file cannot be written",
            where=path,
            expected=f"{len(data):,} bytes written",
            got=system_reason(error, path),
            remedy=remedy_of(error, "make room there, or choose another --to"),
        ) from error


def load(
    place: str | Path,
    network: Chain | nn.Sequential | None = None,
    objective: Objective | str | None = None,
    *,
    snapshot: str | int = "final",
    trust: bool = False,
) -> Classifier:
    """The trained network of a run's folder (the snapshot that it ended with), or of a file that `ffdist export`
    has written (.safetensors), on the CPU in evaluation mode: pixels in [0, 1], float32 [B, *input_shape] -> scores
    [B, K].

    `classifier.predict` takes samples as in training, uint8 or float, and refuses those of another type or range;
    `classifier.evaluate(data)` gives what `ffdist eval` does, `classifier.features(samples)` what each block makes of
    them;
    `classifier.classes` names the classes, `classifier.decoding` says how pictures were read (`ffdist.read_pictures`).
    network, objective: those of training, where they were given in Python; of an exported file also a user's own, whose
        code is not imported because a file names it.
    snapshot: which one of a run's: "final", which it ended with (the best, where it might stop early; else the last);
        "last"; the step of one that is kept; "best", where the run has marked one.
    trust: whether code of somebody's own, which the run's settings name, may run: of runs that others have made. Code
        with which this user has begun a run may.

    Raises SnapshotError for what is no run and no such file, and for a snapshot that is not there; ConfigError where
    network or objective are needed.
    """
    path, chosen = pulled(place), as_snapshot(snapshot)
    if path.is_file():
        if chosen not in ("final", "last"):
            raise ConfigError(
                "an exported file holds one network",
                where=path,
                got=f"snapshot={chosen!r}",
                remedy="name the run's folder, or leave the snapshot out",
            )
        return _load_file(path, network, objective)
    with trusting(trust):
        settings, facts = read_settings(path), read_facts(path)
    check_code(path, settings, strict=False)
    chain, rule = _made(settings, facts, network, objective, path)
    return trained(path, chain, rule, facts, settings, chosen)


def _made(
    settings: Settings,
    facts: DataFacts,
    network: Chain | nn.Sequential | None,
    rule: Objective | str | None,
    run: Path | None = None,
) -> tuple[Chain, Objective]:
    """Make the network and the rule that are not given, as the settings name them; for "backprop" the twin."""
    if network is None and rule is None:
        return named_network(settings, facts.shape, len(facts.classes), run=run)
    stand_in = settings.changed(model="mlp", model_args=(), blocks=()) if network is not None else settings
    if rule is not None or settings.rule.objective == BACKPROP:
        stand_in = stand_in.changed(objective="sff", objective_args=(), label_smoothing=0.0)
    chain, objective = named_network(stand_in, facts.shape, len(facts.classes), run=run)
    if network is not None:
        chain = joined_as(network, settings, facts)
    if rule is not None and rule != BACKPROP:
        objective = load_objective(rule) if isinstance(rule, str) else rule
    return given_network(settings, chain, objective)


def joined_as(network: Chain | nn.Sequential, settings: Settings, facts: DataFacts) -> Chain:
    """The network in the blocks that it was trained in."""
    cut = settings.network.blocks or None
    if isinstance(network, Chain):
        return network if cut is None else network.regroup(cut)
    return Chain.from_sequential(network, input_shape=facts.shape, num_classes=len(facts.classes), layers_per_block=cut)


class _Saved(NamedTuple):
    """The contents of an exported file."""

    state: dict[str, Tensor]
    facts: DataFacts
    settings: Settings
    predictor: str
    weights: Any
    """The blocks' weights, for the weighted predictor; None where none were measured."""


def _load_file(path: Path, network: Chain | nn.Sequential | None, objective: Objective | str | None) -> Classifier:
    saved = _read_file(path)
    for kind, given in (("model", network), ("objective", objective)):
        name = saved.settings.value(kind)
        if given is None and (name == GIVEN or name not in KINDS[kind]):
            raise ConfigError(
                f"the file's {WORDS[kind]} is a user's own",
                where=path,
                got=name,
                remedy="give it: ffdist.load(FILE, network, objective)",
            )
    chain, rule = _made(saved.settings, saved.facts, network, objective)
    classifier = classifier_of(chain, rule, saved.facts, saved.settings)
    try:
        classifier.load_state_dict(saved.state)
    except RuntimeError as error:
        raise SnapshotError("the file is of another network", where=path, got=error) from error
    classifier.block_weights = saved.weights
    return classifier.choose(saved.predictor)


def _read_file(path: Path) -> _Saved:
    """Read an exported file. Raises SnapshotError for a file that is none."""
    try:
        with safe_open(path, framework="pt") as file:
            about = {name: json.loads(text) for name, text in (file.metadata() or {}).items() if name != "format"}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        decoding = about["decoding"]
        facts = DataFacts(
            about["classes"],
            tuple(about["shape"]),
            tuple(about["mean"]),
            tuple(about["std"]),
            about["pixels"],
            decoding=decoding and read_decoding(decoding),
            spread=ValueSpread(*spread) if (spread := about.get("spread")) else None,
            in_memory=about.get("in_memory", False),
            preprocess=tuple(about.get("preprocess", ())),
        )
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in about["network"].items()}
        values |= {name: tuple(v) if isinstance(v, list) else v for name, v in about.get("measured", {}).items()}
        settings, predictor = Settings().changed(**values), str(about["predictor"])
        check_may_run([*named_code(settings), *own_transforms(facts.preprocess)], path)
        return _Saved(state, facts, settings, predictor, about.get("weights"))
    except (
        SafetensorError,
        OSError,
        RuntimeError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        raise SnapshotError(
            "the file is not an exported network",
            where=path,
            expected="what `ffdist export RUN --to FILE.safetensors` writes",
            got=error,
            remedy=f"torch.export.load({str(path)!r}).module() is what a .pt2 file holds"
            if path.suffix == ".pt2"
            else "export it again; the tensors of other files are safetensors.torch.load_file's",
        ) from error
