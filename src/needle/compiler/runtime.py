"""Threads that run programs: they live as long as the process, and sleep when nothing has run for a while.

A worker waits in native code for the next program, without Python's lock. When none comes for about a millisecond it
sleeps there, so that an idle process is quiet, until the next program wakes it. The thread that calls a program takes
part in it and returns when all have finished.
"""

from __future__ import annotations

import ctypes
import os
import threading
from contextlib import suppress

import numpy as np

from needle.compiler import board
from needle.compiler.thread_count import get_num_threads

__all__ = ["is_only_thread", "run_program"]


# Nanoseconds since the last program within which one that is short wakes workers: more of them will follow.
_IN_A_ROW, _ALWAYS = 1_000_000, 2**62


class _Pool:
    """The workers of this process, and the piece of memory through which they are told what to do.

    What lies where on that board, the module `board` says.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.words = np.zeros(board.BOARD_WORDS, dtype=np.int64)
        self.address = self.words.ctypes.data
        self.workers: list[threading.Thread] = []

    def share(self, job: board.Job, threads: int, is_long: bool) -> None:
        """Prepare a job for running on `threads` threads, the caller's among them."""
        if len(self.workers) < threads - 1:
            self._hire(threads - 1)
        job.share(self.address, threads, _ALWAYS if is_long else _IN_A_ROW)

    def _hire(self, count: int) -> None:
        if not self.workers:
            board.prepare(self.address)
            # Never freed: workers still look at it while the process ends.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.words))
        while len(self.workers) < count:
            number = len(self.workers) + 1
            arguments = (number, int(self.words[0]))
            worker = threading.Thread(target=self._work, args=arguments, name=f"needle-{number}", daemon=True)
            self.workers.append(worker)
            worker.start()

    def _work(self, number: int, seen: int) -> None:
        _let_others_run_first()
        board.serve(self.address, seen, number)


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


def is_only_thread() -> bool:
    """Tell whether no other thread runs Python than this one: those of the pool do not."""
    return threading.active_count() == 1 + len(_pool.workers)


def run_program(job: board.Job, is_long: bool) -> None:
    """Run a compiled program that several threads share; alone where the pool is busy with another thread's program.

    Args:
        job: the program, its arrays and its memory.
        is_long: whether a second thread has anything to do even if it has to be woken first.
    """
    threads = get_num_threads()
    if threads > 1 and _pool.lock.acquire(blocking=False):
        try:
            _pool.share(job, threads, is_long)
            board.run()(job.address)
        finally:
            _pool.lock.release()
        return
    board.alone()(job.address)
