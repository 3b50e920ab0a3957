"""The form of a call that is like the last one, told at a glance: before the key of its arguments is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from needle.autograd import Tensor

__all__ = ["Form", "form_of"]

# What does not change: the same object is the same value.
_CONSTANT = (bool, int, float, str, bytes, type(None), complex)


class Form:
    """The kinds of positional arguments that have one key, where these are Tensors, arrays and plain values.

    Not all that have the key are of the form: it says for sure that a key is the same, not that it is another one.
    """

    __slots__ = ("_count", "_have_hashes", "_parts", "_several")

    def __init__(self, parts: Sequence[tuple[Any, Any, Any, Any]]) -> None:
        self._parts = list(parts)
        self._count = len(parts)
        # Tensors are told apart by their hashes, sooner than by their ids.
        self._have_hashes = all(kind.__hash__ is object.__hash__ for kind, _, dtype, _ in parts if dtype is not None)
        self._several = sum(issubclass(kind, Tensor) for kind, *_ in parts) > 1

    def fits(self, args: Sequence[Any], leaves: list[Any]) -> bool:  # noqa: PLR0911  one line a reason
        """Tell whether arguments are of the form; their Tensors and arrays are put into `leaves`."""
        if len(args) != self._count:
            return False
        for one, (kind, shape, dtype, requires_grad) in zip(args, self._parts):  # noqa: B905  as many, see above
            if type(one) is not kind:
                return False
            if dtype is None:
                if one is not shape:
                    return False
                continue
            array = one if requires_grad is None else one.cached_data
            if array is None or array.shape != shape or array.dtype is not dtype:
                return False
            if requires_grad is not None and one.requires_grad is not requires_grad:
                return False
            leaves.append(one)
        if not self._several:
            return True
        count = len(leaves)
        if count == 2:
            return leaves[0] is not leaves[1]
        return len(set(leaves if self._have_hashes else map(id, leaves))) == count


def form_of(args: Sequence[Any]) -> Form | None:
    """Return the form of arguments; None where some are of other kinds, or one Tensor is there twice."""
    parts: list[tuple[Any, Any, Any, Any]] = []
    seen: set[int] = set()
    for one in args:
        kind = type(one)
        if kind in _CONSTANT:
            parts.append((kind, one, None, None))
            continue
        is_tensor = isinstance(one, Tensor)
        if id(one) in seen or not (is_tensor or kind is np.ndarray):
            return None
        seen.add(id(one))
        array = one.cached_data if is_tensor else one
        if array is None:
            return None
        parts.append((kind, array.shape, array.dtype, one.requires_grad if is_tensor else None))
    return Form(parts)
