"""`ffdist predict`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.table import Table

from ffdist.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor

    from ffdist.runtime.run import DataFacts


@dataclass(frozen=True)
class Predict:
    """The class of each picture, by a run's last snapshot."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Pictures of any size and mode; they are resized and converted as the network wants them."""
    predictor: str = "mean"
    """Whose scores decide: mean, last, weighted, fusion, or a block's name."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object for each picture."""


def main(args: Sequence[str]) -> None:
    command = tyro.cli(Predict, args=list(args), prog="ffdist predict")
    if not command.images:
        raise ConfigError("there are no pictures to predict", expected="ffdist predict RUN PICTURE ...")
    import torch  # behind the parsing

    from ffdist.runtime.run import load_classifier

    classifier, _, facts = load_classifier(command.run)
    classifier.choose(command.predictor)
    rows = []
    for path in command.images:
        with torch.no_grad():
            shares = classifier(read_picture(path, facts)).softmax(1)[0]
        best = int(shares.argmax())
        rows.append({"image": str(path), "class": facts.classes[best], "index": best, "share": float(shares[best])})
    if command.json:
        print("\n".join(json.dumps(row) for row in rows))
        return
    table = Table("picture", "class", "share of the scores' softmax")
    for row in rows:
        table.add_row(row["image"], row["class"], f"{row['share']:.1%}")
    Console().print(table)


def read_picture(path: Path, facts: DataFacts) -> Tensor:
    """A picture as pixels in [0, 1], float32 [1, C, H, W]. Raises DataError when it cannot be read."""
    import numpy as np
    import torch
    from PIL import Image, UnidentifiedImageError

    if len(facts.shape) != 3:
        raise DataError("the network was not trained on pictures", expected="(C, H, W)", got=facts.shape)
    channels, height, width = facts.shape
    try:
        with Image.open(path) as picture:
            converted = picture.convert("L" if channels == 1 else "RGB").resize(
                (width, height), Image.Resampling.BILINEAR
            )
    except (OSError, UnidentifiedImageError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError("a picture cannot be read", where=path, expected="a PNG, JPEG or other picture file", got=why,
                        remedy="name files that exist and are pictures") from error  # fmt: skip
    pixels = np.asarray(converted, dtype=np.float32).reshape(height, width, channels) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]
