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
    from ffdist.cli import main
except ModuleNotFoundError as error:
    if text := missing_package_text(error):
        sys.exit(text)
    raise

if __name__ == "__main__":
    main()
