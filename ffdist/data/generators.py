"""The random generators that a data set's items draw from: those that all share, and those that it holds itself."""

from __future__ import annotations

import functools
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

from ffdist.seeds import restarting

Kind = random.Random | np.random.Generator | np.random.RandomState | torch.Generator
KINDS = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)
CODE = (type, FunctionType, MethodType, classmethod, staticmethod, property)
MAX_OBJECTS = 10_000
"""Objects that are searched for generators, at most."""
FEW = 64
"""Members of a container that are looked at: lists of transforms are short, those of samples long."""
OPAQUE = (type(None), str, bytes, int, float, complex, np.ndarray, torch.Tensor, ModuleType, CodeType)
SHARED = (random._inst, np.random.mtrand._rand, torch.default_generator)  # type: ignore[attr-defined]


def held_by(thing: Any) -> list[Kind]:
    """The generators that an object draws from beside the shared ones: in its attributes, and in theirs; and of the
    modules that define its methods, those that these name. The nearest are looked at first, and things before code."""
    found: list[Kind] = []
    seen: dict[int, Any] = {id(one): one for one in SHARED}
    things, code = deque([thing]), deque[Any]()
    while (things or code) and len(seen) < MAX_OBJECTS:
        one = things.popleft() if things else code.popleft()
        if id(one) in seen or isinstance(one, OPAQUE):
            continue
        seen[id(one)] = one
        if isinstance(one, KINDS):
            found.append(one)
            continue
        for part in parts(one):
            (code if isinstance(part, CODE) else things).append(part)
    return found


def parts(one: Any) -> Iterator[Any]:
    """The parts that an object's behaviour is made of."""
    match one:
        case dict():
            yield from islice(one.values(), FEW)
        case list() | tuple() | set() | frozenset():
            yield from islice(one, FEW)
        case FunctionType():
            yield from (cell.cell_contents for cell in one.__closure__ or () if is_bound(cell))
            yield from one.__defaults__ or ()
            yield from (one.__kwdefaults__ or {}).values()
            yield from (one.__globals__.get(name) for name in names_in(one.__code__))
        case MethodType():
            yield one.__func__
        case functools.partial():
            yield from (one.func, one.args, one.keywords)
        case type():
            if is_users(one):
                yield from (member for base in one.__mro__ if is_users(base) for member in [*vars(base).values()])
        case classmethod() | staticmethod():
            yield one.__func__
        case property():
            yield one.fget
    if not isinstance(one, type):
        yield attribute(one, "__self__")  # of a method of a type written in C
        yield from [*(attribute(one, "__dict__") or {}).values()]
        yield from (attribute(one, name) for name in getattr(type(one), "__slots__", ()) if isinstance(name, str))
        yield type(one)


def attribute(one: Any, name: str) -> Any:
    """One that is there; none that an object makes when it is asked, which may do anything."""
    try:
        return object.__getattribute__(one, name)
    except Exception:  # an attribute that is a property raises what it likes
        return None


def is_users(kind: type) -> bool:
    """True if a class may name generators of its module: not one of the libraries that draw from the shared ones."""
    libraries = ("builtins", "torch", "torchvision", "numpy", "PIL", "pyarrow", "pandas", "collections", "functools")
    place = kind.__module__
    if not isinstance(place, str):  # compiled classes may have a descriptor there
        return False
    return place.partition(".")[0] not in libraries


def is_bound(cell: Any) -> bool:
    """True if a closure's cell holds something."""
    try:
        return cell.cell_contents is not None
    except ValueError:  # of a name that nothing is bound to yet
        return False


def names_in(code: CodeType) -> Iterator[str]:
    """The globals that code may read, and the code inside of it."""
    yield from code.co_names
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from names_in(one)


def state_of(generator: Kind) -> Any:
    """A generator's state, to be given back by `restore`."""
    match generator:
        case random.Random():
            return generator.getstate()
        case np.random.Generator():
            return generator.bit_generator.state
        case np.random.RandomState():
            return generator.get_state()
        case torch.Generator():
            return generator.get_state()


def restore(generator: Kind, state: Any) -> None:
    """Set a generator to a state that `state_of` gave."""
    match generator:
        case random.Random():
            generator.setstate(state)
        case np.random.Generator():
            generator.bit_generator.state = state
        case np.random.RandomState():
            generator.set_state(state)
        case torch.Generator():
            generator.set_state(state)


def begin_at(generator: Kind, seed: int) -> None:
    """Seed a generator in place, so that whoever holds it draws from the new seed."""
    match generator:
        case random.Random():
            generator.seed(seed)
        case np.random.Generator():
            generator.bit_generator.state = type(generator.bit_generator)(seed).state  # type: ignore[call-arg]
        case np.random.RandomState():
            generator.seed(seed % 2**32)
        case torch.Generator():
            generator.manual_seed(seed)


class Generators:
    """The generators that are shared, and those that a data set holds."""

    def __init__(self, dataset: Any) -> None:
        self.own = [one for one in held_by(dataset) if not isinstance(one, random.SystemRandom)]

    @contextmanager
    def restarting(self) -> Iterator[Callable[[int], None]]:
        """Yields a function that seeds all of them; on exit their states are what they were before."""
        with restarting() as begin_shared:
            before = [state_of(one) for one in self.own]

            def begin(seed: int) -> None:
                begin_shared(seed)
                for place, one in enumerate(self.own):
                    begin_at(one, seed + place + 1)

            try:
                yield begin
            finally:
                for one, state in zip(self.own, before, strict=True):
                    restore(one, state)

    def states(self) -> dict[str, str]:
        """Each generator's state as text, by the name of its kind: it changes with every draw."""
        shared = {
            "torch's": [torch.default_generator.get_state()],
            "NumPy's": [np.random.get_state()],
            "Python's": [random.getstate()],
        }
        own = {"its own": [state_of(one) for one in self.own]}
        return {name: text_of(state) for name, state in (shared | own).items()}


def text_of(state: list[Any]) -> str:
    """A generator's state as text, by which two states are compared."""
    with np.printoptions(threshold=2**20):
        return repr([member.tolist() if isinstance(member, torch.Tensor) else member for member in state])
