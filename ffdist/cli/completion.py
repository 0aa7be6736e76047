"""`ffdist completion`: what a shell needs to complete commands, options, their values and presets."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ffdist.cli.help import Argument, Positional, choices_of, is_many
from ffdist.cli.parsing import known_arguments, parsed

BASH = """\
_ffdist() {
    local line word=${COMP_WORDS[COMP_CWORD]#=}
    COMPREPLY=()
    while IFS= read -r line; do COMPREPLY+=("$line"); done < <(
        ffdist completion words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    if [[ ${#COMPREPLY[@]} -eq 0 ]]; then
        while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "$word")
    fi
}
complete -o filenames -F _ffdist ffdist
"""
ZSH = """\
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -i }
_ffdist() {
    local -a before found
    before=(${(Q)words[2,CURRENT-1]})
    found=(${(f)"$(ffdist completion words -- $before "${(Q)PREFIX}" 2>/dev/null)"})
    if (( $#found )); then
        compadd -- $found
    else
        compset -P '--*='
        _files
    fi
}
compdef _ffdist ffdist
"""
FISH = """\
function __ffdist_words
    set -l word (commandline -ct)
    set -l found (ffdist completion words -- (commandline -opc)[2..-1] $word 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\\n' $found
    else if string match -qr -- '^--.*=' $word
        set -l parts (string split -m 1 = -- $word)
        printf "$parts[1]=%s\\n" (__fish_complete_path $parts[2])
    else
        __fish_complete_path $word
    end
end
complete -c ffdist -f -a '(__ffdist_words)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


@dataclass(frozen=True)
class Completion:
    """Print the script by which a shell completes ffdist's commands."""

    shell: Annotated[Literal["bash", "zsh", "fish"], Positional]
    """bash, zsh or fish."""


MORE = """\
bash: eval "$(ffdist completion bash)" in ~/.bashrc
zsh: eval "$(ffdist completion zsh)" in ~/.zshrc
fish: ffdist completion fish | source, in ~/.config/fish/config.fish"""


def main(args: Sequence[str]) -> None:
    if list(args[:2]) == ["words", "--"]:  # asked by the scripts
        for found in completions(list(args[2:])):
            print(found)
        return
    print(SCRIPTS[parsed(Completion, args, "ffdist completion", more=MORE).shell], end="")


def completions(words: list[str]) -> list[str]:
    """The completions of the last of the words, after `ffdist`; none where files are wanted."""
    from ffdist.cli import COMMANDS

    *before, last = without_equals(words or [""])
    before = [word for word in before if word not in GLOBAL]
    flag, equals, value = last.partition("=")
    if last.startswith("--") and equals:
        return [f"{flag}={each}" for each in starting_with(value, options_of(before).get(flag, []))]
    if not before or before == ["help"]:
        return starting_with(last, GLOBAL if last.startswith("-") else [*COMMANDS, *(["help"] if not before else [])])
    options = options_of(before)
    if last.startswith("-"):
        switches = [f"--no-{flag[2:]}" for flag in negatable_switches(before)] if last.startswith("--n") else []
        return starting_with(last, [*options, *switches, *GLOBAL])
    if before[-1] in options and before[-1] not in switches_of(before):
        return starting_with(last, options[before[-1]])
    many = next((word for word in reversed(before) if word.startswith("-")), "")
    if many in multi_valued_options(before) and (found := starting_with(last, options[many])):
        return found
    return starting_with(last, positional_completions(before))


GLOBAL = ["--help", "--quiet", "--verbose", "-h", "-q", "-v"]


def without_equals(words: list[str]) -> list[str]:
    """The words without the "=" between option and value: bash gives --lr=3 as three words."""
    return [*(word for word in words[:-1] if word != "="), "" if words[-1] == "=" else words[-1]]


def starting_with(word: str, choices: list[str]) -> list[str]:
    """The choices that begin with the word."""
    return [choice for choice in choices if choice.startswith(word)]


def arguments_of_command(words: list[str]) -> list[Argument]:
    """All arguments of the command, with those of its groups of settings."""
    kind, made = command_of(words)
    return known_arguments(kind, made) if kind is not None else []


def options_of(words: list[str]) -> dict[str, list[str]]:
    """The options of the command, with their values where they are known."""
    from ffdist.known import MODEL_PLACES, OBJECTIVE_PLACES, TRANSFORM_PLACES, baseline_names
    from ffdist.settings.optim import OPTIMIZERS

    names = {
        "--model": list(MODEL_PLACES),
        "--objective": [*OBJECTIVE_PLACES, "backprop"],
        "--optimizer": list(OPTIMIZERS),
        "--augment": list(TRANSFORM_PLACES),
        "--preprocess": ["resize", "center-crop"],
        "--against": [*baseline_names(), "ff"],
        "--snapshot": ["final", "last", "best"],
        "--data": ["digits", *(str(path.parent) for place in (".", "data") for path in Path(place).glob(PREPARED))],
    }
    found = [each for each in arguments_of_command(words) if not each.positional]
    return {each.flag: names.get(each.flag) or list(map(str, choices_of(each.kind))) for each in found}


PREPARED = "*/manifest.json"


def switches_of(words: list[str]) -> set[str]:
    """Options without a value."""
    return {each.flag for each in arguments_of_command(words) if each.kind is bool}


def negatable_switches(words: list[str]) -> list[str]:
    """Switches that have a form that turns them off."""
    return [each.flag for each in arguments_of_command(words) if each.kind is bool and each.both]


def multi_valued_options(words: list[str]) -> set[str]:
    """Options that take several values."""
    return {each.flag for each in arguments_of_command(words) if is_many(each.kind_if_given)}


def command_of(words: list[str]) -> tuple[type | None, object]:
    """The dataclass of the command's arguments, and one with its groups of settings, where it has such."""
    match words:
        case ["train", *_]:
            from ffdist.cli.train import Train

            return Train, Train()
        case ["plan", *_]:
            from ffdist.cli.plan import PlanCommand

            return PlanCommand, PlanCommand()
        case ["bench", "faults" | "soak" as name, *_]:
            from ffdist.cli.faults import Faults, Soak

            return Faults if name == "faults" else Soak, None
        case ["bench", *_]:
            from ffdist.cli.bench import Bench

            return Bench, Bench("all")
        case ["data", name, *_]:
            from ffdist.cli.data import COMMANDS as DATA_COMMANDS

            return DATA_COMMANDS.get(name), None
        case [name, *_] if name in WITHOUT_SETTINGS:
            module, _, kind = WITHOUT_SETTINGS[name].partition(":")
            return getattr(importlib.import_module(f"ffdist.cli.{module}"), kind), None
        case _:
            return None, None


WITHOUT_SETTINGS = {
    "eval": "evaluate:Eval",
    "predict": "predict:Predict",
    "report": "report:Report",
    "watch": "watch:WatchCommand",
    "export": "export:Export",
    "doctor": "doctor:Doctor",
    "rules": "catalog:Rules",
    "models": "catalog:Models",
    "transforms": "catalog:Transforms",
    "presets": "catalog:Presets",
    "datasets": "catalog:Datasets",
    "settings": "catalog:AllSettings",
}
"""Commands that have no groups of settings."""


def positional_completions(words: list[str]) -> list[str]:
    """The completions of a positional argument: a preset, a name, a suite; nothing where it is a path."""
    from ffdist.known import MODEL_PLACES, OBJECTIVE_PLACES, TRANSFORM_PLACES
    from ffdist.presets import NAMES, PRESETS
    from ffdist.settings import GROUP_OF

    match words[0]:
        case "train" | "plan":
            return [] if set(words) & set(PRESETS) else list(PRESETS)
        case "presets":
            return list(PRESETS)
        case "rules":
            return [*OBJECTIVE_PLACES, "backprop"]
        case "models":
            return list(MODEL_PLACES)
        case "transforms":
            return list(TRANSFORM_PLACES)
        case "datasets":
            return list(NAMES)
        case "settings":
            return list(GROUP_OF)
        case "bench":
            from ffdist.bench.settings import SUITE_NAMES
            from ffdist.cli.bench import FAULT_SUITES

            if words[1:2] and words[1] in FAULT_SUITES:
                return []
            return list(PRESETS) if set(words) & set(SUITE_NAMES) else [*SUITE_NAMES, *FAULT_SUITES]
        case "data":
            from ffdist.cli.data import COMMANDS as DATA_COMMANDS

            sources = list(NAMES) if words[1:2] == ["prepare"] else []
            return list(DATA_COMMANDS) if len(words) == 1 else sources
        case "completion":
            return list(SCRIPTS)
        case _:
            return []
