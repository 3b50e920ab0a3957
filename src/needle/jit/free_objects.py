"""What a function finds outside itself: variables of its closure, globals, defaults, and the attributes that it names.

A traced function has taken their values for granted. Which there are is found in the code of the function, and of all
functions of the user's that it reaches: those that it names, those that lie in what it names, and those that were seen
to run while it was traced, however it came by them.
"""

from __future__ import annotations

import gc
import inspect
import os
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from needle.compiler.user_code import PACKAGE, is_users_code, library_folders
from needle.jit.module_guard import (
    ABSENT,
    CONTAINERS,
    DEEPEST,
    OPAQUE,
    Difference,
    difference,
    fields_of,
    frozen,
    is_plain_class,
)

__all__ = ["EnvironmentGuard", "FreeObjects", "ObjectGuard", "free_objects"]

# The table under os.environ, where there is one: reading it all is a hundred times quicker.
_environment: Any = getattr(os.environ, "_data", os.environ)
# How deep functions are looked for in containers and objects.
_NEAR = 3


class ObjectGuard:
    """A name in the function's code: a variable of its closure, a global, or an attribute of such an object."""

    __slots__ = ("expected", "read", "what")

    def __init__(
        self, what: str, read: Callable[[], Any], looks_inside: bool = True, inputs: Set[int] = frozenset()
    ) -> None:
        self.what = what
        self.read = read
        value = read()
        looks = isinstance(value, np.ndarray) or (looks_inside and isinstance(value, CONTAINERS))
        self.expected = frozen(value, inputs) if looks else value

    def difference(self) -> Difference | None:
        """Return what has changed, its old and its new value."""
        try:
            now = self.read()
        except (AttributeError, KeyError, ValueError, IndexError):
            now = ABSENT
        if self.expected is now:
            return None
        found = difference(self.expected, now)
        return None if found is None else (self.what + found[0], found[1], found[2])


class EnvironmentGuard:
    """All variables of the environment: which of them code reads is known only when it runs."""

    __slots__ = ("expected",)

    def __init__(self) -> None:
        self.expected = dict(_environment)

    def difference(self) -> Difference | None:
        """Return which variable has changed, its old and its new value."""
        if _environment == self.expected:
            return None
        before, now = self.expected, dict(_environment)
        key = next(one for one in {**before, **now} if before.get(one) != now.get(one))
        name, old, new = (_text(one) for one in (key, before.get(key, ABSENT), now.get(key, ABSENT)))
        return f"os.environ[{name!r}]", old, new


def _text(value: Any) -> str:
    return os.fsdecode(value)


class FreeObjects(NamedTuple):
    """What a function finds outside itself.

    Fields: `guards`; `functions`, those of the user's that were seen to run, and those that they name.
    """

    guards: list[ObjectGuard | EnvironmentGuard]
    functions: list[Any]


def free_objects(
    fn: Callable[..., Any],
    owners: Iterable[Any] = (),
    modules: Iterable[Any] = (),
    called: Set[types.CodeType] = frozenset(),
    inputs: Set[int] = frozenset(),
) -> FreeObjects:
    """Return guards for what a Python function finds outside itself, and for the attributes that it names there.

    The user's functions and methods that it reaches are looked at in the same way.

    Args:
        fn: the function.
        owners: objects that it is given: the one that it is a method of, and arguments.
        modules: modules that it calls.
        called: the code of functions that were seen to run inside of it.
        inputs: the ids of arrays that a program reads anew in each call.
    """
    owners = list(owners)
    while isinstance(fn, partial):
        owners += [*fn.args, *fn.keywords.values()]
        fn = fn.func
    fn = inspect.unwrap(fn)
    if hasattr(fn, "__self__"):
        owners.append(fn.__self__)
    reached = _Reached([*owners, *modules])
    outermost = getattr(fn, "__func__", fn)
    reached.follow([outermost])
    reached.follow(reached.unknown(called))
    names = list(dict.fromkeys(name for function in reached.functions for name in _names(function.__code__)))
    watch = _Watch(names, inputs)
    for function in reached.functions:
        watch.function(function)
    for one in owners:
        watch.attributes("self" if one is getattr(fn, "__self__", one) else "argument", one, watch.all_names)
    for kind in reached.kinds:
        watch.attributes(kind.__name__, kind, watch.all_names)
    environment = [EnvironmentGuard()] if "environ" in names or "getenv" in names else []
    return FreeObjects([*watch.found.values(), *environment], reached.running(outermost, called))


# ------------------------------------------------------------------------------------------- which functions


class _Reached:
    """The user's functions that can be reached from one, and the classes of the objects that they know."""

    def __init__(self, objects: Iterable[Any]) -> None:
        self.by_id: dict[int, Any] = {}
        self.kinds = dict.fromkeys(type(one) for one in objects)
        self.names = dict.fromkeys(("__call__", "__init__", "forward"))

    @property
    def functions(self) -> list[Any]:
        """Those that were found."""
        return list(self.by_id.values())

    def follow(self, functions: Iterable[Any]) -> None:
        """Add functions, and all that they reach by the names in their code."""
        waiting = list(functions)
        while waiting:
            found: list[Any] = []
            for function in waiting:
                if id(function) in self.by_id or getattr(function, "__code__", None) is None:
                    continue
                self.by_id[id(function)] = function
                names = _names(function.__code__)
                self.names.update(dict.fromkeys(names))
                for _, _, read in _variables(function, names):
                    with suppress(ValueError):  # not set yet
                        found += self._functions_in(read(), names)
            found += [
                _function_of(inspect.getattr_static(kind, name, None)) for kind in self.kinds for name in self.names
            ]
            waiting = [one for one in found if one is not None and id(one) not in self.by_id]

    def _functions_in(self, value: Any, names: list[str], depth: int = 0) -> list[Any]:
        """Return the functions that a value is, or holds; and note the classes of the objects in it."""
        if depth > _NEAR:
            return []
        value = inspect.unwrap(value) if callable(value) else value
        inside: Iterable[Any] = ()
        if isinstance(value, types.FunctionType):
            return [value] if _is_users(value) else []
        if isinstance(value, types.MethodType):
            inside = (value.__func__, value.__self__)
        elif isinstance(value, partial):
            inside = (value.func, *value.args, *value.keywords.values())
        elif isinstance(value, dict):
            inside = value.values()
        elif isinstance(value, CONTAINERS):
            inside = value
        elif isinstance(value, types.ModuleType):
            known = vars(value) if _is_users_module(value) else {}
            inside = [known[name] for name in names if name in known]
        elif isinstance(value, type):
            self.kinds[value] = None
        else:
            self.kinds[type(value)] = None
            inside = fields_of(value).values() if is_plain_class(type(value)) else ()
        return [one for held in list(inside) for one in self._functions_in(held, names, depth + 1)]

    def running(self, outermost: Any, called: Set[types.CodeType]) -> list[Any]:
        """Return the functions that were seen to run, and those that these name."""
        run = [one for one in self.functions if one is outermost or not called.isdisjoint(_codes(one.__code__))]
        found = {id(one): one for one in run}
        for function in run:
            for _, _, read in _variables(function, _names(function.__code__)):
                with suppress(ValueError):
                    value = read()
                    if isinstance(value, types.FunctionType) and id(value) in self.by_id:
                        found[id(value)] = value
        return list(found.values())

    def unknown(self, called: Set[types.CodeType]) -> list[Any]:
        """Return the functions of code that was seen to run and that nothing has led to."""
        known: set[types.CodeType] = set()
        for function in self.functions:
            known.update(_codes(function.__code__))
        missing = called - known
        if not missing:
            return []
        return [one for one in gc.get_objects() if type(one) is types.FunctionType and one.__code__ in missing]


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield a function's code and that of the functions written inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _function_of(method: Any) -> Any:
    """Return the user's function behind a method or a property; None where there is none."""
    function = method.fget if isinstance(method, property) else getattr(method, "__func__", method)
    function = inspect.unwrap(function) if callable(function) else function
    return function if isinstance(function, types.FunctionType) and _is_users(function) else None


def _names(code: types.CodeType) -> list[str]:
    """Return the globals and attributes that a function's code names, in the functions written inside it too.

    Strings that could be names are among them, as in `getattr(config, "scale")` or `globals()["scale"]`.
    """
    names = dict.fromkeys(code.co_names)
    for one in _codes(code):
        names.update(dict.fromkeys(one.co_names))
        names.update(dict.fromkeys(text for text in one.co_consts if isinstance(text, str) and text.isidentifier()))
    return list(names)


def _variables(function: Any, names: Iterable[str]) -> Iterator[tuple[Any, str, Callable[[], Any]]]:
    """Yield what a function finds outside itself: something to tell it by, its name, and how to read it."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield id(cell), name, partial(getattr, cell, "cell_contents")
    known = function.__globals__
    for name in names:
        if name in known:
            yield (id(known), name), name, partial(known.__getitem__, name)
    defaults = function.__defaults__ or ()
    arguments = function.__code__.co_varnames[: function.__code__.co_argcount]
    for number, name in enumerate(arguments[len(arguments) - len(defaults) :]):
        yield (id(function), name), name, partial(defaults.__getitem__, number)
    for name in function.__kwdefaults__ or {}:
        yield (id(function), name), name, partial(function.__kwdefaults__.__getitem__, name)


def _is_users(function: Any) -> bool:
    return is_users_code(function.__code__)


def _is_users_module(module: types.ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    if file is None:
        return module.__name__.partition(".")[0] not in (*sys.stdlib_module_names, "needle")
    return not file.startswith((PACKAGE, *library_folders()))


# ------------------------------------------------------------------------------------------------ what they read


class _Watch:
    """Makes the guards. Those of one object and name are made once."""

    def __init__(self, all_names: list[str], inputs: Set[int]) -> None:
        self.all_names = all_names
        self.inputs = inputs
        self.found: dict[Any, ObjectGuard] = {}

    def function(self, function: Any) -> None:
        """Guard a function's variables, and what it names of them."""
        names = _names(function.__code__)
        # Of Needle's own functions, such as `ndl.softmax`, neither globals nor defaults change.
        stays = function.__code__.co_filename.startswith(PACKAGE)
        for key, what, read in _variables(function, names):
            if stays and isinstance(key, tuple):
                continue
            try:
                value = read()
            except ValueError:  # a closure's variable that is not set yet
                continue
            self._add(key, what, read)
            self.attributes(what, value, names)

    def attributes(self, what: str, value: Any, names: list[str], depth: int = 0) -> None:
        """Guard those attributes of an object that the code names, and theirs where they are plain objects again.

        Of a plain object that is what any function names, as it may be passed on; of others what the function itself
        does.
        """
        if depth > DEEPEST:
            return
        if isinstance(value, partial):
            for one in (*value.args, *value.keywords.values()):
                self.attributes(what, one, names, depth + 1)
            return
        if isinstance(value, types.MethodType):
            value = value.__self__
        plain = is_plain_class(type(value))
        if isinstance(value, type):
            fields = _class_fields(value)
        elif isinstance(value, types.ModuleType):
            fields = vars(value) if _is_users_module(value) else {}
        elif isinstance(value, OPAQUE) or (not plain and (depth or callable(value))):
            return
        else:
            fields = _class_fields(type(value)) | fields_of(value) if plain else getattr(value, "__dict__", {})
        for name in self.all_names if plain else names:
            if name in fields and (id(value), name) not in self.found:
                place = f"{what}.{name}"
                # Needle's own objects, such as optimizers, tell by themselves what changes in their containers.
                inside = plain or isinstance(value, (type, types.ModuleType))
                self._add((id(value), name), place, _reader(value, name), inside)
                self.attributes(place, fields[name], names, depth + 1)

    def _add(self, key: Any, what: str, read: Callable[[], Any], looks_inside: bool = True) -> None:
        if key not in self.found:
            self.found[key] = ObjectGuard(what, read, looks_inside, self.inputs)


def _class_fields(kind: type) -> dict[str, Any]:
    """Return what a class of the user's holds beside methods: its own and what it inherits."""
    fields: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        top = base.__module__.partition(".")[0]
        if top != "needle" and top not in sys.stdlib_module_names:
            fields |= {name: value for name, value in vars(base).items() if not hasattr(value, "__get__")}
    return fields


def _reader(value: Any, name: str) -> Callable[[], Any]:
    """Return what reads a field as `_field` does, sooner where nothing of the class stands before an object's own."""
    kind: Any = type(value)
    is_plain = kind.__getattribute__ is object.__getattribute__ and not hasattr(kind, name)
    return partial(getattr if is_plain else _field, value, name)


def _field(value: Any, name: str) -> Any:
    own = getattr(value, "__dict__", None)
    return own[name] if own is not None and name in own else getattr(value, name)
