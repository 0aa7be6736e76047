"""The data that settings name."""

from __future__ import annotations

from ffdist.data import Images, open_data
from ffdist.data.preparation import as_data_args, from_texts
from ffdist.errors import FfdistError, setting
from ffdist.settings import DatasetSettings


def open_told(told: DatasetSettings) -> Images:
    """Fetched and prepared on the way where they are not yet.

    Raises DataError and ConfigError as `open_data` does, with remedies in words of the settings.
    """
    preparation = from_texts(told.data_args, setting("dataset.data_args"))
    try:
        return open_data(told.data, told.image_size, data_root=told.data_root, download=told.download, told=preparation)
    except FfdistError as error:
        raise as_data_args(error) from error
