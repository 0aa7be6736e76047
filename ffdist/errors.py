"""Every error that ffdist raises for its users.

    FfdistError
    |-- ConfigError        a setting, preset, key or combination of settings
    |-- DataError          a shard, manifest, label or picture
    |-- NetworkError       a chain of blocks, or a block that an objective cannot use
    |-- SnapshotError      a snapshot that is missing, corrupt or of another model
    |   `-- DamagedSnapshotError   one that is not as it was written
    |-- DivergedError      a loss that is not a finite number
    |-- StageError         a stage that failed, named by the process that noticed
    |   `-- StageLostError         one that died, hangs, or cannot be reached: another attempt may help
    |       `-- StageAwayError         one that did not come to where the stages meet
    `-- TransportError     an edge between two stages
        |-- PeerLostError      the other end is gone
        `-- PeerTimeoutError   the other end is silent

The command line prints such an error as one paragraph and exits with status 1; any other exception is a defect of
ffdist and keeps its traceback.
"""

from __future__ import annotations

import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from ffdist.spelling import as_field, setting, spelled

E = TypeVar("E", bound="FfdistError")


class FfdistError(Exception):
    """An error for users: what went wrong, and where given: where, what was expected, what was got, and how to mend it.

    As text it names settings by their fields, `optim.lr`; `text` spells them otherwise.
    """

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        expected: object = None,
        got: object = None,
        remedy: str | None = None,
    ) -> None:
        self.details: dict[str, Any] = {
            "what": what,
            "where": where,
            "expected": expected,
            "got": got,
            "remedy": remedy,
        }
        """As they were given, with the settings in them still to be spelled."""
        super().__init__(self.text(as_field))

    def text(self, spell: Callable[[str, str | None], str]) -> str:
        """The whole text, its settings as `spell` has them."""
        what, *rest = self.details.items()
        lines = [str(what[1]), *(f"  {name}: {value}" for name, value in rest if value is not None)]
        return spelled("\n".join(lines), spell)

    def told(self, spell: Callable[[str, str | None], str]) -> str:
        """The name of `text` in an earlier version."""
        warnings.warn("`told` is now `text`; the next version drops the old name", DeprecationWarning, stacklevel=2)
        return self.text(spell)

    def again(self: E, **changes: Any) -> E:
        """The same error with some of its details changed, by the names they have when it is made."""
        return type(self)(**(self.details | changes))

    @property
    def what(self) -> str:
        return spelled(self.details["what"])

    @property
    def where(self) -> Any:
        return self._plain("where")

    @property
    def expected(self) -> Any:
        return self._plain("expected")

    @property
    def got(self) -> Any:
        return self._plain("got")

    @property
    def remedy(self) -> str | None:
        return self._plain("remedy")

    def _plain(self, name: str) -> Any:
        """A text with its settings named by their fields; all else as it is."""
        value = self.details[name]
        return spelled(value) if isinstance(value, str) else value


def unspelled(error: BaseException) -> str:
    """An error's text, with the settings in it still to be spelled: for another process, which says it to a user."""
    return error.text(setting) if isinstance(error, FfdistError) else str(error)


class ConfigError(FfdistError, ValueError):
    """A setting is unknown, out of range, or does not go with another."""


class ObserverError(ConfigError):
    """A tracker or a callback cannot be opened, by the one process that has them."""


class DataError(FfdistError, ValueError):
    """A shard, manifest, label or picture is not what it should be."""


class NetworkError(FfdistError, ValueError):
    """A network cannot be built, cut, or trained by the objective asked for."""


class SnapshotError(FfdistError, RuntimeError):
    """A snapshot cannot be written, found, or loaded into this network."""


class DamagedSnapshotError(SnapshotError):
    """A snapshot's file is missing, or not as it was written: the snapshot before may be whole."""


class DivergedError(FfdistError, ArithmeticError):
    """A block's loss is no longer a finite number."""


class StageError(FfdistError, RuntimeError):
    """A stage of the pipeline failed."""


class StageLostError(StageError):
    """A stage died, hangs, or cannot be reached, through no fault of the job's: another attempt may help."""


class StageAwayError(StageLostError):
    """A stage did not come to where the stages meet, or that place is gone."""


class TransportError(FfdistError, RuntimeError):
    """An edge between two stages failed."""


class PeerLostError(TransportError):
    """The stage at the other end of an edge is gone."""


class PeerTimeoutError(TransportError):
    """The stage at the other end of an edge did not answer within the timeout."""


class Interrupted(KeyboardInterrupt):
    """Told to stop by a signal, and stopped at once."""

    latest: ClassVar[Interrupted | None] = None
    """The one that was made last: a library may make a plain KeyboardInterrupt of what a handler raises."""

    def __init__(self, number: int, *, begun: bool = False) -> None:
        """number: the signal's. begun: whether stages were at work, so that a run folder has something to keep."""
        self.number = number
        self.begun = begun
        super().__init__(f"told to stop by {signal.Signals(number).name}")
        Interrupted.latest = self

    @property
    def status(self) -> int:
        """The exit status, as of a shell, of a process that this signal has ended."""
        return exit_status(self.number)


def exit_status(number: int) -> int:
    """The exit status of a process that a signal has told to stop, as shells have it: 129 for SIGHUP, 130 for SIGINT,
    143 for SIGTERM."""
    return 128 + number


@contextmanager
def users_code(
    kind: type[FfdistError], what: str, *, where: object = None, expected: object = None, remedy: str | None = None
) -> Iterator[None]:
    """Code that a user wrote runs inside, which may raise anything: it becomes one error of this kind, with the user's
    own line in `got`, and the original as its cause; so does `sys.exit`, which would end one thread in silence. Errors
    of ffdist pass."""
    try:
        yield
    except FfdistError:
        raise
    except (Exception, SystemExit) as error:
        raise kind(what, where=where, expected=expected, got=described(error), remedy=remedy) from error


def described(error: BaseException) -> str:
    """Its type, the first line of what it says, and the innermost line outside of ffdist and installed packages."""
    says = (str(error).strip() or "no message").splitlines()[0]
    own = str(Path(__file__).parent)
    lines = [
        f", {Path(frame.filename).name} line {frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((own, "<")) and "site-packages" not in frame.filename
    ]
    return f"{type(error).__name__}: {says}{lines[-1] if lines and not isinstance(error, SyntaxError) else ''}"
