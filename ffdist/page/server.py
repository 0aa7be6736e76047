"""`ffdist watch` in Python: the page of a run, or of a folder of runs, live from a small server of this process.

It reads, and changes nothing. It answers GET and HEAD alone, for pages whose names it makes itself, to a browser that
names it by an address or by this machine's own name, so that no other page can have it read by a name of its own.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import socket
import threading
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from markupsafe import Markup

from ffdist.errors import ConfigError, FfdistError, described
from ffdist.options import path_of
from ffdist.page.folder import WatchedFolder
from ffdist.page.render import asset, index_content, page_frame, run_content
from ffdist.page.run import RunView

PORT = 8642
"""The default port; where it is taken, any that is free."""
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
MAX_OPEN = 64
"""Connections, each with a thread, that are open at once; a browser opens some six."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
ASSETS = {"/page.css": "text/css", "/page.js": "text/javascript"}


class PageServer:
    """A server of the pages of what is in a folder: of a run, or of runs.

        with ffdist.PageServer("runs") as watch:
            print(watch.url)

    host: where it listens; the default answers this machine alone. port: 0 for any that is free; None: 8642, or any
    that is free where that is taken.
    It works while a run is at work and afterwards, and outlives a folder that vanishes. It stops where the block ends,
    or by `close`. Raises ConfigError for a folder that is not there, and for an address where it cannot listen.
    """

    def __init__(self, folder: str | Path, *, host: str = "127.0.0.1", port: int | None = None) -> None:
        if port is not None and (isinstance(port, bool) or not isinstance(port, int) or not 0 <= port < 2**16):
            raise ConfigError("the port has a wrong value", where="port", expected="0 .. 65535", got=repr(port))
        self.folder = WatchedFolder(path_of(folder))
        self.host = host
        self.server = listening(host, port, self)
        # 0.2: seconds between two looks whether it is to stop, for which `close` waits at most
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.2,), name="ffdist watch", daemon=True)
        self.thread.start()

    @property
    def port(self) -> int:
        """The port that it listens at."""
        return self.server.server_address[1]

    @property
    def url(self) -> str:
        """The address to open in a browser of this machine."""
        host = "127.0.0.1" if self.host in ("", "0.0.0.0") else "::1" if self.host == "::" else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"

    def close(self) -> None:
        """Stop listening, and wait until the server's thread has ended."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def __enter__(self) -> PageServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


class Server(ThreadingHTTPServer):
    """An HTTP server with a thread for each request, so that a slow browser keeps no other waiting."""

    daemon_threads = True
    block_on_close = False  # a browser keeps its connection open, and no thread of ours writes anything
    watch: PageServer

    def __init__(self, *args: Any) -> None:
        self.connections: dict[socket.socket, None] = {}
        """Those that are open, the oldest first."""
        self.lock = threading.Lock()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own; where too many are open, the oldest is closed for it: whoever opens thousands
        and says nothing, or a byte at a time, takes neither memory nor descriptors of a process that may train, too."""
        with self.lock:
            while len(self.connections) >= MAX_OPEN:
                oldest = next(iter(self.connections))
                del self.connections[oldest]
                with suppress(OSError):  # it has gone by itself
                    oldest.shutdown(socket.SHUT_RDWR)  # its thread reads the end, and closes it
            self.connections[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self.lock:
            self.connections.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: it is a browser that has closed its connection."""


def listening(host: str, port: int | None, watch: PageServer) -> Server:
    """A server that listens at the address. Raises ConfigError for one that is taken, or is not this machine's."""
    kind = type("Server6", (Server,), {"address_family": socket.AF_INET6}) if ":" in host else Server
    wanted = [PORT, 0] if port is None else [port]
    for place in wanted:
        try:
            server = kind((host, place), Handler)
        except (OSError, UnicodeError) as error:
            if place == wanted[-1]:
                raise ConfigError(
                    "this address cannot be listened on",
                    where=f"{host}, port {place}",
                    got=getattr(error, "strerror", None) or error,
                    remedy="another port, or 0 for any that is free; 127.0.0.1 is always a host",
                ) from error
        else:
            server.watch = watch
            return server
    raise AssertionError("the last place either listens or raises")


class Handler(BaseHTTPRequestHandler):
    """The answers to one connection's requests."""

    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]
    server_version, sys_version = "ffdist", ""
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def refuse_method(self) -> None:
        """Answer 405 to all but GET and HEAD."""
        self.close_connection = True  # whatever else it sends is not read
        self.send(HTTPStatus.METHOD_NOT_ALLOWED, b"GET and HEAD alone\n", "text/plain", {"Allow": "GET, HEAD"})

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = refuse_method  # noqa: N815

    def answer(self) -> None:
        """Answer a request with a page, a part of one, an asset, or an error's status."""
        if not is_own_name(self.headers.get("Host", ""), self.server.watch.host):
            self.send(HTTPStatus.MISDIRECTED_REQUEST, b"this server has another name\n", "text/plain")
            return
        path = urlsplit(self.path).path
        if path in ASSETS:
            self.send_tagged(asset(path[1:]).encode(), ASSETS[path])
            return
        text = page_at(self.server.watch, path)
        if text is None:
            self.send(HTTPStatus.NOT_FOUND, b"there is no such page\n", "text/plain")
        else:
            self.send_tagged(text.encode(errors="backslashreplace"), "text/html")

    def send_tagged(self, body: bytes, kind: str) -> None:
        """Send a body with its ETag; where the browser has that very body, only the status 304."""
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        if self.headers.get("If-None-Match") == tag:
            self.send(HTTPStatus.NOT_MODIFIED, b"", kind, {"ETag": tag})
        else:
            self.send(HTTPStatus.OK, body, kind, {"ETag": tag})

    def send(self, status: HTTPStatus, body: bytes, kind: str, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        if status != HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
        for name, value in (HEADERS | (more or {})).items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: an open page asks every two seconds."""


def is_own_name(host: str, listens: str) -> bool:
    """True if a browser that asked so can only have meant this server: by an address, or by a name of this machine."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    own = {"localhost", listens.lower(), socket.gethostname().lower(), os.environ.get("HOSTNAME", "").lower()}
    if name in own - {""} or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


def page_at(watch: PageServer, path: str) -> str | None:
    """`/`, `/run/NAME/`, and `part` after each: what is inside the page, to be put in its place."""
    *places, last = path.removeprefix("/").split("/")
    if last not in ("", "part") or not path.startswith("/"):
        return None
    if not places:
        title, content, alone = front(watch)
        address = "/part"
    elif len(places) == 2 and places[0] == "run":
        name = unquote(places[1], errors="surrogateescape")
        run = watch.folder.run(name)
        if run is None:
            return None
        view = run.view()
        title, content, alone = view.name, of_run(view), False
        address = f"/run/{places[1]}/part"
    else:
        return None
    return str(content) if last == "part" else page_frame(title, content, live=address, up=not alone and bool(places))


def front(watch: PageServer) -> tuple[str, Markup, bool]:
    """Title and content of the first page, and whether it is that of one run."""
    if watch.folder.single_run:
        view = watch.folder.single_run.view()
        return view.name, of_run(view), True
    lines, left_out = watch.folder.lines()
    rows = [(f"/run/{quote(os.fsencode(name), safe='')}/", name, cells) for name, cells in lines]
    return f"Runs in {watch.folder.shown}", index_content(watch.folder.shown, rows, left_out), False


def of_run(view: RunView) -> Markup:
    """The run's content; where its records hold values of other kinds, a page that says so."""
    try:
        return run_content(view)
    except (FfdistError, KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        troubles = [*view.troubles, f"The run log is not as a run writes it: {described(error)}"]
        return run_content(RunView(view.name, view.folder, at_work=view.at_work, troubles=troubles))
