"""`ffdist bench faults` and `ffdist bench soak`: runs whose processes are killed, and runs that go on for long."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ffdist.cli.parsing import help_of, parsed, wants_help
from ffdist.errors import ConfigError, FfdistError
from ffdist.runtime.interrupts import handle_signals, unwind

if TYPE_CHECKING:
    from ffdist.bench.harness.result import BenchResult, Progress


UNRECORDED = ("json", "record", "folder")
"""Options that the record leaves out, as they do not change what is measured."""


@dataclass(frozen=True)
class Faults:
    """Kill a run's processes again and again, and hold what it learns against a run that nobody disturbs."""

    kills: int = 50
    """Processes killed by SIGKILL, at moments that the seed draws."""
    seed: int = 0
    """The seed of the moments, of who is killed, and of the plans."""
    launcher: Literal["processes", "torchrun", "ray"] = "processes"
    """The launcher of the run. What has started the workers is killed, too."""
    json: bool = False
    """Print the result as JSON, and no table."""
    record: Path | None = None
    """Write a record (JSON, Markdown) into this folder."""
    folder: Path | None = None
    """Folder of the two runs, which are kept. Default: a temporary folder, kept after an error alone."""


@dataclass(frozen=True)
class Soak:
    """Train for long, and see whether memory, descriptors, threads and speed stay what they are."""

    minutes: float = 30.0
    """Minutes to train."""
    stages: int = 2
    """The stages of the pipeline, a process each."""
    queue: int = 2
    """Messages that an edge holds."""
    batch_size: int = 64
    """Samples in a batch."""
    json: bool = False
    """Print the result as JSON, and no table."""
    record: Path | None = None
    """Write a record (JSON, Markdown, plot) into this folder."""


def main(suite: str, args: Sequence[str]) -> None:
    kind = Faults if suite == "faults" else Soak
    name = f"ffdist bench {suite}"
    if wants_help(args):
        print(help_of(kind, name))
        sys.exit(0)
    command = parsed(kind, args, name)
    check(command)
    handle_signals(unwind)
    if isinstance(command, Faults):
        run(command, [*name.split(), *args], lambda progress: run_faults(command, progress))
    else:
        run(command, [*name.split(), *args], lambda progress: run_soak(command, progress))


def check(command: Faults | Soak) -> None:
    """Raises ConfigError for values that are out of range."""
    for name, value in asdict(command).items():
        least = 0 if name == "seed" else 1e-3
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value < least:
            raise ConfigError(
                f"--{name.replace('_', '-')} is too small", expected="> 0" if least else ">= 0", got=value
            )
    if isinstance(command, Faults) and command.folder and command.folder.exists():
        raise ConfigError("the folder is there already", where=command.folder, expected="one that is to be made")
    if sys.platform != "linux":
        raise ConfigError("processes are looked for by /proc", expected="Linux", got=sys.platform)


def run(command: Faults | Soak, argv: Sequence[str], measure: Callable[[Progress], BenchResult]) -> None:
    """Measure; show, and record. argv: the command."""
    from ffdist.cli.bench import record, show
    from ffdist.plain import PlainConsole

    console = PlainConsole(stderr=True)
    result = measure(lambda line: console.print(line, style="dim"))
    show(result, as_json=command.json)
    if command.record:
        settings = {name: value for name, value in asdict(command).items() if name not in UNRECORDED}
        record(result, command.record, argv, settings)


def run_faults(command: Faults, progress: Progress) -> BenchResult:
    from ffdist.bench.faults import faults

    folder, keep = command.folder or Path(tempfile.mkdtemp(prefix="ffdist-faults-")), command.folder is not None
    try:
        return faults(command.kills, command.seed, command.launcher, folder.absolute(), progress)
    except FfdistError:
        progress(f"both runs, and what was said, are in {folder}")
        keep = True
        raise
    finally:  # also where it was told to stop
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def run_soak(command: Soak, progress: Progress) -> BenchResult:
    from ffdist.bench.soak import soak

    return soak(command.minutes, command.stages, command.queue, command.batch_size, progress)
