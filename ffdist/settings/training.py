"""Training: how long, in which batches, and from which seed a network learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ffdist.errors import ConfigError, setting
from ffdist.settings.base import SettingsGroup, option


@dataclass(frozen=True)
class TrainingSettings(SettingsGroup):
    """Epochs and batches."""

    group: ClassVar[str] = "training"

    epochs: int = option(12, ge=1, free=True)
    """Passes over the training samples."""
    batch_size: int = option(128, ge=1)
    """Samples in a batch, over all workers together."""
    microbatches: int = option(1, ge=1, rare=True)
    """Parts in which a batch goes down the pipeline. More parts take less memory a stage; gradients add up over them,
    and batch norm sees a part (as each rank's does under data parallelism)."""
    lanes: int | None = option(None, ge=1)
    """Parts of a batch that different workers may compute. Each goes down in as many microbatches; their gradients add
    up in a fixed tree, so that no plan changes a bit. Default: 1, or what the plan needs."""
    exchange_dtype: Literal["fp32", "bf16"] = option("fp32", rare=True)
    """Type to which lanes' gradients are rounded before they are added up. bf16 halves what workers of a stage
    exchange. They are rounded under every plan, so that no plan changes a bit; those of one lane are not."""
    sync_norms: bool = option(False, rare=True)
    """Batch norm by the statistics of all lanes, as SyncBatchNorm. Else each microbatch has its own. Workers that share
    a block wait for one another at each of its norms. With 1 microbatch a lane."""
    early_stop: int | None = option(None, ge=1, free=True)
    """End after N epochs without a better one. By validation accuracy (of --keep-best's predictor,
    or the mean), looked at one epoch later; the best epoch's snapshot is kept, tested, and what `eval` takes."""
    on_nan: Literal["stop", "skip"] = option("stop", free=True, rare=True)
    """What to do about NaN or infinity: stop or skip. In a block's loss, output or gradients. stop: the run ends, and
    says block, batch and epoch. skip: the block takes no step in that batch, the same under any plan; 21 batches in a
    row end the run. RUN/nonfinite keeps the samples' numbers; --replay learns the batch alone. fp16 skips by itself."""
    seed: int = 0
    """Seed of weights, order, augmentation and splits. The order is that of the samples."""

    def check(self) -> None:
        super().check()
        if (self.lanes or 1) * self.microbatches > self.batch_size and (self.lanes or 1) > 1:
            raise ConfigError(
                f"{setting('training.lanes')} times {setting('training.microbatches')} is more than a batch holds",
                expected=f"<= {self.batch_size}",
                got=f"{self.lanes} * {self.microbatches}",
            )
        if self.sync_norms and self.microbatches > 1:
            raise ConfigError(
                f"{setting('training.sync_norms', True)} needs all of a batch at once",
                expected=setting("training.microbatches", 1),
                got=self.microbatches,
            )
        if self.microbatches > self.batch_size:
            raise ConfigError(
                f"{setting('training.microbatches')} is more than a batch holds",
                expected=f"<= {self.batch_size}",
                got=self.microbatches,
            )
