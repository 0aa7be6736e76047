"""`python -m ffdist`, and the program `ffdist`."""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # so that Ctrl-C is quiet until `main` has its own handler

from ffdist.cli import main

if __name__ == "__main__":
    main()
