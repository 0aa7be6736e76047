"""How long, in which batches, and from which seed a network learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ffdist.errors import ConfigError, setting
from ffdist.settings.base import Group, option


@dataclass(frozen=True)
class TrainingSettings(Group):
    """Epochs and batches."""

    group: ClassVar[str] = "training"

    epochs: int = option(12, least=1, free=True)
    """Passes over the training samples."""
    batch_size: int = option(128, least=1)
    """Samples a batch."""
    microbatches: int = option(1, least=1)
    """Parts in which a batch goes down the pipeline. Less memory a stage; gradients add up over them, and batch norm
    sees a part (as each rank's does under data parallelism)."""
    early_stop: int | None = option(None, least=1, free=True)
    """End after so many epochs without a better one. By the validation accuracy, looked at one epoch behind."""
    seed: int = 0
    """Seed of weights, order, augmentation and splits."""

    def check(self) -> None:
        super().check()
        if self.microbatches > self.batch_size:
            raise ConfigError(
                f"{setting('training.microbatches')} is more than a batch holds",
                expected=f"<= {self.batch_size}",
                got=self.microbatches,
            )
