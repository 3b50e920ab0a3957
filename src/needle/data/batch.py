"""From items to batches: reading them, stacking them, joining parts of a batch, and making Tensors of the arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from needle.autograd import Tensor
from needle.device import Device, cpu
from needle.dtype import as_dtype
from needle.errors import DataError, DTypeError

__all__ = ["Cancelled", "as_tensors", "collate", "fetch", "joined"]


class Cancelled(Exception):  # noqa: N818  not an error: nobody wants the items any more
    """Reading was called off between two items."""


def fetch(
    dataset: Any, indices: NDArray[np.int64], as_items: bool, is_cancelled: Callable[[], bool] = lambda: False
) -> Any:
    """Read items, as a batch of arrays or as a list.

    Args:
        dataset: gives items for indices; where it `takes_index_arrays`, the whole batch at once.
        indices: which.
        as_items: return a list of items, for a collate function of the user's.
        is_cancelled: asked before each item.
    """
    if not as_items and getattr(dataset, "takes_index_arrays", False):
        batch = dataset[indices]
        return batch if isinstance(batch, (tuple, dict)) else (batch,)
    items = []
    for index in indices.tolist():
        if is_cancelled():
            raise Cancelled
        items.append(_item(dataset, index))
    return items if as_items else collate(items)


def _item(dataset: Any, index: int) -> Any:
    try:
        return dataset[index]
    except StopIteration as error:  # would end the loop over the loader as if all were well
        raise DataError(f"item {index} of {type(dataset).__name__} raised StopIteration") from error
    except Exception as error:
        error.add_note(f"while reading item {index} of {type(dataset).__name__}")
        raise


def collate(items: Sequence[Any]) -> Any:
    """Stack items: tuples field by field into a tuple of arrays, dicts key by key into a dict, others into a 1-tuple.

    Args:
        items: at least one; all alike.

    Raises:
        DataError: the items differ in their fields, or in the shape of one.

    Example:
        >>> from needle.data import collate
        >>> collate([(1.0, 2), (3.0, 4)])
        (array([1., 3.]), array([2, 4]))
    """
    first = items[0]
    if isinstance(first, Mapping):
        if any(item.keys() != first.keys() for item in items):
            raise DataError("the items of a batch have different keys")
        return {key: _stack([item[key] for item in items], repr(key)) for key in first}
    if not isinstance(first, (tuple, list)):
        return (_stack(items, "0"),)
    if any(len(item) != len(first) for item in items):
        raise DataError(f"the items of a batch have different numbers of fields: {sorted({len(i) for i in items})}")
    return tuple(_stack(values, str(field)) for field, values in enumerate(zip(*items, strict=True)))


def _stack(values: Sequence[Any], field: str) -> NDArray[Any]:
    arrays = [np.asarray(v.realize_cached_data() if isinstance(v, Tensor) else v) for v in values]
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        one, other, *_ = sorted(shapes)
        raise DataError(
            f"field {field} differs in shape from item to item, such as {one} and {other}: give the DataLoader a "
            f"collate function that pads or crops"
        )
    return np.stack(arrays)


def joined(parts: Sequence[Any]) -> Any:
    """Join what `fetch` returned for consecutive parts of one batch."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, list):
        return [item for part in parts for item in part]
    if isinstance(first, dict):
        return {key: np.concatenate([part[key] for part in parts]) for key in first}
    return tuple(np.concatenate(field) for field in zip(*parts, strict=True))


def as_tensors(batch: Any, device: Device | None) -> Any:
    """Make a Tensor of every array within tuples, lists and dicts, without a copy on the CPU; leave the rest alone."""
    if isinstance(batch, (np.ndarray, np.generic)):
        return _as_tensor(np.asarray(batch), device)
    if isinstance(batch, tuple):
        parts = [as_tensors(part, device) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)
    if isinstance(batch, list):
        return [as_tensors(part, device) for part in batch]
    if isinstance(batch, dict):
        return {key: as_tensors(part, device) for key, part in batch.items()}
    return batch


def _as_tensor(array: NDArray[Any], device: Device | None) -> Tensor:
    try:
        as_dtype(array.dtype)
    except DTypeError:
        raise DataError(
            f"items of type {array.dtype} cannot be put into a Tensor: give the DataLoader a collate function"
        ) from None
    return Tensor.make_const(array if device is None or device == cpu() else device.array(array))
