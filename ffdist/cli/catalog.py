"""`ffdist rules`, `models`, `transforms`, `presets`, `datasets`, `settings`: what there is, and all about one."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import ffdist
from ffdist.calls import calls_of, check_transforms
from ffdist.cli.help import Flag, Positional, choices_of, heading, join_lines, typed_text, width, wrapped
from ffdist.cli.parsing import parsed
from ffdist.errors import ConfigError
from ffdist.known import DATA_SETS, MODEL_PLACES, OBJECTIVE_PLACES, TRANSFORM_PLACES
from ffdist.loading import loading
from ffdist.options import describe, nearest
from ffdist.plain import PlainConsole, table
from ffdist.presets import GROUPS as PRESET_GROUPS
from ffdist.presets import PRESETS, with_preset
from ffdist.settings import GROUP_OF, GROUPS, Settings, as_flag, explained, is_free, kind_of

NO_OPTIONS = "it has no options"


@dataclass(frozen=True)
class Rules:
    """The local learning rules; with a name, what one does and all of its options."""

    name: Annotated[str | None, Positional] = None
    """A rule's name, module:Class or file.py:Class."""
    json: Flag = False
    """Print JSON."""


@dataclass(frozen=True)
class Models:
    """The networks; with a name, what one is and all of its options."""

    name: Annotated[str | None, Positional] = None
    """A network's name, module:function or file.py:function."""
    json: Flag = False
    """Print JSON."""


@dataclass(frozen=True)
class Transforms:
    """List the transforms of pictures; with a name, explain one and all of its options."""

    name: Annotated[str | None, Positional] = None
    """A transform's name, module:Class or file.py:Class."""
    json: Flag = False
    """Print JSON."""


@dataclass(frozen=True)
class Presets:
    """Named settings, by where they come from; with a name, what it sets."""

    name: Annotated[str | None, Positional] = None
    """A preset's name."""
    json: Flag = False
    """Print JSON."""


@dataclass(frozen=True)
class Datasets:
    """The data sets: embedded, by name, and what is prepared; with a name or a folder, what is in it."""

    name: Annotated[str | None, Positional] = None
    """A data set's name, or a prepared folder."""
    root: Path = Path("data")
    """Folder to look in, two levels deep."""
    json: Flag = False
    """Print JSON."""


@dataclass(frozen=True)
class AllSettings:
    """All settings of `ffdist train`; with a name, all about one."""

    name: Annotated[str | None, Positional] = None
    """A setting's name or flag, e.g. lr, or a group's."""
    json: Flag = False
    """Print JSON."""


def rules(args: Sequence[str]) -> None:
    command = parsed(Rules, args, "ffdist rules")
    if command.name is None:
        backprop = {"backprop": "The twin: the same network with one global loss, by backpropagation."}
        print_list("rule", summaries(OBJECTIVE_PLACES) | backprop, "ffdist rules NAME", as_json=command.json)
        return
    with loading():
        from ffdist.baselines.twin import BackpropRule
        from ffdist.objectives import OBJECTIVES
        from ffdist.options import find
    check_kind(command.name, "rule", OBJECTIVE_PLACES)
    made = BackpropRule if command.name == "backprop" else find(command.name, OBJECTIVES, "objective")
    print_entry(command.name, made, 0, "--objective-args", as_json=command.json)


def models(args: Sequence[str]) -> None:
    command = parsed(Models, args, "ffdist models")
    if command.name is None:
        print_list("network", summaries(MODEL_PLACES), "ffdist models NAME", as_json=command.json)
        return
    with loading():
        from ffdist.models import MODELS
        from ffdist.options import find
    check_kind(command.name, "network", MODEL_PLACES)
    print_entry(command.name, find(command.name, MODELS, "model"), 2, "--model-args", as_json=command.json)


def transforms(args: Sequence[str]) -> None:
    command = parsed(Transforms, args, "ffdist transforms")
    if command.name is None:
        print_list("transform", summaries(TRANSFORM_PLACES), "ffdist transforms NAME", as_json=command.json)
        if not command.json:
            print(TRANSFORM_EXAMPLES)
        return
    check_kind(command.name, "transform", TRANSFORM_PLACES)
    (call,) = calls_of([command.name], "ffdist transforms")
    check_transforms([call], "ffdist transforms")
    with loading():
        from ffdist.data.transforms import TRANSFORMS
        from ffdist.options import find
    flag = "--preprocess" if call.name in SIZES else "--augment"
    print_entry(call.name, find(call.name, TRANSFORMS, "transform"), 0, f"{flag} {call.name}", as_json=command.json)


SIZES = ("resize", "center-crop")
"""Transforms that draw nothing, and so are for every picture."""
TRANSFORM_EXAMPLES = """\
In order, options after a name: --augment crop padding=4 mode=reflect flip randaugment n=2 m=9
torchvision's are used as they are: --augment torchvision.transforms.v2:GaussianBlur kernel_size=3"""


def check_kind(name: str, what: str, names: Collection[str]) -> None:
    """Raises ConfigError for the name of a thing of another kind, with the command that explains it."""
    kinds = {
        "rules": [*OBJECTIVE_PLACES, "backprop"],
        "models": MODEL_PLACES,
        "transforms": TRANSFORM_PLACES,
        "presets": PRESETS,
        "datasets": [*DATA_SETS, "digits"],
        "settings": GROUP_OF,
    }
    if name in names or name == "backprop":
        return
    for command, members in kinds.items():
        if name in members:
            raise ConfigError(f"'{name}' is no {what}", remedy=f"ffdist {command} {name}")


def presets(args: Sequence[str]) -> None:
    command = parsed(Presets, args, "ffdist presets")
    if command.name is not None:
        check_kind(command.name, "preset", PRESETS)
        print_preset(command.name, as_json=command.json)
    elif command.json:
        print(json.dumps({name: preset.summary for name, preset in PRESETS.items()}))
    else:
        left = max(map(len, PRESETS)) + 4
        for group, members in PRESET_GROUPS.items():
            print(wrapped(f"{group}:"))
            for name, preset in members.items():
                print(in_two_columns(f"  {name}", preset.summary, left))
        print()
        print(wrapped("`ffdist presets NAME` has what one sets; `ffdist train NAME --help` all values."))


def datasets(args: Sequence[str]) -> None:
    command = parsed(Datasets, args, "ffdist datasets")
    from ffdist.cli.data import Check, List, print_named
    from ffdist.data import list_data

    if command.name is None:
        List(command.root, command.json).run()
    elif command.name == "digits" or (command.name in DATA_SETS and not (command.root / command.name).is_dir()):
        entry = next(each for each in list_data(command.root) if each.name == command.name)
        print_named(entry, command.root, as_json=command.json)
    else:
        here = Path(command.name)
        there = command.root / command.name
        Check(there if there.is_dir() and not here.is_dir() else here, command.json).run()


def settings(args: Sequence[str]) -> None:
    command = parsed(AllSettings, args, "ffdist settings")
    names = fields_named(command.name)
    texts = {name: setting_facts(name) for name in names}
    if command.json:
        print(json.dumps(texts))
        return
    group = None
    for name, each in texts.items():
        if each["group"] != group:
            group = each["group"]
            print("" if name == names[0] else "\n", end="")
            print(wrapped(f"[{group}] {heading(GROUPS[group]())}"))
        facts = [
            f"{each['type']}",
            f"default {each['default'] or 'none'}",
            *([each["range"]] if each["range"] else []),
            *(["may differ when a run is resumed"] if each["free_on_resume"] else []),
        ]
        print(wrapped(f"  {each['flag']}  ({'; '.join(facts)})", " " * 6))
        print(textwrap.fill(each["text"], width(), initial_indent="      ", subsequent_indent="      "))


def fields_named(name: str | None) -> list[str]:
    """The fields that a name means: one, a group's, or all. Raises ConfigError for none."""
    if name is None:
        return list(GROUP_OF)
    own = name.lstrip("-").replace("-", "_").rpartition(".")[2]
    if own in GROUP_OF:
        return [own]
    if own in GROUPS:
        return [field for field, group in GROUP_OF.items() if group == own]
    raise ConfigError(f"there is no setting '{name}'", where="ffdist settings", remedy=nearest(own, GROUP_OF))


def setting_facts(name: str) -> dict[str, Any]:
    """All about a field, as JSON has it."""
    group = GROUP_OF[name]
    (field,) = (f for f in dataclasses.fields(GROUPS[group]) if f.name == name)
    bounds = field.metadata.get("range")
    return {
        "name": f"{group}.{name}",
        "group": group,
        "flag": as_flag(name),
        "type": describe(kind_of(name)),
        "default": typed_text(field.default) if field.default not in (None, ()) else "",
        "range": str(bounds) if bounds else "",
        "free_on_resume": is_free(name),
        "text": explained(GROUPS[group]).get(name, ""),
    }


def print_preset(name: str, *, as_json: bool) -> None:
    """Print what a preset is, what it sets beside the defaults, and the command that starts it."""
    with_preset(Settings(), name)  # raises ConfigError, with the nearest name, for an unknown one
    preset = PRESETS[name]
    if as_json:
        print(json.dumps({"name": name, "summary": preset.summary, "settings": preset.settings}))
        return
    print(wrapped(f"{name}: {preset.summary}"))
    rows = table("setting", "value", "default")
    for key, value in preset.settings.items():
        rows.add_row(as_flag(key), typed_text(value), setting_facts(key)["default"])
    PlainConsole().print(rows)
    print(f"ffdist train {name}")


def print_list(what: str, texts: Mapping[str, str], more: str, *, as_json: bool) -> None:
    """Print names and texts in two columns, or as JSON. more: the command that explains one."""
    if as_json:
        print(json.dumps(dict(texts)))
        return
    left = max(map(len, texts)) + 2
    for name, text in texts.items():
        print(in_two_columns(name, text, left))
    print()
    print(wrapped(f"`{more}` explains a {what}, with all of its options."))


def in_two_columns(name: str, text: str, left: int) -> str:
    """A name and its text in two columns; below one another where the terminal is narrow."""
    if width() < left + 30:
        return wrapped(f"{name}  {text}", " " * 6)
    return textwrap.fill(text, width(), initial_indent=f"{name:<{left}}", subsequent_indent=" " * left)


def summaries(places: Mapping[str, str]) -> dict[str, str]:
    """The first sentence about each, read from the sources: to import them would take torch."""
    root = Path(ffdist.__file__).parent
    return {name: first_line(root, place) for name, place in places.items()}


def first_line(root: Path, place: str) -> str:
    """The first paragraph of the docstring of `place`, "module:name", else of its module, read from the source."""
    module, _, name = place.partition(":")
    tree = ast.parse(root.joinpath(*module.split(".")[1:]).with_suffix(".py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            return paragraph(ast.get_docstring(node) or ast.get_docstring(tree) or "")
    return paragraph(ast.get_docstring(tree) or "")


def paragraph(text: str) -> str:
    """The first paragraph of a docstring, in one line."""
    return " ".join(inspect.cleandoc(text).split("\n\n")[0].split())


def print_entry(name: str, made: Any, skip: int, flag: str, *, as_json: bool) -> None:
    """A rule or a network: what it says of itself, and its options."""
    options = list(options_of(made, skip))
    text = inspect.getdoc(made) or ""
    if as_json:
        print(json.dumps({"name": name, "text": text, "options": options}))
        return
    print(f"{name}\n")
    print(join_lines(without_options(text, options)))
    print()
    if not options:
        print(NO_OPTIONS)
        return
    print(wrapped(f"options, as {flag} NAME=VALUE ...:"))
    for each in options:
        print(wrapped(f"  {each['name']}  ({each['type']}; default {each['default'] or 'none'})", " " * 6))
        if each["text"]:
            print(textwrap.fill(each["text"], width(), initial_indent="      ", subsequent_indent="      "))


def without_options(text: str, options: Sequence[Mapping[str, str]]) -> str:
    """The description of it as a whole, without its options."""
    for each in options:
        text = re.sub(PARAMETER_DOC.format(each["name"]), "", text, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


PARAMETER_DOC = r"^{}: (.*(?:\n +\S.*)*)\n?"
"""What a function's docstring says of a parameter."""


def options_of(made: Any, skip: int) -> Iterable[dict[str, str]]:
    """Name, type, default and text of each option, of a rule's fields or a function's parameters after the first
    `skip`."""
    from ffdist.options import kinds_of, text_of

    kinds, texts = kinds_of(made), texts_of(made)
    for parameter in list(inspect.signature(made).parameters.values())[skip:]:
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        default = "" if parameter.default is parameter.empty else text_of(parameter.default)
        yield {
            "name": parameter.name,
            "type": describe(kinds.get(parameter.name, Any)),
            "default": default,
            "choices": " ".join(map(str, choices_of(kinds.get(parameter.name)))),
            "text": texts.get(parameter.name, ""),
        }


def texts_of(made: Any) -> dict[str, str]:
    """The explanations below the fields of a class and of those that it extends; of a function, what its docstring says
    after a parameter's name."""
    texts: dict[str, str] = {}
    if not inspect.isclass(made):
        for name in inspect.signature(made).parameters:
            match = re.search(PARAMETER_DOC.format(name), inspect.getdoc(made) or "", re.MULTILINE)
            texts |= {name: " ".join(match[1].split())} if match else {}
        return texts
    for kind in reversed(inspect.getmro(made)):
        if dataclasses.is_dataclass(kind):
            try:
                texts |= explained(kind)
            except (OSError, TypeError):  # it was made where no source is kept
                continue
    return texts
