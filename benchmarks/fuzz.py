"""Bad input by the thousand, for everything that reads what anybody may have written.

    python benchmarks/fuzz.py --inputs 10000 --record benchmarks/records
    python benchmarks/fuzz.py --inputs 10000 --by hypothesis --record benchmarks/records
    python benchmarks/fuzz.py --inputs 2000 --only "frame from the wire" picture

Each target (`benchmarks/fuzz_targets.py`) runs in a process of its own, with its files in memory, and gets inputs
that hypothesis makes of whole ones (`benchmarks/fuzz_strategies.py`): bytes changed, cut and doubled; of JSON, values
of other kinds, huge numbers, deep nesting. Where atheris is installed (pip install atheris) it guides what hypothesis
draws by what of ffdist each input reaches; `--by hypothesis` does without. A finding is an input upon which it raised
anything but an error for users, computed for over 10 s, did not answer for two minutes, ended the process, took more
than 2 GiB (the largest pictures that are read take 1.3), or had a pickle read. Findings are kept in --findings, and
the exit status is 1. An input that has once been one is a test, in tests/unit/test_fuzz.py.
"""

from __future__ import annotations

import json
import mmap
import multiprocessing
import multiprocessing.connection
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict, dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tyro
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis.strategies import SearchStrategy

with suppress(ImportError):
    import atheris  # pyright: ignore[reportMissingImports]

    if multiprocessing.current_process().name != "MainProcess":  # what follows is seen by it
        atheris.instrument_imports(include=["ffdist"]).__enter__()  # pyright: ignore[reportAttributeAccessIssue]

from benchmarks.fuzz_strategies import inputs_of
from benchmarks.fuzz_targets import TARGETS, Target, scratch
from benchmarks.report import report
from ffdist.bench.harness.result import BenchResult
from ffdist.bench.harness.table import ResultTable
from ffdist.errors import FfdistError
from ffdist.locks import lock

By = Literal["coverage", "hypothesis"]
SECONDS, ANSWER = 10.0, 120.0
"""Seconds of computing that one input may take; until it is over, whatever else the machine does."""
ROOM = 2 << 30
"""Bytes that all of a target's inputs together may take."""
DRAWN = 1 << 13
"""Bytes from which an input is drawn, where they are atheris's."""
STEP = 100
"""Inputs between two looks at how far it is."""
MEMORY = Path("/dev/shm")
"""Where the files are that readers are given, where there is such a folder: on a disk, one that is written anew for
each input takes longer than most readers do."""
OUTCOME, AT_WORK = "outcome.json", "at-work"
LARGEST, LENGTH = 1 << 23, struct.Struct("<q")
"""Bytes of an input that are kept of it while it is at work, and their number in front of them."""


class Slow(BaseException):
    """An input took too long."""


@dataclass
class FuzzOutcome:
    """The outcome of a target's inputs."""

    target: str
    inputs: int = 0
    taken: int = 0
    """Inputs that were read without an error."""
    refused: int = 0
    """Inputs that were refused with an error for users."""
    findings: list[str] = field(default_factory=list)
    slowest: float = 0.0
    """Seconds of the slowest input."""
    memory_mib: int = 0
    """MiB by which the process has grown."""
    guided: bool = False
    """Whether inputs were drawn by coverage (atheris)."""
    over: bool = False
    """Whether all inputs were tried."""


class CurrentInput:
    """The input that is being read, in a mapped file that outlives the process, should the input end it.

    A file written anew for each input would take longer than most readers do.
    """

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(LARGEST))
        with path.open("r+b") as file:
            self.memory = mmap.mmap(file.fileno(), LARGEST)

    def show(self, data: bytes) -> None:
        """Put an input, or its first `LARGEST` bytes, into the file."""
        shown = data[: LARGEST - LENGTH.size]
        self.memory[: LENGTH.size + len(shown)] = LENGTH.pack(len(shown)) + shown


def shown(path: Path) -> bytes:
    """The input that a process which has ended had at work; b"" for one that came to none."""
    data = path.read_bytes() if path.exists() else bytes(LENGTH.size)
    (length,) = LENGTH.unpack_from(data)
    return data[LENGTH.size :][:length]


class TargetTrial:
    """A target under trial in this process. wanted: the number of inputs that it shall get."""

    def __init__(self, target: Target, findings: Path, wanted: int) -> None:
        self.target = target
        self.wanted = wanted
        self.kept = findings
        self.at_work = CurrentInput(findings / AT_WORK)
        self.outcome = FuzzOutcome(target.name)
        self.seen: set[str] = set()
        self.unpickled = False

    @property
    def left(self) -> int:
        """Inputs that it shall still get."""
        return max(0, self.wanted - self.outcome.inputs)

    def on_audit_event(self, event: str, args: tuple[Any, ...]) -> None:
        self.unpickled |= event == "pickle.find_class"

    def use(self, data: bytes) -> None:
        """Give the target one input, and note whether it was read, refused, or is a finding."""
        outcome, self.unpickled = self.outcome, False
        outcome.inputs += 1
        self.at_work.show(data)
        began = time.perf_counter()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.setitimer(signal.ITIMER_REAL, ANSWER)
        try:
            self.target.use(data)
            outcome.taken += 1
        except FfdistError:
            outcome.refused += 1
        except Slow:
            self.find("slow", f"over {SECONDS:g} s of computing, or {ANSWER:g} s", data)
        except (Exception, SystemExit) as error:  # what it raises, but for errors for users, is what is looked for
            self.find(f"{type(error).__name__} {where(error)}", repr(error)[:200], data)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.setitimer(signal.ITIMER_PROF, 0)
        outcome.slowest = max(outcome.slowest, time.perf_counter() - began)
        if self.unpickled:
            self.find("pickle", "a pickle was read", data)

    def find(self, kind: str, text: str, data: bytes) -> None:
        """Keep an input as a finding; of one kind the first alone."""
        if kind not in self.seen:
            self.seen.add(kind)
            path = self.kept / f"{len(self.seen):03d}"
            path.write_bytes(data)
            self.outcome.findings.append(f"{kind}: {text} ({path})")


def where(error: BaseException) -> str:
    """File and line at which an error was raised."""
    frames = []
    trace = error.__traceback__
    while trace:
        frames.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return frames[-1] if frames else ""


def too_slow(*_: object) -> None:
    raise Slow


def fuzz_target(name: str, inputs: int, seed: int, by: By, findings: Path) -> None:
    """The main function of a target's process: tries so many inputs, and writes the outcome."""
    target = next(each for each in TARGETS if each.name == name)
    warnings.simplefilter("ignore")
    findings.mkdir(parents=True, exist_ok=True)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        seeds = [*target.seeds()]
        trial, draw = TargetTrial(target, findings, inputs), random.Random(seed)
        sys.addaudithook(trial.on_audit_event)
        signal.signal(signal.SIGALRM, too_slow)
        signal.signal(signal.SIGPROF, too_slow)
        for data in seeds:
            target.use(data)  # whole ones are taken
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        def done() -> bool:
            trial.outcome.memory_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
            if trial.outcome.memory_mib > ROOM >> 20 and "memory" not in trial.seen:
                trial.find("memory", f"{trial.outcome.memory_mib} MiB", b"")
            trial.outcome.over = trial.left == 0
            (findings / OUTCOME).write_text(json.dumps(asdict(trial.outcome)))
            return trial.outcome.over

        made = inputs_of(seeds)
        if by == "coverage" and "atheris" in sys.modules:
            guided(trial, some_inputs(trial, made, draw), done, draw)
        unguided(trial, made, done, draw)
    os._exit(0)


def some_inputs(trial: TargetTrial, made: SearchStrategy[bytes], draw: random.Random) -> Any:
    """A test of hypothesis's: called, it gives the target `STEP` inputs, or the fewer that are left."""

    @seeded(draw.randrange(2**31))
    @settings(
        max_examples=min(STEP, trial.left),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )
    @given(made)
    def some(data: bytes) -> None:
        trial.use(data)

    return some


def unguided(trial: TargetTrial, made: SearchStrategy[bytes], done: Callable[[], bool], draw: random.Random) -> None:
    """Inputs that hypothesis draws by itself, until all are tried."""
    while not done():
        some_inputs(trial, made, draw)()


def guided(trial: TargetTrial, some: Any, done: Callable[[], bool], draw: random.Random) -> None:
    """Hypothesis's draws are atheris's, by what of ffdist each input reaches; it ends with the process."""
    atheris = sys.modules["atheris"]
    trial.outcome.guided = True
    corpus = trial.kept / "corpus"
    corpus.mkdir(exist_ok=True)
    for index in range(100):
        (corpus / f"seed-{index}").write_bytes(draw.randbytes(DRAWN))  # shorter ones are not enough for an input

    def fuzz(data: bytes) -> None:
        some.hypothesis.fuzz_one_input(data)
        if (trial.outcome.inputs % STEP == 0 or trial.left == 0) and done():
            os._exit(0)

    options = [f"-max_len={DRAWN}", "-len_control=0", "-rss_limit_mb=0", "-timeout=60", "-handle_int=0"]
    atheris.Setup([sys.argv[0], *options, f"-seed={draw.randrange(1, 2**31)}", str(corpus)], fuzz)
    atheris.Fuzz()


def main(
    inputs: int = 10_000,
    only: tuple[str, ...] = (),
    seed: int = 0,
    by: By = "coverage",
    jobs: int = 1,
    findings: Path = Path("findings"),
    record: Path | None = None,
) -> None:
    """inputs: of each target. only: names of targets. by: who draws them; coverage
    where atheris is installed, else hypothesis. jobs: targets at a time. record: the folder for records."""
    wanted = [target for target in TARGETS if not only or target.name in only]
    with in_use(findings):
        outcomes = tried(wanted, jobs, inputs, seed, by, findings)
    columns = {
        "target": "side",
        "seed": "seed",
        "inputs": "inputs",
        "taken": "taken",
        "refused": "refused",
        "findings": "findings",
        "slowest ms": "slowest",
        "memory MiB": "memory",
        "by coverage": "guided",
    }
    units = dict.fromkeys(("inputs", "taken", "refused", "findings", "guided"), "")
    made = ResultTable("fuzz", "Bad input: what became of it", columns, units | {"slowest": "ms", "memory": "MiB"})
    for o in outcomes:
        made.add(
            side=o.target,
            seed=seed,
            inputs=o.inputs,
            taken=o.taken,
            refused=o.refused,
            findings=len(o.findings),
            slowest=round(o.slowest * 1e3, 1),
            memory=o.memory_mib,
            guided=o.guided,
        )
    notes = [
        f"a finding: anything raised but an error for users, over {SECONDS:g} s of computing, no answer, the "
        f"process's end, over {ROOM >> 20} MiB, or a pickle read",
        *(f"{outcome.target}: {found}" for outcome in outcomes for found in outcome.findings),
    ]
    theme = "fuzz" if by == "coverage" else f"fuzz-{by}"
    report(BenchResult(theme, {}, [made], notes), record)
    sys.exit(any(outcome.findings for outcome in outcomes))


def try_all(names: list[str], jobs: int, inputs: int, seed: int, by: By, findings: Path, room: str) -> None:
    """Each target in a process forked off this one, which has imported, and instrumented, all that they need."""
    tempfile.tempdir = room
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        scratch()
    waiting, at_work = list(names), dict[int, BaseProcess]()
    while waiting or at_work:
        while waiting and len(at_work) < jobs:
            arguments = (waiting[0], inputs, seed, by, folder_of(findings, waiting.pop(0)))
            process = multiprocessing.get_context("fork").Process(target=fuzz_target, args=arguments)
            process.start()
            at_work[process.sentinel] = process
        for sentinel in multiprocessing.connection.wait([*at_work]):
            at_work.pop(cast(int, sentinel)).join()


@contextmanager
def in_use(findings: Path) -> Iterator[None]:
    """A context that has the folder of findings to itself: two of them would take each other's outcomes for their own.
    Exits with a line where another has it."""
    findings.mkdir(parents=True, exist_ok=True)
    with (findings / ".lock").open("a") as file:
        if lock(file) == "busy":
            sys.exit(f"fuzz.py: {findings} is in use by another fuzz.py; --findings ANOTHER_FOLDER")
        yield


def folder_of(findings: Path, name: str) -> Path:
    """The folder of a target's findings, absolute."""
    return (findings / "".join(c if c.isalnum() else "-" for c in name)).absolute()


def tried(targets: list[Target], jobs: int, inputs: int, seed: int, by: By, findings: Path) -> list[FuzzOutcome]:
    """Run the targets, `jobs` processes at a time; their outcomes, in order."""
    for target in targets:
        shutil.rmtree(folder_of(findings, target.name), ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="ffdist-fuzz-", dir=MEMORY if MEMORY.is_dir() else None) as room:
        arguments = ([target.name for target in targets], jobs, inputs, seed, by, findings, room)
        process = multiprocessing.get_context("spawn").Process(target=try_all, args=arguments)
        process.start()
        process.join()
    return [outcome_of(target, folder_of(findings, target.name)) for target in targets]


def outcome_of(target: Target, folder: Path) -> FuzzOutcome:
    """The outcome as its process has left it. One that says nothing of its end was ended by the input at work."""
    outcome_file = folder / OUTCOME
    outcome = FuzzOutcome(**json.loads(outcome_file.read_text())) if outcome_file.exists() else FuzzOutcome(target.name)
    if not outcome.over:
        (folder / "ended").write_bytes(shown(folder / AT_WORK))
        outcome.findings.append(f"the process ended ({folder / 'ended'})")
    return outcome


if __name__ == "__main__":
    tyro.cli(main)
