"""Memory of results that the caller has let go of: the next call writes its own results there.

New memory is dear where results are large: the system hands it out page by page, set to zero first, and takes it back
when the result is thrown away. So a program keeps hold of the arrays that it gave out last. One of them serves again
when nobody else refers to it, be it by a Tensor, a view, a buffer or a weak reference.
"""

from __future__ import annotations

from collections.abc import Iterable
from sys import getrefcount
from typing import Any
from weakref import getweakrefcount

import numpy as np
from numpy.typing import NDArray

from needle.compiler.address import address_of

__all__ = ["ResultMemory", "take_all"]

_Held = tuple[Any, int]  # an array, or None, and its address


def _free_references() -> int:
    held: _Held = np.empty(0), 0
    array, _ = held
    return getrefcount(array)


# As many references are counted of an array that only its memory holds, by a function with a name for it.
_FREE = _free_references()


class ResultMemory:
    """The arrays that the last calls gave out as one output.

    There are two: while `y = f(x)` runs again, the caller still holds the `y` of the call before.

    Args:
        output, at: the number of the output, and that of its address.
        shape, dtype: what its arrays are of.
    """

    __slots__ = ("at", "dtype", "newer", "older", "output", "shape")

    def __init__(self, output: int, at: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.output = output
        self.at = at
        self.shape = shape
        self.dtype = np.empty(0, dtype).dtype  # the object that arrays of it have
        self.newer: _Held = None, 0
        self.older: _Held = None, 0

    def exchange(self) -> _Held:
        """Return the array that was not given out last, or a new one; the other waits for its turn."""
        array, _ = older = self.older
        if getrefcount(array) != _FREE or not self._is_as_made(array):
            array = np.empty(self.shape, self.dtype)
            older = array, address_of(array)
        self.newer, self.older = older, self.newer
        return older

    def _is_as_made(self, array: NDArray[Any]) -> bool:
        """Tell whether nobody who had an array has changed its form, and nobody waits for it to go."""
        return (
            array.shape == self.shape
            and array.dtype is self.dtype
            and array.flags.carray
            and not getweakrefcount(array)
        )


def take_all(memories: Iterable[ResultMemory], outputs: list[Any], addresses: memoryview) -> None:
    """Put arrays whose values nobody needs among the outputs, and where they lie among the addresses."""
    for memory in memories:
        array, address = memory.newer
        # `_is_as_made` written out: this is run for every result.
        if (
            getrefcount(array) != _FREE
            or array.shape != memory.shape
            or array.dtype is not memory.dtype
            or not array.flags.carray
            or getweakrefcount(array)
        ):
            array, address = memory.exchange()
        outputs[memory.output] = array
        addresses[memory.at] = address
