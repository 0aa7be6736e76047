"""The one wire header: a fixed prelude, then JSON that says what the payload is.

    prelude (32 bytes)   magic | version | attempt | sequence | header length | payload length
    header               {"kind", "fields", "tensors": [[name, dtype, shape, strides, device], ...]}
    payload              the tensors' bytes in that order, each at a multiple of 64 bytes

A header of length 0 says that the sender has closed. Every transport sends these bytes; they differ in how the
payload travels.
"""

from __future__ import annotations

import json
import math
import secrets
import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ffdist.device import holds_values
from ffdist.errors import TransportError
from ffdist.transport.base import Edge, Frame

MAGIC = b"FFDX"
VERSION = 1
ALIGNMENT = 64
HELLO_BYTES = 1024
"""Bytes of a hello, padded with zeros: each end reads so many before it knows the other's version."""
MAX_HEADER_BYTES = 1 << 26
"""Far more than any frame has; what says more is none, and memory is not taken for it."""
PRELUDE = struct.Struct("<4sIIQIQ")
DTYPES = {
    str(d).removeprefix("torch."): d
    for d in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.complex64,
        torch.complex128,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.bool,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
    )
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
_to_json = json.JSONEncoder(separators=(",", ":")).encode


class Prelude(NamedTuple):
    """The first bytes of a frame, before its header: how long it is."""

    sequence: int
    header_bytes: int
    payload_bytes: int

    @property
    def is_end(self) -> bool:
        """The sender has closed; no frame follows."""
        return self.header_bytes == 0


class TensorSpec(NamedTuple):
    """A tensor without its values."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    device: str
    """The kind of device on which the sender had it: "cpu", "cuda", ..."""

    @property
    def nbytes(self) -> int:
        """Bytes of its values, before they are aligned."""
        return math.prod(self.shape) * self.dtype.itemsize


class Header(NamedTuple):
    """A frame without its tensors' values."""

    kind: str
    fields: dict[str, Any]
    tensors: list[TensorSpec]

    def frame(self, tensors: Iterable[Tensor]) -> Frame:
        """The frame, given its tensors in the header's order."""
        return Frame(self.kind, self.fields, dict(zip((spec.name for spec in self.tensors), tensors, strict=True)))


def encode(frame: Frame, edge: Edge, sequence: int) -> tuple[bytes, bytes, list[Tensor]]:
    """A frame as prelude, header, and dense tensors without a graph. Raises TransportError if it cannot travel."""
    tensors = [_dense(name, tensor, edge, sequence) for name, tensor in frame.tensors.items()]
    named = zip(frame.tensors, tensors, strict=True)
    specs = [(name, NAMES[t.dtype], t.shape, t.stride(), t.device.type) for name, t in named]
    header = _to_json({"kind": frame.kind, "fields": frame.fields, "tensors": specs}).encode()
    return _prelude(edge, sequence, len(header), payload_end(t.nbytes for t in tensors)), header, tensors


def encode_end(edge: Edge, sequence: int) -> bytes:
    """The prelude that says: the sender has closed."""
    return _prelude(edge, sequence, 0, 0)


def decode_prelude(data: bytes | memoryview, edge: Edge, sequence: int) -> Prelude:
    """Check that `data` is the prelude of frame `sequence` of this attempt. Raises TransportError saying what it is."""
    if len(data) != PRELUDE.size:
        raise unreadable_error(edge, sequence, f"a prelude of {PRELUDE.size} bytes", f"{len(data)} bytes")
    magic, version, *numbers, header_bytes, payload_bytes = PRELUDE.unpack(data)
    if (magic, version) != (MAGIC, VERSION):
        raise unreadable_error(edge, sequence, f"{MAGIC!r}, version {VERSION}", f"{magic!r}, version {version}")
    if numbers != [edge.attempt, sequence]:
        raise TransportError(
            "a frame is not the next one of this attempt",
            where=edge.at(sequence),
            expected=f"attempt {edge.attempt}, frame {sequence}",
            got=f"attempt {numbers[0]}, frame {numbers[1]}",
            remedy="start all stages anew: one of them is left over from another attempt",
        )
    if header_bytes > MAX_HEADER_BYTES:
        raise unreadable_error(edge, sequence, f"a header of <= {MAX_HEADER_BYTES} bytes", f"{header_bytes} bytes")
    return Prelude(sequence, header_bytes, payload_bytes)


def decode_header(data: bytes | memoryview, prelude: Prelude, edge: Edge) -> Header:
    """Check that `data` is a header that describes the prelude's payload. Raises TransportError otherwise."""
    try:
        content = json.loads(bytes(data))
        header = Header(content["kind"], content["fields"], [_spec(*parts) for parts in content["tensors"]])
        if not isinstance(header.kind, str) or not isinstance(header.fields, dict):
            raise TypeError("kind and fields")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise unreadable_error(edge, prelude.sequence, "a JSON header", repr(error)) from error
    specs = header.tensors
    described = payload_end(spec.nbytes for spec in specs)
    if described != prelude.payload_bytes or not all(is_dense(s.shape, s.strides) for s in specs):
        raise unreadable_error(edge, prelude.sequence, f"dense tensors in {prelude.payload_bytes} bytes", f"{specs}")
    return header


def _spec(name: Any, dtype: Any, shape: Any, strides: Any, device: Any) -> TensorSpec:
    """Raises ValueError, KeyError or TypeError for what describes no tensor."""
    numbers = [*shape, *strides]
    if not all(type(number) is int and 0 <= number < 2**63 for number in numbers) or len(shape) != len(strides):
        raise ValueError(f"a shape of {shape}, strides of {strides}")
    if not isinstance(name, str) or not (isinstance(device, str) and holds_values(device)):
        raise ValueError(f"a tensor {name} on {device}")
    return TensorSpec(name, DTYPES[dtype], tuple(shape), tuple(strides), device)


def encode_hello(edge: Edge, token: str = "") -> bytes:
    """Encode the first message of each end, of HELLO_BYTES: which edge it takes this to be, and a token that shows that
    it may."""
    prelude, header, _ = encode(_hello(edge, token), edge, 0)
    if len(prelude) + len(header) > HELLO_BYTES:
        raise TransportError("the name of an edge is too long", expected=f"<= {HELLO_BYTES - 256} bytes", got=edge.name)
    return (prelude + header).ljust(HELLO_BYTES, b"\0")


def is_strangers(data: bytes | memoryview, token: str) -> bool:
    """True if a hello does not have the token that only an end of this run knows."""
    try:
        length = PRELUDE.unpack(data[: PRELUDE.size])[4]
        said = json.loads(bytes(data[PRELUDE.size : PRELUDE.size + min(length, HELLO_BYTES)]))["fields"]["token"]
        # in a time that does not tell a stranger how much of it was right
        return not secrets.compare_digest(said.encode(), token.encode())
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return True


def check_hello(data: bytes | memoryview, edge: Edge, token: str = "") -> None:
    """Raises TransportError where the other end takes this to be another edge, attempt or depth, or is none of this
    run's."""
    prelude = decode_prelude(data[: PRELUDE.size], edge, 0)
    hello = decode_header(data[PRELUDE.size : PRELUDE.size + prelude.header_bytes], prelude, edge)
    expected = _hello(edge, token)
    if is_strangers(data, token):
        raise TransportError(
            "the other end of an edge is none of this run's",
            where=edge.at(),
            expected="the run's own token",
            got="another, or none",
            remedy="see who else reaches the ports of this host; start all stages with the same version of ffdist",
        )
    if (hello.kind, hello.fields) != (expected.kind, expected.fields):
        raise TransportError(
            "the two ends of an edge disagree",
            where=edge.at(),
            expected={name: value for name, value in expected.fields.items() if name != "token"},
            got={name: value for name, value in hello.fields.items() if name != "token"},
            remedy="start all stages with the same settings",
        )


def _hello(edge: Edge, token: str = "") -> Frame:
    return Frame("hello", {"edge": edge.name, "depth": edge.depth, "token": token})


def aligned(nbytes: int) -> int:
    """The next multiple of 64."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def payload_end(sizes: Iterable[int]) -> int:
    """The bytes that tensors of these sizes take, each aligned."""
    return sum(map(aligned, sizes))


def is_dense(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """True if the strides visit each element of one gapless block exactly once, in whatever order of the axes."""
    if 0 in shape:
        return True
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(strides, shape, strict=True) if size != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def as_bytes(tensor: Tensor) -> Tensor:
    """A dense tensor's memory as uint8 [nbytes], without a copy."""
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)


def from_bytes(data: Tensor, spec: TensorSpec) -> Tensor:
    """A tensor over the memory of `data`, uint8 [nbytes] at the start of its storage, without a copy."""
    tensor = torch.empty(0, dtype=spec.dtype, device=data.device)
    return tensor.set_(data.untyped_storage(), 0, spec.shape, spec.strides)


def _dense(name: str, tensor: Tensor, edge: Edge, sequence: int) -> Tensor:
    """The tensor with its own strides where they are dense (kernels differ by layout), else contiguous; no graph."""
    travels = tensor.layout == torch.strided and tensor.dtype in NAMES and holds_values(tensor.device.type)
    if not travels:
        raise TransportError(
            f"tensor '{name}' cannot travel",
            where=edge.at(sequence),
            expected=f"a strided tensor with values, of {', '.join(DTYPES)}",
            got=f"{tensor.layout}, {tensor.dtype} on {tensor.device.type}",
        )
    tensor = tensor.detach().resolve_conj().resolve_neg()
    return tensor if is_dense(tensor.shape, tensor.stride()) else tensor.contiguous()


def _prelude(edge: Edge, sequence: int, header_bytes: int, payload_bytes: int) -> bytes:
    return PRELUDE.pack(MAGIC, VERSION, edge.attempt, sequence, header_bytes, payload_bytes)


def unreadable_error(edge: Edge, sequence: int, expected: str, got: object) -> TransportError:
    """The error for bytes that are no frame of this version's."""
    return TransportError(
        "a frame cannot be read",
        where=edge.at(sequence),
        expected=expected,
        got=got,
        remedy="run the same version of ffdist at every stage",
    )
