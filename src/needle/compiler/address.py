"""Where an array lies in memory. A file of its own: who needs it may not want to load LLVM."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

__all__ = ["address_of"]


def address_of(array: NDArray[Any]) -> int:
    """Return where an array's first element lies."""
    address: int = array.__array_interface__["data"][0]
    return address
