"""Memory of results that the caller has let go of: the next call writes its own results there.

New memory is dear where results are large: the system hands it out page by page, set to zero first, and takes it back
when the result is thrown away. So a program keeps hold of the arrays that it gave out last. One of them serves again
when nobody else refers to it, be it by a Tensor, a view, a buffer or a weak reference.
"""

from __future__ import annotations

from sys import getrefcount
from typing import Any
from weakref import getweakrefcount

import numpy as np
from numpy.typing import NDArray

from needle.compiler.address import address_of

__all__ = ["ResultMemory"]

_Held = tuple[NDArray[Any], int]  # an array and its address


def _own_references() -> int:
    held: _Held = np.empty(0), 0
    return getrefcount(held[0])


# As many references as are counted where there is none but our own.
_OWN_REFERENCES = _own_references()


class ResultMemory:
    """The arrays that the last calls gave out as one output.

    There are two: while `y = f(x)` runs again, the caller still holds the `y` of the call before.
    """

    __slots__ = ("dtype", "newer", "older", "shape")

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape = shape
        self.dtype = dtype
        self.newer: _Held | None = None
        self.older: _Held | None = None

    def take(self) -> _Held:
        """Return an array whose values nobody needs, and its address: the one given out last where that is free."""
        newer, older = self.newer, self.older
        if newer is not None and getrefcount(newer[0]) == _OWN_REFERENCES and self._is_as_made(newer[0]):
            return newer
        if older is None or getrefcount(older[0]) != _OWN_REFERENCES or not self._is_as_made(older[0]):
            array = np.empty(self.shape, self.dtype)
            older = array, address_of(array)
        self.newer, self.older = older, newer
        return older

    def _is_as_made(self, array: NDArray[Any]) -> bool:
        """Tell whether nobody who had an array has changed its form, and nobody waits for it to go."""
        as_made = array.shape == self.shape and array.dtype == self.dtype and array.flags.carray
        return as_made and not getweakrefcount(array)
