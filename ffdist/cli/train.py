"""`ffdist train`: its settings. What is done with them is in `ffdist.cli.training`, which imports torch."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from ffdist.cli.help import Flag, Positional, arguments_of, is_many, typed_text
from ffdist.cli.hints import stray_word_error
from ffdist.cli.parsing import help_of, parsed_values, split_at_dashes, wants_help
from ffdist.errors import ConfigError, setting
from ffdist.exiting import in_own_program
from ffdist.folders import command
from ffdist.loading import loading
from ffdist.notes import note
from ffdist.presets import PRESETS, with_preset
from ffdist.remote import url_of
from ffdist.runtime.agent import end_with_agent
from ffdist.runtime.heartbeat import Activity
from ffdist.runtime.watchdog import is_alone, watched
from ffdist.settings import GROUP_OF, Settings, apply, as_flag, flat, is_free, kind_of, without_strange_options
from ffdist.settings.toml import read_toml, write_toml
from ffdist.trust import TRUSTING, trust

DEFAULT_PRESET = "digits"
"""The preset of a bare `ffdist train`."""
PROG = "ffdist train"
MORE = """\
`ffdist settings NAME`: all about one. Defaults < preset < file < command line.
`none` takes away what a preset or a file has: --augment none, --clip none.
A bare `ffdist train` is `ffdist train digits`, whose values stand here."""


CODE_SETTINGS = ("model", "objective", "optimizer", "augment", "preprocess", "callback", "metric", "transport")
"""Settings that may name code: what the command line says of them is its user's word."""


@dataclass(frozen=True)
class Train:
    """Train a network through a pipeline of stages."""

    preset: Annotated[str | None, Positional] = None
    """Named settings to start from (see `ffdist presets`)."""
    config: Path | None = None
    """TOML file of settings, which override the preset's."""
    resume: Path | None = None
    """Go on from the last snapshot of the run in this folder. With its settings; stages and other ways of running
    may differ. More epochs than before go on at the learning rate that the longer schedule has there."""
    replay: Path | None = None
    """Learn one batch of a run again, by itself. Says what each block made of it. In this process, from the last
    snapshot before it; the run is left as it is. Without --batch the last of those that brought a block to NaN."""
    batch: int | None = None
    """The batch that --replay learns, counted from 1."""
    trust: Flag = False
    """Run code that the run's settings name. Needed where others began it; code with which this user began a run
    may."""
    print_config: Flag = False
    """Print what would run, as a TOML file, and stop. Needs no data. With --json as one JSON object."""
    dry_run: Flag = False
    """Measure the blocks, print the stages, and stop."""
    json: Flag = False
    """Print the result as one JSON object."""
    settings: Settings = field(default_factory=Settings)


def parse(args: Sequence[str]) -> Train:
    """The command with its resolved settings. Raises ConfigError for an unknown preset, key or value, and for what may
    not change when a run goes on; UsageError for a command line that cannot be read."""
    args, preset = split_off_preset(with_resume_folder(args))
    values = parsed_values(Train, args, PROG, made=Train())
    if "preset" in values:
        raise stray_word_error(values["preset"])
    if values.pop("trust", False):
        TRUSTING.set(True)
    if "replay" in values or "batch" in values:
        return replay_command(values)
    file = values.pop("config", None)
    from_file = flat(read_toml(file), str(file)) if file else {}
    actions = actions_of(from_file, file)
    output = {name: values.pop(name) for name in ("print_config", "dry_run", "json") if name in values}
    resume = values.pop("resume", None) or run_resumed_by_file(actions, values.get("out") or from_file.get("out"), file)
    named, resume = resume, resume and local_folder(resume)
    base = recorded = recorded_settings(resume) if resume else Settings()
    bare = DEFAULT_PRESET if not file and not resume and values.get("data", DEFAULT_PRESET) == DEFAULT_PRESET else None
    if resume and preset:
        base = preset_over_recorded(base, preset, values)
    elif preset or bare:
        base = with_preset(base, preset or DEFAULT_PRESET)
    base = apply(base, from_file, str(file)) if from_file else base
    settings = base.changed(**values)
    settings = (
        with_run_folder(settings, resume, values, named) if resume else without_strange_options(settings, base, values)
    )
    if "address" in values and settings.plan.launcher != "ray":
        raise ConfigError(
            f"{setting('ray.address')} is a Ray cluster's",
            expected=setting("plan.launcher", "ray"),
            got=setting("plan.launcher", settings.plan.launcher),
        )
    if resume:
        with loading():
            from ffdist.runtime.folder import check_resumable
            from ffdist.runtime.own_code import named_code

        trust(named_code(Settings().changed(**{name: values[name] for name in CODE_SETTINGS if name in values})))
        check_resumable(recorded, settings)
    dry_run = output.get("dry_run", False) or actions.get("dry_run", False)
    flags = {"print_config": output.get("print_config", False), "dry_run": dry_run, "json": output.get("json", False)}
    return Train(preset, file, resume, **flags, settings=settings)


def replay_command(values: Mapping[str, Any]) -> Train:
    """Raises ConfigError for anything else beside the run and the batch: it is learned as the run has it."""
    if "replay" not in values:
        raise ConfigError(
            f"{setting('batch')} is for {setting('replay')}",
            got=setting("batch", values["batch"]),
            remedy=f"{setting('training.batch_size')} is how many samples a batch has",
        )
    if others := [name for name in values if name not in ("replay", "batch", "json")]:
        raise ConfigError(
            f"{setting('replay')} takes the run's own settings",
            expected=f"{setting('batch')} alone beside it",
            got=" ".join(map(as_flag, others)),
            remedy="leave the others out",
        )
    return Train(replay=values["replay"], batch=values.get("batch"), json=values.get("json", False))


def with_run_folder(settings: Settings, run: Path, values: Mapping[str, Any], named: Path | None = None) -> Settings:
    """The settings of a run that goes on. named: its folder as the user typed it.

    Raises ConfigError where another folder is given for its output.
    """
    if "out" in values and settings.run.out not in (run, named):
        raise ConfigError(
            f"{setting('resume')} and {setting('run.out')} name two runs",
            expected=f"{run} alone",
            got=settings.run.out,
            remedy=f"leave {setting('run.out')} out: a run goes on in its own folder",
        )
    return settings.changed(out=run)


def actions_of(from_file: dict[str, Any], file: Path | None) -> dict[str, Any]:
    """Take the actions out of a settings file. Raises ConfigError for what a file cannot say."""
    actions = {name: from_file.pop(name) for name in ("resume", "dry_run") if name in from_file}
    for name in ("preset", "config", "print_config", "json", "quiet", "verbose"):
        if name in from_file:
            raise ConfigError(
                f"'{name}' is no setting of a file", where=file, remedy=on_command_line(name, from_file[name], file)
            )
    for name, kinds in (("resume", (bool, str)), ("dry_run", bool)):
        if not isinstance(actions.get(name, False), kinds):
            raise ConfigError(f"'{name}' has a wrong value", where=file, expected="true or false", got=actions[name])
    return actions


def on_command_line(name: str, value: object, file: Path | None) -> str:
    """The spelling on the command line of an action from a file."""
    if name == "preset":
        return command("train", value, "--config", file or "FILE")
    return f"leave it out, and say {setting(name)} on the command line, where you want it"


def run_resumed_by_file(actions: Mapping[str, Any], out: object, file: Path | None) -> Path | None:
    """The run that `resume` in a settings file means: that of `out` where it is `true`, as older files have it."""
    resume = actions.get("resume", False)
    if resume is True and out is None:
        raise ConfigError(
            "which run is to go on?", where=file, got="resume = true, without out", remedy="ffdist train --resume RUN"
        )
    return Path(str(out)) if resume is True else Path(resume) if resume else None


def preset_over_recorded(recorded: Settings, preset: str, typed: Collection[str]) -> Settings:
    """The settings of a resumed run for which a preset is named again, as a job that is submitted twice does.

    Settings that decide what is learned are the preset's, to be compared with the run's; all others stay the run's.
    typed: settings on the command line, which override both.
    """
    named = with_preset(recorded, preset)
    kept = {name: value for name, value in recorded.items() if is_free(name) and value != named.value(name)}
    differing = [
        f"{as_flag(name)} {typed_text(value)}" for name, value in kept.items() if name not in typed and name != "data"
    ]
    if differing and os.environ.get("RANK", "0") == "0":
        note(f"the run goes on with its own settings where the preset {preset} has others: {', '.join(differing)}")
    return named.changed(**kept)


def with_resume_folder(args: Sequence[str]) -> list[str]:
    """Arguments in which `--resume` has its folder: without one it means that of `--out`, as in older versions."""
    args = [arg for arg in args if arg != "--no-resume"]
    if "--resume" not in args:
        return args
    at = args.index("--resume")
    pairs = zip(args, [*args[1:], ""], strict=True)
    outs = [arg.partition("=")[2] or following for arg, following in pairs if arg.partition("=")[0] == "--out"]
    after = args[at + 1] if at + 1 < len(args) else "-"
    if not after.startswith("-") and not (outs and after in PRESETS):  # scripts put `--out RUN --resume` first
        return args
    if not outs:
        raise ConfigError("which run is to go on?", where=setting("resume"), remedy="ffdist train --resume RUN")
    return [*args[:at], f"--resume={outs[-1]}", *args[at + 1 :]]


def split_off_preset(args: Sequence[str]) -> tuple[list[str], str | None]:
    """The arguments without the preset, wherever it stands, and the preset. Raises ConfigError for a second one, and
    for what is none, with what it seems to be."""
    args, tail = split_at_dashes(args)
    named = [index for index, arg in enumerate(args) if arg in PRESETS and not is_value(args, index)]
    for index, arg in enumerate(args):
        if index not in named and not arg.startswith("-") and (index == 0 or takes_no_value(args[index - 1])):
            raise stray_word_error(arg)
    found = [*(args[index] for index in named), *tail]
    for word in found:
        if word not in PRESETS:
            raise stray_word_error(word)
    if len(found) > 1:
        raise ConfigError("one preset at a time", where=PROG, expected="one", got=", ".join(found))
    return [arg for index, arg in enumerate(args) if index not in named], found[0] if found else None


def is_value(args: Sequence[str], index: int) -> bool:
    """True if a word belongs to the option before it: to all but those that take none, and several."""
    before = args[index - 1] if index else ""
    return before.startswith("--") and "=" not in before and not takes_no_value(before) and not takes_many(before)


def takes_no_value(word: str) -> bool:
    """True if it is a switch, an option with its value in it, or a preset."""
    if word in ("-h", "--help") or word in PRESETS:
        return True
    return word.startswith("--") and ("=" in word or option_kind(word) is bool)


def takes_many(flag: str) -> bool:
    return is_many(option_kind(flag))


def option_kind(flag: str) -> Any:
    """The type of an option's value; None for an unknown one."""
    own = {each.name: each.kind for each in arguments_of(Train)}
    names = [flag[2:].replace("-", "_"), flag.removeprefix("--no-").replace("-", "_")]
    name = next((each for each in names if each in GROUP_OF or each in own), "")
    return kind_of(name) if name in GROUP_OF else own.get(name)


def local_folder(run: Path) -> Path:
    """The run's folder; of one at an address, what is there, fetched."""
    if url_of(run) is None:
        return run
    from ffdist.snapshot.mirror import pulled

    return pulled(run)


def recorded_settings(run: Path) -> Settings:
    """The settings of the run that is to go on."""
    with loading():
        from ffdist.runtime.folder import read_recorded

    return read_recorded(run)


def help_page(args: Sequence[str]) -> str:
    """The help with the values of a preset where one is named, else of a bare `ffdist train`."""
    _, named = split_off_preset([arg for arg in args if arg not in ("-h", "--help")])
    preset = named or DEFAULT_PRESET
    made = Train(preset, settings=with_preset(Settings(), preset))
    summary = f"The values are those of the preset {preset}: {PRESETS[preset].summary}." if named else MORE
    return help_of(Train, PROG, made=made, more=summary)


def main(args: Sequence[str]) -> None:
    if wants_help(args):
        print(help_page(args))
        sys.exit(0)
    made = parse(args)
    if made.replay:
        with loading():
            from ffdist.cli.replay import show

        show(made.replay, made.batch, as_json=made.json)
        return
    if made.print_config:
        print(json.dumps(asdict(made.settings), default=str) + "\n" if made.json else write_toml(made.settings), end="")
        return
    if {"TORCHELASTIC_RUN_ID", "LOCAL_RANK"} <= os.environ.keys():
        end_with_agent()
    if "RANK" not in os.environ or os.environ["RANK"] == "0":
        note("loading torch, then checking data, network and rule ...")
        sys.stderr.flush()
    with watched(made.settings.run.timeout, Activity()) if is_alone() else nullcontext():
        with loading():
            from ffdist.cli.training import train
            from ffdist.runtime.fork_server import start_fork_server

        plan = made.settings.plan
        if in_own_program() and plan.launcher == "processes" and "RANK" not in os.environ and not made.dry_run:
            start_fork_server(made.settings.compute.device)
        train(made, ["ffdist", "train", *args])
