"""HTML of what runs say. What comes from a run is escaped by the templates, whatever it holds."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ffdist.page.charts import charts_of, comparing, mean_stages, memory_chart, time_chart, within_epochs
from ffdist.page.run import RunView
from ffdist.page.tables import (
    HtmlTable,
    compared_results,
    compared_settings,
    confusion,
    data_table,
    headline,
    mistakes_table,
    plan_table,
    result_table,
    settings_tables,
    start_tables,
)
from ffdist.page.text import moment, named, visible
from ffdist.page.timeline import timeline_chart


@cache
def environment() -> Environment:
    """The templates' environment: everything that is put into a template is escaped."""
    made = Environment(
        loader=PackageLoader("ffdist.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"named": named, "visible": visible, "moment": moment}
    return made


@cache
def asset(name: str) -> str:
    """The text of `page.css` or `page.js`."""
    return (files("ffdist.page") / "templates" / name).read_text()


def page(views: Sequence[RunView]) -> str:
    """A whole page, that needs nothing beside itself, of one run or of several compared."""
    title = views[0].name if len(views) == 1 else f"{len(views)} runs compared"
    content = run_content(views[0]) if len(views) == 1 else compared_content(views)
    return page_frame(title, content)


def page_frame(title: str, content: Markup, *, live: str | None = None, up: bool = False) -> str:
    """The content in a page. live: where it is asked for anew; up: whether there is a page of all runs."""
    style, script = asset("page.css"), asset("page.js")
    return (
        environment()
        .get_template("page.html")
        .render(
            title=f"{title} - ffdist",
            content=content,
            live=live,
            up=up,
            version=version("ffdist"),
            now=moment(time.time()),
            style=Markup(style),
            script=Markup(script),
            style_hash=digest(style),
            script_hash=digest(script),
        )
    )


def digest(text: str) -> str:
    """SHA-256 in base64, by which a page's Content-Security-Policy allows its own script and style."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def run_content(view: RunView, key: str = "r", level: int = 1) -> Markup:
    """One run. key: begins the ids of its parts; level: of its heading."""
    records, measured = view.records, view.measured
    differ, same = settings_tables(view)
    last = f"Where each stage's time went, epoch {records[-1]['epoch']}" if records else ""
    times = (
        [
            time_chart(f"{key}-tw", "Where each stage's time went, whole run", mean_stages(records)),
            time_chart(f"{key}-te", last, records[-1]["stages"]) if len(records) > 1 else None,
        ]
        if records
        else []
    )
    content: dict[str, Any] = {
        "view": view,
        "key": key,
        "level": level,
        "sub": f"h{level + 2}",
        "headline": headline(view),
        "charts": charts_of(view, key),
        "within": within_epochs(view, key),
        "results": result_table(view),
        "times": [each for each in times if each],
        "timeline": timeline_chart(view.trace, f"{key}-tr"),
        "memory": memory_chart(f"{key}-m", records[-1]["stages"]) if records else None,
        "matrix": confusion(measured) if measured else None,
        "mistakes": mistakes_table(measured) if measured else None,
        "surest": surest_table(view),
        "differ": differ,
        "same": same,
        "plan": plan_table(view),
        "data": data_table(view),
        "starts": start_tables(view),
    }
    return Markup(environment().get_template("run.html").render(content))


def surest_table(view: RunView) -> HtmlTable | None:
    """A table of samples that are no pictures."""
    if view.measured is None:
        return None
    rows = [[str(e.index), e.label, e.guess, f"{e.confidence:.1%}"] for e in view.measured.mistakes]
    return HtmlTable("Where it is wrong and sure", ["test sample", "true class", "taken for", "confidence"], rows)


def compared_content(views: Sequence[RunView]) -> Markup:
    """Several runs, compared first and then one by one."""
    runs = [(view, run_content(view, f"r{i}", 2)) for i, view in enumerate(views)]
    return Markup(
        environment()
        .get_template("compare.html")
        .render(
            views=views,
            runs=runs,
            results=compared_results(views),
            settings=compared_settings(views),
            charts=comparing(views),
        )
    )


def index_content(folder: str, rows: Sequence[tuple[str, str, list[str]]], left_out: int = 0) -> Markup:
    """All runs, a line each. rows: address, name, and what `INDEX` names."""
    return Markup(
        environment().get_template("index.html").render(folder=folder, rows=rows, head=INDEX, left_out=left_out)
    )


INDEX = ("state", "epochs", "best validation accuracy", "test accuracy", "samples/s", "time of training", "written")
