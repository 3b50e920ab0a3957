"""Machine code in this process: compiling LLVM's text, and the few functions that threads wait with."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from typing import Any

import llvmlite.binding as llvm

from needle.compiler.cache import cached_object
from needle.compiler.host import host
from needle.compiler.object_code import compile_side_by_side, compile_text, target_machine
from needle.compiler.thread_count import available_processors

__all__ = [
    "MODULE_BREAK",
    "compile_modules",
    "compile_object",
    "load_modules",
    "load_object",
    "run",
    "serve",
]

_lock = threading.RLock()

# Stands between modules' texts.
MODULE_BREAK = "\n; ---- module ----\n"


def compile_object(text: str) -> bytes:
    """Compile LLVM IR to an object file for this processor, in memory."""
    with _lock:
        return compile_text(text, host().cpu, host().features)


def compile_modules(text: str) -> bytes:
    """Compile modules of LLVM IR with `MODULE_BREAK` between them; what comes out is for `load_modules`."""
    texts = text.split(MODULE_BREAK)
    with _lock:
        codes = compile_side_by_side(texts, host().cpu, host().features, available_processors())
    return b"".join(len(code).to_bytes(8, "little") + code for code in codes)


def load_object(code: bytes, symbol: str) -> tuple[int, Any]:
    """Load an object file and return the address of one of its functions, and what keeps the code alive."""
    return _load([code], symbol)


def load_modules(codes: bytes, symbol: str) -> tuple[int, Any]:
    """Load what `compile_modules` made, whose functions call each other; otherwise like `load_object`."""
    found = []
    while codes:
        length = int.from_bytes(codes[:8], "little")
        found.append(codes[8 : 8 + length])
        codes = codes[8 + length :]
    return _load(found, symbol)


def _load(codes: Sequence[bytes], symbol: str) -> tuple[int, Any]:
    with _lock:
        machine = target_machine(host().cpu, host().features)
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
        for code in codes:
            engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        engine.finalize_object()
        return int(engine.get_function_address(symbol)), engine


def run(board: int, function: int, arrays: int, arena: int, threads: int) -> None:
    """Run a program as its first thread, and wait until its other threads have left it. Lets go of Python's lock.

    The workers that serve this board are told of it in the same call: an interrupt (Ctrl-C) is raised before or after
    the whole program, and never leaves workers in one whose memory the caller then frees.
    """
    _threads_code().run(board, function, arrays, arena, threads)


def serve(board: int, seen: int, number: int) -> int:
    """Run, as worker `number`, the programs that are posted, until none has come for a while.

    Returns the number of the last job that was looked at.
    """
    return int(_threads_code().serve(board, seen, number))


class _ThreadsCode:
    """The compiled `run` and `serve`."""

    def __init__(self) -> None:
        text = _THREADS_TEXT.format(pause=host().pause, spins=_SPINS_BEFORE_SLEEP)
        run_address, engine = load_object(cached_object(text, compile_object), "run")
        pointer, word = ctypes.c_void_p, ctypes.c_int64
        self.run = ctypes.CFUNCTYPE(None, pointer, pointer, pointer, pointer, word)(run_address)
        serve_address = engine.get_function_address("serve")
        self.serve = ctypes.CFUNCTYPE(word, pointer, word, word)(serve_address)
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

# The board's words are 64 bytes apart: 0 the number of the job (odd while the others are being written), 3 to 6
# function, arrays, arena, threads, 7 the job's number · 2¹⁶ + 2¹⁵ where it is closed + how many workers are in it. A
# worker that has no part in a job may still be reading when the next one is written; so it looks at the number again
# after reading, and starts over where it has changed. It enters a job only while that is open. `run` closes the job
# when its own part is done, and returns when those who entered have left, so that the caller may free the program.
_THREADS_TEXT = """
declare i32 @sched_yield()

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

define void @run(ptr %board, ptr %function, ptr %arrays, ptr %arena, i64 %threads) nounwind {{
entry:
  %p7 = getelementptr i8, ptr %board, i64 448
  %alone = icmp eq i64 %threads, 1
  br i1 %alone, label %one, label %several
one:
  call void %function(ptr %arrays, ptr %arena, i64 0, i64 1)
  ret void
several:
  call void @post(ptr %board, ptr %function, ptr %arrays, ptr %arena, i64 %threads)
  call void %function(ptr %arrays, ptr %arena, i64 0, i64 %threads)
  %before = atomicrmw or ptr %p7, i64 32768 acq_rel, align 8
  br label %wait
wait:
  %spins = phi i64 [ 0, %several ], [ %more, %look ], [ 0, %give ]
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
  ret void
}}

define i64 @serve(ptr %board, i64 %seen, i64 %number) nounwind {{
entry:
  %p3 = getelementptr i8, ptr %board, i64 192
  %p4 = getelementptr i8, ptr %board, i64 256
  %p5 = getelementptr i8, ptr %board, i64 320
  %p6 = getelementptr i8, ptr %board, i64 384
  %p7 = getelementptr i8, ptr %board, i64 448
  br label %wait
wait:
  %known = phi i64 [ %seen, %entry ], [ %known, %again ], [ %known, %read ], [ %now, %unchanged ], [ %now, %work ]
  %spins = phi i64 [ 0, %entry ], [ %more, %again ], [ 0, %read ], [ 0, %unchanged ], [ 0, %work ]
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
  ret i64 %known
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
