"""Noticing that an array of NumPy's, whose values a traced function may have read, has other values now.

An array does not say that it changes, so each call compares it with a copy: always right, at the speed of memory. Most
arrays that a function uses become inputs of its program and are not compared; these are those that Python reads.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

__all__ = ["ArrayValues", "values_of"]

# Arrays of up to so many bytes are compared in one piece, larger ones in pieces that stay in a cache.
_PIECE = 1 << 18
# Of arrays of more bytes there is no copy: it would fill the memory, and comparing would take longer than most steps.
_MOST = 1 << 28
# Of those so many elements are compared, evenly spread: enough to notice an update, not the change of a single element.
_SAMPLE = 4096
_SHORT = 8


class ArrayValues:
    """What an array held when it was seen.

    Attributes:
        is_sample: whether it is so large that only a sample is compared.
    """

    __slots__ = ("__weakref__", "dtype", "is_sample", "shape", "strides", "values")

    def __init__(self, array: NDArray[Any]) -> None:
        self.is_sample = array.nbytes > _MOST
        self.shape = array.shape
        self.dtype = array.dtype
        self.strides = array.strides
        self.values: Any = array.tobytes() if array.nbytes <= _PIECE else _words(array).copy()

    def is_of(self, value: object) -> bool:
        """Tell whether a value is an array that holds the same."""
        if not isinstance(value, np.ndarray) or value.shape != self.shape or value.dtype != self.dtype:
            return False
        if value.nbytes <= _PIECE:
            return value.tobytes() == self.values
        return value.strides == self.strides and _equal(_words(value), self.values)

    def __repr__(self) -> str:
        kind = f"array {self.dtype} {self.shape}"
        size = int(np.prod(self.shape))
        if size > _SHORT or self.dtype.hasobject:
            return f"{kind} of certain values"
        return f"{kind} {np.frombuffer(self.values, self.dtype).reshape(self.shape).tolist()}"


# Large arrays may be known by many names: there is one copy.
_known: WeakValueDictionary[int, ArrayValues] = WeakValueDictionary()


def values_of(array: NDArray[Any]) -> ArrayValues:
    """Return what an array holds."""
    known = _known.get(id(array))
    if known is None or not known.is_of(array):
        known = _known[id(array)] = ArrayValues(array)
    return known


def _words(array: NDArray[Any]) -> NDArray[Any]:
    """Return what is compared of a large array, in the order of memory, as integers: a NaN is equal to itself."""
    array = np.asarray(array)
    flat: Any = array.ravel(order="K") if array.flags.forc or array.nbytes <= _MOST else array.flat
    if array.nbytes > _MOST:
        flat = np.concatenate([flat[:: -(-array.size // _SAMPLE)], flat[array.size - 1 :]])
    if array.dtype.hasobject:  # told apart by identity
        flat = np.frombuffer(flat.tobytes(), np.uint8)
    return flat.view(np.uint64 if flat.nbytes % 8 == 0 else np.uint8)


def _equal(one: NDArray[Any], other: NDArray[Any]) -> bool:
    step = _PIECE // one.itemsize
    return all((one[at : at + step] == other[at : at + step]).all() for at in range(0, one.size, step))
