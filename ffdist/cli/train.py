"""`ffdist train`: its settings. What is done with them is in `ffdist.cli.training`, which imports torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from ffdist.cli.hints import stray
from ffdist.cli.parsing import help_of, parsed, wants_help
from ffdist.errors import ConfigError, setting
from ffdist.loading import loading
from ffdist.notes import note
from ffdist.presets import PRESETS, with_preset
from ffdist.settings import Settings, apply, flat, without_strange_options
from ffdist.settings.toml import read_toml, write_toml

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
BARE = "digits"
"""The preset of a bare `ffdist train`."""
ACTIONS = ("resume", "dry_run")
"""Keys of a settings file that say what to do: the command's own, and no settings."""
MORE = """\
`ffdist settings NAME` says all about a setting; `ffdist presets`, `rules`, `models` and `datasets` list what there is;
`ffdist train PRESET --help` has the preset's values, and `--print-config` what would run.
Settings: defaults < preset < file < command line. A bare `ffdist train` is `ffdist train digits`, whose values stand
here."""


@dataclass(frozen=True)
class Train:
    """Train a network through a pipeline of stages."""

    preset: Annotated[str | None, tyro.conf.Positional] = None
    """Named settings to start from (see `ffdist presets`)."""
    config: Path | None = None
    """TOML file of settings, laid over the preset."""
    resume: Path | None = None
    """Go on from the last snapshot of the run in this folder. With its settings; stages and other ways of running may
    differ. More epochs than before go on at the learning rate that the longer schedule has there."""
    print_config: Flag = False
    """Print what would run, as a TOML file, and stop. Needs no data."""
    dry_run: Flag = False
    """Measure the blocks, print the stages, and stop."""
    json: Flag = False
    """Print one JSON object at the end: what came of it."""
    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)


def parse(args: Sequence[str]) -> Train:
    """The command with its resolved settings. Raises ConfigError for an unknown preset, key or value, and for what may
    not change when a run goes on."""
    args, preset = preset_of(as_told(args))
    told = {arg.split("=")[0].lstrip("-").replace("-", "_") for arg in args if arg.startswith("--")}
    first = parsed(Train, args, "ffdist train", made=Train())
    if first.preset is not None:
        raise stray(first.preset)
    from_file = dict(flat(read_toml(first.config), str(first.config))) if first.config else {}
    actions: dict[str, Any] = {name: from_file.pop(name) for name in ACTIONS if name in from_file}
    resume = first.resume or resumed_by_file(actions, from_file, first)
    base = recorded = recorded_settings(resume) if resume else Settings()
    base = laid_over(base, preset or bare(first, resume), from_file, first.config)
    command = parsed(Train, args, "ffdist train", made=Train(preset, settings=base))
    settings = command.settings
    if resume:
        if told & {"out"} and settings.run.out != resume:
            raise ConfigError(
                f"{setting('resume')} and {setting('run.out')} name two runs",
                expected=f"{resume} alone",
                got=settings.run.out,
                remedy=f"leave {setting('run.out')} out: a run goes on in its own folder",
            )
        settings = settings.changed(out=resume)
    else:
        settings = without_strange_options(settings, base, told)
    if "address" in told and settings.plan.launcher != "ray":
        raise ConfigError(
            f"{setting('ray.address')} is a Ray cluster's",
            expected=setting("plan.launcher", "ray"),
            got=setting("plan.launcher", settings.plan.launcher),
        )
    if resume:
        from ffdist.runtime.folder import check_resumable

        check_resumable(recorded, settings)
    dry_run = command.dry_run or actions.get("dry_run") is True
    return Train(preset, command.config, resume, command.print_config, dry_run, command.json, settings)


def resumed_by_file(actions: dict[str, Any], from_file: dict[str, Any], first: Train) -> Path | None:
    """The run that `resume = true` in a settings file means."""
    if actions.get("resume") is not True:
        return None
    out = first.settings.run.out or from_file.get("out")
    return Path(out) if out else None


def bare(first: Train, resume: Path | None) -> str | None:
    """The preset where nothing says what to train."""
    return BARE if first.config is None and not resume and first.settings.dataset.data == "digits" else None


def laid_over(base: Settings, preset: str | None, from_file: dict[str, Any], file: Path | None) -> Settings:
    if preset is not None:
        base = with_preset(base, preset)
    return apply(base, from_file, str(file)) if from_file else base


def as_told(args: Sequence[str]) -> list[str]:
    """`--resume` without a folder means the one of `--out`, as it has been told in older versions."""
    args = list(args)
    if "--no-resume" in args:
        args.remove("--no-resume")
    if "--resume" not in args:
        return args
    at = args.index("--resume")
    if at + 1 < len(args) and not args[at + 1].startswith("-"):
        return args
    out = next((arg.partition("=")[2] or following for arg, following in zip(args, [*args[1:], ""], strict=True)
                if arg == "--out" or arg.startswith("--out=")), "")  # fmt: skip
    if not out:
        raise ConfigError("which run is to go on?", where=setting("resume"), remedy="ffdist train --resume RUN")
    return [*args[:at], f"--resume={out}", *args[at + 1 :]]


def preset_of(args: Sequence[str]) -> tuple[list[str], str | None]:
    """The arguments without the preset, wherever it stands, and the preset. Raises ConfigError for a second one, and
    for what is none, with what it seems to be."""
    named = [index for index, arg in enumerate(args) if arg in PRESETS and not is_value(args, index)]
    for index, arg in enumerate(args):
        if index not in named and not arg.startswith("-") and (index == 0 or takes_nothing(args[index - 1])):
            raise stray(arg)
    if len(named) > 1:
        raise ConfigError("one preset at a time", where="ffdist train", expected="one",
                          got=", ".join(args[i] for i in named))  # fmt: skip
    rest = [arg for index, arg in enumerate(args) if index not in named]
    return rest, args[named[0]] if named else None


def is_value(args: Sequence[str], index: int) -> bool:
    """Whether a word belongs to the option before it: to all but those that take none, and several."""
    before = args[index - 1] if index else ""
    return before.startswith("--") and "=" not in before and not takes_nothing(before) and not takes_many(before)


def takes_nothing(word: str) -> bool:
    """Whether it is a switch, or an option with its value in it."""
    return word in ("-h", "--help") or (word.startswith("--") and ("=" in word or option_kind(word) is bool))


def takes_many(flag: str) -> bool:
    from ffdist.cli.help import is_many

    return is_many(option_kind(flag))


def option_kind(flag: str) -> Any:
    """The type of an option's value; None for an unknown one."""
    from ffdist.cli.help import arguments_of
    from ffdist.settings import GROUP_OF, kind_of

    name = flag.lstrip("-").removeprefix("no-").replace("-", "_")
    own = {each.name: each.kind for each in arguments_of(Train)}
    return kind_of(name) if name in GROUP_OF else own.get(name)


def recorded_settings(run: Path) -> Settings:
    """Of the run that is to go on."""
    from ffdist.runtime.folder import read_recorded

    return read_recorded(run)


def help_page(args: Sequence[str]) -> str:
    """With the values of a preset where one is named, else of a bare `ffdist train`."""
    preset = next((arg for arg in args if arg in PRESETS), BARE)
    made = Train(preset, settings=with_preset(Settings(), preset))
    named = preset in args
    summary = f"The values are those of the preset {preset}: {PRESETS[preset].summary}." if named else MORE
    return help_of(Train, "ffdist train", made=made, more=summary)


def main(args: Sequence[str]) -> None:
    if wants_help(args):
        print(help_page(args))
        sys.exit(0)
    command = parse(args)
    if command.print_config:
        print(write_toml(command.settings), end="")
        return
    if "RANK" not in os.environ or os.environ["RANK"] == "0":
        note("loading torch, then checking data, network and rule ...")
        sys.stderr.flush()
    with loading():
        from ffdist.cli.training import train

    train(command, ["ffdist", "train", *args])
