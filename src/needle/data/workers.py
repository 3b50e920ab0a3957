"""Workers that read items while the caller computes: a thread each, which reads by itself or has a process read.

A `WorkerPool` has one attendant thread for each worker. Attendants take tasks from one queue, first come first served,
and put what they read, or how they failed, into the task's `Future`. A worker process has its attendant wait for it at
the other end of a pipe, so that its death is an end of file and needs no polling; `worker_process` is about that.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from needle.data.batch import Cancelled, fetch
from needle.data.dataset import Draws, using_draws
from needle.errors import DataError

__all__ = ["Task", "ThreadWorker", "Worker", "WorkerPool", "describe_failure", "perform"]

_START_SECONDS = 120.0  # an interpreter, its imports and the data set's transport
_GRACE_SECONDS = 0.5  # for what a worker is at when the pool closes


class Task(NamedTuple):
    """Items to read: the draws of their transforms are made already."""

    indices: NDArray[np.int64]
    draws: list[Draws]
    as_items: bool

    def __str__(self) -> str:
        shown = ", ".join(map(str, self.indices[:5].tolist()))
        return f"items {shown}{', …' if len(self.indices) > 5 else ''}"


def perform(dataset: Any, task: Task, stop: threading.Event | None = None) -> Any:
    """Read a task's items."""
    with using_draws(task.draws):
        return fetch(dataset, task.indices, task.as_items, stop.is_set if stop else lambda: False)


class Worker(Protocol):
    """What an attendant asks of its worker."""

    def start(self) -> None:
        """Get ready."""
        ...

    def run(self, task: Task) -> Any:
        """Read a task's items."""
        ...

    def stack(self, thread: int) -> str:
        """Say where the worker is just now."""
        ...

    def kill(self) -> bool:
        """Stop at once, from another thread; return whether that can be done."""
        ...

    def close(self) -> None:
        """Leave nothing behind."""
        ...


class ThreadWorker:
    """A worker that reads in its attendant's thread.

    Args:
        dataset: what to read from.
        stop: set when nobody wants the items any more.
    """

    def __init__(self, dataset: Any, stop: threading.Event) -> None:
        self.dataset, self.stop = dataset, stop

    def start(self) -> None:
        """Do nothing."""

    def run(self, task: Task) -> Any:
        """Read a task's items."""
        try:
            return perform(self.dataset, task, self.stop)
        except Cancelled:
            raise
        except Exception as error:
            raise describe_failure("a worker thread", task, *_summary(error)) from error

    def stack(self, thread: int) -> str:
        """Return the thread's stack."""
        frame = sys._current_frames().get(thread)
        return "".join(traceback.format_stack(frame)[-8:]) if frame else ""

    def kill(self) -> bool:
        """Do nothing: threads cannot be killed."""
        return False

    def close(self) -> None:
        """Do nothing."""


def _summary(error: Exception) -> tuple[str, str]:
    """Return an exception in a line, and with its traceback."""
    text = "".join(traceback.format_exception(error))
    return f"{type(error).__name__}: {error}", text


def describe_failure(who: str, task: Task, what: str, trace: str) -> DataError:
    """Make the error that the caller sees."""
    told = f"\nThe worker's traceback:\n{trace.rstrip()}" if trace.strip() else ""
    return DataError(f"{who} failed while reading {task}: {what}{told}")


class _Attendant(threading.Thread):
    """A worker's thread in this process: hands it one task after the other."""

    def __init__(self, worker: Worker, number: int, tasks: SimpleQueue[Any], stop: threading.Event) -> None:
        super().__init__(name=f"needle-data-worker-{number}", daemon=True)
        self.worker, self.tasks, self.stop = worker, tasks, stop
        self.ready: Future[None] = Future()
        self.job: tuple[Task, Future[Any]] | None = None

    def run(self) -> None:
        try:
            self.worker.start()
            self.ready.set_result(None)
            while (job := self.tasks.get()) is not None and not self.stop.is_set():
                self.job = job
                _settle(self.worker, *job)
                self.job = job = None  # or the last batch would live until the next one
        except Exception as error:
            self.ready.set_exception(error)
        finally:
            self.worker.close()


def _settle(worker: Worker, task: Task, future: Future[Any]) -> None:
    """Put a task's outcome into its future."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = worker.run(task)
    except BaseException as error:  # also what would end the thread: the caller must hear of it
        future.set_exception(error)
    else:
        future.set_result(result)


class WorkerPool:
    """Workers with their attendants.

    Args:
        workers: not started yet.
        stop: set here when the pool closes.

    Raises:
        DataError: a worker could not get ready. Nothing is left running.
    """

    def __init__(self, workers: Sequence[Worker], stop: threading.Event) -> None:
        self._stop = stop
        self._tasks: SimpleQueue[tuple[Task, Future[Any]] | None] = SimpleQueue()
        self._attendants = [_Attendant(w, number, self._tasks, stop) for number, w in enumerate(workers)]
        for attendant in self._attendants:
            attendant.start()
        try:
            for attendant in self._attendants:
                attendant.ready.result(_START_SECONDS)
        except BaseException as error:
            self.close()
            if isinstance(error, TimeoutError):
                raise DataError(f"a worker was not ready after {_START_SECONDS:.0f} s") from None
            raise

    def submit(self, task: Task) -> Future[Any]:
        """Queue a task."""
        future: Future[Any] = Future()
        self._tasks.put((task, future))
        return future

    def results(self, futures: Sequence[Future[Any]], timeout: float | None) -> list[Any]:
        """Wait for the outcomes of tasks.

        Raises:
            DataError: a worker failed or died, or it is longer than `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        results = []
        for future in futures:
            try:
                results.append(future.result(None if deadline is None else max(0.0, deadline - time.monotonic())))
            except TimeoutError:
                raise self._hang(future, timeout) from None
        return results

    def _hang(self, future: Future[Any], timeout: float | None) -> DataError:
        for attendant in self._attendants:
            job = attendant.job
            if job is not None and job[1] is future:
                trace = attendant.worker.stack(attendant.ident or 0)
                return describe_failure(attendant.name, job[0], f"it is not done after {timeout} s", trace)
        return DataError(f"no worker has begun on a batch after {timeout} s: all are busy")

    def close(self) -> None:
        """Stop everything: workers may finish the item that they are at, if that is soon; processes are killed else."""
        self._stop.set()
        others = [a for a in self._attendants if a is not threading.current_thread()]
        for _ in self._attendants:
            self._tasks.put(None)
        deadline = time.monotonic() + _GRACE_SECONDS
        for attendant in others:
            attendant.join(max(0.0, deadline - time.monotonic()))
        for attendant in [a for a in others if a.is_alive() and a.worker.kill()]:
            attendant.join()
