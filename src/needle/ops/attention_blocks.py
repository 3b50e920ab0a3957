"""The matrix of attention weights in blocks: which there are, which part of a mask is a block's, and what is dropped.

Which weights are dropped is never kept. It is told by a hash of the weight's place and of a seed that is drawn once, so
that any block, forwards or backwards, finds its own part again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from needle.device import Array, array_namespace
from needle.dtype import is_floating, is_narrow
from needle.errors import DTypeError, ShapeError
from needle.ops.broadcasting import broadcast_rule

__all__ = ["MaskSums", "after", "blocks", "check_operands", "join", "kept_at", "kept_weights", "mask_part"]


def blocks(length: int, size: int) -> Iterator[slice]:
    """Yield blocks of at most `size` elements that are as long as each other; one of none where there are none."""
    count = max(1, -(-length // size))
    for number in range(count):
        yield slice(number * length // count, (number + 1) * length // count)


def join(parts: Sequence[Array], axis: int = -2) -> Array:
    """Put arrays one behind the other."""
    return parts[0] if len(parts) == 1 else array_namespace(parts[0]).concat(list(parts), axis=axis)


def after(array: Array, *others: Array) -> Array:
    """Return an array that a compiled program computes no sooner than others."""
    waits = getattr(array_namespace(array), "after", None)
    return array if waits is None or not others else waits(array, *others)


# -------------------------------------------------------------------------------------------------- masks


def mask_part(mask: Array, rows: slice, columns: slice) -> Array:
    """Return the part of a mask, which may repeat along both axes, for a block."""
    if mask.ndim >= 2 and mask.shape[-2] != 1:
        mask = mask[..., rows, :]
    return mask[..., columns] if mask.ndim and mask.shape[-1] != 1 else mask


class MaskSums:
    """The adjoint of a mask, summed up from blocks of the logits' adjoint.

    Args:
        mask: the mask, each axis of which has the logits' length or 1.
    """

    def __init__(self, mask: Array) -> None:
        self.mask = mask
        self.found: dict[tuple[int, int], Array] = {}

    def add(self, ds: Array, rows: slice, columns: slice) -> None:
        """Add a block, summed along the axes that the mask repeats along."""
        xp = array_namespace(ds)
        shape = mask_part(self.mask, rows, columns).shape
        extra = ds.ndim - len(shape)
        repeated = [axis for axis, n in enumerate(shape, start=extra) if n == 1 and ds.shape[axis] != 1]
        axes = (*range(extra), *repeated)
        own = xp.reshape(xp.sum(ds, axis=axes) if axes else ds, shape)
        place = self._starts(rows, columns)
        self.found[place] = self.found[place] + own if place in self.found else own

    def whole(self, rows: Sequence[slice], columns: Sequence[slice]) -> Array:
        """Return the mask's adjoint, 0 in blocks that were never added."""
        shape = (1, 1, *self.mask.shape)
        rows = rows if shape[-2] != 1 else rows[:1]
        columns = columns if shape[-1] != 1 else columns[:1]
        return join([join([self._block(row, column) for column in columns], axis=-1) for row in rows])

    def _block(self, rows: slice, columns: slice) -> Array:
        found = self.found.get(self._starts(rows, columns))
        if found is not None:
            return found
        shape = mask_part(self.mask, rows, columns).shape
        return array_namespace(self.mask).zeros(shape, dtype=self.mask.dtype)

    def _starts(self, rows: slice, columns: slice) -> tuple[int, int]:
        """Return where a block lies in the mask: 0 along an axis that the mask repeats along."""
        shape = (1, 1, *self.mask.shape)
        return (rows.start if shape[-2] != 1 else 0), (columns.start if shape[-1] != 1 else 0)


# ------------------------------------------------------------------------------------------------- dropping


def kept_weights(seed: Array, lead: Sequence[int], num_queries: int, block: tuple[slice, slice], drop: float) -> Array:
    """Tell which weights of a block are kept.

    Shapes:
        result: (*lead, rows, columns), booleans.
    """
    xp = array_namespace(seed)
    rows, columns = (xp.arange(one.start, one.stop, dtype=np.uint32) for one in block)
    heads = xp.reshape(xp.arange(math.prod(lead), dtype=np.uint32), (*lead, 1, 1))
    return kept_at(seed, heads, xp.reshape(rows, (-1, 1)), columns, num_queries, drop)


def kept_at(  # noqa: PLR0917  a seed, and a place along three axes of certain lengths
    seed: Array, heads: Array, rows: Array, columns: Array, num_queries: int, drop: float
) -> Array:
    """Tell which weights are kept at places: each with probability 1 − drop, by a hash of its place.

    Shapes:
        seed: (2,), of uint32, as the numbers of heads, rows and columns are.
        result: what the numbers broadcast to, booleans.
    """
    row = heads * np.uint32(num_queries) + rows
    row = _mix(_mix(row ^ seed[0]) ^ seed[1])
    # 2³² over the golden ratio: neighbouring columns lie far apart.
    return _mix(row + columns * np.uint32(0x9E3779B9)) < np.uint32(min(round((1 - drop) * 2**32), 2**32 - 1))


def _mix(bits: Array) -> Array:
    """Return a hash of 32 bits, each bit of which depends on all.

    Reference: C. Wellons, "Prospecting for hash functions", 2018: the constants of "lowbias32".
    """
    bits = (bits ^ (bits >> np.uint32(16))) * np.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> np.uint32(15))) * np.uint32(0x846CA68B)
    return bits ^ (bits >> np.uint32(16))


# --------------------------------------------------------------------------------------------------- checks


def check_operands(q: Array, k: Array, v: Array, *mask: Array) -> None:
    """Check that queries, keys, values and a mask fit each other.

    Raises:
        ShapeError: they do not.
        DTypeError: numbers of a kind that makes no sense.
    """
    for name, array in (("q", q), ("k", k), ("v", v)):
        if array.ndim < 2:
            raise ShapeError(f"{name} is (…, length, features), got shape {array.shape}")
        if not is_floating(array.dtype):
            raise DTypeError(f"{name} is made of floating-point numbers, got {array.dtype}")
    if not q.shape[:-2] == k.shape[:-2] == v.shape[:-2]:
        raise ShapeError(f"the axes before the last two differ: q {q.shape}, k {k.shape}, v {v.shape}")
    if q.shape[-1] != k.shape[-1]:
        raise ShapeError(f"queries and keys differ in their features: q {q.shape}, k {k.shape}")
    if k.shape[-2] != v.shape[-2]:
        raise ShapeError(f"there is a value for each key: k {k.shape}, v {v.shape}")
    logits = (*q.shape[:-1], k.shape[-2])
    for one in mask:
        if one.dtype.kind not in "bf" and not is_narrow(one.dtype):
            raise DTypeError(f"a mask is made of booleans, or of numbers that are added to logits, got {one.dtype}")
        if one.ndim > len(logits) or broadcast_rule([one.shape, logits]) or _longer(one.shape, logits):
            raise ShapeError(f"the mask, {one.shape}, does not broadcast to the logits, {logits}")


def _longer(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return any(n not in (m, 1) for n, m in zip(reversed(shape), reversed(other), strict=False))
