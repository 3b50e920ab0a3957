"""Noticing that an array of NumPy's, whose values a traced function may have read, has other values now.

An array does not say that it changes, so calls look. Most arrays that a function uses become inputs of its program and
are not looked at; these are those that Python may read. Small ones are compared whole in each call. Of a large one,
which is mostly a set of data that is within reach and never changes, a call looks at a sample and at one piece, another
one each time.
"""

from __future__ import annotations

from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from needle.compiler.user_code import warn_user

__all__ = ["ArrayValues"]

# Arrays of up to so many bytes are compared whole, which takes up to 40 µs.
_WHOLE = 1 << 20
# Pieces of so many bytes stay in a cache; the checksum of one takes about 10 µs.
_PIECE = 1 << 16
# Of larger arrays there are no checksums, since a trace would take seconds.
_MOST = 1 << 30
# A sample is of so many elements, evenly spread: enough to notice an update at once, not the change of one element.
_SAMPLE = 4096
_SHORT = 8


class ArrayValues:
    """What an array held when it was seen.

    Attributes:
        pieces: of a small array the bytes of each piece, of a large one their checksums, of a very large one nothing.
        sample: the bytes of some elements of a large array.
        next: the piece of a large array that is looked at next.
        is_changed: whether it has another checksum, of which the user was told.
    """

    __slots__ = ("dtype", "is_changed", "next", "pieces", "sample", "shape", "strides")

    def __init__(self, array: NDArray[Any]) -> None:
        self.shape = array.shape
        self.dtype = array.dtype
        self.strides = array.strides
        flat, is_large = _flat(array), array.nbytes > _WHOLE
        self.sample = _sample(flat) if is_large else b""
        count = 0 if array.nbytes > _MOST else -(-array.nbytes // _PIECE)
        pieces = (_piece(flat, array.dtype, number) for number in range(count))
        self.pieces: list[Any] = list(map(crc32, pieces) if is_large else pieces)
        self.next = 0
        self.is_changed = False

    def is_of(self, value: object) -> bool:
        """Tell whether a value is an array that holds the same, as far as this call looks."""
        if not isinstance(value, np.ndarray) or value.shape != self.shape or value.dtype != self.dtype:
            return False
        if value.nbytes <= _PIECE:
            return not self.pieces or value.tobytes() == self.pieces[0]
        if value.strides != self.strides:
            return False
        flat = _flat(value)
        if self.sample:
            return _sample(flat) == self.sample and self._has_next_piece(flat)
        return all(_piece(flat, self.dtype, number) == piece for number, piece in enumerate(self.pieces))

    def _has_next_piece(self, flat: Any) -> bool:
        if not self.pieces:
            return True
        # A piece that has changed stays the next one: another call would find the others as they were.
        if crc32(_piece(flat, self.dtype, self.next)) == self.pieces[self.next]:
            self.next = (self.next + 1) % len(self.pieces)
            self.is_changed = False
            return True
        if self.is_changed:
            return False
        self.is_changed = True
        warn_user(
            f"{self!r}, which a compiled function may read in Python, has changed in place. It is so large that a call "
            f"looks at one of its {len(self.pieces)} pieces: as many calls may have used the old numbers. Pass it as "
            "an argument, or make a Tensor of it inside of the function"
        )
        return False

    def __repr__(self) -> str:
        kind = f"array {self.dtype} {self.shape}"
        size = int(np.prod(self.shape))
        if size > _SHORT or self.dtype.hasobject:
            return f"{kind} of certain values"
        return f"{kind} {np.frombuffer(b''.join(self.pieces), self.dtype).reshape(self.shape).tolist()}"


def _flat(array: NDArray[Any]) -> Any:
    """Return the elements in the order of memory; where a large array is a part of another one, without a copy."""
    array = np.asarray(array)
    return array.ravel(order="K") if array.flags.forc or array.nbytes <= _WHOLE else array.flat


def _piece(flat: Any, dtype: np.dtype[Any], number: int) -> bytes:
    length = _PIECE // dtype.itemsize or 1
    return bytes(flat[number * length : (number + 1) * length].tobytes())


def _sample(flat: Any) -> bytes:
    size = len(flat)
    return bytes(flat[:: -(-size // _SAMPLE)].tobytes() + flat[size - 1 :].tobytes())
