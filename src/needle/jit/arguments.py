"""What a compiled function is called with: Tensors and arrays found inside containers, and a key for the rest.

Two calls with the same key may share a compiled program: the same nesting, the same shapes and dtypes, equal plain
values, and the same objects where something is neither.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from needle.autograd import Tensor, Value
from needle.compiler import TracedArray
from needle.errors import DTypeError

__all__ = ["describe_difference", "flatten", "key_of", "map_leaves"]

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
    return "object", id(value)


def describe_difference(old: Any, new: Any, where: str = "the arguments") -> tuple[str, str, str]:
    """Say where two keys differ first: the place, what was there, and what is."""
    if where == "the arguments" and isinstance(old, tuple) and isinstance(new, tuple) and len(old) == len(new):
        number, one, other = next((i, a, b) for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b)
        return describe_difference(one, other, f"argument {number}")
    same_kind = isinstance(old, tuple) and isinstance(new, tuple) and len(old) == len(new) and old[:1] == new[:1]
    if same_kind and not _is_leaf(old):
        for number, (one, other) in enumerate(zip(old, new, strict=True)):
            if one != other:
                return describe_difference(one, other, f"{where}[{number - 1}]")
    return where, _readable(old), _readable(new)


def _is_leaf(key: Any) -> bool:
    return not any(isinstance(one, tuple) and one and isinstance(one[0], (str, type)) for one in key[1:])


def _readable(key: Any) -> str:
    if not isinstance(key, tuple) or not key:
        return repr(key)
    if key[0] in ("Tensor", "array"):
        grad = ", requires_grad" if key[0] == "Tensor" and key[3] else ""
        return f"{key[0]} {key[2]} {key[1]}{grad}"
    if key[0] is float:
        return repr(float.fromhex(key[1]))
    if isinstance(key[0], type) and len(key) == 2 and not isinstance(key[1], tuple):
        return repr(key[1])
    if key[0] == "object":
        return "an object"
    return f"{key[0].__name__ if isinstance(key[0], type) else key[0]} of {len(key) - 1}"
