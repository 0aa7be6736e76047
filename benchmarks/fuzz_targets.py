"""Readers of bytes that anybody may have written: each as a target of a fuzzer, with whole examples to begin from.

Every target takes bytes and does with them what ffdist does with a file or a packet of that kind. It may return, or
raise an `FfdistError`; anything else is a finding.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from pyarrow import feather
from pyarrow import parquet as parquet_files
from safetensors.torch import save

import ffdist
from ffdist.cli import main
from ffdist.data.catalog import open_data, verify
from ffdist.data.decode import Decoding
from ffdist.data.manifest import read_manifest as read_data_manifest
from ffdist.data.prepare import prepare
from ffdist.digests import DIGEST, of_json
from ffdist.page.server import PageServer
from ffdist.pipeline.message import EndOfSplit, EvalBatch, Snapshot, TrainBatch, from_frame, to_frame
from ffdist.plan import Plan, read_plan
from ffdist.report.log import PULSES, RUN_LOG, read_pulses, read_run_log
from ffdist.runtime.data_facts import CHECK, FACTS, DataFacts, read_facts
from ffdist.runtime.nonfinite import KEPT, kept_batches
from ffdist.runtime.record import ENVIRONMENT, read_starts
from ffdist.runtime.run import HEAD, SETTINGS, digest_of, read_settings
from ffdist.settings.toml import parsed, settings_in
from ffdist.snapshot.chosen import MARK, best_of, marked_best, read_mark
from ffdist.snapshot.files import read_block
from ffdist.snapshot.manifest import MANIFEST, committed, read_manifest
from ffdist.snapshot.records import RECORDS
from ffdist.transport.base import Edge
from ffdist.transport.wire import (
    DTYPES,
    MAGIC,
    PRELUDE,
    VERSION,
    TensorSpec,
    decode_header,
    decode_prelude,
    encode,
    encode_hello,
    from_bytes,
    is_strangers,
    payload_end,
)

EDGE = Edge("0-1")
NAMES = ("conv1", "conv2", "conv3")
LARGEST = 1 << 26
"""Bytes that a frame's tensors may ask for here: on an edge their slot bounds them."""


@dataclass(frozen=True)
class Target:
    """One kind of bytes that ffdist reads, with examples to begin from."""

    name: str
    seeds: Callable[[], Iterable[bytes]]
    """Makes whole examples of such bytes."""
    use: Callable[[bytes], object]


@cache
def scratch() -> Path:
    """A folder of this process, with a run and a data set in it."""
    folder = Path(tempfile.mkdtemp(prefix="ffdist-fuzz-"))
    words = (
        "train --data digits --model cnnb --model-args widths=4,4,4 --samples 60 --batch-size 20 --epochs 1 --seed 7"
    )
    more = "--threads 1 --stages 1 --launcher threads --track none --keep-best mean"
    main([*words.split(), *more.split(), "--out", str(folder / "run")])
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("a", "b"):
            (folder / "pictures" / split / name).mkdir(parents=True)
            for index in range(3):
                pixels = rng.integers(0, 255, (6, 6), np.uint8)
                Image.fromarray(pixels).save(folder / "pictures" / split / name / f"{index}.png")
    prepare(folder / "pictures", folder / "data")
    (folder / "run" / KEPT).mkdir()
    return folder


def leave() -> None:
    """Remove what `scratch` has made."""
    shutil.rmtree(scratch())


def written(path: Path, data: bytes) -> Path:
    """Write bytes to a path, whose folders are made; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def in_copy(name: str, *, example: str = "run") -> Path:
    """A copy of the run or the data for this process to write into: two targets may read one kind of file."""
    copy = scratch() / f"{example}-{name}-{os.getpid()}"
    if not copy.exists():
        shutil.copytree(scratch() / example, copy)
    return copy


def read_one(
    name: str, place: str, use: Callable[[Path], object], example: str = "run", *, digest: str | None = None
) -> Callable[[bytes], object]:
    """`use` of a folder in which one file holds these bytes. digest: the key of what its writer gives it."""

    def read(data: bytes) -> object:
        folder = in_copy(name, example=example)
        written(folder / place, data if digest is None else with_own_digest(data, digest))
        return use(folder)

    return read


def file_of(place: str, example: str = "run") -> Callable[[], list[bytes]]:
    """The first by name: every file system lists them in an order of its own."""
    return lambda: [min((scratch() / example).glob(place)).read_bytes()]


def with_digest(data: bytes) -> bytes:
    """Settings as a run has them, as if it had written these itself."""
    try:
        text = data.decode()
        return f"{HEAD}{digest_of(parsed(text))}\n{text}".encode()
    except Exception:  # whatever keeps it from being settings is for the reader to find
        return data


def with_own_digest(data: bytes, key: str) -> bytes:
    """JSON with the digest that its writer would have given it."""
    try:
        values = json.loads(data)
        values.pop(key, None)
        return json.dumps(values | {key: of_json(values)}).encode()
    except Exception:  # whatever keeps it from being such JSON is for the reader to find
        return data


def use_settings(data: bytes) -> object:
    path = written(scratch() / "own.toml", data)
    return settings_in(path)


def use_run_settings(data: bytes) -> object:
    return read_one("settings", SETTINGS, read_settings)(with_digest(data))


def use_manifest(data: bytes) -> object:
    run = in_copy("manifest")
    folder = committed(run)[-1] if committed(run) else next((run / "snapshots").iterdir())
    written(folder / MANIFEST, with_own_digest(data, "digest"))
    best_of([folder])
    return read_manifest(folder)


def use_records(data: bytes) -> object:
    """The file of earlier epochs' records, as the manifest beside it says that it is."""
    folder = committed(in_copy("records"))[-1]
    entry = {"file": RECORDS, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    values = json.loads((folder / MANIFEST).read_text()) | {"record_file": entry}
    written(folder / RECORDS, data)
    written(folder / MANIFEST, with_own_digest(json.dumps(values).encode(), DIGEST))
    return read_manifest(folder)


def use_lines_of_records(data: bytes) -> object:
    return use_records(gzip.compress(data, 1, mtime=0))


def lines_of_records() -> list[bytes]:
    records = read_manifest(committed(scratch() / "run")[-1]).records
    return [b"".join(json.dumps(record).encode() + b"\n" for record in records)]


def packed_records() -> list[bytes]:
    return [gzip.compress(lines, mtime=0) for lines in lines_of_records()]


def marks(run: Path) -> object:
    read_mark(run)
    return marked_best(run, committed(run))


def use_logs(data: bytes) -> object:
    run = in_copy("logs")
    written(run / ENVIRONMENT, data)
    written(run / KEPT / "batch-000000001-block-000-x.json", data)
    written(run / RUN_LOG, data)
    written(run / PULSES, data)
    for use in (read_starts, kept_batches, read_pulses):
        try:
            use(run)
        except ffdist.FfdistError:
            continue
    return read_run_log(run)


def use_plan(data: bytes) -> object:
    plan = read_plan(written(scratch() / "plan.json", data))
    plan.check(NAMES)
    return plan


def use_plan_text(data: bytes) -> object:
    return Plan.parse(data.decode(errors="replace"), NAMES)


def opened(folder: Path, use: Callable[[Path], object]) -> object:
    use(folder)
    images = open_data(folder)
    return images.train.take(np.arange(min(2, len(images.train))))


use_facts = read_one("facts", FACTS, read_facts, digest=CHECK)
use_mark = read_one("mark", MARK, marks, digest=DIGEST)
use_data_manifest = read_one(
    "manifest", "manifest.json", lambda folder: opened(folder, read_data_manifest), "data", digest=DIGEST
)


def use_shard(data: bytes) -> object:
    folder = in_copy("shard", example="data")
    written(min(folder.glob("train*.arrow")), data)
    return opened(folder, verify)


def use_table(ending: str) -> Callable[[bytes], object]:
    """A function that prepares a user's table. ending: of its file, by which its kind is known."""

    def use(data: bytes) -> object:
        path, out = written(scratch() / f"table{ending}", data), scratch() / f"out{ending}"
        shutil.rmtree(out, ignore_errors=True)
        return prepare(path, out, notify=lambda text: None)

    return use


def use_block(data: bytes) -> object:
    path = written(scratch() / "x.safetensors", data)
    return read_block(path, {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})


def use_export(data: bytes) -> object:
    return ffdist.load(written(scratch() / "y.safetensors", data))


def use_picture(data: bytes) -> object:
    facts = DataFacts(["a", "b"], (3, 16, 16), (0.5,) * 3, (0.5,) * 3, decoding=Decoding((16, 16), "rgb"))
    return ffdist.read_pictures([data], facts, workers=1)


def use_frame(data: bytes) -> object:
    """Prelude and header, as an edge hands them on; then a message."""
    prelude = decode_prelude(data[: PRELUDE.size], EDGE, 0)
    header = decode_header(data[PRELUDE.size :], prelude, EDGE)
    if prelude.payload_bytes > LARGEST:
        return None
    tensors = [from_bytes(torch.zeros(spec.nbytes, dtype=torch.uint8), spec) for spec in header.tensors]
    return from_frame(header.frame(tensors))


def use_header(data: bytes) -> object:
    """A header alone, with a prelude that says what it describes."""
    try:
        tensors = [
            TensorSpec(name, DTYPES[dtype], tuple(shape), (), "cpu")
            for name, dtype, shape, *_ in json.loads(data)["tensors"]
        ]
        payload = int(payload_end(spec.nbytes for spec in tensors)) % 2**64
    except Exception:  # a header that describes nothing is for the decoder to refuse
        payload = 0
    return use_frame(PRELUDE.pack(MAGIC, VERSION, EDGE.attempt, 0, len(data), payload) + data)


def use_hello(data: bytes) -> object:
    return is_strangers(data, "0" * 32)


@cache
def watched() -> PageServer:
    return PageServer(scratch() / "run", port=0)


def use_request(data: bytes) -> bytes:
    """A connection to the page's server, which answers, or hangs up, and goes on."""
    answer = b""
    with socket.create_connection(("127.0.0.1", watched().port), timeout=20) as connection:
        with suppress(ConnectionError):  # it may hang up before it has read all
            connection.sendall(data)
            with suppress(OSError):  # not connected any more
                connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(1 << 16):
                answer += part
    trace = b"Traceback (most recent call last)"
    assert trace in data or trace not in answer  # what is no request is quoted in the answer
    return answer


def frames() -> list[bytes]:
    x, y = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    messages = [
        TrainBatch(3, x, y, features=torch.ones(2, 5)),
        EvalBatch("test", x, y, scored=["a"]),
        EndOfSplit("train", 0, [{"block": "a", "loss": 0.5}]),
        Snapshot(3, 1, 0, [{"file": "a"}]),
    ]
    return [b"".join(encode(to_frame(message), EDGE, 0)[:2]) for message in messages]


def headers() -> list[bytes]:
    return [frame[PRELUDE.size :] for frame in frames()]


def pictures() -> list[bytes]:
    found = []
    for kind, mode in (("PNG", "RGB"), ("JPEG", "RGB"), ("GIF", "P"), ("BMP", "L"), ("WEBP", "RGBA"), ("TIFF", "I;16")):
        buffer = io.BytesIO()
        Image.new(mode, (9, 7)).save(buffer, kind)
        found.append(buffer.getvalue())
    return found


def table() -> pa.Table:
    pixels = [picture for picture in pictures()[:2] for _ in range(3)]
    return pa.table({"image": [{"bytes": each, "path": None} for each in pixels], "label": [0, 1, 0, 1, 0, 1]})


def parquet() -> list[bytes]:
    buffer = io.BytesIO()
    parquet_files.write_table(table(), buffer)
    return [buffer.getvalue()]


def arrow() -> list[bytes]:
    buffer = io.BytesIO()
    feather.write_feather(table(), buffer, compression="uncompressed")
    stream = io.BytesIO()
    with pa.ipc.new_stream(stream, table().schema) as writer:
        writer.write_table(table())
    return [buffer.getvalue(), stream.getvalue()]


def blocks() -> list[bytes]:
    return [save({"w": torch.zeros(2, 3), "b": torch.zeros(3)}, {"ffdist": json.dumps({"block": "a"})})]


def exports() -> list[bytes]:
    path = scratch() / "whole.safetensors"
    if not path.exists():
        main(["export", str(scratch() / "run"), "--to", str(path)])
    return [path.read_bytes()]


REQUESTS = [
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b'GET /part HTTP/1.1\r\nHost: 127.0.0.1\r\nIf-None-Match: "x"\r\n\r\n',
    b"GET /run/x/../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"HEAD /page.css HTTP/1.0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc",
]
PLANS = [b"conv1 @ 0 | conv2 conv3 @ 1", b"conv1..conv3 @ 0:0-1, 1:2-3", b"conv1 @ 0 | conv2 @ 0:0, 1:1-3 | conv3 @ 1"]


def plans() -> list[bytes]:
    return [json.dumps(Plan.parse(text.decode(), NAMES).as_json()).encode() for text in PLANS]


def lines() -> list[bytes]:
    run = scratch() / "run"
    kept = json.dumps({"batch": 1, "samples": [1, 2]}).encode() + b"\n"
    return [(run / RUN_LOG).read_bytes(), (run / ENVIRONMENT).read_bytes(), kept]


TARGETS = [
    Target("settings of a user's", lambda: [strip(file_of(SETTINGS)()[0])], use_settings),
    Target("settings of a run", lambda: [strip(file_of(SETTINGS)()[0])], use_run_settings),
    Target("manifest of a snapshot", file_of("snapshots/*/manifest.json"), use_manifest),
    Target("records of a snapshot", packed_records, use_records),
    Target("lines of a snapshot's records", lines_of_records, use_lines_of_records),
    Target("facts of a run's data", file_of(FACTS), use_facts),
    Target("mark of the best snapshot", file_of(MARK), use_mark),
    Target("logs of a run", lines, use_logs),
    Target("plan as a file", plans, use_plan),
    Target("plan as a text", lambda: PLANS, use_plan_text),
    Target("manifest of data", file_of("manifest.json", "data"), use_data_manifest),
    Target("Arrow shard", file_of("train*.arrow", "data"), use_shard),
    Target("Arrow table", arrow, use_table(".arrow")),
    Target("Parquet table", parquet, use_table(".parquet")),
    Target("block of a snapshot (safetensors)", blocks, use_block),
    Target("exported network (safetensors)", exports, use_export),
    Target("picture", pictures, use_picture),
    Target("frame from the wire", frames, use_frame),
    Target("header of a frame", headers, use_header),
    Target("greeting from the wire", lambda: [encode_hello(EDGE, "0" * 32), encode_hello(EDGE)], use_hello),
    Target("request to the page's server", lambda: REQUESTS, use_request),
]


def strip(data: bytes) -> bytes:
    """Settings without the line of their digest."""
    return data.partition(b"\n")[2]
