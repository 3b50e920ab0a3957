"""The order in which a loader takes the items: samplers give indices anew each time that they are iterated.

Anything with a length that gives indices can be a sampler. These draw from `needle.device.random`, when iterated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from needle.data.dataset import as_indices
from needle.device import random
from needle.errors import DataError, DTypeError

__all__ = ["ColumnSampler", "RandomSampler", "Sampler", "SequentialSampler", "SubsetSampler", "WeightedSampler"]


class Sampler(Protocol):
    """What a loader asks of a sampler."""

    def __iter__(self) -> Iterator[int]:
        """Return the indices of one epoch."""
        ...

    def __len__(self) -> int:
        """Return how many indices one epoch has."""
        ...


class SequentialSampler:
    """All items, first to last.

    Args:
        dataset: the data set, or how many items it has.

    Draws: nothing.
    """

    def __init__(self, dataset: Sized | int) -> None:
        self.length = _length(dataset)

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.length))

    def __len__(self) -> int:
        return self.length


class RandomSampler:
    """Items in random order, each once, or drawn anew each time.

    Args:
        dataset: the data set, or how many items it has.
        replacement: draw every index from all items, so that one may come twice.
        num_samples: how many indices an epoch has; None for as many as there are items.

    Draws: one `permutation(n)`; with replacement one `randint(0, n, num_samples)`.
    """

    def __init__(self, dataset: Sized | int, replacement: bool = False, num_samples: int | None = None) -> None:
        self.length, self.replacement = _length(dataset), replacement
        self.num_samples = self.length if num_samples is None else num_samples
        if self.num_samples < 0 or (self.num_samples > self.length and not replacement):
            raise DataError(f"cannot draw {num_samples} of {self.length} items without replacement")

    def __iter__(self) -> Iterator[int]:
        if self.replacement:
            order = random.randint(0, self.length, self.num_samples)
        else:
            order = random.permutation(self.length)[: self.num_samples]
        return iter(order.tolist())

    def __len__(self) -> int:
        return self.num_samples


class WeightedSampler:
    """Items drawn with unequal probabilities, to even out classes of unequal size.

    Args:
        weights: one for each item, not negative; they need not add up to 1.
        num_samples: how many indices an epoch has; None for as many as there are weights.
        replacement: an item may come several times. Without it, the next is drawn among those that are left.

    Draws: one `rand(num_samples)`; without replacement one `rand(n)`.
    Reference: without replacement: P. Efraimidis, P. Spirakis, "Weighted random sampling with a reservoir", 2006.
    """

    def __init__(self, weights: ArrayLike, num_samples: int | None = None, replacement: bool = True) -> None:
        self.weights = np.asarray(weights, dtype=np.float64)
        if self.weights.ndim != 1 or not np.isfinite(self.weights).all() or (self.weights < 0).any():
            raise DataError("weights must be finite numbers, 0 or more, one for each item")
        self.num_samples = len(self.weights) if num_samples is None else num_samples
        self.replacement = replacement
        possible = np.count_nonzero(self.weights)
        if possible == 0 or (not replacement and self.num_samples > possible):
            raise DataError(f"cannot draw {self.num_samples} items: {possible} weights are more than 0")

    def __iter__(self) -> Iterator[int]:
        return iter((self._with_replacement() if self.replacement else self._without()).tolist())

    def __len__(self) -> int:
        return self.num_samples

    def _with_replacement(self) -> NDArray[np.intp]:
        """Look each draw up in the running sum of the weights."""
        ends = np.cumsum(self.weights)
        found = np.searchsorted(ends, random.rand(self.num_samples) * ends[-1], side="right")
        return np.minimum(found, np.flatnonzero(self.weights)[-1])  # rounding may reach the very end

    def _without(self) -> NDArray[np.intp]:
        """Give each item the time log(1/u) / weight, and take the earliest."""
        with np.errstate(divide="ignore"):
            times = -np.log1p(-random.rand(len(self.weights))) / self.weights
        times[self.weights == 0] = np.inf
        return np.argsort(times, kind="stable")[: self.num_samples]


class SubsetSampler:
    """Some of the items, in random order or in the order given.

    Args:
        indices: whole numbers, 0 or more.
        shuffle: a new order each epoch.

    Draws: one `permutation(len(indices))` where it shuffles.
    """

    def __init__(self, indices: ArrayLike, shuffle: bool = True) -> None:
        self.indices = as_indices(indices, np.iinfo(np.int64).max)
        self.shuffle = shuffle

    def __iter__(self) -> Iterator[int]:
        order = self.indices[random.permutation(len(self.indices))] if self.shuffle else self.indices
        return iter(order.tolist())

    def __len__(self) -> int:
        return len(self.indices)


def _length(dataset: Sized | int) -> int:
    length = dataset if isinstance(dataset, int) else len(dataset)
    if isinstance(dataset, bool):
        raise DTypeError("expected a data set or a number of items, got a bool")
    if length < 0:
        raise DataError(f"a data set cannot have {length} items")
    return length


class ColumnSampler:
    """Items in columns that are read side by side: of each column the first item, then of each the second, and so on.

    With `batch_size=columns`, each batch goes on where the one before has stopped: a recurrent network that reads
    windows of a text keeps its state from batch to batch. Items at the end that do not fill a column are left out.

    Formula::

        0, K, 2·K, …,  1, K + 1, 2·K + 1, …     where K = ⌊items / columns⌋

    Args:
        dataset: the data set, or how many items it has.
        columns: how many columns.

    Draws: nothing.

    Raises:
        DataError: there are fewer items than columns.

    Example:
        >>> from needle.data import ColumnSampler
        >>> list(ColumnSampler(7, columns=2))
        [0, 3, 1, 4, 2, 5]
    """

    def __init__(self, dataset: Sized | int, columns: int) -> None:
        count = dataset if isinstance(dataset, int) else len(dataset)
        if not 1 <= columns <= count:
            raise DataError(f"ColumnSampler: columns is from 1 to the number of items, {count}, got {columns}")
        self.columns, self.length = columns, count // columns

    def __iter__(self) -> Iterator[int]:
        order = np.arange(self.columns * self.length).reshape(self.columns, self.length)
        return iter(order.T.reshape(-1).tolist())

    def __len__(self) -> int:
        return self.columns * self.length
