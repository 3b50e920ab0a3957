"""Noticing that an array of NumPy's, whose values a traced function may have read, has other values now."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ArrayValues"]

# Arrays of up to so many bytes are compared whole in each call, which takes some microseconds.
_WHOLE = 1 << 18
# Of larger ones so many elements, evenly spread: enough to notice an update, not the change of a single element.
_SAMPLE = 4096
_SHORT = 8


class ArrayValues:
    """What an array held when it was seen.

    Attributes:
        identity: its id.
    """

    __slots__ = ("dtype", "identity", "shape", "values")

    def __init__(self, array: NDArray[Any]) -> None:
        self.identity = id(array)
        self.shape = array.shape
        self.dtype = array.dtype
        self.values = _sampled(array).tobytes()

    def is_of(self, value: object) -> bool:
        """Tell whether a value is an array that holds the same."""
        if not isinstance(value, np.ndarray) or value.shape != self.shape or value.dtype != self.dtype:
            return False
        return _sampled(value).tobytes() == self.values

    def __repr__(self) -> str:
        kind = f"array {self.dtype} {self.shape}"
        size = int(np.prod(self.shape))
        if size > _SHORT or self.dtype.hasobject:
            return f"{kind} of certain values"
        return f"{kind} {np.frombuffer(self.values, self.dtype).reshape(self.shape).tolist()}"


def _sampled(array: NDArray[Any]) -> NDArray[Any]:
    if array.nbytes <= _WHOLE:
        return array
    flat: Any = array.ravel(order="K") if array.flags.forc else array.flat
    return np.concatenate([flat[:: -(-array.size // _SAMPLE)], flat[array.size - 1 :]])
