"""Data of one's own: a folder of pictures for each class, trained on, kept as a run, loaded again, asked.

python examples/own_data.py
python examples/own_data.py FOLDER    # only draws the pictures, into a new folder
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import ffdist


def draw_pictures(folder: Path) -> None:
    """Draw 300 pictures of two classes, uint8 [32, 32], into a folder for each: discs, and crosses."""
    rng, (y, x) = np.random.default_rng(0), np.mgrid[:32, :32]
    for number in range(300):
        at_y, at_x, size = *rng.uniform(10, 22, 2), rng.uniform(4, 9)
        disc = (y - at_y) ** 2 + (x - at_x) ** 2 < size**2
        cross = (abs(y - at_y) < size / 3) | (abs(x - at_x) < size / 3)
        name, shape = [("cross", cross), ("disc", disc)][number % 2]
        (folder / name).mkdir(parents=True, exist_ok=True)
        picture = np.clip(200 * shape + rng.normal(30, 10, shape.shape), 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / name / f"{number}.png")


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        pictures, run = Path(place) / "pictures", Path(place) / "run"
        draw_pictures(pictures)
        pipeline = ffdist.Pipeline("cnn", "mono-forward", stages=2)
        pipeline.fit(pictures, epochs=3, batch_size=32, augment=["flip"], out=run)  # a fifth becomes the test split
        classifier = ffdist.load(run)
        print(classifier.evaluate(pictures)["accuracy"])
        discs = ffdist.read_pictures(sorted((pictures / "disc").glob("*.png"))[:3], run)
        print([classifier.classes[label] for label in classifier.predict(discs)])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        draw_pictures(Path(sys.argv[1]))
    else:
        main()
