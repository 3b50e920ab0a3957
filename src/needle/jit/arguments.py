"""What a compiled function is called with: Tensors and arrays found inside containers, and a key for the rest.

Two calls with the same key may share a compiled program: the same nesting, the same shapes and dtypes, equal plain
values, and the same objects where something is neither.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from needle.autograd import Tensor, Value
from needle.compiler import TracedArray
from needle.errors import DTypeError

__all__ = ["describe_difference", "flatten", "key_of", "keywords_key", "map_leaves"]

# Compared by value. Floats by their bits, so that NaN is itself and 0.0 is not −0.0.
_PLAIN = (bool, int, str, bytes, type(None), complex, np.generic, np.dtype, slice, range)


def flatten(value: Any) -> list[Any]:
    """List the Tensors and arrays in a value, in the order in which `map_leaves` meets them."""
    leaves: list[Any] = []

    def note(leaf: Any) -> Any:
        leaves.append(leaf)
        return leaf

    map_leaves(note, value)
    return leaves


def map_leaves(function: Callable[[Any], Any], value: Any) -> Any:
    """Return a value with each Tensor and array in its tuples, lists and dicts replaced by what `function` gives."""
    if isinstance(value, (Value, np.ndarray, TracedArray)):
        return function(value)
    if isinstance(value, tuple):
        parts = [map_leaves(function, one) for one in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, list):
        return [map_leaves(function, one) for one in value]
    if isinstance(value, dict):
        return {key: map_leaves(function, one) for key, one in value.items()}
    return value


def key_of(value: Any, leaves: list[Any], objects: list[Any]) -> Hashable:  # noqa: PLR0911  one line a kind
    """Return the key of a value, and put its Tensors and arrays into `leaves`, other objects into `objects`.

    Raises:
        DTypeError: a TensorTuple, which has no place for gradients of its parts: pass a tuple of Tensors.
    """
    if isinstance(value, Tensor):
        data = value.realize_cached_data()
        for number, other in enumerate(leaves):
            if other is value:
                return "again", number
        leaves.append(value)
        return "Tensor", data.shape, data.dtype, value.requires_grad
    kind: Any = type(value)
    if kind is tuple or kind is list:
        return (kind, *[key_of(one, leaves, objects) for one in value])
    if kind is float:
        return kind, value.hex()
    if isinstance(value, _PLAIN):
        return kind, repr(value) if kind in (slice, range) or isinstance(value, np.generic) else value
    if isinstance(value, np.ndarray):
        leaves.append(value)
        return "array", value.shape, value.dtype
    if isinstance(value, dict):
        return kind, tuple(value), *[key_of(one, leaves, objects) for one in value.values()]
    if isinstance(value, (tuple, list)):
        return (kind, *[key_of(one, leaves, objects) for one in value])
    if isinstance(value, Value):
        raise DTypeError("a compiled function takes a tuple of Tensors, not a TensorTuple: pass one.tuple()")
    objects.append(value)
    return "object", getattr(value, "__name__", type(value).__name__), id(value)


def describe_difference(old: Any, new: Any, names: Sequence[str]) -> tuple[str, str, str]:
    """Say where the keys of two calls differ first: the place, what was there, and what is.

    Args:
        old, new: keys, a tuple with one for each positional argument, and `keywords_key` behind them.
        names: those of the function's parameters.
    """
    before, after = _by_name(old, names), _by_name(new, names)
    for name in {**before, **after}:
        if name not in before or name not in after:
            was, now = (_readable(one[name]) if name in one else "not given" for one in (before, after))
            return f"argument {name}", was, now
        if before[name] != after[name]:
            return _difference_inside(f"argument {name}", before[name], after[name])
    return "the order of named arguments", ", ".join(before), ", ".join(after)


def keywords_key(parts: Iterable[tuple[str, Hashable]]) -> Hashable:
    """Return the key of named arguments."""
    return "keywords", *parts


def _by_name(key: Any, names: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number, part in enumerate(key):
        if part[0] == "keywords":
            found.update(part[1:])
        else:
            found[names[number] if number < len(names) else str(number)] = part
    return found


def _difference_inside(where: str, old: Any, new: Any) -> tuple[str, str, str]:
    """Go down to what differs where two containers are of one form."""
    if old[0] is new[0] and len(old) == len(new) and isinstance(old[0], type):
        if issubclass(old[0], dict) and old[1] == new[1]:
            inside = [(repr(name), a, b) for name, a, b in zip(old[1], old[2:], new[2:], strict=True)]
        elif issubclass(old[0], (tuple, list)):
            inside = [(str(number), a, b) for number, (a, b) in enumerate(zip(old[1:], new[1:], strict=True))]
        else:
            inside = []
        for name, a, b in inside:
            if a != b:
                return _difference_inside(f"{where}[{name}]", a, b)
    other = "another " if _readable(old) == _readable(new) else ""
    return where, _readable(old), other + _readable(new)


def _readable(key: Any) -> str:  # noqa: PLR0911  one line a kind
    """Return what a key says, for people."""
    kind = key[0]
    if kind in ("Tensor", "array"):
        grad = ", requires_grad" if kind == "Tensor" and key[3] else ""
        return f"{kind} {key[2]} {key[1]}{grad}"
    if kind == "again":
        return f"the Tensor that is leaf {key[1]} already"
    if kind == "object":
        return str(key[1])
    if kind == "static":
        return repr(key[2])
    if kind is float:
        return repr(float.fromhex(key[1]))
    if issubclass(kind, dict):
        return f"{kind.__name__} with {', '.join(map(repr, key[1])) or 'no keys'}"
    return f"{kind.__name__} of {len(key) - 1}" if issubclass(kind, (tuple, list)) else repr(key[1])
