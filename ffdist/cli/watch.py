"""`ffdist watch`."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ffdist.cli.help import Flag, Positional
from ffdist.cli.parsing import parsed
from ffdist.cli.train import local_folder
from ffdist.errors import ConfigError
from ffdist.loading import loading
from ffdist.notes import note
from ffdist.plain import PlainConsole
from ffdist.remote import url_of
from ffdist.runtime.interrupts import handle_signals, unwind


@dataclass(frozen=True)
class WatchCommand:
    """The page of a run, or of a folder of runs, live in a browser, during a run and after it, until Ctrl-C. It only
    reads."""

    run: Annotated[Path, Positional]
    """Run folder, or a folder of such."""
    host: str = "127.0.0.1"
    """Address to listen at. Others than 127.0.0.1 show the page to whoever reaches this machine there."""
    port: int | None = None
    """Port to listen at, 0 for any that is free. Default: 8642, or any that is free."""
    open: Flag = False
    """Show the page in a browser."""


def main(args: Sequence[str]) -> None:
    command = parsed(WatchCommand, args, "ffdist watch")
    if command.port is not None and not 0 <= command.port < 2**16:
        raise ConfigError("--port is not a port", expected="0 .. 65535", got=command.port)
    with loading():  # of torch, after the parsing
        from ffdist.page.server import PageServer

    run = local_folder(command.run)
    handle_signals(unwind)
    with PageServer(run, host=command.host, port=command.port) as watch:
        if url_of(command.run) is not None:
            note(f"{command.run} is shown as it is now: what comes later is not fetched")
        if command.host not in ("127.0.0.1", "localhost", "::1"):
            note("whoever reaches this machine there can read the page")
        PlainConsole().print(f"page: {watch.url} (Ctrl-C ends it)", soft_wrap=True)
        if command.open:
            import webbrowser

            if not webbrowser.open(watch.url):
                note("there is no browser to open the page with")
        threading.Event().wait()
