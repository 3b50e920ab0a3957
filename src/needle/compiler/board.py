"""The few functions that threads wait with, in machine code: one runs a program and tells the workers, one serves it.

They tell each other by a board, a piece of memory. Python's lock is let go of all the while, and is not needed by a
worker that sleeps or wakes.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable

import numpy as np

from needle.compiler.address import address_of
from needle.compiler.cache import cached_object
from needle.compiler.clock_code import clock_code
from needle.compiler.host import host
from needle.compiler.native import compile_object, load_object

__all__ = ["BOARD_WORDS", "Job", "alone", "prepare", "run", "serve"]

_lock = threading.Lock()


class Job:
    """A program, its arrays and its memory, in a piece of memory that machine code reads: a call hands over one number.

    Args:
        function: where the program lies.
        arena: where its memory lies.
        control, control_bytes: what is set to 0 before it runs.

    Attributes:
        address: where it lies itself.
        arrays: where the list of arrays' addresses lies.
    """

    __slots__ = ("_team", "_words", "address", "arrays")

    def __init__(self, function: int, arena: int, control: int, control_bytes: int) -> None:
        self._words = np.array([function, 0, arena, control, control_bytes, 0, 0, 0], dtype=np.int64)
        self.address = address_of(self._words)
        self.arrays = 0
        self._team: tuple[int, int, int] | None = None

    def use(self, arrays: int) -> None:
        """Run on the arrays of this list from now on."""
        self.arrays = self._words[1] = arrays

    def share(self, board: int, threads: int, patience: int) -> None:
        """Let the workers of a board take part from now on, so that there are this many threads.

        Those that sleep are woken if the last program has ended less than `patience` nanoseconds ago.
        """
        team = board, threads, patience
        if team != self._team:
            self._words[5:] = self._team = team


def run() -> Callable[[int], None]:
    """Return what runs the job at an address as its first thread, and waits until its other threads have left it.

    It lets go of Python's lock. The workers that serve the board are told of the job in the same call: an interrupt
    (Ctrl-C) is raised before or after the whole program, and never leaves workers in one whose memory the caller then
    frees.
    """
    return _threads_code().run


def alone() -> Callable[[int], None]:
    """Return what runs the job at an address in this thread only. It lets go of Python's lock."""
    return _threads_code().alone


def prepare(board: int) -> None:
    """Make `BOARD_WORDS` words of zeros at this address a board that `run` and `serve` know."""
    _threads_code().prepare(board)


def serve(board: int, seen: int, number: int) -> None:
    """Run, as worker `number`, the programs that are posted after job `seen`, for ever. Lets go of Python's lock.

    When none has come for a while it sleeps, until `run` wakes it.
    """
    _threads_code().serve(board, seen, number)


class _ThreadsCode:
    """The compiled `prepare`, `run`, `alone` and `serve`."""

    def __init__(self) -> None:
        moving = _MOVING_TEXT if hasattr(os, "sched_setaffinity") else _STAYING_TEXT
        text = _THREADS_TEXT.format(pause=host().pause, spins=_SPINS_BEFORE_SLEEP) + moving + clock_code()
        run_address, engine = load_object(cached_object(text, compile_object), "run")
        pointer, word = ctypes.c_void_p, ctypes.c_int64
        self.run = ctypes.CFUNCTYPE(None, pointer)(run_address)
        self.alone = ctypes.CFUNCTYPE(None, pointer)(engine.get_function_address("alone"))
        self.serve = ctypes.CFUNCTYPE(None, pointer, word, word)(engine.get_function_address("serve"))
        self.prepare = ctypes.CFUNCTYPE(None, pointer)(engine.get_function_address("prepare"))
        # Never freed: a worker may still be waiting in `serve` while the process ends.
        engine.detach()


_known_threads_code: _ThreadsCode | None = None


def _threads_code() -> _ThreadsCode:
    """Return the one instance there is: a second one, made by another thread, would be let go of while it runs."""
    global _known_threads_code  # noqa: PLW0603  one a process
    if _known_threads_code is None:
        with _lock:
            if _known_threads_code is None:
                _known_threads_code = _ThreadsCode()
    return _known_threads_code


# About a millisecond of waiting on today's processors.
_SPINS_BEFORE_SLEEP = 8_000

# How many words of 8 bytes a board has.
BOARD_WORDS = 12 * 8

# What a board holds is 64 bytes apart: 0 the number of the job (odd while the others are being written), 1 how many
# workers sleep, 2 the caller's processor and when the last job was done, 3 to 6 function, arrays, arena, threads, 7 the
# job's number · 2¹⁶ + 2¹⁵ where it is closed + how many workers are in it, 8 and 10 the mutex and the condition that
# they sleep by. A worker that has no part in a job may still be reading when the next one is written; so it looks at
# the number again after reading, and starts over where it has changed. It enters a job only while that is open. `run`
# closes the job when its own part is done, and returns when those who entered have left, so that the caller may free
# the program.
# A job is posted before sleepers are looked for, and a worker looks at the job's number after it has said that it
# sleeps, so that one of the two always sees the other. The mutex is taken in between, for the sleeper to be waiting.
_THREADS_TEXT = """
declare i32 @sched_yield()
declare i32 @pthread_mutex_init(ptr, ptr)
declare i32 @pthread_mutex_lock(ptr)
declare i32 @pthread_mutex_unlock(ptr)
declare i32 @pthread_cond_init(ptr, ptr)
declare i32 @pthread_cond_wait(ptr, ptr)
declare i32 @pthread_cond_broadcast(ptr)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)

define void @prepare(ptr %board) nounwind {{
  %mutex = getelementptr i8, ptr %board, i64 512
  %awake = getelementptr i8, ptr %board, i64 640
  %made = call i32 @pthread_mutex_init(ptr %mutex, ptr null)
  %ready = call i32 @pthread_cond_init(ptr %awake, ptr null)
  ret void
}}

define internal void @rouse(ptr %board, i64 %patience) nounwind noinline {{
entry:
  %ended = getelementptr i8, ptr %board, i64 136
  %before = load i64, ptr %ended, align 8
  %now = call i64 @now()
  %since = sub i64 %now, %before
  %soon = icmp slt i64 %since, %patience
  br i1 %soon, label %wake, label %leave
wake:
  %mutex = getelementptr i8, ptr %board, i64 512
  %awake = getelementptr i8, ptr %board, i64 640
  %locked = call i32 @pthread_mutex_lock(ptr %mutex)
  %unlocked = call i32 @pthread_mutex_unlock(ptr %mutex)
  %told = call i32 @pthread_cond_broadcast(ptr %awake)
  br label %leave
leave:
  ret void
}}

define internal void @sleep(ptr %board, i64 %known) nounwind noinline {{
entry:
  %p1 = getelementptr i8, ptr %board, i64 64
  %mutex = getelementptr i8, ptr %board, i64 512
  %awake = getelementptr i8, ptr %board, i64 640
  %all = alloca [128 x i8], align 8
  %others = alloca [128 x i8], align 8
  call void @avoid_caller(ptr %board, ptr %all, ptr %others)
  %locked = call i32 @pthread_mutex_lock(ptr %mutex)
  %more = atomicrmw add ptr %p1, i64 1 seq_cst, align 8
  br label %look
look:
  %now = load atomic i64, ptr %board seq_cst, align 8
  %same = icmp eq i64 %now, %known
  br i1 %same, label %doze, label %up
doze:
  %woken = call i32 @pthread_cond_wait(ptr %awake, ptr %mutex)
  br label %look
up:
  %less = atomicrmw sub ptr %p1, i64 1 seq_cst, align 8
  %unlocked = call i32 @pthread_mutex_unlock(ptr %mutex)
  call void @allow_all(ptr %all, ptr %others)
  ret void
}}

define internal void @post(ptr %board, ptr %function, ptr %arrays, ptr %arena, i64 %threads) nounwind {{
  %p3 = getelementptr i8, ptr %board, i64 192
  %p4 = getelementptr i8, ptr %board, i64 256
  %p5 = getelementptr i8, ptr %board, i64 320
  %p6 = getelementptr i8, ptr %board, i64 384
  %p7 = getelementptr i8, ptr %board, i64 448
  %odd = atomicrmw add ptr %board, i64 1 seq_cst, align 8
  store atomic ptr %function, ptr %p3 monotonic, align 8
  store atomic ptr %arrays, ptr %p4 monotonic, align 8
  store atomic ptr %arena, ptr %p5 monotonic, align 8
  store atomic i64 %threads, ptr %p6 monotonic, align 8
  %job = add i64 %odd, 2
  %open = shl i64 %job, 16
  store atomic i64 %open, ptr %p7 monotonic, align 8
  %even = atomicrmw add ptr %board, i64 1 seq_cst, align 8
  ret void
}}

define internal void @clear(ptr %job) nounwind {{
  %j3 = getelementptr i8, ptr %job, i64 24
  %j4 = getelementptr i8, ptr %job, i64 32
  %control = load ptr, ptr %j3, align 8
  %bytes = load i64, ptr %j4, align 8
  call void @llvm.memset.p0.i64(ptr %control, i8 0, i64 %bytes, i1 false)
  ret void
}}

define void @alone(ptr %job) nounwind {{
  call void @clear(ptr %job)
  %j1 = getelementptr i8, ptr %job, i64 8
  %j2 = getelementptr i8, ptr %job, i64 16
  %function = load ptr, ptr %job, align 8
  %arrays = load ptr, ptr %j1, align 8
  %arena = load ptr, ptr %j2, align 8
  call void %function(ptr %arrays, ptr %arena, i64 0, i64 1)
  ret void
}}

define void @run(ptr %job) nounwind {{
entry:
  call void @clear(ptr %job)
  %j1 = getelementptr i8, ptr %job, i64 8
  %j2 = getelementptr i8, ptr %job, i64 16
  %j5 = getelementptr i8, ptr %job, i64 40
  %j6 = getelementptr i8, ptr %job, i64 48
  %j7 = getelementptr i8, ptr %job, i64 56
  %function = load ptr, ptr %job, align 8
  %arrays = load ptr, ptr %j1, align 8
  %arena = load ptr, ptr %j2, align 8
  %board = load ptr, ptr %j5, align 8
  %threads = load i64, ptr %j6, align 8
  %patience = load i64, ptr %j7, align 8
  %p7 = getelementptr i8, ptr %board, i64 448
  call void @note_caller(ptr %board)
  call void @post(ptr %board, ptr %function, ptr %arrays, ptr %arena, i64 %threads)
  %p1 = getelementptr i8, ptr %board, i64 64
  %asleep = load atomic i64, ptr %p1 seq_cst, align 8
  %all_awake = icmp eq i64 %asleep, 0
  br i1 %all_awake, label %begin, label %wake
wake:
  call void @rouse(ptr %board, i64 %patience)
  br label %begin
begin:
  call void %function(ptr %arrays, ptr %arena, i64 0, i64 %threads)
  %before = atomicrmw or ptr %p7, i64 32768 acq_rel, align 8
  br label %wait
wait:
  %spins = phi i64 [ 0, %begin ], [ %more, %look ], [ 0, %give ]
  %state = load atomic i64, ptr %p7 acquire, align 8
  %inside = and i64 %state, 32767
  %all = icmp eq i64 %inside, 0
  br i1 %all, label %done, label %look
look:
  {pause}
  %more = add i64 %spins, 1
  %long = icmp ugt i64 %more, 2000
  br i1 %long, label %give, label %wait
give:
  %ignored = call i32 @sched_yield()
  br label %wait
done:
  %ended = getelementptr i8, ptr %board, i64 136
  %end = call i64 @now()
  store i64 %end, ptr %ended, align 8
  ret void
}}

define void @serve(ptr %board, i64 %seen, i64 %number) nounwind {{
entry:
  %p3 = getelementptr i8, ptr %board, i64 192
  %p4 = getelementptr i8, ptr %board, i64 256
  %p5 = getelementptr i8, ptr %board, i64 320
  %p6 = getelementptr i8, ptr %board, i64 384
  %p7 = getelementptr i8, ptr %board, i64 448
  br label %wait
wait:
  %known = phi i64 [ %seen, %entry ], [ %known, %again ], [ %known, %tired ], [ %known, %read ], [ %now, %unchanged ],
                   [ %now, %work ]
  %spins = phi i64 [ 0, %entry ], [ %more, %again ], [ 0, %tired ], [ 0, %read ], [ 0, %unchanged ], [ 0, %work ]
  %now = load atomic i64, ptr %board acquire, align 8
  %other = icmp ne i64 %now, %known
  %low = and i64 %now, 1
  %written = icmp eq i64 %low, 0
  %posted = and i1 %other, %written
  br i1 %posted, label %read, label %idle
idle:
  {pause}
  %more = add i64 %spins, 1
  %long = icmp ugt i64 %more, {spins}
  br i1 %long, label %tired, label %again
again:
  br label %wait
tired:
  call void @sleep(ptr %board, i64 %known)
  br label %wait
read:
  %function = load atomic ptr, ptr %p3 monotonic, align 8
  %arrays = load atomic ptr, ptr %p4 monotonic, align 8
  %arena = load atomic ptr, ptr %p5 monotonic, align 8
  %threads = load atomic i64, ptr %p6 monotonic, align 8
  fence acquire
  %still = load atomic i64, ptr %board monotonic, align 8
  %same = icmp eq i64 %still, %now
  br i1 %same, label %unchanged_or_work, label %wait
unchanged_or_work:
  %part = icmp slt i64 %number, %threads
  br i1 %part, label %enter, label %unchanged
enter:
  %state = load atomic i64, ptr %p7 acquire, align 8
  %whose = lshr i64 %state, 16
  %own = icmp eq i64 %whose, %now
  %mark = and i64 %state, 32768
  %is_open = icmp eq i64 %mark, 0
  %may = and i1 %own, %is_open
  br i1 %may, label %join, label %unchanged
join:
  %with = add i64 %state, 1
  %pair = cmpxchg ptr %p7, i64 %state, i64 %with acq_rel acquire, align 8
  %joined = extractvalue {{ i64, i1 }} %pair, 1
  br i1 %joined, label %work, label %enter
unchanged:
  br label %wait
work:
  call void %function(ptr %arrays, ptr %arena, i64 %number, i64 %threads)
  %leaving = atomicrmw sub ptr %p7, i64 1 release, align 8
  br label %wait
}}
"""

# A worker is woken on the processor that it last ran on or on the caller's own. Under a hypervisor Linux takes a
# processor that is idle for one that is not to be had, and so chooses the caller's, where the worker waits for
# milliseconds although another one has nothing to do. So a worker that goes to sleep gives up the processor that the
# caller was on, until it is awake.
_MOVING_TEXT = """
declare i32 @sched_getcpu()
declare i32 @sched_getaffinity(i32, i64, ptr)
declare i32 @sched_setaffinity(i32, i64, ptr)
declare i32 @memcmp(ptr, ptr, i64)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)

define internal void @note_caller(ptr %board) nounwind {
  %place = getelementptr i8, ptr %board, i64 128
  %cpu = call i32 @sched_getcpu()
  %wide = zext i32 %cpu to i64
  store atomic i64 %wide, ptr %place monotonic, align 8
  ret void
}

define internal void @avoid_caller(ptr %board, ptr %all, ptr %others) nounwind noinline {
entry:
  %place = getelementptr i8, ptr %board, i64 128
  %cpu = load atomic i64, ptr %place monotonic, align 8
  %failed = call i32 @sched_getaffinity(i32 0, i64 128, ptr %all)
  call void @llvm.memcpy.p0.p0.i64(ptr %others, ptr %all, i64 128, i1 false)
  %known = icmp ult i64 %cpu, 1024
  %worked = icmp eq i32 %failed, 0
  %may = and i1 %known, %worked
  br i1 %may, label %move, label %stay
move:
  %word = lshr i64 %cpu, 6
  %number = and i64 %cpu, 63
  %bit = shl i64 1, %number
  %kept = xor i64 %bit, -1
  %address = getelementptr i64, ptr %others, i64 %word
  %before = load i64, ptr %address, align 8
  %after = and i64 %before, %kept
  store i64 %after, ptr %address, align 8
  %ignored = call i32 @sched_setaffinity(i32 0, i64 128, ptr %others)
  br label %stay
stay:
  ret void
}

define internal void @allow_all(ptr %all, ptr %others) nounwind noinline {
entry:
  %now = alloca [128 x i8], align 8
  %failed = call i32 @sched_getaffinity(i32 0, i64 128, ptr %now)
  %differ = call i32 @memcmp(ptr %now, ptr %others, i64 128)
  %either = or i32 %failed, %differ
  %same = icmp eq i32 %either, 0
  br i1 %same, label %back, label %leave
back:
  %ignored = call i32 @sched_setaffinity(i32 0, i64 128, ptr %all)
  br label %leave
leave:
  ret void
}
"""

_STAYING_TEXT = """
define internal void @note_caller(ptr %board) nounwind {
  ret void
}

define internal void @avoid_caller(ptr %board, ptr %all, ptr %others) nounwind {
  ret void
}

define internal void @allow_all(ptr %all, ptr %others) nounwind {
  ret void
}
"""
