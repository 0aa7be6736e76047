"""The data that settings name."""

from __future__ import annotations

from ffdist.data import Images, open_data
from ffdist.data.preparation import as_data_args, from_texts
from ffdist.data.presenting import as_network_input
from ffdist.errors import FfdistError, setting
from ffdist.settings import DatasetSettings


def open_dataset(dataset: DatasetSettings) -> Images:
    """Fetched and prepared on the way where they are not yet.

    Raises DataError and ConfigError as `open_data` does, with remedies in words of the settings.
    """
    preparation = from_texts(dataset.data_args, setting("dataset.data_args"))
    size = None if dataset.preprocess else dataset.image_size
    try:
        images = open_data(
            dataset.data, size, data_root=dataset.data_root, download=dataset.download, prepared_as=preparation
        )
    except FfdistError as error:
        raise as_data_args(error) from error
    return with_preprocessing(images, dataset)


def with_preprocessing(images: Images, dataset: DatasetSettings) -> Images:
    """Samples in the size and on the scale that these settings say. Raises ConfigError as `as_network_input` does."""
    return as_network_input(
        images, image_size=dataset.image_size, preprocess=dataset.preprocess, mean=dataset.mean, std=dataset.std
    )
