"""torchrun, which ends quietly where it is told to stop, with the status that shells give such an end: 130 for Ctrl-C,
143 for SIGTERM, 129 for SIGHUP. What whoever started it wants ignored (nohup) is ignored. It leaves no empty folder.
--max-restarts counts restarts without a new snapshot between them; an error that would come again ends it at once."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def leave(number: int, frame: FrameType | None) -> None:
    """A handler for the time before torchrun has started anything, and has its own."""
    os._exit(128 + number)


def main(words: list[str]) -> None:
    heeded = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    for number in heeded:
        signal.signal(number, leave)
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ",".join(number.name for number in heeded)
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import SignalException

    from ffdist.runtime.agent import counting

    try:
        with counting():
            run.main([f"--log-dir={os.devnull}", *words])
    except SignalException as told:
        sys.exit(128 + told.sigval)


if __name__ == "__main__":
    main(sys.argv[1:])
