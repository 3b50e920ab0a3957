"""Noticing that a model or an object has changed since a function was traced."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

__all__ = ["ModuleGuard", "ObjectGuard", "free_objects"]

_PLAIN = (bool, int, float, str, bytes, type(None))


def same(one: Any, other: Any) -> bool:
    """Tell whether two attribute values are the same for a trace: plain values by value, others by identity."""
    if one is other:
        return True
    if isinstance(one, _PLAIN):
        return type(one) is type(other) and bool(one == other)
    if isinstance(one, (list, tuple)) and type(one) is type(other) and len(one) == len(other):
        return all(map(same, one, other))
    return False


class ModuleGuard:
    """The attributes of modules, such as `training`, and what their lists hold.

    A module says when an attribute is set (`tracing.note_change`), so that the attributes are compared only then. Lists
    and dicts do not say so: what they hold is compared in each call.
    """

    def __init__(self, modules: Iterable[Any]) -> None:
        self.modules = list(modules)
        self.attributes = [_snapshot(module) for module in self.modules]
        self.containers = [
            (module, name, value, type(value)(value))
            for module in self.modules
            for name, value in vars(module).items()
            if type(value) in (list, dict)
        ]

    def containers_differ(self) -> bool:
        """Tell whether a list or dict of a module holds something else than it did."""
        return any(not _same_items(value, before) for _, _, value, before in self.containers)

    def difference(self) -> tuple[str, Any, Any] | None:
        """Return which attribute has changed, its old and its new value."""
        for module, before in zip(self.modules, self.attributes, strict=True):
            now = _snapshot(module)
            for name in {**before, **now}:
                old, new = before.get(name, "absent"), now.get(name, "absent")
                if not same(old, new):
                    return f"{type(module).__name__}.{name}", old, new
        for module, name, value, before in self.containers:
            if not _same_items(value, before):
                return f"{type(module).__name__}.{name}", before, value
        return None


def _snapshot(module: Any) -> dict[str, Any]:
    copies = {name: type(value)(value) if type(value) is list else value for name, value in vars(module).items()}
    return {"training": module.training, **copies}


def _same_items(value: Any, before: Any) -> bool:
    if len(value) != len(before):
        return False
    if type(value) is dict:
        return list(value) == list(before) and all(map(same, value.values(), before.values()))
    return all(map(same, value, before))


class ObjectGuard:
    """A name in the function's code: a variable of its closure, a global, or an attribute of such an object."""

    __slots__ = ("expected", "read", "what")

    def __init__(self, what: str, read: Callable[[], Any]) -> None:
        self.what = what
        self.read = read
        self.expected = read()

    def difference(self) -> tuple[str, Any, Any] | None:
        """Return what has changed, its old and its new value."""
        try:
            now = self.read()
        except (AttributeError, KeyError, ValueError):
            now = "absent"
        return None if same(self.expected, now) else (self.what, self.expected, now)


def free_objects(fn: Callable[..., Any], owner: Any = None) -> list[ObjectGuard]:
    """Return guards for what a Python function finds outside itself, and for the attributes that it names there."""
    code = getattr(fn, "__code__", None)
    if code is None:
        return []
    found: list[tuple[str, Callable[[], Any]]] = []
    for name, cell in zip(code.co_freevars, fn.__closure__ or (), strict=True):
        found.append((name, partial(getattr, cell, "cell_contents")))
    names = fn.__globals__
    found += [(name, partial(names.__getitem__, name)) for name in code.co_names if name in names]
    if owner is not None:
        found.append(("self", lambda: owner))
    guards = []
    for what, read in found:
        try:
            value = read()
        except ValueError:  # a closure's variable that is not set yet
            continue
        guards.append(ObjectGuard(what, read))
        guards += _attributes(what, value, code.co_names)
    return guards


def _attributes(what: str, value: Any, names: Iterable[str]) -> list[ObjectGuard]:
    """Guard those instance attributes of a plain object that the code names: plain values and Tensors alike."""
    own = getattr(value, "__dict__", None)
    if own is None or isinstance(value, type) or callable(value) or type(value).__name__ == "module":
        return []
    return [ObjectGuard(f"{what}.{name}", partial(own.__getitem__, name)) for name in names if name in own]
