"""What one GPU (or several) can show of ffdist, in parts that can be run one by one and taken up again.

    python benchmarks/gpu_suite.py --out DIR                 every part that DIR has not yet
    python benchmarks/gpu_suite.py --out DIR --parts serial depth
    python benchmarks/gpu_suite.py --out DIR --device cpu --quick      a rehearsal in a minute

It needs this tree and torch with numpy and torchvision, nothing else: no installation, no network, no data (random
pictures; `--data FILE.npz` with x_train [N, H, W, C] uint8, y_train, x_test, y_test gives the accuracy rows). Each part
writes DIR/<part>.json as soon as it is done and takes under eight minutes; a part that is there is not run again.

| part | what |
|---|---|
| serial | FF in one process against backpropagation: samples/s, peak memory |
| batch | the same as the batch grows, up to the memory's end |
| depth | memory as blocks are added: each block a stage against the whole network |
| stages | each stage of an N-stage plan measured alone on real activations: the largest is the memory a device needs |
| streams | several stages on one GPU, a CUDA stream and a thread each |
| devices | the true N-device run: ffdist by NCCL against DDP; needs several GPUs |
| accuracy | validation accuracy by epoch, FF and backpropagation; needs --data |
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.gpu.accuracy import accuracy
from benchmarks.gpu.devices import devices
from benchmarks.gpu.serial import batch_sweep, depth_sweep, serial
from benchmarks.gpu.stages import stages, streams
from benchmarks.gpu.suite import Suite

PARTS: dict[str, Callable[[Suite], Any]] = {
    "serial": serial, "batch": batch_sweep, "depth": depth_sweep, "stages": stages, "streams": streams,
    "devices": devices, "accuracy": accuracy,
}  # fmt: skip


def main() -> None:
    args = arguments()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu_suite: there is no GPU; --device cpu --quick rehearses")
    quick = {"batch": 32, "rounds": 1, "seconds": 0.05} if args.quick else {}
    suite = Suite(device, args.quick, data=args.data, **quick)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.parts:
        file = args.out / f"{name}.json"
        if file.exists():
            print(f"{name}: there already", flush=True)
            continue
        begun = time.perf_counter()
        result = PARTS[name](suite)
        record = {"part": name, "machine": machine(device), "command": " ".join(sys.argv), "batch": suite.batch,
                  "seconds": time.perf_counter() - begun, "result": result}  # fmt: skip
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(record, indent=1) + "\n")
        partial.rename(file)
        print(f"{name}: {record['seconds']:.0f} s", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory of the results")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny networks, short rounds")
    parser.add_argument("--data", help="an .npz file of pictures, for the accuracy rows")
    return parser.parse_args()


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return {
        "gpu": gpu.name if gpu else None, "gpu_bytes": gpu.total_memory if gpu else None,
        "num_gpus": torch.cuda.device_count(), "python": platform.python_version(), "torch": torch.__version__,
        "cuda": torch.version.cuda, "system": platform.platform(),
    }  # fmt: skip


if __name__ == "__main__":
    main()
