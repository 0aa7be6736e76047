"""Strategies of hypothesis that change whole inputs: values of other kinds in a tree of JSON, edited text, edited
bytes, and bytes of nobody's. Other than what is drawn by chance it shrinks to what is least when a test fails."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from hypothesis import strategies as st

NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 2**31, 2**63, 2**70, 10**400, True, float("nan"), float("inf")]),
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=20), st.sampled_from(["..", "../x", "\0", "\ud800"])),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=8,
)
"""Values of JSON, of any kind."""
WORDS = st.one_of(
    st.binary(max_size=16),
    st.text(max_size=16).map(lambda text: text.encode(errors="surrogatepass")),
    st.sampled_from([b"\xff" * 8, b"\0" * 8, b"[" * 3000, b'{"a":' * 2000, b"9" * 400, b"../", b"\r\n\r\n"]),
)


def inputs_of(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Bytes near these whole examples, and some that are not."""
    trees = [tree for data in seeds if (tree := tree_of(data)) is not None]
    kinds = [edited(seeds), st.binary(max_size=256)]
    return st.one_of([changed(trees), *kinds] if trees else kinds)


def tree_of(data: bytes) -> Any:
    """The values that JSON bytes hold; None for other bytes."""
    with suppress(ValueError, RecursionError):
        return json.loads(data)
    return None


@st.composite
def changed(draw: Callable[[st.SearchStrategy[Any]], Any], trees: Sequence[Any]) -> bytes:
    """One of these trees, with a value of another kind somewhere, or one that is missing, or one too many."""
    tree = draw(st.sampled_from(trees))
    made = _changed(draw, tree)
    return json.dumps(made).encode(errors="surrogatepass")


def _changed(draw: Callable[[st.SearchStrategy[Any]], Any], value: Any) -> Any:
    how = draw(st.sampled_from(["deeper", "deeper", "deeper", "other", "fewer", "more"]))
    if isinstance(value, dict) and value:
        key = draw(st.sampled_from(sorted(value)))
        match how:
            case "deeper":
                return value | {key: _changed(draw, value[key])}
            case "fewer":
                return {name: child for name, child in value.items() if name != key}
            case "more":
                return value | {draw(st.text(max_size=8)): draw(VALUES)}
    if isinstance(value, list) and value:
        at = draw(st.integers(0, len(value) - 1))
        match how:
            case "deeper":
                return [*value[:at], _changed(draw, value[at]), *value[at + 1 :]]
            case "fewer":
                return [*value[:at], *value[at + 1 :]]
            case "more":
                return [*value, draw(VALUES)]
    return draw(VALUES)


@st.composite
def edited(draw: Callable[[st.SearchStrategy[Any]], Any], seeds: Sequence[bytes]) -> bytes:
    """One of these, with bytes changed, cut out, put in, doubled or another's."""
    made = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(made)))
        length = draw(st.sampled_from([1, 2, 4, 8, 64, 1 << 20]))
        match draw(st.sampled_from(["flip", "put", "cut", "over", "splice", "twice"])):
            case "flip" if at < len(made):
                made[at] ^= 1 << draw(st.integers(0, 7))
            case "put":
                made[at:at] = draw(WORDS)
            case "cut":
                del made[at : at + length]
            case "over":
                word = draw(WORDS)
                made[at : at + len(word)] = word
            case "splice":
                other = draw(st.sampled_from(seeds))
                begin = draw(st.integers(0, len(other)))
                made[at : at + length] = other[begin : begin + 256]
            case _:
                made[at:at] = made[at : at + min(length, 512)]
    return bytes(made)
