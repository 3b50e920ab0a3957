"""Where an array lies in memory. A file of its own: who needs it may not want to load LLVM."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["address_of"]


def _asked(array: NDArray[Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


# Extension modules are compiled to read this field, right behind what every object begins with, so it stays there.
_FIELD = object.__basicsize__
_pointer_at = ctypes.c_void_p.from_address


def _read(array: NDArray[Any]) -> int:
    return _pointer_at(id(array) + _FIELD).value or 0


def _may_read() -> bool:
    """Tell whether an object's id is where it lies, and an array's first field is the address."""
    if sys.implementation.name != "cpython":
        return False
    probes: list[NDArray[Any]] = [np.empty(3), np.empty((2, 3), np.int8)[1:, ::-1], np.empty((0, 2))]
    return all(_read(one) == _asked(one) for one in probes)


# Returns where an array's first element lies: in a tenth of the time that asking the array takes.
address_of = _read if _may_read() else _asked
