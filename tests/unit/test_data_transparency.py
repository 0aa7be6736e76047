from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ffdist.data import transparency
from ffdist.data.transparency import laid_over

DRAWS = np.random.default_rng(0)


def clear(kind: str) -> Image.Image:
    image = Image.fromarray(DRAWS.integers(0, 256, (37, 21, 4), np.uint8))
    if kind == "palette":
        image = image.convert("RGB").quantize(16)
        image.info["transparency"] = bytes(range(0, 256, 16))
    if kind == "one colour":
        image = image.convert("L")
        image.info["transparency"] = 7
    return image if kind in ("RGBA", "palette", "one colour") else image.convert(kind)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("kind", ["RGBA", "RGBa", "LA", "La", "PA", "palette", "one colour"])
def test_bands_of_a_picture_composed_over_a_colour_are_the_whole(
    kind: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = clear(kind)
    whole = image.convert("LA") if kind == "La" else image
    expected = Image.alpha_composite(Image.new("RGBA", image.size, "teal"), whole.convert("RGBA")).convert(mode)
    for pixels in (1, 50, 2**20):
        monkeypatch.setattr(transparency, "BAND", pixels)
        assert np.array_equal(np.asarray(laid_over(image, "teal", mode)), np.asarray(expected))


def test_a_large_picture_needs_itself_and_its_result() -> None:
    program = """
import io, resource
from PIL import Image
from ffdist.data.decode import Decoding, decode
file = io.BytesIO()
Image.new("RGBA", (4000, 4000), (10, 20, 30, 128)).save(file, "tiff")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert decode(file.getvalue(), "here", Decoding((8, 8))).shape == (8, 8, 3)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 16_000_000)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    unit = 1024 if sys.platform == "linux" else 1
    assert float(done.stdout) * unit < 6, "bytes a pixel, beside the four of a whole picture"
