"""The settings of `ffdist bench`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from ffdist.errors import ConfigError, setting
from ffdist.settings import GROUP_OF, Settings
from ffdist.settings.base import SettingsGroup, option

if TYPE_CHECKING:
    from ffdist.runtime.start import SettingsJob

SuiteName = Literal[
    "throughput", "memory", "depth", "scaling", "bandwidth", "transport", "loader", "step", "accuracy", "all"
]
SUITE_NAMES: tuple[str, ...] = get_args(SuiteName)

WINDOW_SECONDS = 5.0
"""Where nobody says otherwise."""


@dataclass(frozen=True)
class CompareSettings(SettingsGroup):
    """The sides to compare, and how to measure them."""

    group: ClassVar[str] = "compare"

    against: tuple[str, ...] = ("ddp",)
    """Baselines, e.g. ddp pipeline bp fsdp. Of ddp and pipeline variants are tried, and the fastest is taken; a variant
    goes by its own name; ff is ffdist itself in one process."""
    devices: int = option(2, ge=1)
    """Devices each side has. Stages here, ranks there; on a CPU processes of so many threads each."""
    split: str | None = None
    """Short for the network's option split, e.g. block for resnet18."""
    compiled: bool = False
    """Try torch.compile too, on both sides. It is taken where it helps a side."""
    rounds: int = option(7, ge=1)
    """Rounds that must pass the probe. Every side works once in each."""
    seconds: float | None = option(None, gt=0)
    """Length of one side's window in a round, about. Default: 5; loader: 1."""
    warmup_batches: int = option(5, ge=1)
    """Batches before each window."""
    qualifying: int = option(3, ge=1)
    """Short rounds in which a baseline's variants compete. accuracy: runs with each of the recipes, a side."""
    lrs: tuple[float, ...] = ()
    """accuracy: learning rates each side tries beforehand. It goes on with its best. Default: the one of both."""
    lengths: tuple[int, ...] = ()
    """accuracy: numbers of epochs each side tries beforehand. With each of the rates; it goes on with its best."""
    recipes: Path | None = None
    """accuracy: TOML file of settings each side tries beforehand, a table each: [[ours]] and [[baseline]]."""
    target: float = option(0.75, gt=0, le=1)
    """accuracy: validation accuracy to reach, as a fraction."""
    memory_limit: str | None = None
    """throughput, memory, bandwidth: memory of a worker, for which --plan auto searches. A size, 60MiB, or a share of
    what a device of DDP's holds, 0.6."""
    depths: tuple[int, ...] = (6, 12, 24, 48)
    """depth: blocks of the networks compared."""
    rates: tuple[str, ...] = ("100mbit", "1gbit", "10gbit", "unlimited")
    """bandwidth: rates of the link between two hosts, as tc writes them."""
    link: str | None = None
    """accuracy: rate of the link between two hosts (network namespaces), as tc writes it. Default: one host."""
    finished: Path | None = None
    """accuracy: folder that keeps finished trainings, so that it can be stopped. The same command goes on after the
    last one; with fewer --rounds it ends with what is there."""
    workers: tuple[int, ...] = (1, 2)
    """loader: numbers of loader workers that are compared, for data kept encoded."""
    picture: Path = Path("trace.svg")
    """throughput --trace: file of the picture (.svg, .png) of ours beside a 1F1B pipeline, batch by batch."""
    json: bool = False
    """Print the result as JSON, and no table."""
    record: Path | None = None
    """Write a record (JSON, Markdown, plot) into this folder."""

    @property
    def window_seconds(self) -> float:
        """Seconds that one side runs in a round."""
        return WINDOW_SECONDS if self.seconds is None else self.seconds

    def check(self) -> None:
        super().check()
        for name, values in (("lengths", self.lengths), ("lrs", self.lrs), ("workers", self.workers)):
            if not min(values, default=1) > 0:
                raise ConfigError(
                    f"{setting(f'compare.{name}')} has a value that is too small", expected="> 0", got=min(values)
                )


BASE = Settings().changed(lr=1e-3, precision="bf16", threads=1, schedule="constant", validation=0.0, epochs=30)
"""The default settings of both sides' training."""
OURS_ALONE = frozenset(
    {
        "pretrained",
        "fusion",
        "early_stop",
        "windows",
        "clip",
        "samples",
        "launcher",
        "compile",
        "tf32",
        "block_rates",
        *(name for name, group in GROUP_OF.items() if group in ("run", "ray", "watch") and name != "trace"),
    }
)
"""Settings of a training run that a comparison has no use for, or that the baselines have not."""


@dataclass(frozen=True)
class BenchSettings:
    """All settings of a benchmark; both sides of a comparison get the same training settings."""

    train: Settings = field(default_factory=lambda: BASE)
    """What is trained, and how."""
    compare: CompareSettings = field(default_factory=CompareSettings)

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raises ConfigError for what both sides of a comparison cannot have."""
        for name, value in self.train.items():
            if name in OURS_ALONE and value != (usual := BASE.value(name)):
                away = setting(f"{GROUP_OF[name]}.{name}", "none" if usual in (None, ()) else usual)
                raise ConfigError(
                    f"{setting(f'{GROUP_OF[name]}.{name}')} is not a setting that both sides of a comparison have",
                    where="ffdist bench",
                    got=" ".join(map(str, value)) if isinstance(value, tuple) else value,
                    remedy=f"leave it out; a preset's is taken away by {away}",
                )
        if self.precision == "fp16":
            raise ConfigError(
                f"{setting('compute.precision', 'fp16')} is not compared: the baselines do not scale their losses",
                where="ffdist bench",
                expected="fp32 or bf16",
                got="fp16",
            )

    def changed(self, **values: Any) -> BenchSettings:
        """The same with other values of some fields, by the fields' own names."""
        own = {f.name for f in fields(CompareSettings)}
        compare = {name: value for name, value in values.items() if name in own}
        train = {name: value for name, value in values.items() if name not in own}
        return replace(self, train=self.train.changed(**train), compare=replace(self.compare, **compare))

    @property
    def network(self) -> str:
        """The network's name, with its options."""
        split = [f"split={self.compare.split}"] if self.compare.split else []
        return _named(self.train.network.model, (*self.train.network.model_args, *split))

    @property
    def subject(self) -> str:
        """The network and the rule."""
        return f"{self.network}, {_named(self.train.rule.objective, self.train.rule.objective_args)}"

    @property
    def model(self) -> str:
        return self.train.network.model

    @property
    def batch_size(self) -> int:
        """Samples a batch in all, whatever the number of devices."""
        return self.train.training.batch_size

    @property
    def precision(self) -> str:
        return self.train.compute.precision

    @property
    def threads(self) -> int:
        """Threads of a process."""
        return self.train.compute.threads or 1

    @property
    def num_stages(self) -> int:
        """Workers of ffdist's side."""
        plan = self.train.plan
        if plan.plan and plan.plan != "auto":
            from ffdist.runtime.planning import given_plan

            return given_plan(plan.plan, self.job(1)().names, self.train.training.lanes).workers
        return plan.stages or len(plan.cut) or self.compare.devices

    def job(self, stages: int, *, compiled: bool = False) -> SettingsJob:
        """Makes the job that `ffdist train` would, of a pipeline with so many stages; sent to its processes."""
        from ffdist.runtime.start import SettingsJob  # it imports torch, which `ffdist bench --help` can do without

        return SettingsJob(self.train_settings(stages).changed(compile=compiled), None, stages)

    @property
    def facts(self) -> dict[str, Any]:
        """The facts of the comparison, for `--json`."""
        return {
            "model": self.network,
            "devices": self.compare.devices,
            "stages": self.num_stages,
            "precision": self.precision,
            "batch": self.batch_size,
        }

    @property
    def by_plan(self) -> bool:
        """True if ffdist's side has a plan in place of stages."""
        return self.train.plan.is_shared

    @property
    def plan_text(self) -> str:
        """The plan and its lanes as text."""
        return f"{self.train.plan.plan}; lanes: {self.train.training.lanes}"

    def train_settings(self, stages: int) -> Settings:
        """The settings as for `ffdist train`, with the blocks of each module where there are modules."""
        train, split = self.train, () if self.compare.split is None else (f"split={self.compare.split}",)
        train = train.changed(model_args=(*train.network.model_args, *split), image_size=self.size, device=self.place)
        if self.by_plan and stages > 1:
            return in_blocks(train)
        return in_blocks(train).changed(cut=train.plan.cut if len(train.plan.cut) == stages else (), stages=stages)

    @property
    def place(self) -> str:
        """The kind of device for all sides alike, those of one process, too: GPUs where there are enough for all
        devices."""
        from ffdist.device import seen  # it imports torch, which `ffdist bench --help` can do without

        kind, count = seen()
        wanted = self.train.compute.device
        return (kind if kind and count >= self.compare.devices else "cpu") if wanted == "auto" else wanted

    @property
    def size(self) -> int | None:
        if self.train.dataset.image_size is None and self.train.dataset.data == "digits":
            return 28 if self.train.network.model == "mlp" else 32
        return self.train.dataset.image_size


_FOUND: dict[object, Settings] = {}


def in_blocks(settings: Settings) -> Settings:
    """The same with blocks in place of `modules`, which are measured once, in the process that compares: all that it
    starts have the same ones, and only it tells of them."""
    if not settings.network.modules:
        return settings
    from ffdist.runtime.start import SettingsJob

    key = (settings.network, settings.rule, settings.dataset)
    if key not in _FOUND:
        _FOUND[key] = SettingsJob(settings, None, 1)().settings
    return replace(settings, network=_FOUND[key].network)


def _named(name: str, options: Sequence[str]) -> str:
    return f"{name} ({', '.join(options)})" if options else name
