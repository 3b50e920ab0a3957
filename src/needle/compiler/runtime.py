"""Threads that run programs: they live as long as the process, and sleep when nothing has run for a while.

A worker waits in native code for the next program, without Python's lock. When none comes for about a millisecond it
goes back to Python and sleeps there, so that an idle process is quiet. The thread that calls a program takes part in it
and returns when all have finished.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress

import numpy as np

from needle.compiler import native
from needle.compiler.thread_count import get_num_threads

__all__ = ["run_program"]


class _Pool:
    """The workers of this process, and the piece of memory through which they are told what to do.

    What lies where on the board, `native` says.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.board = np.zeros(8 * 8, dtype=np.int64)
        self.address = self.board.ctypes.data
        self.awake = threading.Condition()
        self.asleep = 0
        self.announced = 0
        self.workers: list[threading.Thread] = []

    def run(self, function: int, arrays: int, arena: int, threads: int) -> None:
        """Run a program on `threads` threads, this one among them."""
        self._hire(threads - 1)
        # Announced first, then looked for sleepers: a worker looks for what is announced after it has said that it
        # sleeps, so that one of the two always sees the other.
        self.announced = int(self.board[0]) + 2
        try:
            if self.asleep:
                with self.awake:
                    self.awake.notify_all()
            native.run(self.address, function, arrays, arena, threads)
        finally:
            self.announced = int(self.board[0])

    def _hire(self, count: int) -> None:
        while len(self.workers) < count:
            number = len(self.workers) + 1
            arguments = (number, int(self.board[0]))
            worker = threading.Thread(target=self._work, args=arguments, name=f"needle-{number}", daemon=True)
            self.workers.append(worker)
            worker.start()

    def _work(self, number: int, seen: int) -> None:
        _let_others_run_first()
        while True:
            seen = native.serve(self.address, seen, number)
            self._sleep(seen)

    def _sleep(self, seen: int) -> None:
        """Sleep until a program is announced that this worker has not seen."""
        with self.awake:
            self.asleep += 1
            self.awake.wait_for(lambda: self.announced != seen)
            self.asleep -= 1


def _let_others_run_first() -> None:
    """Have this thread not push another off its processor when it wakes, where the system can be told.

    It may wake on the processor of the very thread that has called it, which then stands still for milliseconds with
    work in its hands that all others wait for, while another processor is idle.
    """
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):  # a container may forbid it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


_pool = _Pool()


def _start_over() -> None:
    """Forget the parent's threads in a forked child, which has none of them."""
    global _pool  # noqa: PLW0603  one pool a process
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_over)


def run_program(function: int, arrays: int, arena: int, parallel: bool) -> None:
    """Run a compiled program at address `function`; alone where the pool is busy with another thread's program.

    Args:
        function, arrays, arena: addresses: of the program, of the list of its arrays' addresses, of its memory.
        parallel: whether a second thread has anything to do.
    """
    threads = get_num_threads() if parallel else 1
    if threads > 1 and _pool.lock.acquire(blocking=False):
        try:
            _pool.run(function, arrays, arena, threads)
        finally:
            _pool.lock.release()
        return
    native.run(_pool.address, function, arrays, arena, 1)
