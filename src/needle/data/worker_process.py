"""Worker processes: how one is started, spoken to, watched, and ended.

A process is started by a fork server or afresh, never forked from the calling process: a fork copies locks that other
threads hold, such as those of BLAS, and hangs. Parent and child speak over a pipe. The data set goes over once, then
tasks one way and batches the other: the arrays as raw bytes, straight from and into their memory, so that no segment of
shared memory can be left behind. A second pipe carries the child's last words: `faulthandler` writes where the child
stands, when it crashes or when it is asked to.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np

from needle.data.workers import Task, describe_failure, perform
from needle.errors import DataError

__all__ = ["ProcessWorker", "pickled"]

# A worker that finds itself importing a main module which starts workers ends with this status.
_UNGUARDED_STATUS = 97
_ASK = getattr(signal, "SIGUSR1", None)  # the signal that asks a child where it stands; not on Windows
_methods = multiprocessing.get_all_start_methods()
_context: Any = multiprocessing.get_context("forkserver" if "forkserver" in _methods else "spawn")
if "forkserver" in _methods:
    _context.set_forkserver_preload([__name__])  # the server imports Needle once for all workers
# Processes are started and reaped by several threads; the standard library's bookkeeping is for one.
_bookkeeping = threading.Lock()


def pickled(dataset: Any) -> memoryview:
    """Return the data set as bytes for worker processes.

    Raises:
        DataError: it cannot be pickled.
    """
    try:
        return memoryview(ForkingPickler.dumps(dataset))
    except Exception as error:
        raise DataError(
            f"{type(dataset).__name__} cannot be sent to worker processes: {error}. Functions and classes in it must "
            f'be defined at the top of a module; or use workers="thread"'
        ) from error


@dataclass(frozen=True)
class _Failure:
    """What a child sends instead of a result."""

    what: str
    trace: str

    @staticmethod
    def of(error: Exception) -> _Failure:
        return _Failure(f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error)))


# ---------------------------------------------------------------------------------------------- in the parent


class ProcessWorker:
    """A worker process, seen from the thread that attends to it.

    Args:
        number: its place among the workers, for messages.
        dataset: the data set, pickled.
    """

    def __init__(self, number: int, dataset: memoryview) -> None:
        _refuse_unguarded_main()
        self.name = f"worker process {number}"
        self._dataset: memoryview | None = dataset
        self._pipe, childs_pipe = _context.Pipe()
        self._last_words, childs_words = _context.Pipe(duplex=False)
        arguments = (childs_pipe, childs_words)
        self._process = _context.Process(target=_serve, args=arguments, name=f"needle-data-{number}", daemon=True)
        with _bookkeeping, childs_pipe, childs_words:
            self._process.start()

    def start(self) -> None:
        """Send the data set over and wait until it has been rebuilt."""
        try:
            assert self._dataset is not None
            self._pipe.send_bytes(self._dataset)
            self._dataset = None
            answer = self._pipe.recv()
        except (EOFError, OSError):
            raise self._death_at_start() from None
        if isinstance(answer, _Failure):
            raise DataError(
                f"{self.name} could not rebuild the data set: {answer.what}. Classes and functions in it must be ones "
                f'that a new process can import; or use workers="thread"\nThe worker\'s traceback:\n{answer.trace}'
            )

    def run(self, task: Task) -> Any:
        """Have the child read a task's items."""
        try:
            self._pipe.send(task)
            answer = _receive(self._pipe)
        except (EOFError, ConnectionError, OSError):
            what = f"it died ({self._how_it_ended()})"
            raise describe_failure(self.name, task, what, self._read_last_words(0)) from None
        if isinstance(answer, _Failure):
            raise describe_failure(self.name, task, answer.what, answer.trace)
        return answer

    def stack(self, thread: int) -> str:
        """Ask the child where it stands."""
        if _ASK is not None and self._process.pid is not None:
            os.kill(self._process.pid, _ASK)
        return self._read_last_words(0.3)

    def kill(self) -> bool:
        """Kill the child; its attendant then finds the pipe at its end."""
        with _bookkeeping, suppress(ValueError):  # it may have been closed meanwhile
            self._process.kill()
        return True

    def close(self) -> None:
        """End the child, which does so by itself when its pipe ends, and forget it."""
        self._pipe.close()
        has_ended = self._has_ended(1.0)
        with _bookkeeping:
            if not has_ended:
                self._process.kill()
                self._process.join()
            self._process.close()
        self._last_words.close()

    def _death_at_start(self) -> DataError:
        how = self._how_it_ended()
        if how == f"exit status {_UNGUARDED_STATUS}":
            return DataError(
                "worker processes import the main module anew, and this one starts workers when it is imported: put "
                'what the program does under `if __name__ == "__main__":`'
            )
        trace = self._read_last_words(0)
        return DataError(f"{self.name} died before it was ready ({how})\n{trace}".rstrip())

    def _has_ended(self, seconds: float) -> bool:
        """Wait up to `seconds` for the child to end, and reap it."""
        if not wait([self._process.sentinel], seconds):
            return False
        with _bookkeeping:
            self._process.join()
        return True

    def _how_it_ended(self) -> str:
        if not self._has_ended(1.0):
            return "its pipe is closed"
        status = self._process.exitcode or 0
        return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"

    def _read_last_words(self, seconds: float) -> str:
        """Read what the child's fault handler has written, waiting up to `seconds` for it to begin."""
        if _ASK is None:
            return ""
        words = b""
        deadline = time.monotonic() + seconds
        while self._last_words.poll(max(0.0, deadline - time.monotonic())):
            block = os.read(self._last_words.fileno(), 1 << 16)
            if not block:
                break
            words += block
            deadline = time.monotonic() + min(seconds, 0.05)
        return words.decode(errors="replace")


def _refuse_unguarded_main() -> None:
    """End this process if it is itself a worker that is still importing the main module."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        os._exit(_UNGUARDED_STATUS)


def _receive(pipe: Connection) -> Any:
    """Receive what `_send` sent: arrays come into memory of their own, which nobody else holds."""
    body, sizes = pipe.recv()
    buffers = [bytearray(size) for size in sizes]
    for buffer in buffers:
        if buffer:
            pipe.recv_bytes_into(buffer)
    return pickle.loads(body, buffers=buffers)  # noqa: S301  from our own child, over a pipe that nobody else has


# ----------------------------------------------------------------------------------------------- in the child


def _send(pipe: Connection, answer: Any) -> None:
    """Send an answer: its structure pickled, the memory of its arrays as it is."""
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(answer, protocol=5, buffer_callback=buffers.append)
    raw = [buffer.raw() for buffer in buffers]
    pipe.send((body, [len(view) for view in raw]))
    for view in raw:
        if len(view):
            pipe.send_bytes(view)


def _serve(pipe: Connection, last_words: Connection) -> None:
    """Read what is asked for until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this process
    if _ASK is not None:
        faulthandler.enable(last_words.fileno(), all_threads=False)
        faulthandler.register(_ASK, last_words.fileno(), all_threads=False)
    try:
        dataset = _receive_dataset(pipe)
        while dataset is not None:
            task = pipe.recv()
            _answer(pipe, dataset, task)
    except (EOFError, ConnectionError):  # the parent has closed the pipe, or is gone
        pass


def _receive_dataset(pipe: Connection) -> Any:
    try:
        dataset = pickle.loads(pipe.recv_bytes())  # noqa: S301  from the parent, over a pipe that nobody else has
    except EOFError:
        raise
    except Exception as error:
        pipe.send(_Failure.of(error))
        return None
    pipe.send(None)
    return dataset


def _answer(pipe: Connection, dataset: Any, task: Task) -> None:
    try:
        answer = _perform_without_draws(dataset, task)
    except Exception as error:
        answer = _Failure.of(error)
    try:
        _send(pipe, answer)
    except (pickle.PicklingError, TypeError, AttributeError) as error:  # nothing has been sent yet
        _send(pipe, _Failure.of(error))


def _perform_without_draws(dataset: Any, task: Task) -> Any:
    """Read a task's items, and see to it that nothing is drawn: each process would draw numbers of its own."""
    before = _generator_state()
    result = perform(dataset, task)
    if _generator_state() != before:
        raise DataError(
            "the data set draws random numbers in a worker process, where they would depend on the number of workers: "
            "draw in the `draw` of a Transform, or use num_workers=0"
        )
    return result


def _generator_state() -> tuple[Any, ...]:
    _, key, *rest = np.random.get_state()
    return (np.asarray(key).tobytes(), *rest)
