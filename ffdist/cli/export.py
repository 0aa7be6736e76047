"""`ffdist export`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ffdist.cli.help import Flag, Positional
from ffdist.cli.parsing import parsed
from ffdist.cli.train import local_folder
from ffdist.loading import loading
from ffdist.runtime.interrupts import handle_signals, unwind

if TYPE_CHECKING:
    from ffdist.runtime.data_facts import DataFacts


@dataclass(frozen=True)
class Export:
    """Write a run's snapshot as one file: a torch.export program (.pt2) or the weights (.safetensors)."""

    run: Annotated[Path, Positional]
    """Run folder."""
    to: Path
    """FILE.pt2: takes pixels in [0, 1], float32 [B, C, H, W], and refuses others; gives scores [B, K]; torch is enough.
    FILE.safetensors: the state of one plain torch.nn.Module, `ffdist.Classifier`, with network, rule, classes,
    predictor and normalisation in its metadata: `ffdist.load("FILE.safetensors")` gives it back."""

    snapshot: str = "final"
    """Which snapshot: final, last, best (where the run has marked one), or the step of one.
    final: what the run ended with, the best where it may stop early, else the last."""
    predictor: str = "mean"
    """Predictor whose scores the program gives: mean, last, weighted, fusion, or a block's name."""
    trust: Flag = False
    """Run code that the run's settings name, though others began it. Code with which this user began a run may."""
    json: Flag = False
    """Print one JSON object: the file, and what it says of itself."""


def main(args: Sequence[str]) -> None:
    command = parsed(Export, args, "ffdist export")
    with loading():  # of torch, after the parsing
        from ffdist.runtime.data_facts import read_facts
        from ffdist.runtime.export import export

    handle_signals(unwind)  # what is half written goes again
    run = local_folder(command.run)
    facts = export(run, command.to, snapshot=command.snapshot, predictor=command.predictor, trust=command.trust)
    if command.json:
        print(json.dumps(facts))
        return
    print(f"{command.to}: {facts['bytes']:,} bytes; {how_to_use(command.to, command.run, read_facts(run))}")


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
