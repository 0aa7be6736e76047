"""`ffdist watch`: live, for reading alone, and for nobody who came by another name or path."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPResponse
from pathlib import Path

import pytest
from forked import Forked

import ffdist
from ffdist.cli import main
from ffdist.errors import ConfigError
from ffdist.page.server import MAX_OPEN


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("watched") / "whole"
    main(
        [
            "train",
            "--model",
            "mlp",
            "--model-args",
            "widths=8,8",
            "--samples",
            "128",
            "--epochs",
            "3",
            "--launcher",
            "threads",
            "--threads",
            "1",
            "--out",
            str(out),
        ]
    )
    return out


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy, in a folder of runs."""
    shutil.copytree(whole, tmp_path / "runs" / "one")
    return tmp_path / "runs" / "one"


@pytest.fixture
def watch(run: Path) -> Iterator[ffdist.PageServer]:
    with ffdist.PageServer(run.parent, port=0) as watch:
        yield watch


def ask(watch: ffdist.PageServer, path: str = "/", method: str = "GET", **headers: str) -> tuple[HTTPResponse, str]:
    """As it is told, whatever a browser would make of the path."""
    connection = http.client.HTTPConnection("127.0.0.1", watch.port, timeout=20)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer, answer.read().decode()
    finally:
        connection.close()


def test_a_folder_has_a_line_a_run_and_each_run_a_page(watch: ffdist.PageServer, run: Path) -> None:
    answer, text = ask(watch)
    assert answer.status == 200
    assert 'href="/run/one/"' in text
    assert "3 of 3" in text
    answer, text = ask(watch, "/run/one/")
    assert answer.status == 200
    assert 'data-live="/run/one/part"' in text
    assert "Accuracy" in text
    answer, part = ask(watch, "/run/one/part")
    assert part.strip() in text
    assert "<html" not in part
    for path, kind in (("/page.css", "text/css"), ("/page.js", "text/javascript")):
        answer, text = ask(watch, path)
        assert answer.headers.get_content_type() == kind
        assert text


def test_what_has_not_changed_is_not_sent_again(watch: ffdist.PageServer, run: Path) -> None:
    first, _ = ask(watch, "/run/one/part")
    tag = first.headers["ETag"]
    again, text = ask(watch, "/run/one/part", If_None_Match=tag)
    assert (again.status, text) == (304, "")
    log = run / "metrics.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:2]))
    changed, text = ask(watch, "/run/one/part", If_None_Match=tag)
    assert changed.status == 200
    assert "not at its end" in text


def test_it_follows_a_log_as_it_grows_through_half_lines_and_a_new_beginning(
    watch: ffdist.PageServer, run: Path
) -> None:
    log = run / "metrics.jsonl"
    *records, end = log.read_text().splitlines(keepends=True)
    log.write_text("")
    assert "No epoch is over yet" in ask(watch, "/run/one/part")[1]
    with log.open("a") as file:
        for number, record in enumerate(records):
            file.write(record[:100])
            file.flush()
            assert f"{number} of 3" in ask(watch, "/run/one/part")[1]
            file.write(record[100:])
            file.flush()
            assert f"{number + 1} of 3" in ask(watch, "/run/one/part")[1]
        file.write(end)
    assert "finished" in ask(watch, "/run/one/part")[1]
    log.write_text(records[0])  # gone on with from an earlier snapshot
    text = ask(watch, "/run/one/part")[1]
    assert "1 of 3" in text
    assert "finished" not in text


STRANGE = [
    "{]",
    "7",
    "[]",
    '{"epoch": 1}',
    '{"epoch": 1, "train": {"blocks": [3]}, "stages": []}',
    "\x00\x00",
    "[" * 100_000,
    '{"test": 3, "reason": "finished"}',
]


@pytest.mark.parametrize("line", STRANGE)
def test_lines_of_other_kinds_are_reported_and_the_others_shown(line: str, watch: ffdist.PageServer, run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write(line + "\n")
    answer, text = ask(watch, "/run/one/part")
    assert answer.status == 200
    assert "1 lines of metrics.jsonl are not as a run writes them" in text
    assert "3 of 3" in text


@pytest.mark.parametrize("name", ["config.toml", "data.json", "plan.json", "environment.jsonl", "metrics.jsonl"])
def test_a_file_that_is_broken_missing_or_a_pipe_hides_nothing_else(
    name: str, watch: ffdist.PageServer, run: Path
) -> None:
    for text in ("\x00", "[]", "a = 'b"):
        (run / name).write_text(text + "\n")
        answer, said = ask(watch, "/run/one/part")
        assert answer.status == 200
        assert 'class="trouble"' in said
    ask(watch)
    (run / name).unlink()
    assert ask(watch, "/run/one/part")[0].status == 200
    os.mkfifo(run / name)
    answer, said = ask(watch, "/run/one/part")
    assert answer.status == 200
    assert "is no file" in said


def test_a_run_that_vanishes_and_one_that_comes_are_seen(watch: ffdist.PageServer, run: Path, whole: Path) -> None:
    assert ask(watch, "/run/one/")[0].status == 200
    shutil.rmtree(run)
    answer, text = ask(watch, "/run/one/")
    assert answer.status == 200
    assert "not there any more" in text
    assert "no run yet" in ask(watch)[1]
    shutil.copytree(whole, run.parent / "deep" / "er" / "two & <b>")
    assert "two &amp; &lt;b&gt;" in ask(watch)[1]
    assert ask(watch, "/run/deep%2Fer%2Ftwo%20%26%20%3Cb%3E/")[0].status == 200
    shutil.rmtree(run.parent)
    assert ask(watch)[0].status == 200


def test_a_run_at_work_is_known_by_its_lock_and_is_not_disturbed(watch: ffdist.PageServer, run: Path) -> None:
    with (run / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "at work" in ask(watch, "/run/one/part")[1]
    assert "at work" not in ask(watch, "/run/one/part")[1]


def test_nothing_in_the_folder_changes(watch: ffdist.PageServer, run: Path) -> None:
    def seen() -> dict[Path, tuple[int, int]]:
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in run.parent.rglob("*")}

    before = seen()
    for path in ("/", "/part", "/run/one/", "/run/one/part"):
        assert ask(watch, path)[0].status == 200
    assert seen() == before


@pytest.mark.parametrize(
    "path",
    [
        "/run/../",
        "/run/..%2F/",
        "/run/%2e%2e%2fsecret/",
        "/run/../../../etc/passwd",
        "//etc/passwd",
        "/run/one/../one/",
        "/run/%2Fetc/",
        "/run//",
        "/run/one/config.toml",
        "/run/one",
        "/config.toml",
        "/run/link/",
        "/run/one%00/",
        "/run/%ff/",
        "/page.css/",
        "/templates/page.css",
        "*",
    ],
)
def test_other_paths_are_refused_and_links_that_lead_out_are_not_followed(
    path: str, watch: ffdist.PageServer, run: Path, whole: Path
) -> None:
    (run.parent / "link").symlink_to(whole)
    shutil.copytree(whole, run.parent.parent / "secret")
    answer, text = ask(watch, path)
    assert answer.status == 404
    assert "Accuracy" not in text
    assert ask(watch, "/run/one/")[0].status == 200
    shutil.rmtree(run)
    run.symlink_to(whole)
    assert ask(watch, "/run/one/")[0].status == 404
    assert "link" not in ask(watch)[1].replace('rel="stylesheet"', "").replace("<link ", "")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"])
def test_other_methods_are_refused(method: str, watch: ffdist.PageServer) -> None:
    answer, _ = ask(watch, "/", method)
    assert answer.status == (501 if method == "PROPFIND" else 405)


def test_head_answers_what_get_would_without_the_page(watch: ffdist.PageServer) -> None:
    head, nothing = ask(watch, "/run/one/", "HEAD")
    got, text = ask(watch, "/run/one/")
    assert nothing == ""
    for name in ("ETag", "Content-Length", "Content-Type", "Content-Security-Policy"):
        assert head.headers[name] == got.headers[name]
    assert int(got.headers["Content-Length"]) == len(text.encode())
    policy = got.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert got.headers["X-Content-Type-Options"] == "nosniff"


OTHERS = [
    "evil.example",
    "evil.example:8642",
    "127.0.0.1.evil.example",
    "localhost.evil",
    "",
    "[",
    "0x7f000001",
    "127.0.0.1@evil.example:x",
]


@pytest.mark.parametrize("host", OTHERS)
def test_a_page_under_another_name_gets_nothing(host: str, watch: ffdist.PageServer) -> None:
    answer, text = ask(watch, "/run/one/part", Host=host)
    assert answer.status == 421
    assert "Accuracy" not in text


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:80", "192.168.0.7", socket.gethostname()]
)
def test_addresses_and_this_machines_names_are_its_own(host: str, watch: ffdist.PageServer) -> None:
    assert ask(watch, Host=host)[0].status == 200


def test_many_may_look_at_once(watch: ffdist.PageServer) -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(ask(watch, "/run/one/part")[0].status)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [200] * 16


def test_a_flood_of_silent_connections_takes_no_more_than_so_many_and_keeps_nobody_out(
    watch: ffdist.PageServer,
) -> None:
    before = threading.active_count()
    with ExitStack() as ends:
        flood = [ends.enter_context(socket.create_connection(("127.0.0.1", watch.port))) for _ in range(3 * MAX_OPEN)]
        for end in flood[::2]:
            with suppress(ConnectionError):  # closed already
                end.send(b"GET / HTTP/1.1\r\nX: ")
        assert ask(watch)[0].status == 200
        flood[0].settimeout(20)
        with suppress(ConnectionError):
            assert flood[0].recv(1) == b"", "the oldest is closed"
        assert threading.active_count() <= before + MAX_OPEN + 10
        flood[-1].setblocking(False)
        with pytest.raises(BlockingIOError):  # the newest waits for its request
            flood[-1].recv(1)


def test_one_runs_folder_is_its_page(run: Path) -> None:
    with ffdist.PageServer(run, port=0) as watch:
        assert "Accuracy" in ask(watch)[1]
        assert ask(watch, "/part")[0].status == 200
        shutil.rmtree(run)
        assert "not there any more" in ask(watch)[1]


def test_a_folder_in_which_a_run_begins_later_is_its_page_then(run: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    with ffdist.PageServer(tmp_path / "new", port=0) as watch:
        assert "no run yet" in ask(watch)[1]
        shutil.copytree(run, tmp_path / "new", dirs_exist_ok=True)
        assert "Accuracy" in ask(watch)[1]


def test_where_the_usual_port_is_taken_another_is_found_and_one_that_is_named_is_taken_or_refused(run: Path) -> None:
    with ffdist.PageServer(run) as first, ffdist.PageServer(run) as second:
        assert first.port != second.port
        with pytest.raises(ConfigError, match="address cannot be listened on"):
            ffdist.PageServer(run, port=second.port)
    for wrong in (-1, 65536, True, "8000"):
        with pytest.raises(ConfigError, match="port"):
            ffdist.PageServer(run, port=wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="address cannot be listened on"):
        ffdist.PageServer(run, host="192.0.2.1", port=0)
    with pytest.raises(ConfigError, match="no such folder"):
        ffdist.PageServer(run / "nothing")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_says_where_it_is_and_ends_when_it_is_asked(number: signal.Signals, status: int, run: Path) -> None:
    words = [sys.executable, "-m", "ffdist", "watch", str(run), "--port", "0"]
    with Forked(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        said = process.stdout.readline()
        assert said.startswith("page: http://127.0.0.1:")
        port = int(said.split(":")[3].partition("/")[0])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/part")
        assert b"Accuracy" in connection.getresponse().read()
        process.send_signal(number)  # while a connection is open
        assert process.wait(timeout=20) == status
        connection.close()
        assert process.stderr.read() == ""


def test_a_log_of_many_epochs_is_read_once(run: Path) -> None:
    log = run / "metrics.jsonl"
    record = json.loads(log.read_text().splitlines()[0])
    log.write_text("".join(json.dumps(record | {"epoch": epoch}) + "\n" for epoch in range(1, 5001)))
    with ffdist.PageServer(run, port=0) as watch:
        assert "5000 of 3" in ask(watch, "/part")[1]
        assert watch.folder.single_run is not None
        before = watch.folder.single_run.log.lines.at
        with log.open("a") as file:
            file.write(json.dumps(record | {"epoch": 5001}) + "\n")
        text = ask(watch, "/part")[1]
        assert "5001 of 3" in text
        assert len(text) < 1_000_000
        assert watch.folder.single_run.log.lines.at == log.stat().st_size > before
