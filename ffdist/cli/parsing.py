"""How each command reads its arguments: help by `ffdist.cli.help`, all else by tyro."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

import tyro

from ffdist.cli.help import Argument, arguments_of, first_sentence, groups_of, page
from ffdist.options import nearest
from ffdist.settings.base import errors_collected

T = TypeVar("T")
FLATTENED = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
"""A field of a group is spelled by its own name: `--lr`, without those of the groups around it."""


def parsed(kind: type[T], args: Sequence[str], prog: str, *, made: Any = None, more: str = "") -> T:
    """A command's arguments. Exits with 0 where help is all that was wanted, and with 2 for what cannot be read.

    made: the defaults, where they are not the class's own; more: what help says at its end.
    """
    if wants_help(args):
        print(help_of(kind, prog, made=made, more=more))
        sys.exit(0)
    with errors_collected() as found:
        made = tyro.cli(kind, args=list(args), prog=prog, default=made, config=FLATTENED)
    if found:
        raise found[0]
    return made


def parsed_of(commands: Mapping[str, type[Any]], args: Sequence[str], prog: str) -> Any:
    """Of the one of several commands that comes first. Exits with 2 for none such."""
    name = args[0] if args else "--help"
    if name in commands:
        return parsed(commands[name], args[1:], f"{prog} {name}")
    if name in ("-h", "--help"):
        lines = [
            f"  {each:<9}{first_sentence(' '.join((kind.__doc__ or '').split()))}" for each, kind in commands.items()
        ]
        print(
            f"usage: {prog} COMMAND [OPTION ...]",
            "",
            "commands:",
            *lines,
            "",
            f"`{prog} COMMAND --help` explains each.",
            sep="\n",
        )
        sys.exit(0)
    print(f"{prog}: there is no command '{name}'; {nearest(name, commands)}", file=sys.stderr)
    sys.exit(2)


def wants_help(args: Sequence[str]) -> bool:
    """Whether -h or --help is among them; behind "--" they are names."""
    own = args[: args.index("--")] if "--" in args else args
    return not {"-h", "--help"}.isdisjoint(own)


def help_of(kind: type, prog: str, *, made: Any = None, more: str = "", hidden: Collection[str] = ()) -> str:
    """The help of a command whose arguments are a dataclass.

    made: the defaults, with the groups of settings inside. hidden: fields of these that are no arguments of it.
    """
    own = list(arguments_of(kind, made))
    named = [each for each in own if not each.positional]
    positional = [each for each in own if each.positional]
    groups = [
        (title, [each for each in arguments_of(type(group), group) if each.name not in hidden])
        for title, group in (groups_of(made) if made else ())
    ]
    usage = " ".join([prog, *map(in_usage, positional), "[OPTION ...]"])
    summary = " ".join((kind.__doc__ or "").split())
    return page(usage, summary, [("arguments", positional), ("options", named), *groups], more)


def in_usage(argument: Argument) -> str:
    return argument.spelled if argument.required else f"[{argument.spelled}]"
