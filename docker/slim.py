"""Remove the CUDA libraries that torch does not load with itself: they wait for a GPU, and there will be none."""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision

PACKAGES = Path(torch.__file__).parents[1]


def main() -> None:
    torch.linalg.qr(torchvision.ops.box_iou(torch.rand(4, 4), torch.rand(4, 4)))  # nor when it computes
    loaded = {line.split(maxsplit=5)[-1].strip() for line in Path("/proc/self/maps").read_text().splitlines()}
    unused = [path for path in PACKAGES.glob("nvidia/**/*.so*") if str(path) not in loaded]
    print(f"{sum(path.stat().st_size for path in unused) / 2**20:,.0f} MiB of libraries for GPUs go")
    for path in unused:
        path.unlink()


if __name__ == "__main__":
    main()
