"""Shapes and dtypes of results that nobody has computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from needle.compiler.graph import input_node
from needle.compiler.trace import TracedArray

__all__ = ["abstract_result"]


def abstract_result(function: Callable[..., Any], arrays: Sequence[Any]) -> Any:
    """Run `function` on arrays of which only shape and dtype are known.

    Args:
        function: takes and returns arrays or tuples of them, in calls of the array API.
        arrays: NumPy's, traced ones, or tuples of them.

    Returns:
        The result's shapes and dtypes, as TracedArrays that know nothing else.

    Raises:
        TraceError: the function needs values.
    """
    return _forget_values(function(*map(_forget_values, arrays)))


def _forget_values(array: Any) -> Any:
    if isinstance(array, (tuple, list)):
        return tuple(map(_forget_values, array))
    return TracedArray(input_node(array.shape, array.dtype))
