"""`python -m ffdist`, and the program `ffdist`."""

import signal
import sys

try:  # before what takes this system's signals and files for granted
    import fcntl  # noqa: F401
    import resource  # noqa: F401
    import termios  # noqa: F401
except ModuleNotFoundError as error:
    sys.exit(f"ffdist: error: it runs on Linux and macOS only; this is {sys.platform}, without {error.name}")

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # so that Ctrl-C is quiet until `main` has its own handler

from ffdist.loading import missing_package_text

try:
    from ffdist import cli
    from ffdist.exiting import begin_own_program, end_process
except ModuleNotFoundError as error:
    if text := missing_package_text(error):
        sys.exit(text)
    raise


def main() -> None:
    """The program: `ffdist.cli.main`, and then the process's end."""
    begin_own_program()
    status: str | int | None = None
    try:
        cli.main()
    except SystemExit as end:
        status = end.code
    if sys.flags.inspect:  # python -i: Python goes on
        sys.exit(status)
    if isinstance(status, str):
        print(status, file=sys.stderr)
        status = 1
    end_process(status or 0)


if __name__ == "__main__":
    main()
