"""`ffdist export`."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ffdist.cli.help import Flag, Positional
from ffdist.cli.parsing import parsed
from ffdist.cli.train import here
from ffdist.errors import ConfigError, users_code
from ffdist.loading import loading
from ffdist.runtime.interrupts import handle_signals, unwind
from ffdist.trust import TRUSTING

if TYPE_CHECKING:
    import torch

    from ffdist.pipeline.classifier import Classifier
    from ffdist.runtime.data_facts import DataFacts


@dataclass(frozen=True)
class Export:
    """Write a run's snapshot as one file: a torch.export program (.pt2) or the weights (.safetensors)."""

    run: Annotated[Path, Positional]
    """Run directory."""
    to: Path
    """FILE.pt2: takes pixels in [0, 1], float32 [B, C, H, W], and refuses others; gives scores [B, K]; torch is enough.
    FILE.safetensors: the state of one plain torch.nn.Module, `ffdist.Classifier`, with network, rule, classes,
    predictor and normalisation in its metadata: `ffdist.load("FILE.safetensors")` gives it back."""

    snapshot: str = "last"
    """Which snapshot: last, best (where the run has marked one), or the step of one that is kept."""
    predictor: str = "mean"
    """Whose scores the program gives: mean, last, weighted, fusion, or a block's name."""
    trust: Flag = False
    """Run code that the run's settings name: of runs of others'. Code with which this user began a run may."""
    json: Flag = False
    """Print one JSON object: the file, and what it says of itself."""


def main(args: Sequence[str]) -> None:
    command = parsed(Export, args, "ffdist export")
    TRUSTING.set(TRUSTING.get() or command.trust)
    command = replace(command, run=here(command.run))
    if command.to.suffix not in (".pt2", ".safetensors"):
        raise ConfigError("unknown form of export", where="--to", expected="a name ending in .pt2 or .safetensors",
                          got=command.to.name)  # fmt: skip
    if command.to.exists():
        raise ConfigError("the file exists", where=command.to, remedy="choose another name, or remove it first")
    if not command.to.parent.is_dir():
        raise ConfigError("there is no such folder", where="--to", got=command.to.parent, remedy="make it first")
    with loading():  # of torch, behind the parsing
        import torch

        from ffdist.runtime.exported import metadata, weights, write_whole
        from ffdist.runtime.run import load_classifier

    handle_signals(unwind)  # what is half written goes again
    classifier, settings, facts = load_classifier(command.run, command.snapshot)
    classifier.choose(command.predictor)
    about = metadata(classifier, settings, facts)
    if command.to.suffix == ".pt2":
        made = io.BytesIO()  # torch's own writer ends the process where the disk is full
        torch.export.save(program(classifier, facts), made, extra_files={"ffdist.json": json.dumps(about)})
        data = made.getvalue()
    else:
        data = weights(classifier, about)
    write_whole(command.to, data)
    if command.json:
        told = {name: json.loads(text) for name, text in about.items()}
        print(json.dumps({"file": str(command.to), "bytes": command.to.stat().st_size} | told))
        return
    print(f"{command.to}: {command.to.stat().st_size:,} bytes; {how_to_use(command.to, command.run, facts)}")


def how_to_use(to: Path, run: Path, facts: DataFacts) -> str:
    """Lines for people: what it takes, and how to come to that."""
    from ffdist.runtime.exported import input_of

    lines = []
    if facts.pixels and len(facts.shape) == 3:
        lines.append(f"pictures as in training: ffdist.read_pictures(FILES, {str(run)!r})")
        if facts.decoding is not None:
            lines.append(f"they are {facts.decoding}")
    if to.suffix == ".safetensors":
        lines.append(f"in Python: ffdist.load({str(to)!r}), a torch.nn.Module with .classes and .decoding")
    shape = ", ".join(map(str, facts.shape))
    return "\n".join([f"{input_of(facts)}, float32 [B, {shape}] -> scores [B, {len(facts.classes)}]", *lines])


def program(classifier: Classifier, facts: DataFacts) -> torch.export.ExportedProgram:
    """The classifier's forward pass, for any batch size of float32; other types, and pixels beyond 0..1, are refused
    when it is called. Its scores have no graph. Raises ConfigError for a network that torch.export cannot follow."""
    import torch

    from ffdist.pipeline.classifier import Checked

    example = torch.rand(2, *facts.shape)
    classifier.pixels = facts.pixels
    network = Checked(classifier).eval().requires_grad_(False)
    shapes = {"pixels": {0: torch.export.Dim("batch", min=1)}}
    with users_code(ConfigError, "torch.export cannot follow this network", where="--to FILE.pt2",
                    expected="blocks without branches on what tensors hold",
                    remedy="export its weights: --to FILE.safetensors"):  # fmt: skip
        return torch.export.export(network, (example,), dynamic_shapes=shapes, strict=False)
