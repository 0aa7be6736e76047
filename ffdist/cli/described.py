"""A prepared data set, as `ffdist data prepare` and `ffdist data check` describe it."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ffdist.data.manifest import DataManifest, HeldOut, LeftOut

ROWS = 20
"""Classes with a row each; of more, the smallest and the largest are named."""
LINES = 20
"""Lines that are shown of what was left out, at most."""


def print_manifest(manifest: DataManifest, console: Console) -> None:
    """Splits, classes, counts, size and mode, who made the test split, and what was left out and why."""
    channels, height, width = manifest.shape
    colours = "grey" if channels == 1 else "RGB"
    console.print(Text(f"{len(manifest.classes)} classes, {height} x {width} pixels, {colours}"))
    console.print(counts_table(manifest))
    if manifest.decoding is not None:
        console.print(Text(f"pictures: {manifest.decoding}"), soft_wrap=True)
    if manifest.encoded:
        size = sum(shard.bytes for each in manifest.splits.values() for shard in each.files)
        console.print(Text(f"kept as they were encoded, {size / 2**20:,.0f} MiB; decoded while a network trains"))
    if manifest.held_out is not None:
        for line in drawn_lines(manifest.held_out):
            console.print(Text(line), soft_wrap=True)
    for pair, count in (manifest.duplicates or {}).items():
        console.print(Text(f"duplicates: {count:,} samples of {pair}"), soft_wrap=True)
    if manifest.duplicates == {} and len(manifest.splits) > 1:
        console.print(Text("duplicates between splits: none"))
    for line in left_out_lines(manifest.left_out):
        console.print(Text(line), soft_wrap=True)


def drawn_lines(drawn: HeldOut) -> list[str]:
    """The lines that say how splits were drawn."""
    if drawn.test_fraction == 1:
        return ["test split: all of it (--test-fraction)"]
    whose = "each class" if drawn.groups is None else f"the samples, in whole groups of {drawn.groups}"
    shares = {"test": drawn.test_fraction, "validation": drawn.validation_fraction}
    return [
        f"{split} split: {share:g} of {whose}, seed {drawn.seed} (--{split}-fraction)"
        for split, share in shares.items()
        if share
    ]


def counts_table(manifest: DataManifest) -> Table:
    """Samples by split, and by class where there are few."""
    table = Table("class", *manifest.splits)
    counts = [split.counts for split in manifest.splits.values()]
    if len(manifest.classes) <= ROWS:
        for name, *each in zip(manifest.classes, *counts, strict=True):
            table.add_row(Text(name), *(f"{count:,}" for count in each))
    else:
        table.add_row("smallest", *(extreme(manifest.classes, each, min(each)) for each in counts))
        table.add_row("largest", *(extreme(manifest.classes, each, max(each)) for each in counts))
    table.add_section()
    table.add_row("all", *(f"{sum(each):,}" for each in counts))
    return table


def extreme(classes: list[str], counts: list[int], value: int) -> Text:
    """A count, and the classes that have it."""
    names = [name for name, count in zip(classes, counts, strict=True) if count == value]
    return Text(f"{value:,} ({names[0]})" if len(names) == 1 else f"{value:,} ({len(names)} classes)")


def left_out_lines(entries: tuple[LeftOut, ...]) -> list[str]:
    """A line for each reason, up to a limit, and how many more there are."""
    lines = [
        f"left out: {entry.count:,} {entry.what}: {entry.why}"
        if entry.count > 1
        else f"left out: {entry.what}: {entry.why}"
        for entry in entries
    ]
    more = len(lines) - LINES
    return lines if more <= 0 else [*lines[:LINES], f"left out: {more:,} more, listed in manifest.json"]
