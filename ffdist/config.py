"""The settings of a training run: their meaning, and where they come from (defaults < preset < TOML < command line)."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from math import isfinite
from pathlib import Path
from typing import Any, Literal, get_type_hints

from ffdist.errors import ConfigError
from ffdist.options import convert, describe, nearest


@dataclass(frozen=True)
class TrainSettings:
    """Everything a training run can be told; each field is a flag, and a key of a TOML file (dashes or underscores)."""

    data: str = "digits"
    """Data set: "digits" (embedded), or the folder of a prepared one (`ffdist data prepare`)."""
    model: str = "cnnb"
    """Network: a built-in name (listed above), or module:function returning a Chain."""
    model_args: tuple[str, ...] = ()
    """Options of the network as key=value, e.g. widths=32,64,128."""
    pretrained: str | None = None
    """Start from the weights of a state file (.safetensors, .pth), or "imagenet": torchvision's for --model resnet18,
    mobilenet-v3-small and vit with the options they have there. Classifiers are left out."""
    blocks: tuple[int, ...] = ()
    """How many of the network's blocks in a row make one block each, with one loss, e.g. 2 1. Default: each is one."""
    objective: str = "sff"
    """Local learning rule: a built-in name, module:Class or file.py:Class; "backprop": the twin with one loss."""
    objective_args: tuple[str, ...] = ()
    """Options of the rule as key=value, e.g. kernel=5."""
    fusion: bool = False
    """A linear classifier on all blocks' features, learning as one more block behind the last; --cut counts it."""
    stages: int | None = None
    """Pipeline stages, a process each. Default: torchrun's ranks; else one a GPU; else 2, or 1 with 1 block or core."""
    cut: tuple[int, ...] = ()
    """Blocks in each stage, e.g. 1 2. Default: dealt by measured time; the result is the same for every cut."""
    queue: int = 2
    """Batches an edge between two stages holds at most."""
    transport: Literal["auto", "shared-memory", "gloo", "nccl", "xccl", "object-store"] = "auto"
    """How activations travel. auto: NCCL between GPUs (XCCL between Intel's), shared memory within a host, gloo across
    hosts. object-store: Ray's, for clusters whose nodes reach one another by Ray's own ports alone."""
    launcher: Literal["processes", "threads", "ray"] = "processes"
    """What runs the stages when torchrun does not: a process each, a thread each in this one, or a Ray actor each."""
    address: str | None = None
    """ray: the cluster, "auto" or host:port. Default: RAY_ADDRESS, else a Ray of this host alone, for this run."""
    placement: Literal["pack", "spread"] = "pack"
    """ray: stages on as few nodes as will hold them, or on as many as there are."""
    cpus_per_stage: float = 1.0
    """ray: CPUs reserved for a stage."""
    gpus_per_stage: float | None = None
    """ray: GPUs reserved for a stage, a fraction where stages share one. Default: 1 with --device cuda, and with auto
    where there are enough; else 0."""
    placement_timeout: float = 120.0
    """ray: seconds that the cluster may take to make room for the stages."""
    max_restarts: int = 3
    """ray: how often a run that lost a stage goes on from its last snapshot."""
    out: Path | None = None
    """Run directory. Default: a new one below runs/."""
    resume: bool = False
    """Go on from the last snapshot in --out, with its settings; --stages and other ways of running may differ. More
    --epochs than before go on at the learning rate that the longer schedule has there."""
    dry_run: bool = False
    """Print the resolved settings and the stage table, then stop."""
    epochs: int = 12
    """Passes over the training samples."""
    samples: int | None = None
    """Take this many training samples only, drawn by class and by --seed; the share of --validation is part of them."""
    image_size: int | None = None
    """Resize pictures to this height and width."""
    batch_size: int = 128
    """Samples a batch."""
    microbatches: int = 1
    """Parts in which a batch goes down the pipeline: less memory a stage; gradients add up over them, and batch norm
    sees a part (as each rank's does under data parallelism)."""
    validation: float | None = None
    """Share of the training samples held out for validation, by class and by --seed; 0 for none. Default: the data's
    own validation split, else 0.2."""
    augment: tuple[Literal["crop", "shift", "flip", "alternate", "cutout"], ...] = ()
    """Random changes of training pictures: crop (out of a black margin of an eighth of the side), shift (by up to 2
    pixels, with a reflected margin), flip (left-right), alternate (flip each in every other epoch), cutout (a black
    square of a quarter of the side)."""
    optimizer: Literal["adamw", "adam", "sgd", "muon"] = "adamw"
    """Each block's own optimiser. muon: for filters, and for matrices outside of heads; sgd for the rest."""
    lr: float = 2e-3
    """Learning rate of every block."""
    weight_decay: float = 1e-5
    """Weight decay of every block."""
    momentum: float = 0.9
    """Momentum of sgd, beside muon too."""
    muon_momentum: float = 0.95
    """Momentum of muon."""
    nesterov: bool = False
    """Nesterov's form of momentum, for --optimizer sgd and muon."""
    bias_lr: float | None = None
    """Learning rate of biases, and of scales and shifts of norms. Default: --lr."""
    head_lr: float | None = None
    """Learning rate of what the rule adds beside a block; with muon, of its linear layers. Default: --lr."""
    unit_filters: bool = False
    """muon: before each step, scale each filter and matrix to the norm sqrt(outputs)."""
    ns_steps: int = 5
    """muon: steps of Newton and Schulz's iteration."""
    schedule: Literal["constant", "cosine", "linear", "linear-late", "plateau"] = "cosine"
    """Learning rate over the run: cosine or linear to --end, linear to 0 over the second half, or lowered per block on
    a plateau."""
    warmup: float = 0.0
    """Share of the run over which the learning rate rises from --start."""
    start: float = 0.0
    """Where a warm-up begins, as a share of the learning rate."""
    end: float = 0.0
    """Where cosine and linear schedules end, as a share of the learning rate."""
    patience: int = 10
    """plateau: epochs without a lower validation loss before a block's learning rate falls."""
    factor: float = 0.1
    """plateau: what a block's learning rate is multiplied by."""
    windows: tuple[str, ...] = ()
    """Epochs each block learns in, from:to for every block in epochs done before: 0:11 are epochs 1 to 11, 11:16 are 12
    to 16; a block at rest only passes on."""
    clip: float | None = None
    """Largest norm of a block's gradient."""
    no_decay: tuple[Literal["bias", "norm"], ...] = ()
    """What weight decay spares: biases, scales and shifts of norms. The papers spare nothing."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over the classes, for rules with a cross-entropy over their scores."""
    ema: float | None = None
    """Decay of a moving average of the weights, e.g. 0.999, by which validation, test, eval and export then go."""
    early_stop: int | None = None
    """End after this many epochs without a better validation accuracy (looked at one epoch behind)."""
    snapshot_every: int | None = None
    """Batches between snapshots within an epoch; each epoch's end makes one in any case."""
    keep: int = 2
    """Snapshots kept."""
    seed: int = 0
    """Seed of weights, order, augmentation, dropout and splits."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the blocks: float32, or autocast to bfloat16 (activations then travel as bfloat16)."""
    device: str = "auto"
    """Where blocks live: cpu, cuda, mps, xpu, or one of several, cuda:1. auto: one GPU a stage where there are enough,
    else the CPU."""
    threads: int | None = None
    """Computing threads a stage. Default: OMP_NUM_THREADS, else the cores divided by the stages."""
    timeout: float = 600.0
    """Seconds after which a silent neighbour counts as hung."""

    def __post_init__(self) -> None:
        check_bounds(self)
        parse_windows(self.windows)
        if self.microbatches > self.batch_size:
            raise ConfigError("--microbatches is more than a batch holds", expected=f"<= {self.batch_size}",
                              got=self.microbatches)  # fmt: skip
        if self.validation is not None and not 0 <= self.validation < 1:
            raise ConfigError("--validation is a share", expected="0 <= x < 1", got=self.validation)
        if not DEVICE.fullmatch(self.device):
            raise ConfigError("--device names no device", expected="auto, cpu, cuda, mps, xpu, or cuda:1",
                              got=self.device)  # fmt: skip
        if self.transport == "object-store" and self.launcher != "ray":
            raise ConfigError("--transport object-store is Ray's", expected="--launcher ray", got=self.launcher)
        if self.fusion and self.objective == "backprop":
            raise ConfigError("--fusion reads the blocks' features", expected="a local rule", got="backprop")
        if self.cut and self.stages not in (None, len(self.cut)):
            raise ConfigError("--cut and --stages disagree", expected=f"{len(self.cut)} stages as in --cut",
                              got=f"--stages {self.stages}")  # fmt: skip


def check_bounds(settings: TrainSettings) -> None:
    """Raises ConfigError for a number that is none, too small, or too large."""
    for f in fields(settings):
        value, flag = getattr(settings, f.name), f"--{f.name.replace('_', '-')}"
        if isinstance(value, float) and not isfinite(value):
            raise ConfigError(f"{flag} is not a finite number", got=value)
        if isinstance(value, int) and abs(value) >= 2**63:
            raise ConfigError(f"{flag} is too large", expected="less than 2^63", got=f"{len(str(abs(value)))} digits")
        if f.name in LEAST and value is not None and value < LEAST[f.name]:
            raise ConfigError(f"{flag} is too small", expected=f">= {LEAST[f.name]}", got=value)
        if f.name in MOST and value is not None and value > MOST[f.name]:
            raise ConfigError(f"{flag} is too large", expected=f"<= {MOST[f.name]}", got=value)


DEVICE = re.compile(r"(?!cpu:|auto:|meta)[a-z][a-z0-9_]*(:\d{1,3})?")
LEAST = {
    "epochs": 1, "timeout": 0.1, "gpus_per_stage": 0, "placement_timeout": 0, "max_restarts": 0, "cpus_per_stage": 0.01,
    "batch_size": 1, "microbatches": 1, "queue": 1, "keep": 1, "stages": 1, "samples": 1, "image_size": 1, "threads": 1,
    "snapshot_every": 1, "early_stop": 1,
}  # fmt: skip
MOST = {"timeout": 10**6, "placement_timeout": 10**6, "threads": 1024, "image_size": 4096}
FREE_ON_RESUME = frozenset({
    "data", "stages", "cut", "queue", "transport", "launcher", "out", "resume", "dry_run", "epochs", "keep", "device",
    "threads", "timeout", "snapshot_every", "early_stop", "address", "placement", "cpus_per_stage", "gpus_per_stage",
    "placement_timeout", "max_restarts",
})  # fmt: skip
"""What may differ when a run is resumed (of data, where they lie); all else decides what it learns."""


def apply(settings: TrainSettings, values: Mapping[str, Any], where: str) -> TrainSettings:
    """`settings` with `values` laid over them. Raises ConfigError for an unknown key or a value of the wrong type."""
    hints = get_type_hints(TrainSettings)
    changes = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in hints:
            raise ConfigError(f"unknown setting '{key}'", where=where, remedy=nearest(name, hints))
        try:
            changes[name] = convert(_options(value), hints[name])
        except (TypeError, ValueError, OverflowError) as error:
            raise ConfigError(f"'{key}' has a wrong value", where=where, expected=describe(hints[name]),
                              got=repr(value)) from error  # fmt: skip
    if "out" in changes:
        changes["out"] = Path(changes["out"])
    return without_strange_options(replace(settings, **changes), settings, changes)


def without_strange_options(settings: TrainSettings, before: TrainSettings, told: Collection[str]) -> TrainSettings:
    """`settings` without the options, windows and joined blocks that were `before`'s network's or rule's, where these
    are others now.

    told: names of the settings that are said anew, and so stay.
    """
    changed = [name for name in ("model", "objective") if getattr(settings, name) != getattr(before, name)]
    strange = [f"{name}_args" for name in changed] + ["windows"] * bool(changed) + ["blocks"] * ("model" in changed)
    return replace(settings, **{name: () for name in strange if name not in told})


def parse_windows(texts: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """ "0:11" and so on as pairs of epochs. Raises ConfigError for what is none."""
    try:
        return tuple((int(start), int(end)) for start, end in (text.split(":") for text in texts))
    except ValueError as error:
        raise ConfigError("a window is from:to, in epochs", where="--windows", expected="0:11 0:16 ...",
                          got=" ".join(texts)) from error  # fmt: skip


def read_toml(path: Path) -> dict[str, Any]:
    """The keys of a TOML file; a table of options (`[model_args]`) is a list of key=value."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError("a settings file cannot be read", where=path, got=error.strerror) from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, or a number of thousands of digits
        raise ConfigError("a settings file is not TOML", where=path, got=error) from error


def write_toml(settings: TrainSettings) -> str:
    """The settings as a TOML file that `read_toml` and `apply` turn back into them."""
    lines = [f"{name} = {_toml(value)}" for name, value in asdict(settings).items() if value is not None]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, (int, float)):
        return repr(value)
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _options(value: Any) -> Any:
    """A TOML table of options as key=value texts."""
    if not isinstance(value, Mapping):
        return value
    return [f"{k}={','.join(map(str, v)) if isinstance(v, list) else v}" for k, v in value.items()]
