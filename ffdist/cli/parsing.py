"""The arguments of each command, parsed by its dataclass, from whose fields `ffdist.cli.help` makes the help."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar, get_args, get_origin

from ffdist.cli.help import Argument, arguments_of, choices_of, first_sentence, groups_of, is_many, page, wrapped
from ffdist.errors import ConfigError
from ffdist.options import convert, describe, nearest
from ffdist.settings import as_flag

T = TypeVar("T")
WORDS = "words"
"""The key of the words without an option, until they are assigned to the positional arguments."""


class UsageError(ConfigError):
    """A command line that cannot be read."""


def parsed(kind: type[T], args: Sequence[str], prog: str, *, made: Any = None, more: str = "") -> T:
    """A command's arguments. Exits with 0 where help is all that was wanted.

    made: the defaults, where the command has groups of settings; more: what help says at its end.

    Raises UsageError for what cannot be read.
    """
    if wants_help(args):
        print(help_of(kind, prog, made=made, more=more))
        sys.exit(0)
    values = parsed_values(kind, args, prog, made=made)
    for argument in arguments_of(kind):
        if argument.required and argument.name not in values:
            raise UsageError(
                f"{argument.spelled} is missing", where=prog, expected=usage(kind, prog), remedy=f"{prog} --help"
            )
    return build_command(kind, values, made)


def build_command(kind: type[T], given: Mapping[str, Any], made: Any = None) -> T:
    """A command's dataclass from the given values, its own and those of its groups of settings."""
    own = {f.name for f in fields(kind) if f.name in given}  # pyright: ignore[reportArgumentType]
    others = {name: value for name, value in given.items() if name not in own}
    values = {name: given[name] for name in own}
    return kind(**values, **({"settings": made.settings.changed(**others)} if made else {}))


def parsed_values(kind: type, args: Sequence[str], prog: str, *, made: Any = None) -> dict[str, Any]:
    """Parse the words into values of their types, by the fields' names. Raises UsageError for what cannot be read."""
    known = known_arguments(kind, made)
    own, tail = split_at_dashes(args)
    options = {each.flag: each for each in known if not each.positional}
    try:
        found, rest = parser_of(known, prog).parse_known_intermixed_args(normalized(own, options))
    except argparse.ArgumentError as error:
        raise wrong_number_error(error, options, prog) from None
    for word in rest:
        if word.startswith("-"):
            raise unknown_option_error(word, options, prog)
    values = vars(found)
    words = [*(values.pop(WORDS, None) or []), *tail]
    values |= positional_values([each for each in known if each.positional], words, prog)
    return {each.name: value_of(each, values[each.name], prog) for each in known if each.name in values}


def known_arguments(kind: type, made: Any) -> list[Argument]:
    """The arguments of a command and of its groups of settings.

    Of two with one name the command's own counts, else the later group's.
    """
    groups = (each for _, group in (groups_of(made) if made else ()) for each in arguments_of(type(group)))
    return list({each.name: each for each in (*groups, *arguments_of(kind))}.values())


def parser_of(known: Iterable[Argument], prog: str) -> argparse.ArgumentParser:
    """A parser that leaves all values as texts, which `value_of` converts: its errors can then name the type."""
    parser = argparse.ArgumentParser(
        prog, add_help=False, allow_abbrev=False, exit_on_error=False, argument_default=argparse.SUPPRESS
    )
    for each in known:
        if each.positional:
            continue
        if each.kind is bool:
            action = argparse.BooleanOptionalAction if each.both else "store_true"
            parser.add_argument(each.flag, dest=each.name, action=action)
        elif is_many(each.kind_if_given):
            parser.add_argument(each.flag, dest=each.name, nargs="*", action="extend")  # given twice, it has both
        elif get_origin(each.kind_if_given) is tuple:
            parser.add_argument(each.flag, dest=each.name, nargs=len(get_args(each.kind_if_given)))
        else:
            parser.add_argument(each.flag, dest=each.name)
    parser.add_argument(WORDS, nargs="*")
    return parser


def split_at_dashes(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words before "--", and those after it, which are no options."""
    at = list(args).index("--") if "--" in args else len(args)
    return list(args[:at]), list(args[at + 1 :])


def normalized(args: Sequence[str], options: Mapping[str, Argument]) -> list[str]:
    """The words as argparse takes them: options with dashes for underscores; a negative number joined to its option by
    "=", since it looks like an option itself; an option without its value with the one that it has alone."""
    words: list[str] = []
    for arg, following in zip(args, [*args[1:], "--"], strict=False):
        name, equals, value = arg.partition("=")
        before = options.get(words[-1]) if words else None
        if arg.startswith("--"):
            flag = name.replace("_", "-")
            alone = options[flag].alone if flag in options and not equals and following.startswith("-") else None
            words.append(f"{flag}={alone}" if alone else flag + equals + value)
        elif arg.startswith("-") and before and is_number(arg) and takes_one(before):
            words[-1] += f"={arg}"
        else:
            words.append(arg)
    return words


def takes_one(argument: Argument) -> bool:
    return not is_many(argument.kind_if_given) and argument.kind is not bool


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def wrong_number_error(error: argparse.ArgumentError, options: Mapping[str, Argument], prog: str) -> UsageError:
    """An option with no value, or with one that it does not take."""
    argument = options[(error.argument_name or "").partition("/")[0]]
    if argument.kind is bool:
        return UsageError(f"{argument.flag} takes no value", where=prog, remedy=f"{argument.flag} alone")
    return UsageError(
        f"{argument.flag} has no value",
        where=prog,
        expected=argument.spelled,
        remedy=f"one that begins with - stands after =: {argument.flag}=-1",
    )


def unknown_option_error(word: str, options: Mapping[str, Argument], prog: str) -> UsageError:
    """The error for an unknown option, with the nearest one that exists."""
    name = word.partition("=")[0]
    switches = [f"no-{flag[2:]}" for flag, each in options.items() if each.both and each.kind is bool]
    names = [*(flag[2:] for flag in options), *switches, "help", "quiet", "verbose"]
    plain = name.lstrip("-")
    begun = [each for each in names if plain and each.startswith(plain)] if name.startswith("--") else []
    near = nearest(plain.replace("-", "_"), [each.replace("-", "_") for each in names])
    if begun:
        remedy = f"write it out: {' or '.join(f'--{each}' for each in begun[:4])}"
    elif "did you mean" in near:
        remedy = f"did you mean {as_flag(near.split(chr(39))[1])}?"
    else:
        remedy = f"{prog} --help"
    return UsageError(f"there is no option {name}", where=prog, remedy=remedy)


def positional_values(positional: Sequence[Argument], words: list[str], prog: str) -> dict[str, Any]:
    """Assign words to the positional arguments, in order. Raises UsageError for one too many."""
    values: dict[str, Any] = {}
    for each in positional:
        if words:
            values[each.name] = words if is_many(each.kind_if_given) else words[0]
            words = [] if is_many(each.kind_if_given) else words[1:]
    if words:
        raise UsageError(f"unexpected argument: {words[0]}", where=prog, remedy=f"{prog} --help")
    return values


def value_of(argument: Argument, value: Any, prog: str) -> Any:
    """Convert texts to the argument's type. Raises UsageError for a text that is no such value."""
    if argument.kind is bool:
        return value
    kind = argument.kind_if_given
    if is_many(kind):
        if not value:
            raise UsageError(
                f"{argument.flag} has no value",
                where=prog,
                expected=argument.spelled,
                remedy=f"{argument.flag} none" if argument.setting else None,
            )
        if argument.setting and value == ["none"]:
            return ()
        return tuple(one_value(argument, get_args(kind)[0], text, prog) for text in value)
    if isinstance(value, list):
        return tuple(one_value(argument, each, text, prog) for each, text in zip(get_args(kind), value, strict=True))
    optional = kind is not argument.kind
    return None if optional and value in ("none", "None") else one_value(argument, kind, value, prog)


def one_value(argument: Argument, kind: Any, text: str, prog: str) -> Any:
    """Convert one text to `kind`. Raises UsageError for a text that is no such value."""
    if kind is str:
        return text
    try:
        return convert(text, kind)
    except (TypeError, ValueError, OverflowError) as error:
        choices = list(map(str, choices_of(kind)))
        several = is_many(argument.kind_if_given) and "," in text
        remedy = f"separate several values by spaces: {text.replace(',', ' ')}" if several else None
        remedy = remedy or (nearest(text, choices) if choices else None)
        name = argument.name.upper() if argument.positional else argument.flag
        raise UsageError(
            f"{name} has a wrong value",
            where=prog,
            expected=describe(kind),
            got=text,
            remedy=remedy if remedy and "choose" not in remedy else None,
        ) from error


def parsed_of(commands: Mapping[str, type[Any]], args: Sequence[str], prog: str) -> Any:
    """The command line of whichever of several commands comes first. Raises UsageError for none such."""
    name = args[0] if args else "--help"
    if name in commands:
        return parsed(commands[name], args[1:], f"{prog} {name}")
    if name in ("-h", "--help", "help"):
        summaries = {each: first_sentence(" ".join((kind.__doc__ or "").split())) for each, kind in commands.items()}
        lines = [wrapped(f"  {each:<9}{summary}", " " * 11) for each, summary in summaries.items()]
        print(f"usage: {prog} COMMAND [OPTION ...]", "", "commands:", *lines, "", sep="\n")
        print(f"`{prog} COMMAND --help` explains each.")
        sys.exit(0)
    raise UsageError(f"there is no command '{name}'", where=prog, remedy=nearest(name, commands))


def wants_help(args: Sequence[str]) -> bool:
    """True if -h or --help is among them; after "--" they are names."""
    return not {"-h", "--help"}.isdisjoint(split_at_dashes(args)[0])


def help_of(kind: type, prog: str, *, made: Any = None, more: str = "", hidden: Collection[str] = ()) -> str:
    """The help of a command whose arguments are a dataclass.

    made: the defaults, with the groups of settings inside. hidden: fields of these that are no arguments of it.
    """
    own = list(arguments_of(kind, made))
    named = [each for each in own if not each.positional]
    positional = [each for each in own if each.positional]
    shown = {*hidden, *(one.name for one in own)}
    groups: list[tuple[str, list[Argument]]] = []
    for title, group in reversed(list(groups_of(made) if made else ())):  # of two of one name the later holds
        groups.insert(0, (title, [each for each in arguments_of(type(group), group) if each.name not in shown]))
        shown |= {each.name for each in groups[0][1]}
    summary = " ".join((kind.__doc__ or "").split())
    return page(usage(kind, prog), summary, [("arguments", positional), ("options", named), *groups], more)


def usage(kind: type, prog: str) -> str:
    """The usage line: what must stand, and what may."""
    own = list(arguments_of(kind))
    must = [each.spelled for each in own if each.required and not each.positional]
    return " ".join([prog, *(in_usage(each) for each in own if each.positional), *must, "[OPTION ...]"])


def in_usage(argument: Argument) -> str:
    return argument.spelled if argument.required else f"[{argument.spelled}]"
