"""`ffdist completion`: what a shell needs to complete commands, options, their values and presets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from ffdist.cli.help import Positional
from ffdist.cli.parsing import parsed

BASH = """\
_ffdist() {
    local word=${COMP_WORDS[COMP_CWORD]}
    COMPREPLY=()
    while IFS= read -r line; do COMPREPLY+=("$line"); done < <(
        ffdist completion words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    if [[ ${#COMPREPLY[@]} -eq 0 ]]; then COMPREPLY=($(compgen -f -- "$word")); fi
}
complete -o filenames -F _ffdist ffdist
"""
ZSH = "autoload -U +X bashcompinit && bashcompinit\n" + BASH
FISH = """\
complete -c ffdist -a '(ffdist completion words -- (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


@dataclass(frozen=True)
class Completion:
    """What a shell runs to complete ffdist's commands: eval "$(ffdist completion bash)"; for fish, into source."""

    shell: Annotated[Literal["bash", "zsh", "fish"], Positional]
    """bash, zsh or fish."""


def main(args: Sequence[str]) -> None:
    if list(args[:2]) == ["words", "--"]:  # asked by the scripts
        print("\n".join(completions(list(args[2:]))))
        return
    print(SCRIPTS[parsed(Completion, args, "ffdist completion").shell], end="")


def completions(words: list[str]) -> list[str]:
    """What the last of the words, behind `ffdist`, may become."""
    from ffdist.cli import COMMANDS

    *before, last = words or [""]
    if not before:
        return begun(last, list(COMMANDS))
    options = options_of(before)
    flag = next((word for word in reversed(before) if word.startswith("-")), None)
    values = options.get(before[-1]) or (options.get(flag) if flag else None)
    if last.startswith("-"):
        return begun(last, [*options, "--help", "--quiet", "--verbose"])
    if values:
        return begun(last, values)
    return begun(last, places(before)) if before[-1] == flag or len(before) > 0 else []


def begun(word: str, choices: list[str]) -> list[str]:
    return [choice for choice in choices if choice.startswith(word)]


def options_of(words: list[str]) -> dict[str, list[str]]:
    """The options of the command, with their values where they are known."""
    from ffdist.cli.help import arguments_of, choices_of, groups_of
    from ffdist.known import MODEL_PLACES, OBJECTIVE_PLACES

    names = {"--model": list(MODEL_PLACES), "--objective": [*OBJECTIVE_PLACES, "backprop"]}
    kind, made = command_of(words)
    if kind is None:
        return {}
    found = list(arguments_of(kind))
    for _, group in groups_of(made) if made is not None else ():
        found += arguments_of(type(group))
    return {each.flag: names.get(each.flag) or list(map(str, choices_of(each.kind)))
            for each in found if not each.positional}  # fmt: skip


def command_of(words: list[str]) -> tuple[type | None, object]:
    """The dataclass of the command's arguments, and one with its groups of settings, where it has such."""
    match words:
        case ["train", *_]:
            from ffdist.cli.train import Train

            return Train, Train()
        case ["bench", *_]:
            from ffdist.cli.bench import Bench

            return Bench, Bench("all")
        case ["data", name, *_]:
            from ffdist.cli.data import COMMANDS as OF_DATA

            return OF_DATA.get(name), None
        case ["eval" | "predict" | "export" | "report" | "doctor", *_]:
            return plain_command(words[0]), None
        case _:
            return None, None


def plain_command(name: str) -> type:
    if name == "eval":
        from ffdist.cli.evaluate import Eval as Found
    elif name == "predict":
        from ffdist.cli.predict import Predict as Found
    elif name == "export":
        from ffdist.cli.export import Export as Found
    elif name == "report":
        from ffdist.cli.report import Report as Found
    else:
        from ffdist.cli.doctor import Doctor as Found
    return Found


def places(words: list[str]) -> list[str]:
    """What stands without an option: a preset, a name, a theme; nothing where it is a path."""
    from ffdist.known import MODEL_PLACES, OBJECTIVE_PLACES
    from ffdist.presets import NAMES, PRESETS
    from ffdist.settings import GROUP_OF

    if words[-1].startswith("-"):
        return []
    match words[0]:
        case "train":
            return [] if set(words) & set(PRESETS) else list(PRESETS)
        case "presets":
            return list(PRESETS)
        case "rules":
            return [*OBJECTIVE_PLACES, "backprop"]
        case "models":
            return list(MODEL_PLACES)
        case "datasets":
            return list(NAMES)
        case "settings":
            return list(GROUP_OF)
        case "bench":
            from ffdist.bench.settings import THEME_NAMES

            return list(THEME_NAMES)
        case "data":
            return ["list", "prepare", "check"] if len(words) == 1 else list(NAMES)
        case "completion":
            return list(SCRIPTS)
        case _:
            return []
