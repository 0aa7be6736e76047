"""Laws of the wire format, and of the memory that received tensors live in."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ffdist.errors import TransportError
from ffdist.transport.base import Edge, Frame
from ffdist.transport.buffers import SMALLEST, BufferPool
from ffdist.transport.wire import (
    ALIGNMENT,
    DTYPES,
    PRELUDE,
    as_bytes,
    check_hello,
    decode_header,
    decode_prelude,
    encode,
    encode_end,
    encode_hello,
    from_bytes,
    is_dense,
    payload_end,
)

EDGE = Edge("0-1", attempt=3)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Any dtype, any bits, any layout: axes permuted, sliced, expanded."""
    dtype = draw(st.sampled_from(list(DTYPES.values())))
    shape = draw(st.lists(st.integers(0, 4), max_size=5))
    numel = math.prod(shape)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 30)))
    high = 2 if dtype == torch.bool else 256
    bits = torch.randint(0, high, (numel * dtype.itemsize,), dtype=torch.uint8, generator=generator)
    x = bits.view(dtype).view(shape).permute(draw(st.permutations(range(len(shape)))))
    for axis in range(x.dim()):
        step = draw(st.sampled_from([1, 1, 2]))
        x = x[(slice(None),) * axis + (slice(draw(st.integers(0, 1)), None, step),)]
    return x.unsqueeze(0).expand(3, *x.shape) if draw(st.integers(0, 9)) == 0 else x


frames = st.builds(
    Frame,
    st.text(max_size=12),
    st.dictionaries(st.text(max_size=8), json_values, max_size=4),
    st.dictionaries(st.text(max_size=8), tensors(), max_size=4),
)


def carry(frame: Frame, sequence: int = 0) -> Frame:
    """Through the wire as every transport does it, by way of one aligned payload."""
    prelude_bytes, header_bytes, dense = encode(frame, EDGE, sequence)
    prelude = decode_prelude(prelude_bytes, EDGE, sequence)
    header = decode_header(header_bytes, prelude, EDGE)
    assert prelude.payload_bytes == payload_end(spec.nbytes for spec in header.tensors)
    return header.frame([from_bytes(as_bytes(t).clone(), spec) for t, spec in zip(dense, header.tensors, strict=True)])


def same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(as_bytes(a.contiguous()), as_bytes(b.contiguous()))


@given(frame=frames, sequence=st.integers(0, 2**64 - 1))
def test_a_frame_survives_the_wire(frame: Frame, sequence: int) -> None:
    got = carry(frame, sequence)
    assert (got.kind, got.fields, list(got.tensors)) == (frame.kind, frame.fields, list(frame.tensors))
    for name, sent in frame.tensors.items():
        assert (got.tensors[name].dtype, got.tensors[name].shape) == (sent.dtype, sent.shape)
        assert same_bits(got.tensors[name], sent)


@given(tensor=tensors())
def test_dense_tensors_keep_their_strides_and_all_others_become_contiguous(tensor: Tensor) -> None:
    got = carry(Frame("x", {}, {"x": tensor})).tensors["x"]
    dense = is_dense(tensor.shape, tensor.stride())
    assert got.stride() == (tensor.stride() if dense else tensor.contiguous().stride())


@given(tensor=tensors())
def test_dense_means_that_each_element_of_a_gapless_block_is_visited_once(tensor: Tensor) -> None:
    indices = itertools.product(*map(range, tensor.shape))
    places = [sum(i * s for i, s in zip(index, tensor.stride(), strict=True)) for index in indices]
    assert is_dense(tensor.shape, tensor.stride()) == (sorted(places) == list(range(tensor.numel())))


def test_dense_tensors_travel_without_a_copy_and_no_graph_travels_at_all() -> None:
    x = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last).requires_grad_()
    _, _, (sent,) = encode(Frame("x", {}, {"x": x}), EDGE, 0)
    assert sent.data_ptr() == x.data_ptr()
    assert not sent.requires_grad


@given(sizes=st.lists(st.integers(0, 1000)))
def test_payloads_are_aligned(sizes: list[int]) -> None:
    assert payload_end(sizes) % ALIGNMENT == 0
    assert sum(sizes) <= payload_end(sizes) < sum(sizes) + ALIGNMENT * len(sizes) + 1


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (encode(Frame("x"), EDGE, 6)[0], "frame 6"),
        (encode(Frame("x"), EDGE, 8)[0], "frame 8"),
        (encode(Frame("x"), replace(EDGE, attempt=2), 7)[0], "attempt 2"),
        (b"GET / HTTP/1.1".ljust(PRELUDE.size), "GET"),
        (encode(Frame("x"), EDGE, 7)[0][:-1], "31 bytes"),
        (b"FFDX\x09" + encode(Frame("x"), EDGE, 7)[0][5:], "version 9"),
    ],
    ids=["repeated", "skipped", "other attempt", "no prelude", "cut short", "other version"],
)
def test_only_the_next_frame_of_this_attempt_is_accepted(sent: bytes, message: str) -> None:
    with pytest.raises(TransportError, match=r"(?s)edge 0-1, attempt 3, frame 7\n.*expected: .*\n  got: ") as caught:
        decode_prelude(sent, EDGE, 7)
    assert message in str(caught.value.got)


@pytest.mark.parametrize(
    "tensor", [["x", "float32", [4], [1], "cpu"], ["x", "float99", [2], [1], "cpu"], ["x", "float32", [2], [5], "cpu"]]
)
def test_a_header_that_does_not_describe_the_payload_is_refused(tensor: list[object]) -> None:
    prelude = decode_prelude(encode(Frame("x", {}, {"x": torch.zeros(2)}), EDGE, 0)[0], EDGE, 0)
    lie = prelude._replace(payload_bytes=0 if tensor[2] == [4] else prelude.payload_bytes)
    with pytest.raises(TransportError, match="cannot be read"):
        decode_header(json.dumps({"kind": "x", "fields": {}, "tensors": [tensor]}).encode(), lie, EDGE)
    with pytest.raises(TransportError, match="cannot be read"):
        decode_header(b"\xff{", prelude, EDGE)


@pytest.mark.parametrize("bad", [torch.eye(2).to_sparse(), torch.empty(2, device="meta")], ids=["sparse", "meta"])
def test_a_tensor_that_cannot_travel_is_named(bad: Tensor) -> None:
    with pytest.raises(TransportError, match="tensor 'bad' cannot travel"):
        encode(Frame("x", {}, {"good": torch.zeros(1), "bad": bad}), EDGE, 0)


def test_the_end_is_a_prelude_without_a_header() -> None:
    assert decode_prelude(encode_end(EDGE, 5), EDGE, 5).is_end
    assert not decode_prelude(encode(Frame(""), EDGE, 5)[0], EDGE, 5).is_end


@pytest.mark.parametrize("other", [replace(EDGE, name="1-2"), replace(EDGE, depth=5), replace(EDGE, attempt=4)])
def test_ends_greet_only_the_other_end_of_their_own_edge(other: Edge) -> None:
    check_hello(encode_hello(EDGE), EDGE)
    with pytest.raises(TransportError, match="edge 0-1"):
        check_hello(encode_hello(other), EDGE)


def test_an_edge_without_room_is_refused() -> None:
    with pytest.raises(TransportError, match="room for one frame"):
        Edge("0-1", depth=0)


# The pool of buffers.


def test_a_buffer_is_used_again_once_the_last_view_of_it_is_gone() -> None:
    pool = BufferPool(keep=2)
    x = pool.take(SMALLEST)
    address, view = x.data_ptr(), x[10:20]
    del x
    assert pool.take(SMALLEST).data_ptr() != address
    del view
    assert address in {pool.take(SMALLEST).data_ptr(), pool.take(SMALLEST).data_ptr()}


def test_a_buffer_that_a_graph_needs_is_not_used_again() -> None:
    pool = BufferPool(keep=2)
    x = pool.take(SMALLEST).view(torch.float32).fill_(3.0)
    w = torch.ones_like(x, requires_grad=True)
    loss = (w * x).sum()
    del x
    for _ in range(4):
        pool.take(SMALLEST).fill_(255)
    loss.backward()
    assert w.grad is not None
    assert w.grad.eq(3.0).all()


def test_a_pool_keeps_no_more_buffers_than_set() -> None:
    pool = BufferPool(keep=2)
    held = [pool.take(SMALLEST) for _ in range(5)]
    addresses = {t.data_ptr() for t in held}
    held.clear()
    again = [pool.take(SMALLEST) for _ in range(2)]
    assert {t.data_ptr() for t in again} <= addresses


def test_a_small_tensor_pins_no_large_buffer() -> None:
    pool = BufferPool(keep=2)
    large = pool.take(16 * SMALLEST)
    address = large.data_ptr()
    del large
    assert pool.take(SMALLEST).untyped_storage().nbytes() <= 2 * SMALLEST
    assert pool.take(16 * SMALLEST).data_ptr() == address
