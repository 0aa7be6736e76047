"""Pages of the site are the repository's own documents, each at its own path, so that links among them hold in both.

Nothing is copied: what the pages link to comes along, programs as pages of code, the notebook as text with what its
cells printed. Pages of `docs/reference` say by a comment what of ffdist's own help is drawn into them.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
BEGINNINGS = ("*.md", "docs/**/*.md", "launch/*.md", "docker/*.md", "examples/*.md", "tests/*.md", "docs/*.ipynb")
LINK = re.compile(r"(?<=\]\()([^)\s#]+)(#[^)\s]*)?(?=\))")
PICTURES = {".png", ".svg"}
LANGUAGES = {".py": "python", ".sh": "bash", ".sbatch": "bash", ".yaml": "yaml", ".txt": "text", ".json": "json"}


def on_files(files: Files, config: Any) -> Files:
    """Adds the documents, and all that they link to, directly or not."""
    known: set[Path] = set()
    waiting = [path for pattern in BEGINNINGS for path in sorted(ROOT.glob(pattern))]
    while waiting:
        path = waiting.pop(0)
        if path in known:
            continue
        known.add(path)
        files.append(as_file(path, config))
        if path.suffix in (".md", ".ipynb"):
            waiting += [target for target in linked(path) if target.is_file() and target.is_relative_to(ROOT)]
    files.append(File.generated(config, "docs/glossary.md", content=glossary()))
    return files


def linked(document: Path) -> Iterator[Path]:
    for place, _ in LINK.findall(document.read_text()):
        if not re.match(r"[a-z]+:", place):
            yield Path(os.path.normpath(document.parent / place))


def as_file(path: Path, config: Any) -> File:
    name = path.relative_to(ROOT).as_posix()
    if path.suffix in PICTURES or path.suffix == ".md":
        return File.generated(config, name, abs_src_path=str(path))
    text = notebook(path) if path.suffix == ".ipynb" else program(path)
    return File.generated(config, f"{name}.md", content=text)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to what became a page of another name; and the parts that are drawn from ffdist itself."""
    if page.file.src_uri.startswith("benchmarks/records/") or page.file.src_uri == "CHANGELOG.md":
        page.meta["search"] = {"exclude": True}
    markdown = re.sub(r"<!-- from ffdist: (\w+) -->", lambda found: DRAWN[found[1]](), markdown)
    here = (ROOT / page.file.src_uri).parent

    def renamed(found: re.Match[str]) -> str:
        place, anchor = found[1], found[2] or ""
        plain = (here / place).is_file() and Path(place).suffix not in {*PICTURES, ".md"}
        return f"{place}.md{anchor}" if plain else f"{place}{anchor}"

    return LINK.sub(renamed, markdown)


def program(path: Path) -> str:
    text = path.read_text()
    longest = max((len(ticks) for ticks in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"# {path.relative_to(ROOT)}\n\n{fence}{LANGUAGES.get(path.suffix, 'text')}\n{text.rstrip()}\n{fence}\n"


def notebook(path: Path) -> str:
    return "\n\n".join(part for cell in json.loads(path.read_text())["cells"] for part in cell_parts(cell))


def cell_parts(cell: dict[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
        return
    yield f"```python\n{source}\n```"
    for output in cell["outputs"]:
        text = "".join(output.get("text") or output.get("data", {}).get("text/plain", ""))
        if text.strip():
            yield f"```text\n{text.rstrip()}\n```"


def glossary() -> str:
    """The design page's, on a page of its own."""
    found = re.search(r"^## Glossary\n(.*?)(?=^## |\Z)", (ROOT / "ARCHITECTURE.md").read_text(), re.M | re.S)
    assert found, "ARCHITECTURE.md has a glossary"
    return f"# Glossary\n{found[1]}"


def settings() -> str:
    """All groups, a table each."""
    from ffdist.cli.catalog import setting_facts
    from ffdist.cli.help import heading
    from ffdist.settings import GROUP_OF, GROUPS

    parts, group = [], None
    for each in map(setting_facts, GROUP_OF):
        if each["group"] != group:
            group = each["group"]
            parts.append(f"\n## {group}\n\n{heading(GROUPS[group]())}\n")
            parts.append(
                "| in Python | on the command line | type | default | range | meaning |\n|---|---|---|---|---|---|"
            )
        name, text = each["name"].rpartition(".")[2], as_cell(each["text"])
        resumed = " May differ when a run is resumed." if each["free_on_resume"] else ""
        default = f"`{each['default']}`" if each["default"] else ""
        parts.append(
            f"| `{name}` | `{each['flag']}` | {as_cell(each['type'])} | {as_cell(default)} | {as_cell(each['range'])} "
            f"| {text}{resumed} |"
        )
    return "\n".join(parts)


def commands() -> str:
    """Each command's own help."""
    from ffdist.cli import COMMANDS

    return "\n\n".join(f"## ffdist {name}\n\n```text\n{help_of(name)}\n```" for name in COMMANDS)


def help_of(command: str) -> str:
    from ffdist.cli import main

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main([command, "--help"])
    return said.getvalue().rstrip()


def rules() -> str:
    """A table, then each rule's class with its equations and options."""
    from ffdist.cli.catalog import summaries
    from ffdist.known import OBJECTIVE_PLACES

    classes = [f"::: {place.replace(':', '.')}" for place in OBJECTIVE_PLACES.values()]
    return "\n\n".join([as_table("rule", summaries(OBJECTIVE_PLACES)), *classes])


def networks() -> str:
    from ffdist.cli.catalog import summaries
    from ffdist.known import MODEL_PLACES

    return as_table("network", summaries(MODEL_PLACES))


def as_table(what: str, told: dict[str, str]) -> str:
    rows = [f"| `{name}` | {as_cell(text)} |" for name, text in told.items()]
    return "\n".join([f"| {what} | what it is |", "|---|---|", *rows])


def as_cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


DRAWN: dict[str, Callable[[], str]] = {
    "settings": settings,
    "commands": commands,
    "rules": rules,
    "networks": networks,
}
