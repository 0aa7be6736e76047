"""Measurements of ffdist on one GPU (or several), in parts that can be run one by one and taken up again.

    python benchmarks/gpu_suite.py --out DIR                 every part that DIR has not yet
    python benchmarks/gpu_suite.py --out DIR --parts serial depth
    python benchmarks/gpu_suite.py --out DIR --total 560     for so many seconds; the same again takes it up
    python benchmarks/gpu_suite.py --out DIR --device cpu --quick      a rehearsal in a minute or two

It needs this tree and torch with numpy and torchvision, nothing else: no installation, no network, no data (random
pictures; `--data FILE.npz` with x_train [N, H, W, C] uint8, y_train, x_test, y_test gives the accuracy rows). Each part
runs in a process of its own and writes each row into DIR/<part>.json as soon as it is measured; it takes under eight
minutes. Run again, it measures what failed or was left out, and nothing else. The exit status is 1 where a row failed.

| part | what |
|---|---|
| serial | FF in one process against backpropagation: samples/s, peak memory |
| batch | the same as the batch grows, up to the memory's end |
| depth | memory as blocks are added: each block a stage against the whole network |
| stages | each stage of an N-stage plan measured alone on real activations: the largest is the memory a device needs |
| streams | several stages on one GPU, a CUDA stream and a thread each |
| kernels | where a step's time goes on the device, and how much of it the device waits for the host |
| devices | the true N-device run: ffdist by NCCL against DDP; needs several GPUs |
| accuracy | validation accuracy by epoch, FF and backpropagation; needs --data |
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.gpu.accuracy import accuracy
from benchmarks.gpu.devices import devices
from benchmarks.gpu.kernels import kernels
from benchmarks.gpu.serial import batch_sweep, serial
from benchmarks.gpu.stages import depth_sweep, stages
from benchmarks.gpu.streams import streams
from benchmarks.gpu.suite import UNITS, Suite
from ffdist import device
from ffdist.bench.harness.record import facts_of
from ffdist.bench.harness.resumed import LAST_LINE, Resumed, complete, read
from ffdist.bench.harness.table import ResultTable

PARTS: dict[str, Callable[[Suite, Resumed], None]] = {
    "serial": serial,
    "batch": batch_sweep,
    "depth": depth_sweep,
    "stages": stages,
    "streams": streams,
    "kernels": kernels,
    "devices": devices,
    "accuracy": accuracy,
}


def main() -> None:
    args = arguments()
    if args.device != "cpu" and device.seen().kind is None:
        sys.exit("gpu_suite: there is no GPU; --device cpu --quick rehearses")
    args.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + args.total
    failed = [name for name in args.parts if not run(name, args, end)]
    sys.exit(f"gpu_suite: rows failed in {', '.join(failed)}" if failed else 0)


def run(name: str, args: argparse.Namespace, end: float) -> bool:
    """Complete a part, and say how far it is; False where something in it failed."""
    file = args.out / f"{name}.json"
    if read(file)["done"]:
        print(f"{name}: there already", flush=True)
        return True
    if reason := why_not(name, args):
        print(f"{name}: left out, {reason}", flush=True)
        return True
    record = complete(file, partial(measure, name, args), min(time.monotonic() + args.budget, end - LAST_LINE))
    state = "done" if record["done"] else f"left out: {record['left_out']}; failed: {', '.join(record['failed']) or 0}"
    print(f"{name}: {state}, {record['seconds']:.0f} s", flush=True)
    return not record["failed"]


def why_not(name: str, args: argparse.Namespace) -> str | None:
    """The reason that a part cannot run here; None where it can."""
    if name == "devices" and args.device != "cpu" and device.seen().number < 2:
        return "one GPU only"
    return "no --data" if name == "accuracy" and args.data is None else None


def measure(name: str, args: argparse.Namespace, file: Path, deadline: float) -> None:
    """The main function of a part's process."""
    quick = {"batch": 32, "rounds": 1, "seconds": 0.05} if args.quick else {}
    here = device.CPU if args.device == "cpu" else device.all_seen()[0]
    suite = Suite(here, args.quick, data=args.data, **quick)
    suite.begin()
    gpu = device.name_of(here) if device.queues(here) else None
    settings = {"gpu": gpu, "torch": torch.__version__, "quick": args.quick, "batch": suite.batch}
    facts = facts_of(f"gpu-{name}", ["python", *sys.argv]) | {
        "settings": settings,
        "notes": [PARTS[name].__doc__ or ""],
    }
    record = Resumed(file, ResultTable(name, "", {}, UNITS), facts, deadline=deadline, recover=suite.recover)
    record.fill(partial(PARTS[name], suite))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--device", choices=("gpu", "cuda", "cpu"), default="gpu", help="gpu: what torch sees")
    parser.add_argument("--quick", action="store_true", help="tiny networks, short rounds")
    parser.add_argument("--data", help="an .npz file of pictures, for the accuracy rows")
    parser.add_argument(
        "--budget",
        type=float,
        default=400.0,
        metavar="SECONDS",
        help=f"after which a part begins no row; the last ends {LAST_LINE:.0f} s later",
    )
    parser.add_argument("--total", type=float, default=math.inf, metavar="SECONDS", help="by which all ends")
    return parser.parse_args()


if __name__ == "__main__":
    main()
