"""Batches read ahead by workers, such that nobody can tell from the data that they were.

The draws of a batch's random transforms belong, by the order in which a program without workers makes them, to the
moment when the batch is asked for; the model draws its dropout in between, from the same generator. So a batch that is
read ahead is read on a guess: that nobody else will draw until it is asked for. Its draws are made at once and the
generator is put back. When the batch is asked for and the generator stands where the guess began, the draws are made
good by putting it where they ended. If it does not, what was read ahead is thrown away, and from then on in this epoch
each batch is drawn when it is asked for and split among all workers. A data set with no transforms needs no guess.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from needle.data.batch import joined
from needle.data.dataset import Dataset
from needle.data.transforms import Transform
from needle.data.workers import Task, WorkerPool
from needle.device import random

__all__ = ["Prefetcher", "can_draw_ahead"]


def can_draw_ahead(dataset: Any) -> bool:
    """Tell whether all of a data set's transforms make their draws in `draw`, so that workers can do the rest."""
    return all(isinstance(t, Transform) and t.draws_ahead for t in _transforms(dataset))


def _transforms(dataset: Any) -> Sequence[Any]:
    return dataset.all_transforms() if isinstance(dataset, Dataset) else ()


@dataclass(frozen=True)
class _Ahead:
    """A batch on its way: the workers' futures, and where the generator stood before and after its draws."""

    futures: list[Future[Any]]
    before: Any
    after: Any


class Prefetcher:
    """The batches of an epoch, in order, read by workers.

    Args:
        dataset: what to read.
        batches: the indices of each batch.
        position: the first batch to read.
        pool: the workers.
        num_workers: how many.
        depth: how many batches to read ahead.
        as_items: return lists of items instead of batches.
        timeout: seconds to wait for a batch; None waits for ever.
    """

    def __init__(
        self,
        dataset: Any,
        batches: Sequence[NDArray[np.int64]],
        position: int,
        pool: WorkerPool,
        *,
        num_workers: int,
        depth: int,
        as_items: bool,
        timeout: float | None,
    ) -> None:
        self._transforms = _transforms(dataset)
        self._batches, self._next = batches, position  # the first batch that no worker has
        self._pool, self._num_workers, self._depth = pool, num_workers, depth
        self._as_items, self._timeout = as_items, timeout
        self._ahead: deque[_Ahead] = deque()

    def take(self) -> Any:
        """Return what was read for the next batch, with the generator where its draws end."""
        if self._ahead and self._transforms and random.get_state() != self._ahead[0].before:
            self._discard()
        if self._ahead:
            batch = self._ahead.popleft()
            if self._transforms:
                random.set_state(batch.after)
        else:
            batch = self._begin(self._num_workers)
        self._read_ahead()
        return joined(self._pool.results(batch.futures, self._timeout))

    def _discard(self) -> None:
        """Give up on what was read ahead, and on reading ahead."""
        for batch in self._ahead:
            for future in batch.futures:
                future.cancel()
        self._next -= len(self._ahead)
        self._ahead.clear()
        self._depth = 0

    def _read_ahead(self) -> None:
        """Begin on more batches, as far as is allowed, and leave the generator as it was."""
        if not self._transforms:
            while self._may_read_ahead():
                self._ahead.append(self._begin(1))
            return
        if not self._may_read_ahead():
            return
        state = random.get_state()
        try:
            if self._ahead:
                random.set_state(self._ahead[-1].after)
            while self._may_read_ahead():
                self._ahead.append(self._begin(1))
        finally:
            random.set_state(state)

    def _may_read_ahead(self) -> bool:
        return len(self._ahead) < self._depth and self._next < len(self._batches)

    def _begin(self, parts: int) -> _Ahead:
        """Make the draws of the next batch, and hand it to the workers in so many parts."""
        indices = self._batches[self._next]
        before = random.get_state() if self._transforms else None
        draws = [tuple(transform.draw() for transform in self._transforms) for _ in indices]
        after = random.get_state() if self._transforms else None
        edges = np.linspace(0, len(indices), min(parts, len(indices)) + 1).astype(int)
        tasks = [Task(indices[low:high], draws[low:high], self._as_items) for low, high in pairwise(edges)]
        self._next += 1
        return _Ahead([self._pool.submit(task) for task in tasks], before, after)
