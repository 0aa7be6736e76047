"""The site of documents: it builds without a warning, its links lead somewhere, and nothing comes from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import ffdist
from ffdist.known import OBJECTIVE_PLACES
from ffdist.settings import GROUP_OF, as_flag

ROOT = Path(__file__).resolve().parents[2]
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
"""Tags by which a browser fetches something by itself, and where they say what."""


class Page(HTMLParser):
    """A page's anchors, its links, and what a browser fetches for it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = {""}
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        options = {name: value or "" for name, value in attrs}
        self.anchors |= {options[name] for name in ("id", "name") if name in options}
        if tag == "a" and "href" in options:
            self.links.append(options["href"])
        fetched = options.get(FETCHED.get(tag, ""))
        if fetched and not (tag == "link" and options.get("rel") in ("next", "prev", "canonical")):
            self.fetched.append(fetched)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text()) for path in site.rglob("*.html")}


def test_every_link_leads_to_a_page_and_a_heading_that_are_there(pages: dict[Path, Page]) -> None:
    assert len(pages) > 30
    for path, page in pages.items():
        if path.name == "404.html":  # its links are from the site's root, wherever that lies
            continue
        for link in [*page.links, *page.fetched]:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), f"{path}: {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].anchors, f"{path}: {link}"


def test_nothing_is_fetched_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    fetched = {each for page in pages.values() for each in page.fetched}
    assert fetched
    assert not [each for each in fetched if re.match(r"(https?:)?//", each)]
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", sheet.read_text()), sheet


def test_the_reference_has_every_public_name(site: Path, pages: dict[Path, Page]) -> None:
    shown = {anchor for path, page in pages.items() if "reference" in path.parts for anchor in page.anchors}
    modules = {"models", "objectives", "presets", "settings"}
    events = {"Observer", "RunEvent", "StopRun"}
    groups = {name for name in ffdist.__all__ if name.endswith("Settings")}
    for name in set(ffdist.__all__) - modules - groups - events - {"SFF"}:
        assert f"ffdist.{name}" in shown, name
    assert {f"ffdist.events.{name}" for name in events} <= shown
    assert {place.replace(":", ".") for place in OBJECTIVE_PLACES.values()} <= shown
    text = (site / "docs/reference/settings.html").read_text()
    assert all(f"<code>{as_flag(name)}</code>" in text for name in GROUP_OF)


def test_what_is_drawn_from_elsewhere_is_there(site: Path) -> None:
    assert "ZeRO" not in (site / "docs/glossary.html").read_text(), "the glossary alone"
    assert "credit" in (site / "docs/glossary.html").read_text()
    assert "usage: ffdist train" in (site / "docs/reference/commands.html").read_text()
    assert "Prototypes" in (site / "docs/tutorial.ipynb.html").read_text()
    assert "class Prototypes" in re.sub("<[^>]+>", "", (site / "examples/own_objective.py.html").read_text())
