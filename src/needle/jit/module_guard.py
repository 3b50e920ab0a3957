"""Noticing that a model or an object has changed since a function was traced."""

from __future__ import annotations

import argparse
import inspect
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

__all__ = ["ModuleGuard", "ObjectGuard", "Snapshot", "free_objects"]

_PLAIN = (bool, int, float, str, bytes, type(None))
_CONTAINERS = (list, tuple, dict, set, frozenset)
_NAMESPACES = (types.SimpleNamespace, argparse.Namespace)
_OPAQUE = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType, partial)
# How deep objects inside of objects are looked at.
_DEEPEST = 6
_ABSENT = "absent"
_PACKAGE = str(Path(__file__).parents[1])

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

    def __init__(self, value: Any, around: tuple[int, ...] = ()) -> None:
        self.kind = type(value)
        self.owner = None if isinstance(value, _CONTAINERS) else value
        around = (*around, id(value))
        self.held = {name: frozen(one, around) for name, one in _contents(value)}

    def difference(self, value: Any) -> Difference | None:
        """Return where a value differs from what it was, such as ".scale", and the old and the new content."""
        if type(value) is not self.kind or (self.owner is not None and value is not self.owner):
            return "", self.kind.__name__ if self.owner is None else self.owner, value
        held, count = self.held, 0
        for name, now in _contents(value):
            count += 1
            if name not in held:
                return self._place(name), _ABSENT, now
            found = difference(held[name], now)
            if found is not None:
                return self._place(name) + found[0], found[1], found[2]
        if count == len(held):
            return None
        names = {name for name, _ in _contents(value)}
        missing = next(name for name in held if name not in names)
        return self._place(missing), held[missing], _ABSENT

    def _place(self, name: Any) -> str:
        return f".{name}" if self.owner is not None else f"[{name!r}]"

    def __repr__(self) -> str:
        return f"{self.kind.__name__} of {len(self.held)}"


def frozen(value: Any, around: tuple[int, ...] = ()) -> Any:
    """Return what `difference` compares a value with: a snapshot where it can change without telling."""
    return Snapshot(value, around) if _may_change(value) and id(value) not in around[-_DEEPEST:] else value


def difference(before: Any, now: Any) -> Difference | None:
    """Return the place inside of a value that has changed, empty for the value itself, its old and its new content."""
    if type(before) is Snapshot:
        return before.difference(now)
    return None if same(before, now) else ("", before, now)


def _may_change(value: Any) -> bool:
    if isinstance(value, _PLAIN):
        return False
    if isinstance(value, (tuple, frozenset)):
        return any(map(_may_change, value))
    return isinstance(value, _CONTAINERS) or _is_plain_class(type(value))


def _is_plain_class(kind: type) -> bool:
    """Tell whether objects of a class are looked into: none of Needle's, of Python's own only namespaces."""
    if issubclass(kind, _NAMESPACES):
        return True
    if issubclass(kind, _OPAQUE) or any(base.__module__.partition(".")[0] == "needle" for base in kind.__mro__):
        return False
    has_fields = kind.__dictoffset__ != 0 or any("__slots__" in vars(base) for base in kind.__mro__)
    return has_fields and kind.__module__.partition(".")[0] not in sys.stdlib_module_names


def _contents(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict):
        return iter(value.items())
    if isinstance(value, (set, frozenset)):
        return ((one, True) for one in value)
    return enumerate(value) if isinstance(value, (list, tuple)) else iter(_fields(value).items())


def _fields(value: Any) -> dict[str, Any]:
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
    Lists, dicts and plain objects do not say so: what they hold is compared in each call.
    """

    def __init__(self, modules: Iterable[Any]) -> None:
        self.modules = list(modules)
        self.attributes = [_snapshot(module) for module in self.modules]
        self.held = [
            (module, name, Snapshot(value))
            for module in self.modules
            for name, value in vars(module).items()
            if _may_change(value)
        ]

    def containers_differ(self) -> bool:
        """Tell whether a list, a dict or an object of a module holds something else than it did."""
        return any(held.difference(vars(module).get(name, _ABSENT)) for module, name, held in self.held)

    def difference(self) -> Difference | None:
        """Return which attribute has changed, its old and its new value."""
        for module, before in zip(self.modules, self.attributes, strict=True):
            now = _snapshot(module)
            for name in {**before, **now}:
                old, new = before.get(name, _ABSENT), now.get(name, _ABSENT)
                if not same(old, new):
                    return f"{type(module).__name__}.{name}", old, new
        for module, name, held in self.held:
            found = held.difference(vars(module).get(name, _ABSENT))
            if found is not None:
                return f"{type(module).__name__}.{name}{found[0]}", found[1], found[2]
        return None


def _snapshot(module: Any) -> dict[str, Any]:
    copies = {name: type(value)(value) if type(value) is list else value for name, value in vars(module).items()}
    return {"training": module.training, **copies}


# -------------------------------------------------------------------------------------------------- functions


class ObjectGuard:
    """A name in the function's code: a variable of its closure, a global, or an attribute of such an object."""

    __slots__ = ("expected", "read", "what")

    def __init__(self, what: str, read: Callable[[], Any], looks_inside: bool = True) -> None:
        self.what = what
        self.read = read
        value = read()
        self.expected = frozen(value) if looks_inside and isinstance(value, _CONTAINERS) else value

    def difference(self) -> Difference | None:
        """Return what has changed, its old and its new value."""
        try:
            now = self.read()
        except (AttributeError, KeyError, ValueError):
            now = _ABSENT
        if self.expected is now:
            return None
        found = difference(self.expected, now)
        return None if found is None else (self.what + found[0], found[1], found[2])


def free_objects(fn: Callable[..., Any], owners: Iterable[Any] = (), modules: Iterable[Any] = ()) -> list[ObjectGuard]:
    """Return guards for what a Python function finds outside itself, and for the attributes that it names there.

    The user's functions and methods that it calls by name are looked at in the same way.

    Args:
        fn: the function.
        owners: objects that it is given: the one that it is a method of, and arguments.
        modules: modules that it calls.
    """
    owners = list(owners)
    while isinstance(fn, partial):
        owners += [*fn.args, *fn.keywords.values()]
        fn = fn.func
    fn = inspect.unwrap(fn)
    if hasattr(fn, "__self__"):
        owners.append(fn.__self__)
    functions = _reached_functions(fn, [*owners, *modules])
    own_names = [(function, _names(function.__code__)) for function in functions]
    all_names = list(dict.fromkeys(name for _, names in own_names for name in names))
    found: dict[Any, ObjectGuard] = {}
    for function, names in own_names:
        for key, what, read in _variables(function, names):
            try:
                value = read()
            except ValueError:  # a closure's variable that is not set yet
                continue
            if key not in found:
                found[key] = ObjectGuard(what, read)
            _watch_attributes(what, value, names, all_names, found)
    for one in owners:
        _watch_attributes(
            "self" if one is getattr(fn, "__self__", one) else "argument", one, all_names, all_names, found
        )
    return list(found.values())


def _reached_functions(fn: Any, objects: Iterable[Any]) -> list[Any]:
    """Return a function, the user's functions that it names, and the methods that it names of objects that it knows."""
    functions: dict[Any, Any] = {}
    names: set[str] = {"__call__", "forward"}
    kinds = {type(one) for one in objects}
    waiting = [getattr(fn, "__func__", fn)]
    while waiting:
        for function in waiting:
            code = getattr(function, "__code__", None)
            if code is None or code in functions:
                continue
            functions[code] = function
            names.update(_names(code))
            for _, _, read in _variables(function, _names(code)):
                with suppress(ValueError):  # not set yet
                    value = inspect.unwrap(read())
                    kinds.add(type(value))
                    if isinstance(value, types.FunctionType) and _is_users(value):
                        waiting.append(value)
                    elif _is_plain_class(type(value)):
                        kinds.update(type(one) for one in _fields(value).values())
        methods = [_function_of(getattr(kind, name, None)) for kind in kinds for name in names]
        waiting = [one for one in methods if one is not None and one.__code__ not in functions]
    return list(functions.values())


def _function_of(method: Any) -> Any:
    """Return the user's function behind a method or a property; None where there is none."""
    function = method.fget if isinstance(method, property) else method
    return function if isinstance(function, types.FunctionType) and _is_users(function) else None


def _variables(function: Any, names: Iterable[str]) -> Iterator[tuple[Any, str, Callable[[], Any]]]:
    """Yield what a function finds outside itself: something to tell it by, its name, and how to read it."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield id(cell), name, partial(getattr, cell, "cell_contents")
    known = function.__globals__
    for name in names:
        if name in known:
            yield (id(known), name), name, partial(known.__getitem__, name)


def _names(code: types.CodeType) -> list[str]:
    """Return the globals and attributes that a function's code names, in the functions written inside it too."""
    names = dict.fromkeys(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names.update(dict.fromkeys(_names(constant)))
    return list(names)


@lru_cache(maxsize=1)
def _libraries() -> tuple[str, ...]:
    import sysconfig  # noqa: PLC0415  slow to load, and only needed by the first trace

    return tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))


def _is_users(function: Any) -> bool:
    """Tell whether a function is neither Needle's nor of an installed library."""
    file = function.__code__.co_filename
    return not file.startswith((_PACKAGE, *_libraries()))


def _watch_attributes(
    what: str, value: Any, names: list[str], all_names: list[str], found: dict[Any, ObjectGuard], *, depth: int = 0
) -> None:
    """Guard those attributes of an object that the code names, and theirs where they are plain objects again.

    Of a plain object that is what any function names, as it may be passed on; of others what the function itself does.
    """
    plain = _is_plain_class(type(value))
    own = getattr(value, "__dict__", None)
    if depth > _DEEPEST or isinstance(value, _OPAQUE) or (not plain and (depth or own is None or callable(value))):
        return
    fields = _fields(value) if plain else own or {}
    for name in all_names if plain else names:
        known = (id(value), name)
        if name in fields and known not in found:
            place = f"{what}.{name}"
            # Needle's own objects, such as optimizers, tell by themselves what changes in their containers.
            found[known] = ObjectGuard(place, partial(_field, value, name), looks_inside=plain)
            _watch_attributes(place, fields[name], names, all_names, found, depth=depth + 1)


def _field(value: Any, name: str) -> Any:
    own = getattr(value, "__dict__", None)
    return own[name] if own is not None and name in own else getattr(value, name)
