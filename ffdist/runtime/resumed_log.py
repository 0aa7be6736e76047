"""The logs with which a run begins, or goes on. Its snapshot knows all epochs that it has learned, so the run log is
written anew from that; what else stood there is noted, and kept where no run has written it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ffdist.json_lines import parsed
from ffdist.notes import listed, note
from ffdist.pipeline.sink import counted_from_one
from ffdist.regular import read_bytes
from ffdist.report.log import PULSES, RUN_LOG, line_of, pulse_of, writing
from ffdist.snapshot.files import write_durably


@dataclass
class LogLines:
    """The lines of an earlier attempt's log, sorted by what they are."""

    known: set[str] = field(default_factory=set)
    """Those that the snapshot knows, too."""
    duplicates: int = 0
    later: set[int] = field(default_factory=set)
    """Epochs that the snapshot does not know."""
    strange: int = 0
    """The number that no run has written, or that tell of an epoch otherwise than the snapshot."""
    cut_off: bool = False
    """Whether the last one is there in part, as a kill may leave it."""

    def add_known(self, text: str) -> None:
        """Count a line that the snapshot knows; the second time it is one too many."""
        self.duplicates += text in self.known
        self.known.add(text)


def begin_logs(run: Path, records: Sequence[dict[str, Any]], step: int) -> None:
    """Write the run log of a snapshot's `records`, which is of batch `step` (none and 0 where a run begins), and keep
    the pulses up to it: what came after it is trained, and logged, again.

    Raises SnapshotError where a log cannot be read or written.
    """
    with writing(run / RUN_LOG):
        found = sorted_lines(*values_in(run / RUN_LOG), records)
        damage = damage_of(found, missing=len(records) - len(found.known))
        put_anew(run / RUN_LOG, map(line_of, records), found, damage)
    if found.later:
        last = f"the snapshot of step {step}" if step else "a snapshot"
        epochs = ("epoch " if len(found.later) == 1 else "epochs ") + listed(sorted(found.later))
        note(f"{run / RUN_LOG} has {epochs}, which {last} does not know: they are trained, and logged, again")
    with writing(run / PULSES):
        pulses, found = sorted_pulses(*values_in(run / PULSES), step)
        put_anew(run / PULSES, (json.dumps(pulse) + "\n" for pulse in pulses), found, damage_of(found))


def values_in(path: Path) -> tuple[list[Any], bool]:
    """The values of a file's whole lines, with the error of one that is no JSON; and whether a last line is cut off.
    Nothing where there is no file. Raises OSError."""
    try:
        *lines, rest = read_bytes(path).split(b"\n")
    except FileNotFoundError:
        return [], False
    return [parsed(line) for line in lines if line.strip()], bool(rest.strip())


def sorted_lines(values: Sequence[Any], cut_off: bool, records: Sequence[dict[str, Any]]) -> LogLines:
    """A run log's. A run's end, which it has gone beyond, is not worth a note."""
    lines, texts = LogLines(cut_off=cut_off), {text_of(record) for record in records}
    last = records[-1]["epoch"] if records else 0
    epochs = [value for value in values if is_epoch(value)]
    for record in counted_from_one(epochs):
        if (text := text_of(record)) in texts:
            lines.add_known(text)
        elif record["epoch"] > last:
            lines.later.add(record["epoch"])
        else:
            lines.strange += 1
    ends = sum(isinstance(value, dict) and "reason" in value and "test" in value for value in values)
    lines.strange += len(values) - len(epochs) - ends
    return lines


def is_epoch(value: Any) -> bool:
    """True if it has what tells an epoch from other lines."""
    return isinstance(value, dict) and type(value.get("epoch")) is int and "train" in value


def sorted_pulses(values: Sequence[Any], cut_off: bool, step: int) -> tuple[list[dict[str, Any]], LogLines]:
    """The pulses up to a step, each once, and what stands with them."""
    lines, kept = LogLines(cut_off=cut_off), list[dict[str, Any]]()
    for value in values:
        if (pulse := pulse_of(value)) is None:
            lines.strange += 1
        elif pulse.step <= step:
            fields, before = pulse.to_json(), len(lines.known)
            lines.add_known(json.dumps(fields))
            kept += [fields] * (len(lines.known) - before)
    return kept, lines


def text_of(record: dict[str, Any]) -> str:
    """A record in one form, without what the log alone adds."""
    return json.dumps({name: value for name, value in record.items() if name != "schema"}, sort_keys=True)


def damage_of(lines: LogLines, missing: int = 0) -> list[str]:
    """All that is wrong with a log, in words; empty for one that is whole. missing: lines that should be there."""
    counts = {"missing": missing, "duplicated": lines.duplicates, "none of this run's": lines.strange}
    found = [f"{n} {'line is' if n == 1 else 'lines are'} {what}" for what, n in counts.items() if n]
    return [*found, "the last line is cut off"] if lines.cut_off else found


def put_anew(path: Path, texts: Iterable[str], found: LogLines, damage: list[str]) -> None:
    """The file with these lines, whole or not at all; one with lines of nobody's is kept beside it. Raises OSError."""
    aside = ""
    if found.strange:
        kept, count = path.with_name(f"{path.name}.kept"), 1
        while kept.exists() or kept.is_symlink():
            count += 1
            kept = path.with_name(f"{path.name}.kept-{count}")
        path.rename(kept)
        aside = f"; what stood there is kept as {kept.name}"
    write_durably(path, "".join(texts).encode(), make_parents=False)
    if damage:
        note(f"{path}: {', '.join(damage)}; it is written anew{aside}")
