"""Noticing that a model, a container or a plain object has changed since a function was traced."""

from __future__ import annotations

import argparse
import sys
import types
from collections.abc import Iterable, Iterator, Set
from functools import partial
from typing import Any

import numpy as np

from needle.jit.array_guard import ArrayValues

__all__ = [
    "ABSENT",
    "CONTAINERS",
    "DEEPEST",
    "OPAQUE",
    "Difference",
    "ModuleGuard",
    "Snapshot",
    "difference",
    "fields_of",
    "frozen",
    "is_plain_class",
    "same",
]

_PLAIN = (bool, int, float, str, bytes, type(None))
CONTAINERS = (list, tuple, dict, set, frozenset)
_NAMESPACES = (types.SimpleNamespace, argparse.Namespace)
OPAQUE = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType, partial)
# How deep objects inside of objects are looked at.
DEEPEST = 6
ABSENT = "absent"

Difference = tuple[str, Any, Any]


def same(one: Any, other: Any) -> bool:
    """Tell whether two attribute values are the same for a trace: plain values by value, others by identity."""
    if one is other:
        return True
    if isinstance(one, _PLAIN):
        return type(one) is type(other) and bool(one == other)
    if isinstance(one, (list, tuple)) and type(one) is type(other) and len(one) == len(other):
        return all(map(same, one, other))
    return False


# ------------------------------------------------------------------------------------- containers and plain objects


class Snapshot:
    """What a container or a plain object held, and what the containers and objects in it held.

    They do not say that they change, so that this is compared in each call. Plain objects are those of a user's own
    classes, such as a configuration: Tensors, modules and whatever else Needle has tell of changes by themselves.
    """

    __slots__ = ("held", "kind", "owner")

    def __init__(self, value: Any, inputs: Set[int] = frozenset(), around: tuple[int, ...] = ()) -> None:
        self.kind = type(value)
        self.owner = None if isinstance(value, CONTAINERS) else value
        around = (*around, id(value))
        self.held = {name: frozen(one, inputs, around) for name, one in _contents(value)}

    def difference(self, value: Any) -> Difference | None:
        """Return where a value differs from what it was, such as ".scale", and the old and the new content."""
        if type(value) is not self.kind or (self.owner is not None and value is not self.owner):
            return "", self.kind.__name__ if self.owner is None else self.owner, value
        held, count = self.held, 0
        for name, now in _contents(value):
            count += 1
            if name not in held:
                return self._place(name), ABSENT, now
            found = difference(held[name], now)
            if found is not None:
                return self._place(name) + found[0], found[1], found[2]
        if count == len(held):
            return None
        names = {name for name, _ in _contents(value)}
        missing = next(name for name in held if name not in names)
        return self._place(missing), held[missing], ABSENT

    def _place(self, name: Any) -> str:
        return f".{name}" if self.owner is not None else f"[{name!r}]"

    def __repr__(self) -> str:
        return f"{self.kind.__name__} of {len(self.held)}"


def frozen(value: Any, inputs: Set[int] = frozenset(), around: tuple[int, ...] = ()) -> Any:
    """Return what `difference` compares a value with: a snapshot where it can change without telling.

    Args:
        value: any.
        inputs: the ids of arrays that may change, as a program reads them anew in each call.
        around: the ids of what the value lies in.
    """
    if isinstance(value, np.ndarray):
        return value if id(value) in inputs else ArrayValues(value)
    return Snapshot(value, inputs, around) if _may_change(value) and id(value) not in around[-DEEPEST:] else value


def difference(before: Any, now: Any) -> Difference | None:
    """Return the place inside of a value that has changed, empty for the value itself, its old and its new content."""
    if type(before) is Snapshot:
        return before.difference(now)
    if type(before) is ArrayValues:
        return None if before.is_of(now) else ("", before, ArrayValues(now) if isinstance(now, np.ndarray) else now)
    return None if same(before, now) else ("", before, now)


def _may_change(value: Any) -> bool:
    if isinstance(value, _PLAIN):
        return False
    if isinstance(value, np.ndarray):
        return True
    if isinstance(value, (tuple, frozenset)):
        return any(map(_may_change, value))
    return isinstance(value, CONTAINERS) or is_plain_class(type(value))


def is_plain_class(kind: type) -> bool:
    """Tell whether objects of a class are looked into: none of Needle's, of Python's own only namespaces."""
    if issubclass(kind, _NAMESPACES):
        return True
    if issubclass(kind, OPAQUE) or any(base.__module__.partition(".")[0] == "needle" for base in kind.__mro__):
        return False
    has_fields = kind.__dictoffset__ != 0 or any("__slots__" in vars(base) for base in kind.__mro__)
    return has_fields and kind.__module__.partition(".")[0] not in sys.stdlib_module_names


def _contents(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict):
        return iter(value.items())
    if isinstance(value, (set, frozenset)):
        return ((one, True) for one in value)
    return enumerate(value) if isinstance(value, (list, tuple)) else iter(fields_of(value).items())


def fields_of(value: Any) -> dict[str, Any]:
    """Return an object's attributes, those in slots included."""
    fields = dict(getattr(value, "__dict__", {}))
    for base in type(value).__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                fields[name] = getattr(value, name)
    return fields


# ---------------------------------------------------------------------------------------------------- modules


class ModuleGuard:
    """The attributes of modules, such as `training`, and what the lists, dicts and plain objects among them hold.

    A module says when an attribute is set (`tracing.note_change`), so that the attributes are compared only then.
    Lists, dicts, arrays and plain objects do not say so: what they hold is compared in each call.

    Args:
        modules: the modules.
        inputs: the ids of arrays that may change.
    """

    def __init__(self, modules: Iterable[Any], inputs: Set[int] = frozenset()) -> None:
        self.modules = list(modules)
        self.attributes = [_snapshot(module) for module in self.modules]
        self.held = [
            (module, name, frozen(value, inputs))
            for module in self.modules
            for name, value in vars(module).items()
            if _may_change(value) and id(value) not in inputs
        ]

    def containers_differ(self) -> bool:
        """Tell whether a list, a dict or an object of a module holds something else than it did."""
        return any(difference(held, vars(module).get(name, ABSENT)) for module, name, held in self.held)

    def difference(self) -> Difference | None:
        """Return which attribute has changed, its old and its new value."""
        for module, before in zip(self.modules, self.attributes, strict=True):
            now = _snapshot(module)
            for name in {**before, **now}:
                old, new = before.get(name, ABSENT), now.get(name, ABSENT)
                if not same(old, new):
                    return f"{type(module).__name__}.{name}", old, new
        for module, name, held in self.held:
            found = difference(held, vars(module).get(name, ABSENT))
            if found is not None:
                return f"{type(module).__name__}.{name}{found[0]}", found[1], found[2]
        return None


def _snapshot(module: Any) -> dict[str, Any]:
    copies = {name: type(value)(value) if type(value) is list else value for name, value in vars(module).items()}
    return {"training": module.training, **copies}
