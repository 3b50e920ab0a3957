"""Data sets: things with a length that give an item for an index.

`NDArrayDataset` is made of arrays, `Subset` is a part of another data set; images from files are in `mnist`, `digits`
and `cifar10`. What is here besides is how random transforms and workers get along: a loader with workers makes the
draws of an item's transforms first (`all_transforms`), and hands them over with the index; whoever then reads the item
does so inside `using_draws`, where `apply_transforms` takes the given draws and makes none.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from needle.autograd import Tensor
from needle.data.transforms import Transform
from needle.device import random
from needle.errors import DataError

__all__ = ["Dataset", "NDArrayDataset", "Subset", "random_split", "using_draws"]

# What one item's transforms drew, in their order.
Draws = tuple[Any, ...]


class _Given(threading.local):
    """The draws that this thread was given for the items it reads; None where it makes its own."""

    draws: deque[Draws] | None = None


_given = _Given()


class Dataset:
    """The base of data sets. A subclass writes `__getitem__` and `__len__`.

    Args:
        transforms: `Transform` objects or functions of one item's image, carried out in order by `apply_transforms`.
            With workers, functions and transforms that draw by themselves keep all reading in the calling process:
            wrap a function that draws nothing in `Apply`.

    Example:
        >>> from needle.data import Dataset
        >>> class Squares(Dataset):
        ...     def __len__(self):
        ...         return 5
        ...     def __getitem__(self, index):
        ...         return index, index**2
        >>> Squares()[3]
        (3, 9)
    """

    # Set here too, so that a subclass may leave out calling this class's __init__.
    transforms: Sequence[Callable[[Any], Any]] | None = None
    # Whether `dataset[array of indices]` gives a whole batch, as a tuple of arrays: a loader then asks for batches, not
    # for items. A subclass that writes its own __getitem__ must say so itself.
    takes_index_arrays = False

    def __init__(self, transforms: Sequence[Callable[[Any], Any]] | None = None) -> None:
        self.transforms = transforms

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "__getitem__" in cls.__dict__ and "takes_index_arrays" not in cls.__dict__:
            cls.takes_index_arrays = False

    def __getitem__(self, index: Any) -> Any:
        """Return the item, or the items, at `index`."""
        raise NotImplementedError(f"{type(self).__name__}.__getitem__ is not written")

    def __len__(self) -> int:
        """Return the number of items."""
        raise NotImplementedError(f"{type(self).__name__}.__len__ is not written")

    def apply_transforms(self, x: Any) -> Any:
        """Carry out the transforms on one item's image, in order."""
        if not self.transforms:
            return x
        if _given.draws is not None:
            return self._apply_given(x, _given.draws)
        for transform in self.transforms:
            x = transform(x)
        return x

    def all_transforms(self) -> Sequence[Callable[[Any], Any]]:
        """Return the transforms that every item goes through once, in order, also those of a data set within.

        A data set that reads another with transforms must say so here, or workers cannot be given the draws.
        """
        return self.transforms or ()

    def _apply_given(self, x: Any, draws: deque[Draws]) -> Any:
        transforms = self.transforms or ()
        if not draws or len(draws[0]) != len(transforms):
            raise DataError(
                f"{type(self).__name__} applied more transforms to an item than its all_transforms() says: workers get "
                f"draws for one call of apply_transforms an item. Use num_workers=0, or make one call"
            )
        for transform, drawn in zip(transforms, draws.popleft(), strict=True):
            assert isinstance(transform, Transform)
            x = transform.apply(x, drawn)
        return x


@contextmanager
def using_draws(draws: Iterable[Draws]) -> Iterator[None]:
    """Have `apply_transforms` take these draws, one entry an item, instead of making its own, in this thread.

    Raises:
        DataError: not all of them were taken: an item was read without its transforms.
    """
    before, _given.draws = _given.draws, deque(entry for entry in draws if entry)
    try:
        yield
        if _given.draws:
            raise DataError(
                f"{len(_given.draws)} items were read without apply_transforms: workers get draws for one call an "
                f"item. Use num_workers=0, or make the call for every item"
            )
    finally:
        _given.draws = before


class NDArrayDataset(Dataset):
    """A data set of arrays whose first axes run over the items.

    Args:
        arrays: anything array-like, Tensors too; all of the same length.
        transforms: applied to each item of the first array.

    Example:
        >>> import numpy as np
        >>> from needle.data import NDArrayDataset
        >>> dataset = NDArrayDataset(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([0, 1]))
        >>> dataset[1]
        (array([3., 4.]), np.int64(1))
    """

    takes_index_arrays = True

    def __init__(self, *arrays: ArrayLike | Tensor, transforms: Sequence[Callable[[Any], Any]] | None = None) -> None:
        super().__init__(transforms)
        self.arrays = tuple(a.numpy() if isinstance(a, Tensor) else np.asarray(a) for a in arrays)
        if not self.arrays:
            raise DataError("NDArrayDataset needs at least one array")
        lengths = [a.shape[0] if a.ndim else None for a in self.arrays]
        if len(set(lengths)) > 1 or None in lengths:
            raise DataError(f"the arrays differ in length: their shapes are {[a.shape for a in self.arrays]}")

    def __getitem__(self, index: Any) -> tuple[Any, ...]:
        """Return what is at `index` (an int, a slice or an index array) in each array."""
        items = tuple(array[index] for array in self.arrays)
        if not self.transforms:
            return items
        return (transform_each(self, items[0], is_batch(index)), *items[1:])

    def __len__(self) -> int:
        return len(self.arrays[0])


def is_batch(index: Any) -> bool:
    """Tell whether an index asks for several items: a slice, or anything with an axis."""
    return isinstance(index, slice) or np.ndim(index) > 0


def transform_each(dataset: Dataset, images: NDArray[Any], several: bool) -> Any:
    """Carry out a data set's transforms on one image, or on each of several in order."""
    if not several:
        return dataset.apply_transforms(images)
    if not len(images):
        return images
    return np.stack([dataset.apply_transforms(image) for image in images])


class Subset(Dataset):
    """The items of a data set at the given indices, in their order.

    Args:
        dataset: the data set; it is not copied, and its transforms stay its own.
        indices: whole numbers from −len to len − 1.
    """

    def __init__(self, dataset: Any, indices: ArrayLike) -> None:
        super().__init__()
        self.dataset = dataset
        self.indices = as_indices(indices, len(dataset))

    @property
    def takes_index_arrays(self) -> bool:  # type: ignore[override]  # a constant of most classes, of this one a question
        """Whether the data set within gives whole batches."""
        return getattr(self.dataset, "takes_index_arrays", False)

    def __getitem__(self, index: Any) -> Any:
        """Return the item at `index`; items at a slice or an index array where the data set within gives batches."""
        inner = self.indices[index]
        return self.dataset[inner if inner.ndim else int(inner)]

    def __len__(self) -> int:
        return len(self.indices)

    def all_transforms(self) -> Sequence[Callable[[Any], Any]]:
        """Return those of the data set within."""
        return self.dataset.all_transforms() if isinstance(self.dataset, Dataset) else ()


def random_split(dataset: Any, lengths: Sequence[float]) -> list[Subset]:
    """Split a data set at random into parts that have no item in common.

    Args:
        dataset: what to split.
        lengths: how many items each part gets: whole numbers that add up to the length, or fractions that add up to 1.

    Returns:
        One `Subset` for each length. One `permutation(len(dataset))` is drawn.

    Raises:
        DataError: the lengths do not add up.
    """
    counts = _counts(lengths, len(dataset))
    order = random.permutation(len(dataset))
    ends = np.cumsum(counts)
    return [Subset(dataset, order[end - count : end]) for count, end in zip(counts, ends, strict=True)]


def _counts(lengths: Sequence[float], total: int) -> list[int]:
    if any(length < 0 for length in lengths):
        raise DataError(f"lengths must not be negative, got {list(lengths)}")
    if sum(lengths) == total and all(float(length).is_integer() for length in lengths):
        return [int(length) for length in lengths]
    if abs(sum(lengths) - 1) > 1e-6:
        raise DataError(f"lengths must add up to the {total} items, or to 1 as fractions, got {list(lengths)}")
    edges = np.rint(np.cumsum([0, *lengths]) * total).astype(int)
    return [int(count) for count in np.diff(edges)]


def as_indices(indices: ArrayLike, length: int) -> NDArray[np.int64]:
    """Return indices as an array of one axis.

    Raises:
        DataError: they are no whole numbers, or one is out of range.
    """
    array = np.asarray(indices)
    if array.size == 0:
        return np.zeros(0, dtype=np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(f"indices must be whole numbers in a row, got {array.dtype} of shape {array.shape}")
    low, high = array.min(), array.max()
    if low < -length or high >= length:
        raise DataError(f"index {high if high >= length else low} is out of range for {length} items")
    return array.astype(np.int64)
