"""A validation split that the data bring is the run's, in place of a share of the training samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from jobs import DigitsJob

from ffdist.data import ArraySplit, Images
from ffdist.errors import ConfigError, DataError
from ffdist.runtime.agree import check_job, validation_note
from ffdist.runtime.job import Job


def job(images: Images | None = None, **settings: object) -> Job:
    """Of the digits, whose test split stands in for a validation split."""
    made = DigitsJob(settings=settings)()
    own = replace(made.images, validation=made.images.test)
    return replace(made, images=images or own)


def test_it_is_validated_on_whole_and_nothing_is_held_out() -> None:
    own = job(validation=None)
    loaders = own.loaders()
    assert loaders.validation is not None
    assert loaders.validation.split is own.images.validation
    assert len(loaders.train.indices) == len(own.images.train)
    assert len(loaders.validation.indices) == len(own.images.validation or ())
    assert "the data's own validation split" in (validation_note(own) or "")
    check_job(own)


def test_without_one_a_fifth_is_held_out() -> None:
    plain = DigitsJob(settings={"validation": None})()
    assert len(plain.loaders().train.indices) == round(0.8 * len(plain.images.train))
    assert validation_note(plain) is None


def test_a_share_beside_it_is_refused_and_none_means_none() -> None:
    with pytest.raises(ConfigError, match=r"a validation split of their own\n  where: dataset.validation=0\.1"):
        check_job(job(validation=0.1))
    without = job(validation=0.0)
    assert without.loaders().validation is None
    assert "is not used" in (validation_note(without) or "")


def test_a_set_to_evaluate_only_is_not_trained_on() -> None:
    images = DigitsJob()().images
    empty = ArraySplit(np.empty((0, 8, 8, 1), np.uint8), np.empty(0, np.int64))
    with pytest.raises(DataError, match=r"no training split\n(.|\n)*ffdist eval RUN --data"):
        job(replace(images, train=empty)).loaders()
