"""A training run as a Ray job; takes the settings of `ffdist train`.

    ray job submit --address http://HEAD:8265 -- python launch/ray_train.py --stages 2 --out /shared/runs/digits

Where ffdist is installed on the cluster, `ffdist train --launcher ray --address auto ...` is the same.
"""

from __future__ import annotations

import sys

from ffdist.cli import main

if __name__ == "__main__":
    main(["train", "--launcher", "ray", "--address", "auto", *sys.argv[1:]])
