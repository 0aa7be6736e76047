"""Learning rates side by side: each a run in a folder, the best by validation, all compared on one page.

python examples/sweep.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import ffdist

RATES = (1e-4, 1e-3, 1e-2)

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        found: dict[Path, float] = {}
        for lr in RATES:
            run = Path(place) / f"lr-{lr:g}"
            ffdist.Pipeline("cnnb", "mono-forward").fit(
                "digits", epochs=2, batch_size=32, lr=lr, launcher="threads", out=run
            )
            found[run] = ffdist.load(run).history().column("validation/accuracy/mean").to_pylist()[-1]
        for run, accuracy in sorted(found.items(), key=lambda each: -each[1]):
            print(f"{run.name}: {accuracy:.1%}")
        page = Path(place) / "runs.html"
        ffdist.write_report(*found, out=page)
        print(f"{page.stat().st_size:,} bytes of HTML")
