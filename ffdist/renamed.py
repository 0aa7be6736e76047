"""Names of an earlier version: they still work, and a DeprecationWarning says the new one."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from inspect import get_annotations
from types import FunctionType
from typing import Any, ClassVar, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


def warn_renamed(old: str, new: str, stacklevel: int = 3) -> None:
    """stacklevel: as of `warnings.warn`, from here; 3 is whoever called the caller."""
    warnings.warn(f"`{old}` is now `{new}`; the next version drops the old name", DeprecationWarning, stacklevel)


def renamed_names(module: str, **names: str) -> Callable[[str], Any]:
    """A `__getattr__` for a module that knows old="new" names of its own."""

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module '{module}' has no attribute '{name}'")
        warn_renamed(name, names[name])
        return getattr(sys.modules[module], names[name])

    return find


def renamed_arguments(**names: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorates a function whose keyword arguments had other names, old="new"."""

    def decorate(call: Callable[P, T]) -> Callable[P, T]:
        @wraps(call)
        def accept(*args: P.args, **options: P.kwargs) -> T:
            for old in names.keys() & options:
                warn_renamed(f"{call.__name__}({old}=...)", f"{names[old]}=...")
                options[names[old]] = options.pop(old)
            return call(*args, **options)

        return accept

    return decorate


def renamed_fields(**names: str) -> Callable[[type[T]], type[T]]:
    """Decorates a dataclass or NamedTuple whose fields had other names, old="new": the old ones still work as keyword
    arguments, as attributes, and in `_replace`."""

    def decorate(cls: type[Any]) -> type[Any]:
        def accepting(call: Callable[..., Any]) -> Callable[..., Any]:
            @wraps(call)
            def accept(first: Any, /, *args: Any, **fields: Any) -> Any:
                for old in names.keys() & fields:
                    warn_renamed(f"{cls.__name__}({old}=...)", f"{names[old]}=...")
                    fields[names[old]] = fields.pop(old)  # `dataclasses.replace` gives the new one, too
                return call(first, *args, **fields)

            return accept

        if issubclass(cls, tuple):
            cls.__new__ = staticmethod(accepting(cls.__new__))
            cls._replace = accepting(cls._replace)  # pyright: ignore[reportAttributeAccessIssue]
        else:
            cls.__init__ = accepting(cls.__init__)
        for old, new in names.items():
            setattr(cls, old, _OldField(f"{cls.__name__}.{old}", new))
        return cls

    return decorate


class _OldField:
    def __init__(self, old: str, new: str) -> None:
        self.old = old
        self.new = new

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        warn_renamed(self.old, self.new)
        return getattr(instance, self.new)


class RenamedMembers:
    """A base class whose `_renamed` maps old method names to new ones: what a subclass defines by an old name counts as
    the new one, and each class's own is still called by the old."""

    _renamed: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for old, new in cls._renamed.items():
            own = cls.__dict__.get(old)
            if isinstance(own, FunctionType | property):
                warn_renamed(f"{cls.__name__}.{old}", new)
                setattr(cls, new, own)
            elif old in get_annotations(cls):  # a dataclass's field in place of a property
                warn_renamed(f"{cls.__name__}.{old}", new)
                setattr(cls, new, property(lambda self, old=old: getattr(self, old)))
                continue
            if new in cls.__dict__:
                setattr(cls, old, _OldMember(f"{cls.__name__}.{old}", new, cls.__dict__[new]))


class _OldMember:
    """Bound to the class's own member, so that `super()` finds the one above."""

    def __init__(self, old: str, new: str, member: Any) -> None:
        self.old = old
        self.new = new
        self.member = member

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        warn_renamed(self.old, self.new)
        return self.member.__get__(instance, owner)
