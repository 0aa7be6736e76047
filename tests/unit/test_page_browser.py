"""The pages in headless Chromium: no error on its console, no request to outside, no finding of axe-core's."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_runs import train_digits

import ffdist

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), None)
LACKING = [name for name in ("playwright", "axe_playwright_python") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason=f"pages are looked at in a browser, and none of {NAMES} is installed"),
    pytest.mark.skipif(bool(LACKING), reason=f"pages are looked at by {LACKING}, which are not installed"),
]
SIZES = {"desk": (1280, 900), "phone": (360, 740)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seen")
    train_digits(folder / "a", "--stages", "2")
    train_digits(folder / "b", "--lr", "0.01")
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


class Seen:
    """A page that was opened, and what came of it."""

    def __init__(self, browser: Any, address: str, size: str = "desk", colours: str = "light", **more: Any) -> None:
        width, height = SIZES[size]
        self.context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=colours, **more)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)

    def findings(self) -> list[str]:
        from axe_playwright_python.sync_playwright import Axe

        return [f"{v['id']}: {v['nodes'][0]['html'][:200]}" for v in Axe().run(self.page).response["violations"]]

    def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - innerWidth")


@pytest.mark.parametrize(
    ("names", "size", "colours"),
    [("a", "desk", "light"), ("a", "phone", "dark"), ("ab", "phone", "light"), ("ab", "desk", "dark")],
)
def test_a_written_page_is_right_in_light_and_dark_on_a_desk_and_a_phone(
    names: str, size: str, colours: str, runs: Path, browser: Any
) -> None:
    path = ffdist.write_report(*(runs / name for name in names), out=runs / f"{names}-{size}.html", pictures=3)
    seen = Seen(browser, path.as_uri(), size, colours)
    if names == "a":
        seen.page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true })")
    else:
        seen.page.get_by_text("All of a", exact=True).click()
    assert seen.overflow() <= 0
    assert seen.findings() == []
    assert seen.said == []
    assert [url for url in seen.requests if not url.startswith(("file:", "data:"))] == []
    seen.context.close()


def test_the_button_turns_the_colours_around_and_paper_is_light(runs: Path, browser: Any) -> None:
    path = ffdist.write_report(runs / "a", out=runs / "colours.html", pictures=None)
    seen = Seen(browser, path.as_uri(), colours="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = seen.page.evaluate(ground)
    seen.page.keyboard.press("Tab")
    assert seen.page.evaluate("document.activeElement.textContent") == "Skip to the content"
    seen.page.keyboard.press("Tab")
    seen.page.keyboard.press("Enter")
    assert seen.page.evaluate(ground) == "rgb(255, 255, 255)" != dark
    seen.page.keyboard.press("Enter")
    assert seen.page.evaluate(ground) == dark
    seen.page.emulate_media(media="print")
    assert seen.page.evaluate(ground) == "rgb(255, 255, 255)"
    seen.context.close()


def test_without_scripts_all_is_there(runs: Path, browser: Any) -> None:
    path = ffdist.write_report(runs / "a", out=runs / "plain.html", pictures=None)
    seen = Seen(browser, path.as_uri(), java_script_enabled=False)
    assert seen.page.locator("h2").count() >= 4
    assert not seen.page.locator("#theme").is_visible()
    seen.page.locator("summary").first.click()
    assert seen.page.locator("details[open] table").first.is_visible()
    seen.context.close()


def test_a_live_page_follows_its_run_and_keeps_what_is_unfolded(runs: Path, browser: Any) -> None:
    log = runs / "b" / "metrics.jsonl"
    whole = log.read_text().splitlines(keepends=True)
    log.write_text(whole[0])
    with ffdist.PageServer(runs, port=0) as watch:
        seen = Seen(browser, watch.url)
        assert seen.findings() == []
        seen.page.get_by_role("link", name="b", exact=True).click()
        seen.page.get_by_text("1 of 2").wait_for()
        assert seen.findings() == []
        seen.page.locator("summary").first.click()
        log.write_text("".join(whole))
        seen.page.get_by_text("2 of 2").wait_for(timeout=20_000)
        assert seen.page.locator("details").first.get_attribute("open") is not None
        assert seen.page.evaluate("document.activeElement.tagName") == "SUMMARY"
        assert seen.said == []
        assert all(url.startswith((watch.url, "data:")) for url in seen.requests)
        seen.context.close()
