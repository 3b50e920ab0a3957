"""Indexing: choosing elements by position, exactly as NumPy does, and class labels as indices."""

from __future__ import annotations

from needle.device import Array, array_namespace
from needle.errors import DataError

__all__: list[str] = []


def as_class_indices(labels: Array, num_classes: int) -> Array:
    """Return class labels of any integer or floating-point dtype as integers, checked.

    Raises:
        DataError: a label is no whole number from 0 to num_classes − 1.
    """
    xp = array_namespace(labels)
    is_integer = labels.dtype.kind in "iu"
    indices = labels if is_integer else xp.astype(xp.where(xp.isfinite(labels), labels, -1), xp.int64)
    wrong = (indices < 0) | (indices >= num_classes) | (indices != labels)
    if xp.any(wrong):
        position = tuple(int(axis[0]) for axis in xp.nonzero(wrong))
        value = labels[position].item()
        raise DataError(f"labels are whole numbers from 0 to {num_classes - 1}, got {value} at position {position}")
    return indices
