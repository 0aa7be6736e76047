"""The page of a run: whole, well formed, told to those who do not see it, and true to what the run says."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import train_digits

import ffdist
from ffdist.cli import main
from ffdist.errors import ConfigError, DataError, SnapshotError
from ffdist.events import PulseReported
from ffdist.page.measured import Mistake, SnapshotMeasurement
from ffdist.page.render import page as drawn
from ffdist.page.run import view_run
from ffdist.page.svg import ticks
from ffdist.page.text import evenly

VOID = {"meta", "link", "img", "br"}
HOSTILE = ["<script>alert(1)</script>", '"><img src=//x onerror=alert(1)>', "a&amp;b {{ 7*7 }}", "\u202eevil\x00\x1b"]
"""Names of classes."""


class Page(HTMLParser):
    """Elements in order, with their attributes and texts. Raises AssertionError for tags that do not fit."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data))

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(text for tag, text in self.texts if tag not in ("style", "script"))


def read(path: Path) -> Page:
    return Page(path.read_text())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`a` and `b` of digits, `hostile` of data given in Python, whose classes have names of their own."""
    folder = tmp_path_factory.mktemp("pages")
    train_digits(folder / "a", "--stages", "2")
    train_digits(folder / "b", "--fusion", "--lr", "0.01")
    random = np.random.default_rng(0)
    x, y = random.integers(0, 256, (64, 8, 8), np.uint8), np.arange(64) % 4
    data = ffdist.from_tensors(x, y, classes=HOSTILE, test=0.5)
    ffdist.Pipeline("cnnb", "sff").fit(data, out=folder / "hostile", epochs=1, batch_size=8, progress=False)
    return folder


@pytest.fixture(scope="module")
def page(runs: Path) -> Page:
    return read(ffdist.write_report(runs / "a", out=runs / "a.html"))


@pytest.fixture(scope="module")
def compared(runs: Path) -> Page:
    return read(ffdist.write_report(runs / "a", runs / "b", out=runs / "compared.html"))


@pytest.mark.parametrize("name", ["page", "compared"])
def test_nothing_is_asked_of_outside_and_a_policy_forbids_it(name: str, request: pytest.FixtureRequest) -> None:
    page: Page = request.getfixturevalue(name)
    for tag, attributes in page.elements:
        for key in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            if key in attributes:
                assert attributes[key].startswith(("data:image/", "#")), (tag, attributes)
        assert "style" not in attributes
        assert not any(key.startswith("on") for key in attributes)
    (policy,) = [m["content"] for m in page.of("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag, kind in (("style", "style-src"), ("script", "script-src")):
        (inside,) = [text for where, text in page.texts if where == tag]
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy
        assert not re.search(r"url\(\s*['\"]?(?!#)|@import|https?:|//[a-z]", inside)


@pytest.mark.parametrize("name", ["page", "compared"])
def test_headings_tables_and_pictures_are_described_to_those_who_do_not_see_them(
    name: str, request: pytest.FixtureRequest
) -> None:
    page: Page = request.getfixturevalue(name)
    assert page.of("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert page.of("th")
    assert all(th.get("scope") in ("col", "row") for th in page.of("th"))
    assert len(page.of("caption")) == len(page.of("table"))
    assert all(img["alt"] for img in page.of("img"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    drawings = page.of("svg")
    assert drawings
    for svg in drawings:
        named = svg.get("aria-labelledby", "").split()
        assert svg.get("aria-hidden") == "true" or (svg["role"] == "img" and len(named) == 2 and set(named) <= set(ids))
    assert all(s["aria-labelledby"] in ids for s in page.of("section") if s)
    assert all(d["tabindex"] == "0" and d["aria-label"] for d in page.of("div") if d.get("class") == "scroll")
    for reference in re.findall(r"url\(#([^)]+)\)", " ".join(str(e) for e in page.elements)):
        assert reference in ids


def test_the_page_tells_what_the_run_says(runs: Path, page: Page) -> None:
    *records, end = [json.loads(line) for line in (runs / "a" / "metrics.jsonl").read_text().splitlines()]
    text = page.text.replace("\N{NO-BREAK SPACE}", " ")
    for share in (end["test"]["accuracy"]["mean"], records[-1]["validation"]["accuracy"]["mean"]):
        assert f"{share:.2%}".replace("%", " %") in text
    (start,) = [json.loads(line) for line in (runs / "a" / "environment.jsonl").read_text().splitlines()]
    for word in (
        start["command"],
        start["host"],
        start["commit"],
        start["torch"],
        "finished",
        "2 of 2",
        "conv3",
        "kernel=3",
        "waiting for data",
        "held by the run",
        "all other settings",
    ):
        assert str(word).lower() in text.lower(), word


def test_the_matrix_and_the_pictures_are_those_of_the_test_split(runs: Path, page: Page) -> None:
    data = ffdist.open_data("digits")
    measured = ffdist.load(runs / "a").evaluate(data, confusion=True)
    counts = measured["confusion"]["counts"]
    cells = re.findall(r'<td class="(right|wrong) l\d">(\d*)</td>', (runs / "a.html").read_text())
    assert [int(number or 0) for _, number in cells] == [count for row in counts for count in row]
    assert [kind == "right" for kind, _ in cells] == [i == j for i in range(10) for j in range(10)]
    wrong = sum(map(sum, counts)) - sum(counts[i][i] for i in range(10))
    assert f"{wrong} of 360 are taken for another class" in page.text
    assert data.test is not None
    samples = [re.fullmatch(r"test sample (\d+), of class (\d)", img["alt"]) for img in page.of("img")]
    known = [(int(found[1]), int(found[2])) for found in samples if found]
    assert len(known) == min(10, wrong)
    assert all(data.test.labels[index] == label for index, label in known)
    for img in page.of("img"):
        with Image.open(io.BytesIO(base64.b64decode(img["src"].partition(",")[2]))) as picture:
            assert picture.size == (8, 8)


def test_several_runs_are_compared(compared: Page) -> None:
    text = compared.text
    assert "2 runs compared" in text
    rows = re.findall(r"Settings in which the runs differ.*?Curves", text, re.S)
    assert "fusion" in rows[0]
    assert "lr" in rows[0]
    assert "batch-size" not in rows[0]


def test_names_of_a_users_own_are_text_and_nothing_else(runs: Path) -> None:
    folder = runs / "hostile"
    path = folder / "environment.jsonl"
    start = json.loads(path.read_text())
    path.write_text(json.dumps(start | {"command": "ffdist </bdi></main><script>x</script>", "<b>": "</style>"}) + "\n")
    page = read(ffdist.write_report(folder, out=folder / "report.html"))
    assert len(page.of("script")) == len(page.of("style")) == 1
    assert not page.of("b")
    assert "</bdi></main><script>x</script>" in page.text
    assert "given in Python, and cannot be opened here" in page.text
    names = [name.replace("\x00", "") for name in HOSTILE]
    measured = SnapshotMeasurement({"samples": 4}, names, [[1, 2, 0, 0]] * 4, [Mistake(0, names[0], names[1], 0.9)], 3)
    text = drawn([replace(view_run(folder), measured=measured, unmeasured=None)])
    page = Page(text)
    assert len(page.of("script")) == 1
    assert not page.of("img")
    assert all(name in page.text for name in names[:3])
    assert "\\u202eevil\\u001b" in page.text
    assert not re.search("[\u202e\x00\x1b]", text)


def test_what_is_not_measured_is_said(runs: Path, tmp_path: Path) -> None:
    text = read(ffdist.write_report(runs / "a", out=tmp_path / "x.html", pictures=None)).text
    assert "On the test samples" not in text
    shutil.copytree(runs / "a", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "snapshots")
    assert "the run has no snapshot yet" in read(ffdist.write_report(tmp_path / "run")).text
    (tmp_path / "run" / "metrics.jsonl").unlink()
    text = read(ffdist.write_report(tmp_path / "run")).text
    assert "not at its end" in text
    assert "No epoch is over yet" in text


def test_of_a_thousand_epochs_and_many_blocks_the_page_stays_small(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "a", tmp_path / "run")
    record = json.loads((runs / "a" / "metrics.jsonl").read_text().splitlines()[0])
    for split in ("train", "validation"):
        record[split]["blocks"] = [record[split]["blocks"][0] | {"block": f"block{i}"} for i in range(60)]
    record["train"]["blocks"][3]["loss"] = float("nan")
    lines = [json.dumps(record | {"epoch": epoch}) + "\n" for epoch in range(1, 1001)]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(lines))
    path = ffdist.write_report(tmp_path / "run", pictures=None)
    assert path.stat().st_size < 1_000_000
    page = read(path)
    assert "1000 of 2" in page.text
    assert "16 of 60 are drawn" in page.text
    assert not re.search(r"(?<!on-)\bnan\b", path.read_text()), "but in the name of a setting"


def test_only_a_page_of_ours_is_written_anew(runs: Path, tmp_path: Path) -> None:
    path = ffdist.write_report(runs / "a", out=tmp_path / "page.html", pictures=None)
    assert ffdist.write_report(str(runs / "a"), out=str(path), pictures=None) == path
    (tmp_path / "mine.html").write_text("<p>mine</p>")
    for out in (tmp_path / "mine.html", tmp_path):
        with pytest.raises(ConfigError):
            ffdist.write_report(runs / "a", out=out)
    assert (tmp_path / "mine.html").read_text() == "<p>mine</p>"


def test_what_cannot_be_reported_is_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run was given"):
        ffdist.write_report()
    with pytest.raises(SnapshotError, match="no run here"):
        ffdist.write_report(runs / "a", tmp_path)
    with pytest.raises(ConfigError, match="pictures"):
        ffdist.write_report(runs / "a", pictures=0)
    with pytest.raises(SnapshotError, match="no best snapshot"):
        ffdist.write_report(runs / "a", snapshot="best", out=tmp_path / "x.html")
    with pytest.raises(DataError):
        ffdist.write_report(runs / "a", data="no-such-data", out=tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()


def test_the_command_line_writes_the_page_and_keeps_its_older_forms(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def said(*words: str | Path) -> str:
        capsys.readouterr()
        main(["report", *map(str, words)])
        return capsys.readouterr().out

    assert said(runs / "a", "--no-pictures") == f"page: {runs / 'a' / 'report.html'}\n"
    assert said(runs / "a", runs / "b", "--no-pictures") == "page: report.html\n"
    assert "2 runs compared" in read(tmp_path / "report.html").text
    assert [json.loads(line)["run"] for line in said(runs / "a", runs / "b", "--json").splitlines()] == [
        str(runs / "a"),
        str(runs / "b"),
    ]
    (runs / "a" / "report.html").unlink()
    assert "Accuracy on 360 test samples" in said(runs / "a", "--text")
    assert not (runs / "a" / "report.html").exists()


def test_ticks_are_round_numbers_within_their_bounds() -> None:
    assert ticks(0.0, 1.0, 5) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(1, 4, 6, whole=True) == [1, 2, 3, 4]
    assert ticks(3.0, 3.0, 5) == [3.0]
    for low, high in ((-1e-9, 1e-9), (0.1234, 0.1235), (-7e8, 3e12)):
        found = ticks(low, high, 5)
        assert 2 <= len(found) <= 11
        assert all(low - abs(low) * 1e-6 <= tick <= high + abs(high) * 1e-6 for tick in found)


def test_of_many_values_the_first_and_the_last_are_kept() -> None:
    assert evenly(range(5), 9) == [0, 1, 2, 3, 4]
    assert evenly(range(1000), 4) == [0, 333, 666, 999]


def test_a_window_of_a_trace_is_drawn_where_there_is_one(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "a", tmp_path / "run")
    workers, kinds = (0, 1), ("compute", "no_data", "exchange")
    names = [{"ph": "M", "name": "process_name", "pid": w, "tid": 0, "args": {"name": f"<stage {w}>"}} for w in workers]
    spans = [
        {"ph": "X", "name": kind, "cat": kind, "pid": w, "tid": 0, "ts": 1000 * step + 300 * at, "dur": 300}
        for w in workers
        for step in range(2000)
        for at, kind in enumerate(kinds)
    ]
    strange = [{}, 7, {"ph": "X", "ts": "x", "dur": 1}, {"ph": "X", "ts": float("nan"), "dur": 1, "name": "n"}]
    (tmp_path / "run" / "trace.json").write_text(json.dumps({"traceEvents": [*names, *spans, *strange]}))
    page = read(ffdist.write_report(tmp_path / "run", pictures=None))
    assert "Timeline of a window" in page.text
    assert "<stage 0>" in page.text
    assert re.search(r"computing 3[01]%", page.text)
    assert (tmp_path / "run" / "report.html").stat().st_size < 1_000_000
    for text in ("{]", "[]", '{"traceEvents": 3}', '{"traceEvents": []}'):
        (tmp_path / "run" / "trace.json").write_text(text)
        assert "Timeline" not in read(ffdist.write_report(tmp_path / "run", pictures=None)).text


def test_pulses_within_epochs_are_drawn_and_what_is_no_pulse_is_left_out(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "a", tmp_path / "run")
    blocks = [{"block": "<conv1>", "loss": 2.5, "accuracy": 0.25, "lr": 0.1}]
    stage = {"stage": 0, "worker": 0, "blocks": blocks, "seconds": 1.0, "busy": 0.75, "no_data": 0.25, "no_credit": 0.0}
    pulses = [PulseReported(step, 1, "", 100.0, [stage]).to_json() for step in (3, 6)]
    strange: list[object] = [[], 7, {"event": "start"}, pulses[0] | {"step": "x"}, pulses[0] | {"stages": [{"a": 0}]}]
    lines = [json.dumps(line) for line in (*pulses, *strange)]
    (tmp_path / "run" / "pulses.jsonl").write_text("\n".join([*lines, "{]", lines[0][:20]]))
    page = read(ffdist.write_report(tmp_path / "run", pictures=None))
    for text in ("Within the epochs", "<conv1>", "Samples a second within epochs"):
        assert text in page.text
    (tmp_path / "run" / "pulses.jsonl").write_text("{]")
    assert "Within the epochs" not in read(ffdist.write_report(tmp_path / "run", pictures=None)).text
