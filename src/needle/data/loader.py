"""The loader: which items make a batch, in which order, and who reads them."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import index as as_int
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from needle.data.batch import as_tensors, fetch
from needle.data.dataset import as_indices
from needle.data.prefetch import Prefetcher, can_draw_ahead
from needle.data.sampler import Sampler
from needle.data.workers import ThreadWorker, Worker, WorkerPool
from needle.device import Device, random
from needle.errors import DataError, DTypeError

__all__ = ["DataLoader"]


class DataLoader:
    """Batches of a data set, as tuples of Tensors. Each `for` loop over the loader is one epoch.

    Workers change nothing but the speed: the batches, and every random number that anybody draws, are the same for any
    number of them, of either kind. What a data set must do for that: leave random choices to `Transform` objects. If
    one of its transforms is a bare function, the loader reads everything itself: nobody knows what the function draws.

    Args:
        dataset: has a length and gives items for indices: tuples of arrays and numbers, dicts of them, or an array.
        batch_size: how many items make a batch; the last may have fewer.
        shuffle: take the items in a new random order each epoch.
        drop_last: leave out a last batch that is short.
        sampler: gives the indices of each epoch, instead of `shuffle`.
        collate: makes a batch of a list of items. Arrays in what it returns become Tensors, the rest stays. It runs in
            the calling process. None stacks the items' fields.
        num_workers: how many threads or processes read ahead; 0 reads a batch when it is asked for.
        workers: "thread" for reading that mostly waits or calls NumPy, of a data set that several threads may read at
            a time; "process" for reading that computes in Python. The data set is then sent to the processes at the
            start of each epoch, and the program's main module imported there, so that what it does must be under
            `if __name__ == "__main__":`.
        prefetch: how many batches each worker may be ahead.
        device: where the Tensors are made; None is the CPU.
        timeout: seconds that a batch may keep the caller waiting before its worker counts as hung; None for ever.

    Attributes:
        ordering: the indices of each batch, of this epoch or the last one. With `shuffle` or a sampler it is None
            before the first.

    Draws: one `permutation(len(dataset))` at the start of each epoch with `shuffle`; when a batch is asked for, what
    the transforms draw, item by item.

    Raises:
        DataError: the data set is empty, an argument is out of range, or, when iterated, a worker failed, died or hung:
            with its traceback, and with all workers gone.

    Example:
        >>> import numpy as np
        >>> from needle.data import DataLoader, NDArrayDataset
        >>> loader = DataLoader(NDArrayDataset(np.arange(5.0), np.arange(5)), batch_size=2)
        >>> for x, y in loader:
        ...     print(x, y)
        [0. 1.] [0 1]
        [2. 3.] [2 3]
        [4.] [4]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        shuffle: bool = False,
        *,
        drop_last: bool = False,
        sampler: Sampler | Sequence[int] | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
        num_workers: int = 0,
        workers: Literal["thread", "process"] = "thread",
        prefetch: int = 2,
        device: Device | None = None,
        timeout: float | None = 60.0,
    ) -> None:
        self.dataset, self.shuffle, self.drop_last, self.sampler = dataset, shuffle, drop_last, sampler
        self.batch_size = _at_least("batch_size", batch_size, 1)
        self.num_workers = _at_least("num_workers", num_workers, 0)
        self.prefetch = _at_least("prefetch", prefetch, 0)
        self.collate, self.workers, self.device, self.timeout = collate, workers, device, timeout
        if workers not in {"thread", "process"}:
            raise DataError(f'workers must be "thread" or "process", got {workers!r}')
        if timeout is not None and not timeout > 0:
            raise DataError(f"timeout must be more than 0 seconds, or None, got {timeout}")
        if sampler is not None and shuffle:
            raise DataError("a sampler says the order already: leave out shuffle=True")
        self._check_length()
        is_fixed = sampler is None and not shuffle
        self.ordering: list[NDArray[np.int64]] | None = self._cut(np.arange(len(dataset))) if is_fixed else None
        self._epoch: _Epoch | None = None
        self._resumed: _Epoch | None = None

    def __len__(self) -> int:
        """Return how many batches an epoch has."""
        length = self._num_indices()
        return length // self.batch_size if self.drop_last else -(-length // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        """Begin an epoch, or go on with one that `load_state_dict` has brought back."""
        self._epoch, self._resumed = self._resumed or self._new_epoch(), None
        self.ordering = self._epoch.batches
        return _EpochIterator(self._epoch)

    def __next__(self) -> Any:
        """Return the next batch of the epoch begun last."""
        if self._epoch is None:
            raise DataError("next(loader) comes after iter(loader), which begins an epoch")
        return self._epoch.next_batch()

    def state_dict(self) -> dict[str, Any]:
        """Return where the epoch begun last stands, so that `load_state_dict` can go on from there.

        The state of the random generator is not part of it: save `needle.device.random.get_state()` beside it.

        Returns:
            `order`: the indices of the epoch, an int64 array, or None where no epoch is under way; `position`: how many
            batches of it were given out; `batch_size`.
        """
        epoch = self._epoch
        if epoch is None or epoch.is_over():
            return {"order": None, "position": 0, "batch_size": self.batch_size}
        return {"order": epoch.order.copy(), "position": epoch.position, "batch_size": self.batch_size}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have the next loop over the loader go on with the epoch that `state` describes.

        Raises:
            DataError: the state is of another batch size or data set.
        """
        if state["batch_size"] != self.batch_size:
            raise DataError(f"the state is of batch_size {state['batch_size']}, this loader has {self.batch_size}")
        if state["order"] is None:
            self._epoch = self._resumed = None
            return
        order, position = as_indices(state["order"], len(self.dataset)), as_int(state["position"])
        if not 0 <= position <= len(self._cut(order)):
            raise DataError(f"position {position} is not within the epoch's {len(self._cut(order))} batches")
        self._epoch = self._resumed = _Epoch(self, order, self._cut(order), position)

    def _num_indices(self) -> int:
        return len(self.dataset if self.sampler is None else self.sampler)

    def _check_length(self) -> None:
        if self._num_indices() == 0:
            raise DataError(f"there is nothing to load: the {'sampler' if self.sampler else 'data set'} is empty")
        if len(self) == 0:
            raise DataError(
                f"there is no batch: drop_last leaves out the only one, of {self._num_indices()} items, which is less "
                f"than batch_size = {self.batch_size}"
            )

    def _new_epoch(self) -> _Epoch:
        self._check_length()
        if self.sampler is not None:
            order = as_indices(list(self.sampler), len(self.dataset))
        elif self.shuffle:
            order = random.permutation(len(self.dataset))
        else:
            order = np.arange(len(self.dataset))
        return _Epoch(self, order, self._cut(order), 0)

    def _cut(self, order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Cut an epoch's indices into batches."""
        size = self.batch_size
        end = len(order) - len(order) % size if self.drop_last else len(order)
        return [order[start : start + size] for start in range(0, end, size)]


class _Epoch:
    """One epoch: its batches, how far it is, and its workers while it has any.

    Workers may go at any time between two batches and come back with the next: what they had read ahead is read again,
    and no random number is lost by it.
    """

    def __init__(
        self, loader: DataLoader, order: NDArray[np.int64], batches: list[NDArray[np.int64]], position: int
    ) -> None:
        self.dataset, self.collate, self.device = loader.dataset, loader.collate, loader.device
        self.num_workers, self.workers = loader.num_workers, loader.workers
        self.prefetch, self.timeout = loader.prefetch, loader.timeout
        self.order, self.batches, self.position = order, batches, position
        self._prefetcher: Prefetcher | None = None
        self._close_pool: Callable[[], object] | None = None

    def is_over(self) -> bool:
        return self.position >= len(self.batches)

    def next_batch(self) -> Any:
        if self.is_over():
            raise StopIteration
        try:
            read = self._read()
            batch = as_tensors(self.collate(read) if self.collate else read, self.device)
        except BaseException:
            self.stop_workers()
            raise
        self.position += 1
        if self.is_over():
            self.stop_workers()
        return batch

    def _read(self) -> Any:
        as_items = self.collate is not None
        if self.num_workers == 0 or not can_draw_ahead(self.dataset):
            return fetch(self.dataset, self.batches[self.position], as_items)
        if self._prefetcher is None:
            self._prefetcher = self._start_workers(as_items)
        return self._prefetcher.take()

    def _start_workers(self, as_items: bool) -> Prefetcher:
        pool = _pool(self.workers, self.num_workers, self.dataset)
        # Called at the latest when nobody holds the epoch any more, or when the program ends.
        self._close_pool = weakref.finalize(self, pool.close)
        return Prefetcher(
            self.dataset,
            self.batches,
            self.position,
            pool,
            num_workers=self.num_workers,
            depth=self.num_workers * self.prefetch,
            as_items=as_items,
            timeout=self.timeout,
        )

    def stop_workers(self) -> None:
        self._prefetcher = None
        if self._close_pool is not None:
            self._close_pool()
            self._close_pool = None


class _EpochIterator:
    """What `iter(loader)` returns. When nobody holds it any more, after a `break` say, the epoch's workers go."""

    def __init__(self, epoch: _Epoch) -> None:
        self._epoch = epoch
        if epoch.num_workers:
            weakref.finalize(self, epoch.stop_workers)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self._epoch.next_batch()


def _pool(kind: str, count: int, dataset: Any) -> WorkerPool:
    stop = threading.Event()
    if kind == "thread":
        return WorkerPool([ThreadWorker(dataset, stop) for _ in range(count)], stop)
    # Imported here: programs without worker processes need not load what they take.
    from needle.data.worker_process import ProcessWorker, pickled  # noqa: PLC0415

    content = pickled(dataset)
    workers: list[Worker] = []
    try:
        workers.extend(ProcessWorker(number, content) for number in range(count))
    except BaseException:
        for worker in workers:
            worker.close()
        raise
    return WorkerPool(workers, stop)


def _at_least(name: str, value: int, least: int) -> int:
    try:
        number = as_int(value)
    except TypeError:
        raise DTypeError(f"{name} must be a whole number, got {value!r}") from None
    if number < least:
        raise DataError(f"{name} must be {least} or more, got {number}")
    return number
