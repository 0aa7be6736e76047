"""A trained run, measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ffdist.data import Images
from ffdist.data.fitting import no_test_error
from ffdist.pipeline.measure import SplitMeasurement, measure
from ffdist.runtime.run import network, trained
from ffdist.settings import Settings


def measure_run(
    run: Path,
    settings: Settings,
    images: Images,
    *,
    batch_size: int | None = None,
    views: Sequence[str] = (),
    snapshot: str | int = "final",
) -> SplitMeasurement:
    """A snapshot on the test split of `images`, normalised as the run's own data.

    batch_size: default the run's own. views: as `measure` has them. snapshot: "final", "last", "best", or a step.
    Raises DataError without a test split, SnapshotError as `SnapshotStore.load`.
    """
    chain, objective = network(settings, images.shape, images.num_classes, run=run)
    if images.test is None:
        raise no_test_error(images)
    classifier = trained(run, chain, objective, images, settings, snapshot)
    return measure(classifier, images, images.test, batch_size=batch_size, views=views)
