"""A run's snapshot as one file."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch

from ffdist.errors import ConfigError, setting, users_code
from ffdist.options import path_of
from ffdist.pipeline.classifier import CheckedClassifier, Classifier
from ffdist.runtime.data_facts import DataFacts
from ffdist.runtime.exported import metadata, weights, write_whole
from ffdist.runtime.run import load_classifier
from ffdist.trust import trusting

FORMS = (".pt2", ".safetensors")


def export(
    run: str | Path, to: str | Path, *, snapshot: str | int = "final", predictor: str = "mean", trust: bool = False
) -> dict[str, Any]:
    """Write a run's snapshot as one file, as `ffdist export` does, and give what it says of itself.

    to: FILE.pt2, a torch.export program: pixels in [0, 1], float32 [B, C, H, W] (of other data: what the network
        takes) -> scores [B, K], for any batch size, with torch alone. FILE.safetensors: the state of one `Classifier`,
        with network, rule, classes, predictor and normalisation in its metadata, which `ffdist.load` gives back.
    snapshot: "final", "last", "best", or a step, as `ffdist.load` has it.
    predictor: "mean", "last", "weighted", "fusion", or a block's name.
    trust: run code that the run's settings name, of a run of others'.

    Raises ConfigError for another form, a file that is there already, a folder that is not, and for a network that
    torch.export cannot follow; SnapshotError for a run without such a snapshot.
    """
    to = path_of(to)
    check_file(to)
    with trusting(trust):
        classifier, settings, facts = load_classifier(path_of(run), snapshot)
    classifier.choose(predictor)
    about = metadata(classifier, settings, facts)
    if to.suffix == ".pt2":
        made = io.BytesIO()  # torch's own writer ends the process where the disk is full
        torch.export.save(program(classifier, facts), made, extra_files={"ffdist.json": json.dumps(about)})
        data = made.getvalue()
    else:
        data = weights(classifier, about)
    write_whole(to, data)
    return {"file": str(to), "bytes": len(data)} | {name: json.loads(text) for name, text in about.items()}


def check_file(to: Path) -> None:
    """Raises ConfigError for another form than FORMS, for a file that is there, and for a folder that is not."""
    if to.suffix not in FORMS:
        raise ConfigError(
            "unknown form of export", where=setting("to"), expected="a name ending in .pt2 or .safetensors", got=to.name
        )
    if to.exists():
        raise ConfigError("the file exists", where=to, remedy="choose another name, or remove it first")
    if not to.parent.is_dir():
        raise ConfigError("there is no such folder", where=setting("to"), got=to.parent, remedy="make it first")


def program(classifier: Classifier, facts: DataFacts) -> torch.export.ExportedProgram:
    """The classifier's forward pass, for any batch size of float32; other types, and pixels beyond 0..1, are refused
    when it is called. Its scores have no graph. Raises ConfigError for a network that torch.export cannot follow."""
    example = torch.rand(2, *facts.shape)
    classifier.pixels = facts.pixels
    network = CheckedClassifier(classifier).eval().requires_grad_(False)
    shapes = {"pixels": {0: torch.export.Dim("batch", min=1)}}
    with users_code(
        ConfigError,
        "torch.export cannot follow this network",
        where=setting("to", "FILE.pt2"),
        expected="blocks without branches on what tensors hold",
        remedy=f"export its weights: {setting('to', 'FILE.safetensors')}",
    ):
        return torch.export.export(network, (example,), dynamic_shapes=shapes, strict=False)
