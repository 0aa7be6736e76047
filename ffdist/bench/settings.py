"""What `ffdist bench` can be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ffdist.config import TrainSettings
from ffdist.errors import ConfigError

if TYPE_CHECKING:
    from ffdist.bench.jobs import BenchJob

COUNTS = ("devices", "queue", "batch_size", "microbatches", "threads", "rounds", "warmup", "qualifying", "epochs")
"""Settings of at least 1."""
Theme = Literal["throughput", "memory", "depth", "scaling", "bandwidth", "transport", "loader", "accuracy", "all"]


@dataclass(frozen=True)
class BenchSettings:
    """Everything a benchmark can be told; both sides of a comparison get the same of it."""

    data: str = "digits"
    """Data set: "digits" (embedded), or the folder of a prepared one."""
    model: str = "cnnb"
    """Network: a built-in name, or module:function."""
    model_args: tuple[str, ...] = ()
    """Options of the network as key=value."""
    split: str | None = None
    """Short for the network's option split, e.g. block for resnet18."""
    objective: str = "sff"
    """ffdist's local learning rule."""
    objective_args: tuple[str, ...] = ()
    """Options of the rule as key=value."""
    image_size: int | None = None
    """Resize pictures. Default: digits to 32 (28 for an mlp), other data as they are."""
    augment: tuple[Literal["crop", "flip"], ...] = ()
    """Random changes of training pictures, on both sides."""
    devices: int = 2
    """Devices each side has: stages here, ranks there; on a CPU processes of --threads each."""
    stages: int | None = None
    """Stages of ffdist's pipeline. Default: one a device; more than cores lets the system balance what a cut cannot."""
    cut: tuple[int, ...] = ()
    """Blocks in each stage. Default: by measured time."""
    queue: int = 2
    """Batches an edge holds at most."""
    transport: Literal["auto", "shared-memory", "gloo", "nccl", "xccl"] = "auto"
    """How activations travel."""
    against: tuple[str, ...] = ("ddp",)
    """Baselines: ddp or pipeline (variants tried, the fastest taken), bp, fsdp, ddp-accumulate, ..., a variant by name,
    or ff (ffdist itself in one process)."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Arithmetic of both sides."""
    batch_size: int = 128
    """Samples a batch in all, whatever the number of devices."""
    microbatches: int = 1
    """Parts in which ffdist's batches go down the pipeline."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """Optimiser of both sides, fused."""
    lr: float = 1e-3
    """Learning rate of both sides."""
    lrs: tuple[float, ...] = ()
    """accuracy: learning rates each side tries beforehand, to go on with its best. Default: --lr for both."""
    device: str = "auto"
    """Where both sides compute: cpu, cuda, mps, xpu, ... auto: GPUs where there are enough, else the CPU."""
    threads: int = 1
    """Computing threads a process."""
    compiled: bool = False
    """Try torch.compile too, on both sides, and take it where it helps a side."""
    rounds: int = 7
    """Rounds that must pass the probe; every side works once in each."""
    seconds: float = 5.0
    """Length of one side's window in a round, about."""
    warmup: int = 5
    """Batches before each window."""
    qualifying: int = 3
    """Short rounds in which a baseline's variants compete; accuracy: runs with each of --lrs and --lengths, a side."""
    depths: tuple[int, ...] = (6, 12, 24, 48)
    """depth: blocks of the networks compared."""
    rates: tuple[str, ...] = ("100mbit", "1gbit", "10gbit", "unlimited")
    """bandwidth: rates of the link between two hosts, as tc writes them."""
    target: float = 0.75
    """accuracy: validation accuracy to reach, as a fraction."""
    epochs: int = 30
    """accuracy: passes over the data at most; the cosine schedule is as long."""
    lengths: tuple[int, ...] = ()
    """accuracy: values of --epochs each side tries beforehand, with each of --lrs, to go on with its best."""
    seed: int = 0
    """Seed of weights and order."""
    json: bool = False
    """Print the result as JSON, and no table."""
    record: Path | None = None
    """Write a record (JSON, Markdown, plot) into this directory."""

    def __post_init__(self) -> None:
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is too small", expected=">= 1", got=getattr(self, name))
        for name, least in (("lengths", min(self.lengths, default=1)), ("lrs", min(self.lrs, default=1.0))):
            if not least > 0:
                raise ConfigError(f"--{name} has a value that is too small", expected="> 0", got=least)

    @property
    def network(self) -> str:
        """With what was asked of it."""
        return _named(self.model, (*self.model_args, *([f"split={self.split}"] if self.split else [])))

    @property
    def subject(self) -> str:
        """The network and the rule."""
        return f"{self.network}, {_named(self.objective, self.objective_args)}"

    @property
    def num_stages(self) -> int:
        return self.stages or len(self.cut) or self.devices

    def job(self, stages: int, *, compiled: bool = False) -> BenchJob:
        """The job of a pipeline with so many stages; sent to its processes."""
        from ffdist.bench.jobs import BenchJob  # it imports torch, which `ffdist bench --help` can do without

        return BenchJob(self.train_settings(stages), stages, compiled)

    def train_settings(self, stages: int) -> TrainSettings:
        """What `ffdist train` would be told."""
        split = () if self.split is None else (f"split={self.split}",)
        return TrainSettings(
            data=self.data, model=self.model, model_args=(*self.model_args, *split), objective=self.objective,
            objective_args=self.objective_args, image_size=self.size, augment=self.augment, queue=self.queue,
            cut=self.cut if len(self.cut) == stages else (), transport=self.transport, precision=self.precision,
            batch_size=self.batch_size, microbatches=self.microbatches, optimizer=self.optimizer,
            lr=self.lr, schedule="constant", validation=0.0, device=self.place, threads=self.threads, seed=self.seed,
        )  # fmt: skip

    @property
    def place(self) -> str:
        """Of all sides alike, those of one process, too: GPUs where there are enough for all devices."""
        from ffdist.device import seen  # it imports torch, which `ffdist bench --help` can do without

        kind, count = seen()
        return (kind if kind and count >= self.devices else "cpu") if self.device == "auto" else self.device

    @property
    def size(self) -> int | None:
        if self.image_size is None and self.data == "digits":
            return 28 if self.model == "mlp" else 32
        return self.image_size


def _named(name: str, options: Sequence[str]) -> str:
    return f"{name} ({', '.join(options)})" if options else name
